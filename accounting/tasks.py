"""Celery's doorway: the work itself is in functions that need no Celery."""

from __future__ import annotations

from celery import shared_task

from accounting import rollups


@shared_task(ignore_result=True, soft_time_limit=300)
def roll_up() -> None:
    """What a time limit leaves undone is still marked."""
    rollups.roll_up()
