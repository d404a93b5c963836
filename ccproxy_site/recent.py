"""What the last hours came to, from the sums of quarter hours: days cannot say what yesterday was by this time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec
from django.db.models import Sum
from django.utils import timezone

from accounting.models import QuarterSum
from accounting.reports import GOOD, Figures, money

COUNTS = (
    "requests",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "first_byte_ms",
    "first_bytes",
    "unpriced",
)
QUARTER = dt.timedelta(minutes=15)
HOURS = 24

Line = dict[str, Any]


class Recent(msgspec.Struct, frozen=True):
    today: Figures
    # Up to the last full quarter hour, today and yesterday: these two compare.
    by_now: Figures
    yesterday_by_now: Figures
    until: dt.datetime
    # By the hour they began in, the running one last.
    requests_by_hour: list[tuple[str, int]]


def recent(now: dt.datetime) -> Recent:
    midnight = start_of_day(now)
    before = start_of_day(midnight - dt.timedelta(hours=12))
    until = now - (now - midnight) % QUARTER
    yesterday_until = timezone.localtime(until) - dt.timedelta(days=1)  # by the clock, whatever was done to it
    lines = _lines(before)
    return Recent(
        today=_figures(lines, midnight, now),
        by_now=_figures(lines, midnight, until),
        yesterday_by_now=_figures(lines, before, yesterday_until),
        until=until,
        requests_by_hour=_by_hour(lines, now),
    )


def start_of_day(moment: dt.datetime) -> dt.datetime:
    """In the books' time zone."""
    return timezone.localtime(moment).replace(hour=0, minute=0, second=0, microsecond=0)


def _lines(start: dt.datetime) -> list[Line]:
    sums = {f"sum_{name}": Sum(name) for name in (*COUNTS, "cost")}
    rows = QuarterSum.objects.filter(starts_at__gte=start).values("starts_at", "status", "currency").annotate(**sums)
    return [dict(row) for row in rows]


def _figures(lines: Iterable[Line], start: dt.datetime, end: dt.datetime) -> Figures:
    chosen = [line for line in lines if start <= line["starts_at"] < end]
    cost: dict[str, Decimal] = {}
    for line in chosen:
        if line["currency"]:
            cost[line["currency"]] = cost.get(line["currency"], Decimal(0)) + money(line["sum_cost"])
    counts: dict[str, Any] = {name: sum(int(line[f"sum_{name}"]) for line in chosen) for name in COUNTS}
    failed = sum(int(line["sum_requests"]) for line in chosen if line["status"] not in GOOD)
    return Figures(**counts, failed=failed, cost=cost)


def _by_hour(lines: Iterable[Line], now: dt.datetime) -> list[tuple[str, int]]:
    running = timezone.localtime(now).replace(minute=0, second=0, microsecond=0).astimezone(dt.UTC)
    hours = {running - dt.timedelta(hours=ago): 0 for ago in reversed(range(HOURS))}
    for line in lines:
        # In zones of half hours an hour begins at 30 minutes past that of UTC.
        hour = running + (line["starts_at"] - running) // dt.timedelta(hours=1) * dt.timedelta(hours=1)
        if hour in hours:
            hours[hour] += int(line["sum_requests"])
    return [(f"{timezone.localtime(hour):%H:%M}", number) for hour, number in hours.items()]
