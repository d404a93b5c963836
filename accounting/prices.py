"""What an answer cost: the rates valid at its moment, found without a query, and the exact sum."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from providers.routing import matches
from providers.usage import Usage

MILLION = Decimal(1_000_000)
THOUSAND = Decimal(1000)


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
    """Every price row; the narrowest that is valid wins: the provider's own, the exact name, the latest."""

    def __init__(self, rows: Iterable[Rates]) -> None:
        self._rows = sorted(
            rows,
            key=lambda row: (
                row.provider_id is None,
                "*" in row.model,
                -len(row.model.replace("*", "")),
                -row.valid_from.timestamp(),
            ),
        )
        self._remembered: dict[tuple[int, str], list[Rates]] = {}

    def at(self, moment: dt.datetime, provider_id: int, model: str) -> Rates | None:
        """None where no price is known: the row is then marked as unpriced."""
        fitting = self._remembered.get((provider_id, model))
        if fitting is None:
            fitting = [
                row for row in self._rows if row.provider_id in (None, provider_id) and matches(row.model, model)
            ]
            if len(self._remembered) < 4096:
                self._remembered[provider_id, model] = fitting
        return next((row for row in fitting if row.valid_from <= moment), None)
