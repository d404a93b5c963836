"""Celery's doorway: the work itself is in functions that need no Celery."""

from __future__ import annotations

from celery import shared_task

from providers.health import probe_all


@shared_task(ignore_result=True, soft_time_limit=120)
def probe_providers() -> None:
    """Their state, and the models they list."""
    probe_all()
