# ccproxy in one image; docker-compose.yml gives it a database, a broker and its companions.
FROM python:3.13-slim

RUN useradd --create-home --uid 1000 ccproxy
WORKDIR /srv/ccproxy
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY manage.py ./
COPY accounting accounting
COPY ccproxy_site ccproxy_site
COPY gateway gateway
COPY providers providers
RUN mkdir /data && chown ccproxy /data

USER ccproxy
ENV CCPROXY_DATA_DIR=/data HOST=0.0.0.0
VOLUME /data
EXPOSE 8787
CMD ["python", "manage.py", "serve", "--no-worker"]
