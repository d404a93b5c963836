"""Sums of days, as the roll-up would leave them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from accounting.models import COST_DIGITS, DaySum

TODAY = dt.date(2026, 11, 21)
# Names that somebody chose to do harm.
HOSTILE = (
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}{% load x %}",
    "+1+1",
    "@SUM(1)",
    "-2+3",
    "tab\there",
)
COUNTS = {
    "requests": 1,
    "attempts": 1,
    "input": 0,
    "cache_read": 0,
    "cache_write_5m": 0,
    "cache_write_1h": 0,
    "output": 0,
    "thinking": 0,
    "web_searches": 0,
    "unpriced": 0,
    "estimated": 0,
    "first_byte_ms": 0,
    "first_bytes": 0,
}


def day_sum(day: dt.date | str = TODAY, cost: str | None = "0", currency: str = "USD", **fields: Any) -> DaySum:
    """Unsaved. Without a cost no price was known."""
    names = {"key": "alice", "owner": "Olga", "cost_centre": "R&D", "provider": "first", "model": "opus"}
    units = int(Decimal(cost or 0).scaleb(COST_DIGITS))
    money = {"cost": units, "attempts_cost": units, "currency": "" if cost is None else currency}
    counts = {**COUNTS, **({"unpriced": fields.get("requests", 1)} if cost is None else {})}
    values = {"status": "completed", **names, **counts, **money, **fields}
    return DaySum(day=dt.date.fromisoformat(day) if isinstance(day, str) else day, **values)


def booked(*sums: DaySum) -> None:
    DaySum.objects.bulk_create(sums, batch_size=1000)
