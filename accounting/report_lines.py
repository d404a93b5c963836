"""What the lines of a report are made of: figures added up, put in order, cut to a length, drawn."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from accounting.reports import COUNTS, MONEY, Figures, Lines, Period, month_after

# More days than these are drawn as months.
MOST_BARS = 100


class Line(msgspec.Struct, frozen=True):
    """Of a table. `left_out` is how many lines did not fit and are this one, which has no name, together."""

    name: Any
    figures: Figures
    before: Figures = Figures()
    left_out: int = 0


class Chart(NamedTuple):
    title: str
    unit: str
    points: Sequence[tuple[str, int | Decimal]]


def within(days: Lines, period: Period) -> Lines:
    return {day: figures for day, figures in days.items() if period.start <= day < period.end}


def summed(found: Iterable[Figures]) -> Figures:
    """All of them together; what is in different currencies stays apart."""
    parts = list(found)
    sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in (*COUNTS, "failed")}
    for name in MONEY:
        sums[name] = {}
        for part in parts:
            for currency, value in getattr(part, name).items():
                sums[name][currency] = sums[name].get(currency, Decimal(0)) + value
    return Figures(**sums)


def folded(found: Lines, place: int) -> Lines:
    """Of lines by several dimensions, those by one of them."""
    return _grouped((values[place], figures) for values, figures in found.items())


def _grouped(pairs: Iterable[tuple[Any, Figures]]) -> Lines:
    parts: dict[Any, list[Figures]] = {}
    for value, figures in pairs:
        parts.setdefault(value, []).append(figures)
    return {value: summed(figures) for value, figures in parts.items()}


def currencies_of(parts: Iterable[Figures]) -> list[str]:
    """The one of most requests first; of two that cannot be told apart so, the one with the larger figure."""
    weights: dict[str, tuple[int, Decimal]] = {}
    for part in parts:
        for currency, money in part.cost.items():
            requests, together = weights.get(currency, (0, Decimal(0)))
            weights[currency] = requests + part.requests, together + money
    return sorted(sorted(weights), key=weights.__getitem__, reverse=True)


def by_date(days: Lines) -> list[Line]:
    return [Line(day, days[day]) for day in sorted(days)]


def ranked(found: Lines, before: Lines, currencies: Sequence[str]) -> list[Line]:
    """The dearest first, in the first of the currencies; also what was used before and is not any more."""
    first = next(iter(currencies), "")
    names = dict.fromkeys([*found, *before])
    lines = [Line(name, found.get(name, Figures()), before.get(name, Figures())) for name in names]
    return sorted(lines, key=lambda line: (-line.figures.cost.get(first, 0), -line.figures.requests, line.name))


def cut(lines: Sequence[Line], most: int) -> Sequence[Line]:
    """No more than so many; the last one is what the others come to."""
    if len(lines) <= most:
        return lines
    rest = lines[most - 1 :]
    figures, before = (summed(getattr(line, name) for line in rest) for name in ("figures", "before"))
    return [*lines[: most - 1], Line(None, figures, before, len(rest))]


def charts_of(days: Lines, period: Period, currencies: Sequence[str]) -> list[Chart]:
    """The cost of each day, or month, in each currency; the requests where nothing has a price."""
    per = "day" if period.days <= MOST_BARS else "month"
    found = _grouped((_step(day, per), figures) for day, figures in days.items())
    labels = [_step(day, per) for day in (_days(period) if per == "day" else _months(days))] if days else []
    if not currencies:
        return [Chart(f"Requests per {per}", "", [(label, found.get(label, Figures()).requests) for label in labels])]
    return [
        Chart(
            f"Cost per {per}",
            currency,
            [(label, found.get(label, Figures()).cost.get(currency, Decimal(0))) for label in labels],
        )
        for currency in currencies
    ]


def _step(day: dt.date, per: str) -> str:
    return day.isoformat() if per == "day" else f"{day:%Y-%m}"


def _days(period: Period) -> list[dt.date]:
    return [period.start + dt.timedelta(days=number) for number in range(period.days)]


def _months(days: Lines) -> list[dt.date]:
    """The first day of each, from the first one to the last one that has figures."""
    months, last = [min(days).replace(day=1)], max(days)
    while (following := month_after(months[-1])) <= last:
        months.append(following)
    return months
