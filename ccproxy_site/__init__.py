"""The site: settings, urls, the server and its family. Celery finds its application here."""

from ccproxy_site.celery import app as celery_app

__all__ = ["celery_app"]
