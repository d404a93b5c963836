"""What an answer cost: the rates valid at its moment, found without a query, and the exact sum."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from providers.routing import matches
from providers.usage import Usage

MILLION = Decimal(1_000_000)
THOUSAND = Decimal(1000)

# What stands for other characters in the name of a model.
WILDCARDS = re.compile(r"\[[^\]]*\]|[*?]")


class Rates(msgspec.Struct, frozen=True):
    """One dated price row, per million tokens (searches: per thousand)."""

    id: int
    model: str
    provider_id: int | None
    valid_from: dt.datetime
    currency: str
    input: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    output: Decimal
    web_search: Decimal
    listed: bool = False

    def cost(self, usage: Usage) -> Decimal:
        """Unrounded: rounding is for statements."""
        tokens = (
            self.input * usage.input
            + self.cache_read * usage.cache_read
            + self.cache_write_5m * usage.cache_write_5m
            + self.cache_write_1h * usage.cache_write_1h
            + self.output * usage.output
        )
        return tokens / MILLION + self.web_search * usage.web_searches / THOUSAND


class PriceList:
    """Every price row. One's own win over listed ones; then the narrowest that is valid: the provider's own, the exact
    name, the most letters, the latest."""

    def __init__(self, rows: Iterable[Rates]) -> None:
        self._exact: dict[str, list[Rates]] = {}
        self._patterns: list[tuple[str, Rates]] = []
        for row in rows:
            name = row.model.lower()
            if mark := WILDCARDS.search(name):
                self._patterns.append((name[: mark.start()], row))
            else:
                self._exact.setdefault(name, []).append(row)
        self._remembered: dict[tuple[int, str], list[Rates]] = {}

    def at(self, moment: dt.datetime, provider_id: int, model: str) -> Rates | None:
        """None where no price is known: the row is then marked as unpriced."""
        fitting = self._remembered.get((provider_id, model))
        if fitting is None:
            fitting = self._fitting(provider_id, model)
            if len(self._remembered) < 4096:
                self._remembered[provider_id, model] = fitting
        return next((row for row in fitting if row.valid_from <= moment), None)

    def _fitting(self, provider_id: int, model: str) -> list[Rates]:
        """Whatever a name begins with is compared first: matching two thousand patterns takes too long."""
        name = model.lower()
        patterns = (row for beginning, row in self._patterns if name.startswith(beginning) and matches(row.model, name))
        found = [*self._exact.get(name, ()), *patterns]
        return sorted((row for row in found if row.provider_id in (None, provider_id)), key=precedence)


def precedence(row: Rates) -> tuple[bool, bool, bool, int, float]:
    letters = len(WILDCARDS.sub("", row.model))
    is_pattern = WILDCARDS.search(row.model) is not None
    return row.listed, row.provider_id is None, is_pattern, -letters, -row.valid_from.timestamp()
