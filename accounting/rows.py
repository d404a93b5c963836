"""What a settled request looks like in the tables, and the statement that writes many such rows.

Not through model instances: those cost five times as much, and the gateway writes one of these per request.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from django.db import connection, models

from accounting.ledger import Attempt, Settled
from accounting.prices import PriceList, Rates

MOST_MILLISECONDS = 2**31 - 1

# Of one row, by column.
Values = dict[str, Any]


def insert(model: type[models.Model], rows: Sequence[Mapping[str, Any]], *, unique: Sequence[str] = ()) -> None:
    """Rows whose `unique` columns stand already are passed over; anything else a row breaks is an error."""
    if not rows:
        return
    quote = connection.ops.quote_name
    names = ", ".join(map(quote, rows[0]))
    marks = ", ".join(["%s"] * len(rows[0]))
    statement = f"INSERT INTO {quote(model._meta.db_table)} ({names}) VALUES ({marks})"  # noqa: S608 - names of our own
    if unique:
        statement += f" ON CONFLICT ({', '.join(map(quote, unique))}) DO NOTHING"
    with connection.cursor() as cursor:
        cursor.executemany(statement, [tuple(row.values()) for row in rows])


def rows_of(settled: Settled, prices: PriceList) -> tuple[Values, list[Values]]:
    """The row of a request, and one for each of its attempts."""
    row, attempts = settled.row, settled.attempts
    rates = [prices.at(moment_of(row.started_at), each.provider_id, each.upstream_model) for each in attempts]
    calls = [_call(attempt, its_rates) for attempt, its_rates in zip(attempts, rates, strict=True)]
    stored = connection.ops.adapt_datetimefield_value
    record = {
        "request_id": row.request_id,
        "corrects": "",
        "client_request_id": row.client_request_id,
        "session_id": row.session_id,
        "started_at": stored(moment_of(row.started_at)),
        "finished_at": stored(moment_of(row.finished_at)),
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
        "price": _price(rates[-1]),
        "attempt_count": len(attempts),
        "attempts_cost": _together(attempts, calls),
        **calls[-1],
    }
    return record, [
        {
            "record_id": row.request_id,
            "number": attempt.number,
            "started_at": stored(moment_of(attempt.started_at)),
            "finished_at": stored(moment_of(attempt.finished_at)),
            "upstream_id": attempt.upstream_id,
            "reached": attempt.reached,
            "status": attempt.status,
            "reason": attempt.reason,
            **call,
        }
        for attempt, call in zip(attempts, calls, strict=True)
    ]


def _call(attempt: Attempt, rates: Rates | None) -> Values:
    """The columns that rows and attempts share."""
    return {
        "provider_ref_id": attempt.provider_id,
        "provider": attempt.provider,
        "upstream_model": attempt.upstream_model,
        **msgspec.structs.asdict(attempt.usage),
        "source": attempt.source,
        "method": attempt.method,
        "cost": rates.cost(attempt.usage) if rates else None,
        "currency": rates.currency if rates else "",
    }


@lru_cache(maxsize=1024)
def _price(rates: Rates | None) -> str | None:
    if rates is None:
        return None
    return msgspec.json.encode({name: str(value) for name, value in msgspec.structs.asdict(rates).items()}).decode()


def _together(attempts: Sequence[Attempt], calls: Sequence[Values]) -> Decimal | None:
    """None as soon as one attempt's price is unknown, or in another currency than the row's: that is no sum."""
    called = [call for attempt, call in zip(attempts, calls, strict=True) if attempt.reached]
    if any(call["cost"] is None or call["currency"] != calls[-1]["currency"] for call in called):
        return None
    return sum((call["cost"] for call in called), Decimal(0))


def moment_of(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
