"""The admin's first page: what today came to, what needs somebody, and what is left to set up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import msgspec
from django.conf import settings
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from accounting import list_prices, reports, rollups
from accounting.models import ApiKey
from accounting.reports import Figures, Period
from ccproxy_site.guide import Step, steps
from ccproxy_site.recent import Recent, recent
from gateway import runtime
from providers.models import Provider, ProviderHealth

COST_DAYS = 14
EXPIRY_DAYS = 14
UNPRICED_DAYS = 7
# The sums are made every few seconds: what is older than this shows that nobody makes them.
LATE_SECONDS = 300


class Figure(msgspec.Struct, frozen=True):
    shown: str
    exact: str = ""


class Card(msgspec.Struct, frozen=True):
    label: str
    figures: list[Figure]
    compared: str


class ProviderLine(msgspec.Struct, frozen=True):
    id: int
    name: str
    enabled: bool
    well: bool | None
    detail: str
    checked_at: dt.datetime | None
    latency: str
    requests: int
    failed: int


class Home(msgspec.Struct, frozen=True):
    """What one person may see of it; what he may not is empty."""

    guide: list[Step]
    cards: list[Card]
    costs: list[tuple[str, list[tuple[str, Decimal]]]]
    requests_by_hour: list[tuple[str, int]]
    providers: list[ProviderLine] | None
    state: list[tuple[str, str]]
    troubles: list[str]
    unpriced: list[tuple[str, str, int]]
    expiring: list[ApiKey]
    first_password: str

    @property
    def is_empty(self) -> bool:
        return not any((self.guide, self.cards, self.providers is not None, self.state, self.unpriced, self.expiring))


def callback(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    may = request.user.has_perm
    context["home"] = home(may, timezone.now(), is_superuser=request.user.is_superuser)
    return context


def home(may: Callable[[str], bool], now: dt.datetime, *, is_superuser: bool) -> Home:
    sees_money, operates = may("accounting.view_reports"), may("accounting.view_usagerecord")
    figures = recent(now) if sees_money else None
    providers = list(Provider.objects.select_related("health")) if may("providers.view_provider") else None
    behind = rollups.lag() if operates else None
    return Home(
        guide=steps() if may("providers.add_provider") and may("accounting.add_apikey") else [],
        cards=cards(figures) if figures else [],
        costs=costs() if sees_money else [],
        requests_by_hour=figures.requests_by_hour if figures else [],
        providers=None if providers is None else provider_lines(providers),
        state=state(behind) if operates else [],
        troubles=troubles(behind) if operates else [],
        unpriced=unpriced() if may("accounting.view_price") else [],
        expiring=expiring(now) if may("accounting.view_apikey") else [],
        first_password=first_password() if is_superuser else "",
    )


def cards(figures: Recent) -> list[Card]:
    today, now, then = figures.today, figures.by_now, figures.yesterday_by_now
    by = f"yesterday by {timezone.localtime(figures.until):%H:%M}"
    share = f" ({today.error_share * 100:.1f}\N{NO-BREAK SPACE}%)" if today.failed else ""
    first_token = duration(today.mean_first_byte_ms)
    return [
        Card("Requests", [Figure(count(today.requests))], compared(now.requests, then.requests, count, by)),
        cost_card(figures, by),
        Card(
            "Tokens",
            [Figure(short(today.tokens), count(today.tokens))],
            compared(now.tokens, then.tokens, short, by),
        ),
        Card("Errors", [Figure(count(today.failed) + share)], compared(now.failed, then.failed, count, by)),
        Card(
            "Mean time to first token",
            [Figure(first_token)],
            compared(now.mean_first_byte_ms, then.mean_first_byte_ms, duration, by),
        ),
    ]


def cost_card(figures: Recent, by: str) -> Card:
    """A line for each currency: money of two is never added."""
    today, now, then = figures.today, figures.by_now, figures.yesterday_by_now
    currencies = sorted({*today.cost, *then.cost}) or [""]
    return Card(
        "Cost",
        [Figure(f"{money(cost_in(today, name))} {name}".rstrip(), f"{cost_in(today, name):f}") for name in currencies],
        "; ".join(compared(cost_in(now, name), cost_in(then, name), money, by) for name in currencies),
    )


def compared(now: Any, then: Any, show: Callable[[Any], str], by: str) -> str:
    if not then:
        return f"none {by}"
    if now is None:
        return f"{show(then)} {by}"
    percent = round((now - then) * 100 / then)
    return f"{show(then)} {by}" + (f" ({percent:+d}\N{NO-BREAK SPACE}%)" if abs(percent) < 1000 else "")


def cost_in(figures: Figures, currency: str) -> Decimal:
    return figures.cost.get(currency, Decimal(0))


def count(number: int) -> str:
    return f"{number:,}"


def short(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return f"{number:,}"


def money(amount: Decimal) -> str:
    return f"{amount:,.4f}" if 0 < abs(amount) < 1 else f"{amount:,.2f}"


def duration(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "–"
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def costs() -> list[tuple[str, list[tuple[str, Decimal]]]]:
    """By day, for each currency that was used; money of two currencies is never added."""
    last = reports.today()
    days = [last - dt.timedelta(days=ago) for ago in reversed(range(COST_DAYS))]
    found = reports.by("day", Period(days[0], last + dt.timedelta(days=1)))
    currencies = sorted({currency for figures in found.values() for currency in figures.cost})
    return [(name, [(f"{day:%d %b}", cost_in(found.get(day, Figures()), name)) for day in days]) for name in currencies]


def provider_lines(providers: Iterable[Provider]) -> list[ProviderLine]:
    last = reports.today()
    found = reports.by("provider", Period(last, last + dt.timedelta(days=1)))
    return [provider_line(provider, found.get(provider.name, Figures())) for provider in providers]


def provider_line(provider: Provider, today: Figures) -> ProviderLine:
    health = health_of(provider)
    return ProviderLine(
        id=provider.pk,
        name=provider.name,
        enabled=provider.enabled,
        well=health.ok if health else None,
        detail=health.detail if health else "",
        checked_at=health.checked_at if health else None,
        latency=duration(health.latency_ms) if health and health.latency_ms is not None else "",
        requests=today.requests,
        failed=today.failed,
    )


def health_of(provider: Provider) -> ProviderHealth | None:
    try:
        return provider.health
    except ProviderHealth.DoesNotExist:
        return None


def state(behind: float | None) -> list[tuple[str, str]]:
    """Of the process that draws the page, and of the sums that all processes share."""
    found = []
    if held := runtime.current():
        backlog = held.ledger.spool.backlog
        found += [
            ("Requests running now, in this process", f"{held.ledger.running:,}"),
            ("Waiting in its spool to be booked", filesizeformat(backlog) if backlog else "nothing"),
        ]
    found.append(("Figures here and in reports", "up to date" if behind is None else f"{span(behind)} behind"))
    return found


def span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def troubles(behind: float | None) -> list[str]:
    held = runtime.current()
    found = [*held.troubles(), *held.degradations()] if held else []
    if behind is not None and behind > LATE_SECONDS:
        found.append(
            f"the figures are {span(behind)} behind, so nobody sums the ledger: see that the worker runs"
            " (manage.py doctor tells)"
        )
    return [f"{trouble[0].upper()}{trouble[1:]}." for trouble in found]


def unpriced() -> list[tuple[str, str, int]]:
    """Provider, its name for the model, and how many requests of the last days went without a price."""
    last = reports.today()
    return list_prices.unpriced(Period(last - dt.timedelta(days=UNPRICED_DAYS - 1), last + dt.timedelta(days=1)))


def expiring(now: dt.datetime) -> list[ApiKey]:
    soon = now + dt.timedelta(days=EXPIRY_DAYS)
    return list(ApiKey.objects.usable().filter(expires_at__lte=soon).order_by("expires_at"))


def first_password() -> str:
    """Where the administrator's first password still lies, or ""."""
    path = settings.DATA_DIR / "first-login.txt"
    return str(path) if path.exists() else ""
