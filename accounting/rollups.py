"""The sums of the ledger: of quarter hours from its rows, of days from the quarter hours.

Whoever changes what is summed leaves a mark. The mark goes in the transaction that sums anew, and before it reads:
a crash, a late row or a second run at the same time can only make something be summed once more.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Sequence
from decimal import Context, Decimal
from itertools import groupby
from operator import add
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounting.export import between
from accounting.models import COST_DIGITS, DaySum, DirtyDay, DirtyQuarter, QuarterSum, Source, SumsState, UsageRecord
from accounting.rows import insert

logger = logging.getLogger("ccproxy.rollups")

QUARTER = dt.timedelta(minutes=15)
ONE_DAY = dt.timedelta(days=1)
# Rows read at once.
CHUNK = 2000
# What a column of sums holds.
MOST = 2**63 - 1
# A cost has up to 30 digits, two more than Python's own context keeps.
EXACT = Context(prec=60)

# By which sums are told apart, ...
GROUP = (
    "api_key_id",
    "key",
    "owner",
    "cost_centre",
    "provider_ref_id",
    "provider",
    "model",
    "upstream_model",
    "status",
    "currency",
)
TOKENS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking", "web_searches")
# ... and what is summed: figures stand in this order.
FIGURES = (
    "requests",
    "attempts",
    *TOKENS,
    "cost",
    "attempts_cost",
    "unpriced",
    "estimated",
    "first_byte_ms",
    "first_bytes",
)
# What the figures of a row are made of.
_OF_ROW = ("attempt_count", *TOKENS, "cost", "attempts_cost", "source", "first_byte_ms")

Group: TypeAlias = tuple[Any, ...]
Line: TypeAlias = tuple[Group, Sequence[int]]


def roll_up(limit: int | None = None) -> int:
    """Sums what is marked, the newest first, at most `limit` quarter hours of it. Says how many it summed."""
    began = timezone.now()
    zone = _take_zone()
    marked = DirtyQuarter.objects.order_by("-starts_at").values_list("starts_at", flat=True)[:limit]
    waiting = list(marked)
    summed = 0
    for day, quarters in groupby(waiting, key=lambda starts_at: starts_at.astimezone(zone).date()):
        summed += sum([_sum_quarter(starts_at) for starts_at in quarters])
        _sum_day(day)
    for day in DirtyDay.objects.order_by("-day").values_list("day", flat=True):
        _sum_day(day)
    if limit is None or len(waiting) < limit:
        SumsState.objects.filter(pk=1).update(complete_at=began)
    return summed


def lag() -> float | None:
    """By how many seconds the sums may be behind the ledger; None when nothing waits to be summed.

    What waits was booked after the last time that everything was summed, and after its quarter hour began.
    """
    quarter = DirtyQuarter.objects.order_by("starts_at").values_list("starts_at", flat=True).first()
    day = DirtyDay.objects.order_by("day").values_list("day", flat=True).first()
    if quarter is None and day is None:
        return None
    complete_at = SumsState.objects.values_list("complete_at", flat=True).first()
    beginnings = [quarter, midnight(day, settings.BOOKS_TIME_ZONE) if day else None]
    oldest = min(moment for moment in beginnings if moment)
    return max((timezone.now() - max(oldest, complete_at or oldest)).total_seconds(), 0.0)


def mark_quarters(moments: Iterable[dt.datetime]) -> None:
    """The quarter hours of these moments, at which rows begin. Called last in the transaction that writes the rows.

    A mark that stands is locked by writing it once more. Were it only left as it is, a roll-up could take it and read
    the quarter hour while our rows are not committed yet, and nobody would ever sum them.
    """
    DirtyQuarter.objects.bulk_create(
        [DirtyQuarter(starts_at=starts_at) for starts_at in sorted(set(map(quarter_of, moments)))],
        update_conflicts=True,
        unique_fields=["starts_at"],
        update_fields=["starts_at"],
    )


def quarter_of(moment: dt.datetime) -> dt.datetime:
    return moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)


def _mark_days(days: Iterable[dt.date]) -> None:
    """Locks marks for the same reason."""
    DirtyDay.objects.bulk_create(
        [DirtyDay(day=day) for day in sorted(days)],
        update_conflicts=True,
        unique_fields=["day"],
        update_fields=["day"],
    )


def _take_zone() -> ZoneInfo:
    """The books' time zone; where the sums of days were made in another one, all of them are marked."""
    zone: ZoneInfo = settings.BOOKS_TIME_ZONE
    SumsState.objects.get_or_create(pk=1, defaults={"time_zone": zone.key})
    with transaction.atomic():
        if _locked_zone() != zone:
            beginnings = QuarterSum.objects.values_list("starts_at", flat=True).distinct()
            days = {starts_at.astimezone(zone).date() for starts_at in beginnings.iterator(CHUNK)}
            _mark_days(days.union(DaySum.objects.values_list("day", flat=True).distinct()))
            SumsState.objects.filter(pk=1).update(time_zone=zone.key)
    return zone


def _locked_zone() -> ZoneInfo:
    """The time zone of the sums, which nobody changes until our transaction ends."""
    return ZoneInfo(SumsState.objects.select_for_update().get(pk=1).time_zone)


@transaction.atomic
def _sum_quarter(starts_at: dt.datetime) -> bool:
    """Whether there was still something to do. Deleting the mark waits for those who book into this quarter hour."""
    zone = _locked_zone()
    marks, _ = DirtyQuarter.objects.filter(starts_at=starts_at).delete()
    if not marks:
        return False
    lines = add_up((group, _held(figures)) for _, group, figures in ledger_lines(starts_at, starts_at + QUARTER))
    QuarterSum.objects.filter(starts_at=starts_at).delete()
    stored = connection.ops.adapt_datetimefield_value(starts_at)
    insert(QuarterSum, [{"starts_at": stored, **_columns(line)} for line in lines])
    _mark_days([starts_at.astimezone(zone).date()])
    return True


@transaction.atomic
def _sum_day(day: dt.date) -> None:
    zone = _locked_zone()
    marks, _ = DirtyDay.objects.filter(day=day).delete()
    if not marks:
        return
    its_quarters = between(QuarterSum.objects.all(), "starts_at", midnight(day, zone), midnight(day + ONE_DAY, zone))
    lines = add_up((group, figures) for _, group, figures in sum_lines(its_quarters, "starts_at"))
    DaySum.objects.filter(day=day).delete()
    stored = connection.ops.adapt_datefield_value(day)
    insert(DaySum, [{"day": stored, **_columns(line)} for line in lines])


def midnight(day: dt.date, zone: ZoneInfo) -> dt.datetime:
    """Where the clocks are put forward at midnight, the moment at which they are."""
    return dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC)


def ledger_lines(start: dt.datetime | None, end: dt.datetime | None) -> Iterator[tuple[dt.datetime, Group, list[int]]]:
    """What each row adds to the sums, and when it began, in that order."""
    rows = between(UsageRecord.objects.order_by("started_at"), "started_at", start, end)
    for started_at, *values in rows.values_list("started_at", *GROUP, *_OF_ROW).iterator(CHUNK):
        attempts, *tokens, cost, attempts_cost, source, first_byte_ms = values[len(GROUP) :]
        figures = [1, attempts, *tokens, units(cost), units(attempts_cost), int(cost is None)]
        figures += [int(source == Source.ESTIMATED), first_byte_ms or 0, int(first_byte_ms is not None)]
        yield started_at, tuple(values[: len(GROUP)]), figures


def sum_lines(rows: QuerySet[Any], when: str) -> Iterator[tuple[Any, Group, list[int]]]:
    """The same of sums: of QuarterSum or DaySum, whose moment is in the field `when`."""
    for moment, *values in rows.order_by(when).values_list(when, *GROUP, *FIGURES).iterator(CHUNK):
        yield moment, tuple(values[: len(GROUP)]), values[len(GROUP) :]


def units(cost: Decimal | None) -> int:
    """Money as the integer that stands in a sum: in 10^-12. SQLite keeps 15 digits of a cost, and they are read so."""
    return int(cost.scaleb(COST_DIGITS, EXACT)) if cost else 0


def _held(figures: list[int]) -> list[int]:
    """Nine million for one request is an upstream's absurd figure: it must not keep the others from being summed."""
    if max(figures) <= MOST and min(figures) >= -MOST:
        return figures
    logger.error("a request of %d million is summed as 9.2 million: verify_ledger says when", max(figures) // 10**18)
    return [min(max(figure, -MOST), MOST) for figure in figures]


def add_up(lines: Iterable[Line]) -> list[Line]:
    """One line per group; a further one where 64 bits do not hold it."""
    full: list[Line] = []
    totals: dict[Group, Sequence[int]] = {}
    for group, figures in lines:
        before = totals.get(group)
        if before is None:
            totals[group] = figures
            continue
        together = list(map(add, before, figures))
        if max(together) > MOST or min(together) < -MOST:
            full.append((group, before))
            together = list(figures)
        totals[group] = together
    return [*full, *totals.items()]


def _columns(line: Line) -> dict[str, Any]:
    group, figures = line
    return {**dict(zip(GROUP, group, strict=True)), **dict(zip(FIGURES, figures, strict=True))}
