"""The developer's page /me: how to set Claude Code up, what may be used at which price, what was used, what failed.

Two doors lead to it: a key of one's own, or an account that keys name as their holder.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.contrib.auth import logout
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import rotate_token
from django.shortcuts import render
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from accounting import charts, keys
from accounting.models import ApiKey, UsageRecord
from accounting.reports import Figures, Period
from accounting.snapshot import card_of
from gateway import runtime, throttle, usage
from gateway.catalogue import usable_models
from gateway.configuration import Snapshot, read_snapshot
from gateway.usage import KeyUsage
from providers import log_events
from providers.routing import plain_model

logger = logging.getLogger("ccproxy.login")

PAGE = "/me"
DOOR = "key"
# Under this name a session remembers a key that was shown, for so many seconds.
OPENED = "me"
OPEN_SECONDS = 12 * 3600
STATUS_LINE = (Path(__file__).parent / "static" / "gateway" / "statusline.sh").read_text()

WRONG = "This key opens nothing here. Check that it was copied whole, or ask your administrator for another."
AGAIN = "Show your key again: the page closes after twelve hours, and when the key gets a new token."
NOT_YOURS = "There is no such key among yours."
ENDED = {
    "revoked": "The key {!r} was revoked. Ask your administrator for another.",
    "expired": "The key {!r} has expired. Ask your administrator for another.",
}


class Opened(msgspec.Struct, frozen=True):
    """What a session remembers of a key that was shown: no token, and nothing that could be made into one."""

    key_id: int
    proof: str
    at: float


class Offer(msgspec.Struct, frozen=True):
    """A model that a key may ask for, as the provider serves it that is asked first."""

    name: str
    context: str = ""
    provider: str = ""
    upstream_model: str = ""
    currency: str = ""
    prices: Sequence[str] = ()  # per million: input, output, read from a cache, written to one


class Told(msgspec.Struct, frozen=True):
    """Figures as people read them; `exact` has every digit."""

    requests: str
    tokens: str
    short_tokens: str
    cost: str
    exact: str
    unpriced: int


class Line(msgspec.Struct, frozen=True):
    model: str
    this: Told
    before: Told


# The doors


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """The page of one key, or the doors to it."""
    shown, told = shown_key(request)
    held = keys_held(request)
    choices = held if shown is None or shown in held else [shown, *held]
    key = chosen(choices, request.GET.get("key", ""))
    if key is None:
        return doors(request, NOT_YOURS, status=404, choices=choices) if choices else doors(request, told)
    ended = ENDED.get(key.state(), "").format(key.name)
    return render(request, "gateway/me/page.html", {**about(request, key), "choices": choices, "ended": ended})


@never_cache
@sensitive_post_parameters("token")
@require_POST
def open_with_key(request: HttpRequest) -> HttpResponse:
    token = request.POST.get("token", "").strip()
    address, name = request.META.get("REMOTE_ADDR", ""), keys.prefix(token)
    wait = throttle.seconds_to_wait(DOOR, address, name)
    if wait:
        refusal = doors(request, throttle.refusal(wait), status=429)
        refusal["retry-after"] = str(wait)
        return refusal
    key = key_of(token)
    if key is None:
        failed = log_events.about(log_events.LogEvent.LOGIN_FAILED, address=address)
        logger.warning("login_failed address=%s", address, extra=failed)
        return doors(request, WRONG, status=403)
    throttle.succeeded(DOOR, address, name)
    if key.state() in ENDED:
        return doors(request, ENDED[key.state()].format(key.name), status=403)
    remember(request, key, keys.digest(token))
    return HttpResponseRedirect(PAGE)


@never_cache
@require_POST
def leave(request: HttpRequest) -> HttpResponse:
    """Closes both doors."""
    logout(request)
    return HttpResponseRedirect(PAGE)


@require_safe
def status_line(_request: HttpRequest) -> HttpResponse:
    """The script for Claude Code. No secret is in it: whoever runs it brings the key."""
    script = HttpResponse(STATUS_LINE, content_type="text/plain; charset=utf-8")
    script["content-disposition"] = 'inline; filename="ccproxy-statusline.sh"'
    return script


def doors(request: HttpRequest, told: str, *, status: int = 200, choices: Sequence[ApiKey] = ()) -> HttpResponse:
    return render(request, "gateway/me/doors.html", {"told": told, "choices": choices}, status=status)


def key_of(token: str) -> ApiKey | None:
    """Whichever it opens, in whatever state; the token before a rotation opens it for its time."""
    if not keys.is_well_formed(token):
        return None
    digest = keys.digest(token)
    opens = Q(digest=digest) | Q(previous_digest=digest, previous_until__gt=timezone.now())
    return ApiKey.objects.filter(opens).first()


def remember(request: HttpRequest, key: ApiKey, digest: str) -> None:
    """Under a new session id: one that somebody had planted before must not see the key."""
    request.session.cycle_key()
    rotate_token(request)
    request.session[OPENED] = msgspec.to_builtins(Opened(key.pk, proof(digest), time.time()))


def shown_key(request: HttpRequest) -> tuple[ApiKey | None, str]:
    """The key this session was opened with; or what to say where the door has closed."""
    kept = request.session.get(OPENED)
    if kept is None:
        return None, ""
    opened = Opened(**kept)
    key = ApiKey.objects.select_related("cost_centre").filter(pk=opened.key_id).first()
    if key is not None and key.state() in ENDED:
        told = ENDED[key.state()].format(key.name)
    elif key is not None and opened.at + OPEN_SECONDS > time.time() and still_opens(key, opened.proof):
        return key, ""
    else:
        told = AGAIN
    del request.session[OPENED]
    return None, told


def still_opens(key: ApiKey, proven: str) -> bool:
    digests = [key.digest]
    if key.previous_digest and key.previous_until and key.previous_until > timezone.now():
        digests.append(key.previous_digest)
    return any(constant_time_compare(proof(digest), proven) for digest in digests)


def proof(digest: str) -> str:
    return salted_hmac("gateway.me", digest, algorithm="sha256").hexdigest()


def keys_held(request: HttpRequest) -> list[ApiKey]:
    if not request.user.is_authenticated:
        return []
    return list(ApiKey.objects.select_related("cost_centre").filter(holder=request.user))


def chosen(choices: Sequence[ApiKey], number: str) -> ApiKey | None:
    """By its number; without one the first that works, or the first."""
    if number:
        return next((key for key in choices if str(key.pk) == number), None)
    return next((key for key in choices if key.state() == "active"), choices[0] if choices else None)


# The page


def about(request: HttpRequest, key: ApiKey) -> dict[str, Any]:
    """All that the page shows of one key."""
    used, known = usage.usage_of(key.pk, with_month_before=True), snapshot()
    month, before = used.month, used.month.before()
    names, shown = usable_models(card_of(key), known), lines(used.by_model(month), used.by_model(before))
    return {
        "key": key,
        "gateway": request.build_absolute_uri("/").rstrip("/"),
        "used": used,
        "month": told(used.total(month)),
        "today": told(used.total(Period(used.today, used.today + usage.ONE_DAY))),
        "last_month": told(used.total(before)),
        "lines": shown[: usage.MOST_MODELS],
        "more_lines": len(shown[usage.MOST_MODELS :]),
        "drawn": drawn(used, Period(before.start, used.today + usage.ONE_DAY)),
        "offers": [offer(name, known, timezone.now()) for name in names[: usage.MOST_MODELS]],
        "more_offers": len(names[usage.MOST_MODELS :]),
        "last": UsageRecord.objects.filter(api_key_id=key.pk).order_by("-started_at").first(),
        "expose": settings.EXPOSE_PROVIDER,
    }


def told(of: Figures) -> Told:
    cost = " + ".join(f"{usage.rounded(of.cost[currency])} {currency}" for currency in sorted(of.cost))
    exact = " + ".join(f"{usage.exact(of.cost[currency])} {currency}" for currency in sorted(of.cost))
    return Told(f"{of.requests:,}", f"{of.tokens:,}", short(of.tokens), cost or "–", exact, of.unpriced)


def short(number: int) -> str:
    for size, letters in ((10**9, "bn"), (10**6, "M")):
        if number >= size:
            return f"{number / size:,.1f} {letters}"
    return f"{number:,}"


def lines(this: Mapping[str, Figures], before: Mapping[str, Figures]) -> list[Line]:
    nothing = Figures()
    models = dict.fromkeys((*this, *before))
    return [Line(model, told(this.get(model, nothing)), told(before.get(model, nothing))) for model in models]


def drawn(used: KeyUsage, period: Period) -> list[SafeString]:
    """A chart of the cost in each currency; of the tokens where nothing has a price."""
    days = [period.start + number * usage.ONE_DAY for number in range(period.days)]
    found = used.by_day(period)
    figures = [(f"{day.day} {day:%b}", found.get(day, Figures())) for day in days]
    currencies = sorted({currency for _, of in figures for currency in of.cost})
    if not currencies:
        return [charts.bars([(label, of.tokens) for label, of in figures], title="Tokens per day")]
    return [
        charts.bars([(label, of.cost.get(currency, 0)) for label, of in figures], title="Cost per day", unit=currency)
        for currency in currencies
    ]


def snapshot() -> Snapshot:
    """As this process holds it while it serves; else from the database."""
    running = runtime.current()
    if running is not None and running.configuration.is_loaded:
        return running.configuration.current
    return read_snapshot()


def offer(name: str, known: Snapshot, now: dt.datetime) -> Offer:
    route = known.routing.route(name)
    if route is None or not route.targets:
        return Offer(name)
    first = min(route.targets, key=lambda target: target.priority)
    model = first.model_for(plain_model(name))
    window = first.endpoint.known(model).context_window
    rates = known.books.prices.at(now, first.endpoint.id, model)
    prices = (rates.input, rates.output, rates.cache_read, rates.cache_write_5m) if rates else ()
    return Offer(
        name=name,
        context=f"{window:,}" if window else "",
        provider=first.endpoint.name,
        upstream_model=model,
        currency=rates.currency if rates else "",
        prices=[usage.exact(price) for price in prices],
    )
