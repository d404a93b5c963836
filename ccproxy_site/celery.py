"""Celery: probes now, rollups later. Nothing that matters lives in its broker."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ccproxy_site.settings")

app = Celery("ccproxy")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
