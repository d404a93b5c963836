# ccproxy in one image: `docker build .` makes it on Debian, `docker build --target alpine .` on Alpine.
# docker-compose.yml gives it a database, a broker and its companions.

FROM python:3.13-slim AS debian-build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /srv/ccproxy
RUN sh /srv/ccproxy/deploy/build.sh /srv/ccproxy /opt/venv

FROM python:3.13-alpine AS alpine-build
RUN apk add --no-cache gcc musl-dev
COPY . /srv/ccproxy
RUN sh /srv/ccproxy/deploy/build.sh /srv/ccproxy /opt/venv

FROM python:3.13-alpine AS alpine
RUN adduser -D -u 1000 ccproxy && mkdir /data && chown ccproxy /data
COPY --from=alpine-build /opt/venv /opt/venv
COPY --from=alpine-build /srv/ccproxy /srv/ccproxy
WORKDIR /srv/ccproxy
USER ccproxy
ENV PATH=/opt/venv/bin:$PATH CCPROXY_DATA_DIR=/data HOST=0.0.0.0 LOG_FORMAT=json
VOLUME /data
EXPOSE 8787
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --retries=3 CMD ["python", "deploy/healthy.py"]
CMD ["python", "manage.py", "serve"]

FROM python:3.13-slim AS debian
RUN useradd --create-home --uid 1000 ccproxy && mkdir /data && chown ccproxy /data
COPY --from=debian-build /opt/venv /opt/venv
COPY --from=debian-build /srv/ccproxy /srv/ccproxy
WORKDIR /srv/ccproxy
USER ccproxy
ENV PATH=/opt/venv/bin:$PATH CCPROXY_DATA_DIR=/data HOST=0.0.0.0 LOG_FORMAT=json
VOLUME /data
EXPOSE 8787
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --retries=3 CMD ["python", "deploy/healthy.py"]
CMD ["python", "manage.py", "serve"]
