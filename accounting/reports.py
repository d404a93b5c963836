"""What was used, by whom and for how much, from the sums of days. Nothing here reads the ledger itself.

Days are days of the books' time zone (BOOKS_TIME_ZONE).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from django.db import OperationalError
from django.db.models import F, QuerySet, Sum
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
    return by_all((), period, **chosen).get((), Figures())


def by(dimension: str, period: Period, **chosen: Any) -> Lines:
    """Figures by the values of one dimension, or of any other field of DaySum."""
    return {values[0]: figures for values, figures in by_all((dimension,), period, **chosen).items()}


def by_all(dimensions: tuple[str, ...], period: Period, **chosen: Any) -> Lines:
    """The same by several at once; the keys are tuples."""
    groups = tuple(dict.fromkeys((*dimensions, "currency", "status")))
    places = [groups.index(name) for name in dimensions]
    currency, status = groups.index("currency"), groups.index("status")
    tallies: dict[tuple[Any, ...], _Tally] = {}
    for row in _summed(lines(period, **chosen), groups):
        values = tuple([row[place] for place in places])
        tally = tallies.get(values) or tallies.setdefault(values, _Tally())
        tally.add(row[currency], row[status], row[len(groups) :])
    return {values: tally.figures() for values, tally in tallies.items()}


def _summed(rows: QuerySet[DaySum], groups: tuple[str, ...]) -> Sequence[tuple[Any, ...]]:
    """The groups, then what COUNTS and MONEY come to."""
    grouped = rows.values_list(*groups)
    try:
        return list(grouped.annotate(**{f"sum_{name}": Sum(name) for name in (*COUNTS, *MONEY)}))
    except OperationalError as error:
        if "integer overflow" not in str(error):
            raise
    # SQLite adds in 64 bits, which is nine million of a currency: here the lines are left for us to add up.
    return list(grouped.annotate(**{f"sum_{name}": F(name) for name in (*COUNTS, *MONEY)}))


class _Tally:
    """Figures that are still being added up."""

    def __init__(self) -> None:
        self._counts = [0] * len(COUNTS)
        self._failed = 0
        self._money: list[dict[str, int]] = [{} for _ in MONEY]

    def add(self, currency: str, status: str, sums: Sequence[int]) -> None:
        # PostgreSQL's sums of integers are decimals.
        self._counts = [before + int(more) for before, more in zip(self._counts, sums, strict=False)]
        if status not in GOOD:
            self._failed += int(sums[COUNTS.index("requests")])
        if currency:
            for amounts, more in zip(self._money, sums[len(COUNTS) :], strict=True):
                amounts[currency] = amounts.get(currency, 0) + int(more)

    def figures(self) -> Figures:
        cost, attempts_cost = ({name: money(units) for name, units in each.items()} for each in self._money)
        counts = dict(zip(COUNTS, self._counts, strict=True))
        return Figures(**counts, failed=self._failed, cost=cost, attempts_cost=attempts_cost)


def money(units: int) -> Decimal:
    """Of the integer that stands in a sum."""
    return Decimal(units).scaleb(-COST_DIGITS)
