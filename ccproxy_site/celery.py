"""Celery: probes and the sums of the ledger. Nothing that matters lives in its broker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ccproxy_site.settings")

app = Celery("ccproxy")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_after_configure.connect  # type: ignore[untyped-decorator]  # Celery has no types
def make_queue_folders(sender: Celery, **_: Any) -> None:
    """The folder broker expects its folders to be there."""
    for folder in (sender.conf.broker_transport_options or {}).values():
        if isinstance(folder, str):
            Path(folder).mkdir(parents=True, exist_ok=True)
