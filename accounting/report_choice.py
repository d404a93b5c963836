"""Which days and which lines an address of a report asks for, and the addresses that ask for others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
from django.http import QueryDict

from accounting.models import Status
from accounting.reports import Period, month_of

# What lines may be filtered by, and how a page calls it.
FIELDS: Mapping[str, str] = {
    "key": "key",
    "model": "model",
    "provider": "provider",
    "cost_centre": "cost centre",
    "owner": "owner",
    "status": "status",
}
ONE_DAY = dt.timedelta(days=1)
EARLIEST, LATEST = dt.date(2000, 1, 1), dt.date(2199, 12, 31)
# Longer than any name: what is cut off here was the name of nothing.
LONGEST = 201


class Choice(msgspec.Struct, frozen=True):
    """What is shown. An empty text in `chosen` are the lines that name none; `faults` are sentences by field."""

    period: Period
    chosen: Mapping[str, str]
    typed: Mapping[str, str]
    faults: Mapping[str, str]

    @property
    def last(self) -> dt.date:
        return self.period.end - ONE_DAY

    def with_period(self, period: Period) -> Choice:
        return Choice(period, self.chosen, {}, {})

    def on_day(self, day: dt.date) -> Choice:
        return self.with_period(Period(day, day + ONE_DAY))

    def narrowed(self, field: str, value: str) -> Choice:
        return Choice(self.period, {**self.chosen, field: value}, {}, {})

    def widened(self, field: str) -> Choice:
        return Choice(self.period, {name: value for name, value in self.chosen.items() if name != field}, {}, {})

    def query(self, **more: str) -> str:
        """The part of an address that asks for this."""
        named = {name: value for name, value in self.chosen.items() if value}
        without = [("without", name) for name, value in self.chosen.items() if not value]
        days = {"from": self.period.start.isoformat(), "to": self.last.isoformat()}
        return "?" + urlencode([*days.items(), *named.items(), *without, *more.items()])


def chosen_by(query: QueryDict, today: dt.date) -> Choice:
    """Never fails: a day that is none leaves this month, with a sentence that says so."""
    chosen = {name: "" for name in query.getlist("without") if name in FIELDS}
    for name in FIELDS:
        if value := _clean(query.get(name, "")):
            chosen[name] = value
    typed = {name: _clean(query.get(name, "")) for name in ("from", "to")}
    days, faults = {}, {}
    for name, text in typed.items():
        try:
            days[name] = _day(text) if text else None
        except ValueError as error:
            faults[name] = str(error)
    if not faults and days["from"] and days["to"] and days["to"] < days["from"]:
        faults["to"] = "This day is before the first one: exchange the two."
    if faults:
        faults = {name: f"{fault} Until then this month is shown." for name, fault in faults.items()}
    period = month_of(today) if faults else _period(days["from"], days["to"], today)
    if chosen.get("status") and chosen["status"] not in Status.values:
        faults["status"] = f"There is no such status: say one of {', '.join(Status.values)}."
    return Choice(period, chosen, typed, faults)


def _clean(text: str) -> str:
    """Without what no database stores and no name holds."""
    return text.strip()[:LONGEST].replace("\0", "\ufffd")


def _day(text: str) -> dt.date:
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise ValueError("This is no day: write one as 2026-01-31.") from None
    if not EARLIEST <= day <= LATEST:
        raise ValueError(f"Choose a day from {EARLIEST} to {LATEST}.")
    return day


def _period(first: dt.date | None, last: dt.date | None, today: dt.date) -> Period:
    if first is None and last is None:
        return month_of(today)
    first = first or (last or today).replace(day=1)
    return Period(first, (last or max(first, today)) + ONE_DAY)


def offered(today: dt.date) -> Mapping[str, Period]:
    """The periods that most questions are about."""
    this_month, tomorrow = month_of(today), today + ONE_DAY
    return {
        "This month": this_month,
        "Last month": this_month.before(),
        "Last 7 days": Period(tomorrow - dt.timedelta(days=7), tomorrow),
        "Last 30 days": Period(tomorrow - dt.timedelta(days=30), tomorrow),
        "This year": Period(dt.date(today.year, 1, 1), dt.date(today.year + 1, 1, 1)),
    }


def compared_with(period: Period, today: dt.date) -> Period:
    """The time before; of a period that still runs, as many of its days as this one has had so far."""
    before = period.before()
    if period.start <= today < period.end - ONE_DAY:
        so_far = (today - period.start) + ONE_DAY
        return Period(before.start, min(before.end, before.start + so_far))
    return before


def told(period: Period) -> str:
    """A period as people say it."""
    first, last = period.start, period.end - ONE_DAY
    if period == month_of(first):
        return f"{first:%B %Y}"
    if first == last:
        return _said(first)
    if (first.month, first.day, last.month, last.day, first.year) == (1, 1, 12, 31, last.year):
        return str(first.year)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day} to {_said(last)}"
    if first.year == last.year:
        return f"{first.day} {first:%B} to {_said(last)}"
    return f"{_said(first)} to {_said(last)}"


def _said(day: dt.date) -> str:
    return f"{day.day} {day:%B %Y}"


def file_part(period: Period) -> str:
    """A period in the name of a file."""
    first, last = period.start, period.end - ONE_DAY
    return f"{first:%Y-%m}" if period == month_of(first) else f"{first}-to-{last}"
