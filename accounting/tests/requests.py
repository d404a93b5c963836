"""Settled requests at chosen moments, as a gateway would leave them in its spool, and prices for them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import msgspec

from accounting.booking import book
from accounting.ledger import COMPLETED, ESTIMATED, FAILED, UPSTREAM, Attempt, Row, Settled
from accounting.prices import PriceList, Rates
from providers.identity import request_id
from providers.usage import Usage

NOON = "2026-03-10T12:00:00Z"


def price(currency: str = "USD", model: str = "claude-*", output: str = "15") -> Rates:
    return Rates(
        id=1,
        model=model,
        provider_id=None,
        valid_from=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        currency=currency,
        input=Decimal(3),
        cache_read=Decimal("0.3"),
        cache_write_5m=Decimal("3.75"),
        cache_write_1h=Decimal(6),
        output=Decimal(output),
        web_search=Decimal(10),
    )


PRICES = PriceList([price(), price("EUR", "mistral-*")])


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def request(
    at: str = NOON,
    usage: Usage = Usage(input=10, output=5),  # noqa: B008 - it cannot be changed
    *,
    upstream_model: str = "claude-upstream",
    status: str = COMPLETED,
    source: str = UPSTREAM,
    failed_before: Usage | None = None,
    **row: Any,
) -> Settled:
    """With `failed_before` a first attempt failed and was billed for so much."""
    began = moment(at).timestamp()
    settled = Row(request_id(), began, 7, "alice", finished_at=began + 2, model="claude-opus", first_byte_ms=100)
    settled.status = status
    attempts = [_attempt(1, began, FAILED, failed_before, ESTIMATED, "claude-upstream")] if failed_before else []
    attempts.append(_attempt(len(attempts) + 1, began, status, usage, source, upstream_model))
    return Settled(msgspec.structs.replace(settled, **row), attempts)


def _attempt(number: int, began: float, status: str, usage: Usage, source: str, model: str) -> Attempt:
    attempt = Attempt(number, began, 1, "first", model, began + 2)
    attempt.status, attempt.usage, attempt.source = status, usage, source
    return attempt


def booked(*requests: Settled) -> None:
    book(requests, PRICES)
