"""The ledger as lines of text: CSV or JSON, one row after the other, however many there are."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from django.db.models import QuerySet

from accounting.models import UsageAttempt, UsageRecord

# Read and written at once: memory does not grow with the ledger.
CHUNK = 2000

Row: TypeAlias = Sequence[Any]

# The first columns are what other people's scripts rely on; new ones go to the end.
RECORD_COLUMNS = (
    "request_id",
    "started_at",
    "finished_at",
    "key",
    "provider",
    "model",
    "upstream_model",
    "status",
    "stop_reason",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "source",
    "cost",
    "currency",
    "owner",
    "cost_centre",
    "thinking",
    "web_searches",
    "method",
    "attempt_count",
    "attempts_cost",
    "corrects",
    "client_request_id",
    "session_id",
    "streamed",
    "first_byte_ms",
    "reason",
)

# The column, and where it stands.
ATTEMPT_COLUMNS: Mapping[str, str] = {
    "request_id": "record_id",
    "number": "number",
    "started_at": "started_at",
    "finished_at": "finished_at",
    "key": "record__key",
    "provider": "provider",
    "model": "record__model",
    "upstream_model": "upstream_model",
    "upstream_id": "upstream_id",
    "status": "status",
    "reached": "reached",
    "input": "input",
    "cache_read": "cache_read",
    "cache_write_5m": "cache_write_5m",
    "cache_write_1h": "cache_write_1h",
    "output": "output",
    "source": "source",
    "cost": "cost",
    "currency": "currency",
    "thinking": "thinking",
    "web_searches": "web_searches",
    "method": "method",
    "reason": "reason",
}


class Out(Protocol):
    def write(self, text: str, /) -> Any: ...


def records(start: dt.datetime | None, end: dt.datetime | None) -> Iterator[Row]:
    rows = between(UsageRecord.objects.all(), "started_at", start, end).order_by("started_at", "id")
    return rows.values_list(*RECORD_COLUMNS).iterator(CHUNK)


def attempts(start: dt.datetime | None, end: dt.datetime | None) -> Iterator[Row]:
    """Those of the rows that `records` gives for the same dates, so that the two add up."""
    rows = between(UsageAttempt.objects.all(), "record__started_at", start, end)
    rows = rows.order_by("record__started_at", "record__id", "number")
    return rows.values_list(*ATTEMPT_COLUMNS.values()).iterator(CHUNK)


def between(rows: QuerySet[Any], field: str, start: dt.datetime | None, end: dt.datetime | None) -> QuerySet[Any]:
    """From `start`, up to but without `end`."""
    if start:
        rows = rows.filter(**{f"{field}__gte": start})
    return rows.filter(**{f"{field}__lt": end}) if end else rows


def write_csv(columns: Sequence[str], rows: Iterable[Row], out: Out) -> None:
    writer = csv.writer(_PlainNewlines(out), lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)


class _PlainNewlines:
    """Before Python 3.13 a carriage return inside a cell is quoted only where lines end with one as well."""

    def __init__(self, out: Out) -> None:
        self.out = out

    def write(self, row: str) -> None:
        self.out.write(row.removesuffix("\r\n") + "\n")


def write_jsonl(columns: Sequence[str], rows: Iterable[Row], out: Out) -> None:
    for row in rows:
        values = {name: plain(value) for name, value in zip(columns, row, strict=True)}
        out.write(json.dumps(values, ensure_ascii=False) + "\n")


FORMATS: Mapping[str, Callable[[Sequence[str], Iterable[Row], Out], None]] = {"csv": write_csv, "jsonl": write_jsonl}


def plain(value: Any) -> str | int | bool | None:
    """Money as a string, since a JSON number loses digits and 1E-7 confuses a spreadsheet; moments in UTC."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value  # type: ignore[no-any-return]


def cell(value: Any) -> str | int | None:
    """A text that a spreadsheet would run as a formula is kept from it by an apostrophe; a number is left alone."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    text = plain(value)
    return str(text).lower() if isinstance(text, bool) else text
