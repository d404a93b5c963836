"""Proof that the ledger is whole: each request once with all its attempts, each cost as its price says, sums equal.

Everything is read at one moment of the database, row after row: memory does not grow with the ledger, and who books
meanwhile neither waits nor disturbs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import groupby, islice
from operator import add, attrgetter, itemgetter
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import msgspec
from django.conf import settings
from django.db import connection
from django.db.models import Count, Exists, OuterRef, TextField
from django.db.models.functions import Cast

from accounting.export import between
from accounting.models import (
    DaySum,
    DirtyDay,
    DirtyQuarter,
    QuarterSum,
    Source,
    Status,
    SumsState,
    UsageAttempt,
    UsageRecord,
)
from accounting.prices import Rates
from accounting.rollups import (
    CHUNK,
    FIGURES,
    GROUP,
    ONE_DAY,
    QUARTER,
    TOKENS,
    Group,
    ledger_lines,
    midnight,
    quarter_of,
    sum_lines,
)
from providers.usage import Usage

# Named of each kind; the others are counted.
MOST_NAMED = 20

DUPLICATE = "requests that stand in the ledger more than once"
HOLES = "requests whose attempts are not 1, 2, ... as many as the row counts"
ORPHAN = "attempts whose request is not in the ledger"
UNKNOWN_WORD = "rows with a status or a source that is none"
NEGATIVE = "rows with a negative count of tokens"
OTHER_FIGURES = "requests whose figures are not those of their last attempt"
OTHER_ATTEMPTS_COST = "requests whose attempts together cost something else"
OTHER_COST = "requests whose cost is not what their price makes of their tokens"
LOST_CORRECTION = "corrections that name no row of the ledger"
OTHER_QUARTER = "sums of a quarter hour that are not those of its rows"
OTHER_DAY = "sums of a day that are not those of its quarter hours"

# What a row takes over from its last attempt.
CALL = ("provider_ref_id", "provider", "upstream_model", *TOKENS, "source", "method", "cost", "currency")
_call, _tokens = attrgetter(*CALL), attrgetter(*TOKENS)
RATES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
STATUSES, SOURCES = frozenset(Status.values), frozenset(Source.values)
RESOLUTION = dt.datetime.resolution

Row: TypeAlias = Any  # a named tuple of the columns asked for
Totals: TypeAlias = dict[Group, Sequence[int]]
# A quarter hour or a day, and what it comes to.
Moment: TypeAlias = tuple[Any, Totals]


class Wrong(msgspec.Struct):
    count: int = 0
    names: list[str] = []


class Findings(msgspec.Struct):
    """`waiting` are sums that no roll-up has brought up to date yet: that is no fault."""

    checked: dict[str, int] = msgspec.field(default_factory=lambda: defaultdict(int))
    waiting: dict[str, int] = msgspec.field(default_factory=lambda: defaultdict(int))
    wrong: dict[str, Wrong] = msgspec.field(default_factory=lambda: defaultdict(Wrong))

    @property
    def sound(self) -> bool:
        return not self.wrong

    def add(self, kind: str, name: str) -> None:
        wrong = self.wrong[kind]
        wrong.count += 1
        if wrong.count <= MOST_NAMED:
            wrong.names.append(name)


def verify(start: dt.datetime | None = None, end: dt.datetime | None = None) -> Findings:
    """The rows that began from `start` up to, and without, `end`; quarter hours are looked at whole."""
    start = start and quarter_of(start)
    end = end and -(-(end - quarter_of(end)) // QUARTER) * QUARTER + quarter_of(end)
    findings = Findings()
    with one_moment():
        _check_records(findings, start, end)
        _check_uniqueness(findings)
        _check_orphans(findings, start, end)
        _check_quarters(findings, start, end)
        _check_days(findings, start, end)
    return findings


@contextlib.contextmanager
def one_moment() -> Iterator[None]:
    """What is read inside is the database as it was at the beginning. Within a transaction that is the caller's."""
    if connection.in_atomic_block:
        yield
        return
    # Not Django's: on SQLite those shut writers out.
    snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if connection.vendor == "postgresql" else "BEGIN"
    with connection.cursor() as cursor:
        cursor.execute(snapshot)
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def _check_records(findings: Findings, start: dt.datetime | None, end: dt.datetime | None) -> None:
    records = between(UsageRecord.objects.order_by("started_at"), "started_at", start, end)
    columns = ("request_id", "corrects", "status", "attempt_count", "attempts_cost", "price_text", *CALL)
    # The price as it is written: a thousand rows share one, which is then decoded once.
    rows = records.annotate(price_text=Cast("price", TextField())).values_list(*columns, named=True).iterator(CHUNK)
    while chunk := list(islice(rows, CHUNK)):
        attempts = _attempts_of(chunk)
        for row in chunk:
            its_attempts = attempts.get(row.request_id, [])
            findings.checked["requests"] += 1
            findings.checked["attempts"] += len(its_attempts)
            for kind in _faults(row, its_attempts):
                findings.add(kind, row.request_id)
        _check_corrections(findings, [row for row in chunk if row.corrects or row.status == Status.CORRECTION])


def _attempts_of(records: Sequence[Row]) -> dict[str, list[Row]]:
    attempts = UsageAttempt.objects.filter(record__in=[record.request_id for record in records]).order_by("number")
    found: dict[str, list[Row]] = defaultdict(list)
    for attempt in attempts.values_list("record_id", "number", "status", "reached", *CALL, named=True):
        found[attempt.record_id].append(attempt)
    return found


def _faults(row: Row, attempts: Sequence[Row]) -> Iterator[str]:
    is_correction = row.status == Status.CORRECTION
    numbers = [attempt.number for attempt in attempts]
    if numbers != list(range(1, row.attempt_count + 1)) or not (numbers or is_correction):
        yield HOLES
    if any(each.status not in STATUSES or each.source not in SOURCES for each in (row, *attempts)):
        yield UNKNOWN_WORD
    # A correction may take away.
    if not is_correction and any(min(_tokens(each)) < 0 for each in (row, *attempts)):
        yield NEGATIVE
    if attempts and _call(row) != _call(attempts[-1]):
        yield OTHER_FIGURES
    if attempts and not _same(row.attempts_cost, _together(attempts)):
        yield OTHER_ATTEMPTS_COST
    # What a correction without a price costs is a difference, which no tokens explain.
    if not (is_correction and row.price_text is None) and not _is_priced_rightly(row):
        yield OTHER_COST


def _together(attempts: Sequence[Row]) -> Decimal | None:
    reached = [attempt for attempt in attempts if attempt.reached]
    if any(attempt.cost is None or attempt.currency != attempts[-1].currency for attempt in reached):
        return None
    return sum((attempt.cost for attempt in reached), Decimal(0))


def _is_priced_rightly(row: Row) -> bool:
    if row.price_text is None:
        return row.cost is None
    try:
        rates = _rates(row.price_text)
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return False
    return row.currency == rates.currency and _same(row.cost, rates.cost(Usage(*_tokens(row))))


@lru_cache(maxsize=1024)
def _rates(text: str) -> Rates:
    price = json.loads(text)
    rates: dict[str, Any] = {name: Decimal(price[name]) for name in RATES}
    return Rates(id=0, model="", provider_id=None, valid_from=LONG_AGO, currency=price["currency"], **rates)


def _same(stored: Decimal | None, reckoned: Decimal | None) -> bool:
    if stored is None or reckoned is None or stored == reckoned:
        return stored == reckoned
    # SQLite keeps 15 digits of a number: there the last of them may differ, and nowhere else anything.
    return connection.vendor == "sqlite" and abs(stored - reckoned) <= Decimal(1).scaleb(reckoned.adjusted() - 14)


def _check_corrections(findings: Findings, corrections: Sequence[Row]) -> None:
    findings.checked["corrections"] += len(corrections)
    named = [row.corrects for row in corrections]
    known = set(UsageRecord.objects.filter(request_id__in=named).values_list("request_id", flat=True))
    for row in corrections:
        if row.corrects not in known - {row.request_id}:
            findings.add(LOST_CORRECTION, f"{row.request_id}, which names {row.corrects!r}")


def _check_uniqueness(findings: Findings) -> None:
    counted = UsageRecord.objects.order_by().values("request_id").annotate(times=Count("pk"))
    for row in counted.filter(times__gt=1).iterator(CHUNK):
        findings.add(DUPLICATE, f"{row['request_id']}, {row['times']} times")


def _check_orphans(findings: Findings, start: dt.datetime | None, end: dt.datetime | None) -> None:
    its_record = UsageRecord.objects.filter(request_id=OuterRef("record_id"))
    orphans = between(UsageAttempt.objects.order_by(), "started_at", start, end).filter(~Exists(its_record))
    for record, number in orphans.values_list("record_id", "number").iterator(CHUNK):
        findings.add(ORPHAN, f"{record} attempt {number}")


def _check_quarters(findings: Findings, start: dt.datetime | None, end: dt.datetime | None) -> None:
    marks = between(DirtyQuarter.objects.all(), "starts_at", start, end)
    waiting = set(marks.values_list("starts_at", flat=True))
    findings.waiting["quarter hours"] = len(waiting)
    quarters = between(QuarterSum.objects.all(), "starts_at", start, end)
    rows = _by_moment(ledger_lines(start, end), quarter_of)
    sums = _by_moment(sum_lines(quarters, "starts_at"), quarter_of)
    for quarter, of_rows, of_sums in _side_by_side(rows, sums):
        findings.checked["quarter hours"] += 1
        for difference in () if quarter in waiting else _differences(of_rows, of_sums):
            findings.add(OTHER_QUARTER, f"{quarter:%Y-%m-%dT%H:%MZ}: {difference}")


def _check_days(findings: Findings, start: dt.datetime | None, end: dt.datetime | None) -> None:
    """In the time zone in which they were made, and those that lie whole between start and end."""
    made_in = SumsState.objects.values_list("time_zone", flat=True).first()
    zone = ZoneInfo(made_in) if made_in else settings.BOOKS_TIME_ZONE
    quarters = QuarterSum.objects.all()
    days, marks = DaySum.objects.all(), DirtyDay.objects.all()
    if start:
        first = (start + ONE_DAY - RESOLUTION).astimezone(zone).date()
        days, marks = days.filter(day__gte=first), marks.filter(day__gte=first)
        quarters = quarters.filter(starts_at__gte=midnight(first, zone))
    if end:
        after = end.astimezone(zone).date()
        days, marks = days.filter(day__lt=after), marks.filter(day__lt=after)
        quarters = quarters.filter(starts_at__lt=midnight(after, zone))
    waiting = set(marks.values_list("day", flat=True))
    findings.waiting["days"] = len(waiting)
    of_quarters = _by_moment(sum_lines(quarters, "starts_at"), lambda moment: moment.astimezone(zone).date())
    for day, of_rows, of_sums in _side_by_side(of_quarters, _by_moment(sum_lines(days, "day"), lambda day: day)):
        findings.checked["days"] += 1
        for difference in () if day in waiting else _differences(of_rows, of_sums):
            findings.add(OTHER_DAY, f"{day}: {difference}")


def _by_moment(lines: Iterable[tuple[Any, Group, Sequence[int]]], moment_of: Callable[[Any], Any]) -> Iterator[Moment]:
    for moment, its_lines in groupby(lines, key=lambda line: moment_of(line[0])):
        totals: Totals = {}
        for _, group, figures in its_lines:
            totals[group] = list(map(add, totals[group], figures)) if group in totals else figures
        yield moment, totals


def _side_by_side(left: Iterator[Moment], right: Iterator[Moment]) -> Iterator[tuple[Any, Totals, Totals]]:
    """What both say of each moment that one of them knows; both are in the order of time."""
    told = heapq.merge(
        ((moment, 0, totals) for moment, totals in left),
        ((moment, 1, totals) for moment, totals in right),
        key=itemgetter(0),
    )
    for moment, both in groupby(told, key=itemgetter(0)):
        sides: list[Totals] = [{}, {}]
        for _, side, totals in both:
            sides[side] = totals
        yield moment, sides[0], sides[1]


def _differences(summed: Totals, sums: Totals) -> Iterator[str]:
    nothing = [0] * len(FIGURES)
    for group in dict.fromkeys((*summed, *sums)):
        for name, right, stands in zip(FIGURES, summed.get(group, nothing), sums.get(group, nothing), strict=True):
            if right != stands:
                columns = dict(zip(GROUP, group, strict=True))
                who = f"key {columns['key']!r}, model {columns['model']!r}, {columns['status']!r}"
                yield f"{who}: {name} is {right} and stands as {stands}"
