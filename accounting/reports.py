"""What was used, by whom and for how much, from the sums of days. Nothing here reads the ledger itself.

Days are days of the books' time zone (BOOKS_TIME_ZONE).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from django.db.models import QuerySet, Sum
from django.utils import timezone

from accounting.models import COST_DIGITS, DaySum, Status

# By which a report may be divided; also what its lines may be filtered by.
DIMENSIONS = ("key", "owner", "cost_centre", "provider", "model", "upstream_model", "status", "day")
COUNTS = (
    "requests",
    "attempts",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "thinking",
    "web_searches",
    "unpriced",
    "estimated",
    "first_byte_ms",
    "first_bytes",
)
MONEY = ("cost", "attempts_cost")
GOOD = (Status.COMPLETED, Status.CORRECTION)


class Period(msgspec.Struct, frozen=True):
    """From the first day up to, and without, the day after the last."""

    start: dt.date
    end: dt.date

    @property
    def days(self) -> int:
        return (self.end - self.start).days

    def before(self) -> Period:
        """As long a time right before; the whole month before where this is a month."""
        if self.start.day == 1 and self.end == month_after(self.start):
            return month_of(self.start - dt.timedelta(days=1))
        return Period(self.start - (self.end - self.start), self.start)


def month_after(day: dt.date) -> dt.date:
    return dt.date(day.year + day.month // 12, day.month % 12 + 1, 1)


def month_of(day: dt.date) -> Period:
    return Period(day.replace(day=1), month_after(day))


def today() -> dt.date:
    """In the books' time zone."""
    return timezone.localdate()


class Figures(msgspec.Struct, frozen=True):
    """Sums over any number of lines; money by currency, exact."""

    requests: int = 0
    attempts: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    thinking: int = 0
    web_searches: int = 0
    unpriced: int = 0
    estimated: int = 0
    first_byte_ms: int = 0
    first_bytes: int = 0
    failed: int = 0  # neither completed nor a correction
    cost: Mapping[str, Decimal] = {}
    attempts_cost: Mapping[str, Decimal] = {}

    @property
    def cache_write(self) -> int:
        return self.cache_write_5m + self.cache_write_1h

    @property
    def tokens(self) -> int:
        return self.input + self.cache_read + self.cache_write + self.output

    @property
    def mean_first_byte_ms(self) -> int | None:
        return round(self.first_byte_ms / self.first_bytes) if self.first_bytes else None

    @property
    def error_share(self) -> float:
        return self.failed / self.requests if self.requests else 0.0


Lines = dict[Any, Figures]


def lines(period: Period, **chosen: Any) -> QuerySet[DaySum]:
    """The sums of these days; `chosen` are fields of DaySum and what they must be."""
    return DaySum.objects.filter(day__gte=period.start, day__lt=period.end, **chosen)


def total(period: Period, **chosen: Any) -> Figures:
    return _figures(_summed(lines(period, **chosen), ())).get((), Figures())


def by(dimension: str, period: Period, **chosen: Any) -> Lines:
    """Figures by the values of one dimension, or of any other field of DaySum."""
    found = _figures(_summed(lines(period, **chosen), (dimension,)))
    return {values[0]: figures for values, figures in found.items()}


def by_all(dimensions: tuple[str, ...], period: Period, **chosen: Any) -> Lines:
    """The same by several at once; the keys are tuples."""
    return _figures(_summed(lines(period, **chosen), dimensions))


def _summed(rows: QuerySet[DaySum], dimensions: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    groups = dict.fromkeys((*dimensions, "currency", "status"))
    sums = {f"sum_{name}": Sum(name) for name in (*COUNTS, *MONEY)}
    for row in rows.values(*groups).annotate(**sums):
        yield {**row, "dimensions": tuple(row[name] for name in dimensions)}


def _figures(rows: Iterable[dict[str, Any]]) -> Lines:
    counts: dict[Any, dict[str, Any]] = {}
    for row in rows:
        sums = counts.setdefault(
            row["dimensions"], {**dict.fromkeys((*COUNTS, "failed"), 0), "cost": {}, "attempts_cost": {}}
        )
        for name in COUNTS:
            sums[name] += int(row[f"sum_{name}"])
        if row["status"] not in GOOD:
            sums["failed"] += int(row["sum_requests"])
        for name in MONEY:
            if row["currency"]:
                sums[name][row["currency"]] = sums[name].get(row["currency"], Decimal(0)) + money(row[f"sum_{name}"])
    return {dimensions: Figures(**sums) for dimensions, sums in counts.items()}


def money(units: int) -> Decimal:
    """Of the integer that stands in a sum."""
    return Decimal(units).scaleb(-COST_DIGITS)
