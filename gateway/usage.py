"""What one key has used, as `GET /v1/usage` tells it and the page /me shows it. Never a row of another key."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import msgspec
from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from accounting import reports, rollups
from accounting.models import Status, UsageRecord
from accounting.report_lines import summed
from accounting.reports import Figures, Period
from accounting.snapshot import KeyCard
from gateway.advice import what_to_do
from providers.errors import GatewayError

# Errors are looked for among so many of the latest requests: a look costs the same however many there are.
LATEST, MOST_ERRORS = 1000, 10
# Names are the client's choice: of those it used so many are told.
MOST_MODELS = 100
ONE_DAY = dt.timedelta(days=1)
TROUBLES = (Status.FAILED, Status.CUT, Status.INTERRUPTED)
KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking")

# For the reader of /docs.
_FIGURES = {
    "requests": 2,
    "failed": 1,
    "tokens": {
        "input": 40,
        "cache_read": 48000,
        "cache_write_5m": 0,
        "cache_write_1h": 0,
        "output": 900,
        "thinking": 0,
    },
    "web_searches": 0,
    "cost": {"USD": "0.0277"},
    "unpriced": 0,
}
EXAMPLE = {
    "key": {
        "name": "bob",
        "owner": "bob@example.org",
        "cost_centre": "R&D",
        "allowed_models": ["*haiku*"],
        "expires_at": None,
    },
    "summary": "0.0277 USD this month, 0.0277 USD today",
    "time_zone": "Europe/Berlin",
    "figures_until": "2026-11-24T13:32:07Z",
    "month": {"from": "2026-11-01", "to": "2026-11-24", **_FIGURES},
    "today": {"day": "2026-11-24", **_FIGURES},
    "days": [{"day": "2026-11-24", **_FIGURES}],
    "models": [{"model": "claude-haiku-5-5", **_FIGURES}],
    "more_models": 0,
    "budget": None,
    "limits": None,
    "last_errors": [
        {
            "at": "2026-11-24T13:30:00Z",
            "request_id": "req_011CVXq5bWmnTzH7aK3pRsYd",
            "model": "claude-haiku-5-5",
            "status": "failed",
            "reason": "the provider is overloaded: try again in a moment",
            "suggestion": "Try again in a moment.",
        }
    ],
}
DOCUMENTED = {
    "responses": {
        200: {
            "description": "Costs are exact decimals as text.",
            "content": {"application/json": {"example": EXAMPLE}},
        },
        401: {"description": "No key was sent, or one that is unknown, revoked or expired."},
        403: {"description": "The key may not ask models."},
        503: {"description": "The database is away."},
    }
}

# The database is asked here and not in the event loop; one that hangs holds two threads and no more.
_readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="usage")


class Trouble(msgspec.Struct, frozen=True):
    """A request that brought no whole answer."""

    at: dt.datetime
    request_id: str
    model: str
    status: str
    reason: str
    suggestion: str


class KeyUsage(msgspec.Struct, frozen=True):
    """Of one key, in the running month of the books' time zone, and in the month before where that was asked for."""

    today: dt.date
    until: dt.datetime  # what was finished later may not be among the figures yet
    lines: Mapping[tuple[dt.date, str], Figures]  # by day and model
    errors: Sequence[Trouble]

    @property
    def month(self) -> Period:
        return reports.month_of(self.today)

    def total(self, period: Period) -> Figures:
        return self._by(lambda *_: None, period).get(None, Figures())

    def by_day(self, period: Period) -> dict[dt.date, Figures]:
        return dict(sorted(self._by(lambda day, _: day, period).items()))

    def by_model(self, period: Period) -> dict[str, Figures]:
        """The one asked most often first."""
        found = self._by(lambda _, model: model, period)
        return dict(sorted(found.items(), key=lambda line: (-line[1].requests, line[0])))

    def _by(self, part: Callable[[dt.date, str], Any], period: Period) -> dict[Any, Figures]:
        found: dict[Any, list[Figures]] = {}
        for (day, model), of in self.lines.items():
            if period.start <= day < period.end:
                found.setdefault(part(day, model), []).append(of)
        return {name: summed(several) for name, several in found.items()}


def usage_of(key_id: int, *, with_month_before: bool = False) -> KeyUsage:
    today = reports.today()
    month = reports.month_of(today)
    period = Period(month.before().start, month.end) if with_month_before else month
    return KeyUsage(
        today=today,
        until=timezone.now() - dt.timedelta(seconds=rollups.lag() or 0),
        lines=reports.by_all(("day", "model"), period, api_key_id=key_id),
        errors=last_errors(key_id),
    )


def last_errors(key_id: int) -> list[Trouble]:
    latest = UsageRecord.objects.filter(api_key_id=key_id).order_by("-started_at").values("pk")[:LATEST]
    failed = UsageRecord.objects.filter(pk__in=latest, status__in=TROUBLES).order_by("-started_at")[:MOST_ERRORS]
    rows = failed.values_list("started_at", "request_id", "model", "status", "reason")
    return [Trouble(*row, what_to_do(row[3], row[4])) for row in rows]


async def reply(card: KeyCard) -> dict[str, Any]:
    """The body of `GET /v1/usage`."""
    return await asyncio.get_running_loop().run_in_executor(_readers, _read, card)


def _read(card: KeyCard) -> dict[str, Any]:
    try:
        return described(card, usage_of(card.id))
    except DatabaseError:
        raise GatewayError("the figures cannot be read from the database now: try again in a moment") from None
    finally:
        connection.close()


def described(card: KeyCard, used: KeyUsage) -> dict[str, Any]:
    month, today = used.total(used.month), used.total(Period(used.today, used.today + ONE_DAY))
    models = used.by_model(used.month)
    return {
        "key": {
            "name": card.name,
            "owner": card.owner,
            "cost_centre": card.cost_centre,
            "allowed_models": card.allowed_models,
            "expires_at": dt.datetime.fromtimestamp(card.expires_at, dt.UTC) if card.expires_at else None,
        },
        "summary": f"{plain_money(month)} this month, {plain_money(today)} today",
        "time_zone": settings.TIME_ZONE,
        "figures_until": used.until,
        "month": {"from": used.month.start, "to": used.today, **figures(month)},
        "today": {"day": used.today, **figures(today)},
        "days": [{"day": day, **figures(of)} for day, of in used.by_day(used.month).items()],
        "models": [{"model": model, **figures(models[model])} for model in [*models][:MOST_MODELS]],
        "more_models": len([*models][MOST_MODELS:]),
        "budget": None,
        "limits": None,
        "last_errors": used.errors,
    }


def figures(of: Figures) -> dict[str, Any]:
    return {
        "requests": of.requests,
        "failed": of.failed,
        "tokens": {kind: getattr(of, kind) for kind in KINDS},
        "web_searches": of.web_searches,
        "cost": {currency: exact(of.cost[currency]) for currency in sorted(of.cost)},
        "unpriced": of.unpriced,
    }


def exact(value: Decimal) -> str:
    """Every digit that says something, never as 1E+3."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(value: Decimal) -> str:
    """To the cent, and finer below one."""
    digits = 2 if abs(value) >= 1 or not value else 4
    return f"{value:,.{digits}f}"


def plain_money(of: Figures) -> str:
    """In one short line of plain letters; a status line shows it."""
    sums = [f"{rounded(of.cost[currency])} {currency}" for currency in sorted(of.cost)]
    text = " + ".join(sums) or "0.00"
    return f"{text} ({of.unpriced} unpriced)" if of.unpriced else text
