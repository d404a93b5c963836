"""What a settled request looks like in the tables, and the statement that writes many such rows.

Not through model instances: those cost five times as much, and the gateway writes one of these per request.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from django.db import connection, models

from accounting.ledger import Attempt, Row, Settled
from accounting.models import UsageRecord
from accounting.prices import PriceList, Rates

MOST_MILLISECONDS = 2**31 - 1
_cost = UsageRecord._meta.get_field("cost")


def insert(model: type[models.Model], rows: Sequence[Mapping[str, Any]], *, unique: Sequence[str]) -> None:
    """Rows whose `unique` columns stand already are passed over; anything else a row breaks is an error."""
    if not rows:
        return
    quote = connection.ops.quote_name
    names = ", ".join(map(quote, rows[0]))
    marks = ", ".join(["%s"] * len(rows[0]))
    conflict = ", ".join(map(quote, unique))
    statement = (
        f"INSERT INTO {quote(model._meta.db_table)} ({names}) VALUES ({marks})"  # noqa: S608 - names of our own
        f" ON CONFLICT ({conflict}) DO NOTHING"
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, [tuple(row.values()) for row in rows])


def record_of(settled: Settled, prices: PriceList) -> dict[str, Any]:
    row, last = settled.row, settled.attempts[-1]
    rates = _rates(last, row, prices)
    return {
        "request_id": row.request_id,
        "corrects": "",
        "client_request_id": row.client_request_id,
        "session_id": row.session_id,
        "started_at": stored_moment(row.started_at),
        "finished_at": stored_moment(row.finished_at),
        "api_key_id": row.key_id,
        "key": row.key,
        "owner": row.owner,
        "cost_centre": row.cost_centre,
        "model": row.model,
        "streamed": row.streamed,
        "status": row.status,
        "stop_reason": row.stop_reason,
        "reason": row.reason,
        # A clock that is set back makes it negative.
        "first_byte_ms": row.first_byte_ms and min(max(row.first_byte_ms, 0), MOST_MILLISECONDS),
        "price": _price(rates),
        "attempt_count": len(settled.attempts),
        "attempts_cost": _stored_cost(_together(settled, prices)),
        **_call(last, rates),
    }


def attempts_of(settled: Settled, prices: PriceList) -> Iterator[dict[str, Any]]:
    for attempt in settled.attempts:
        yield {
            "record_id": settled.row.request_id,
            "number": attempt.number,
            "started_at": stored_moment(attempt.started_at),
            "finished_at": stored_moment(attempt.finished_at),
            "upstream_id": attempt.upstream_id,
            "reached": attempt.reached,
            "status": attempt.status,
            "reason": attempt.reason,
            **_call(attempt, _rates(attempt, settled.row, prices)),
        }


def stored_moment(seconds: float) -> Any:
    return connection.ops.adapt_datetimefield_value(_moment(seconds))


def _call(attempt: Attempt, rates: Rates | None) -> dict[str, Any]:
    """The columns that rows and attempts share."""
    return {
        "provider_ref_id": attempt.provider_id,
        "provider": attempt.provider,
        "upstream_model": attempt.upstream_model,
        **msgspec.structs.asdict(attempt.usage),
        "source": attempt.source,
        "method": attempt.method,
        "cost": _stored_cost(rates.cost(attempt.usage) if rates else None),
        "currency": rates.currency if rates else "",
    }


def _rates(attempt: Attempt, row: Row, prices: PriceList) -> Rates | None:
    return prices.at(_moment(row.started_at), attempt.provider_id, attempt.upstream_model)


def _price(rates: Rates | None) -> str | None:
    if rates is None:
        return None
    return json.dumps({name: str(value) for name, value in msgspec.structs.asdict(rates).items()})


def _together(settled: Settled, prices: PriceList) -> Decimal | None:
    """None as soon as one attempt's price is unknown, or two currencies meet: a sum with a hole is no sum."""
    called = [attempt for attempt in settled.attempts if attempt.reached]
    rates = [_rates(attempt, settled.row, prices) for attempt in called]
    if None in rates or len({each.currency for each in rates if each}) > 1:
        return None
    return sum((each.cost(attempt.usage) for each, attempt in zip(rates, called, strict=True) if each), Decimal(0))


def _stored_cost(cost: Decimal | None) -> Any:
    if cost is None:
        return None
    return connection.ops.adapt_decimalfield_value(cost, _cost.max_digits, _cost.decimal_places)


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
