"""What a first start makes: a provider from the environment, a demo where there is none, prices, an administrator."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import msgspec
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounting import list_prices, rollups
from accounting.models import UsageRecord
from providers.demo import leave
from providers.models import PASSTHROUGH, ModelRoute, Provider, RouteTarget

VARIABLES = (
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "OPENAI_BASE_URL",
    "BACKEND_URL",
    "BACKEND_KEY",
    "BIG_MODEL_NAME",
    "SMALL_MODEL_NAME",
)
BIG_PATTERNS = ("*opus*", "*sonnet*")
SMALL_PATTERNS = ("*haiku*",)
DEMO = "demo"
DEMO_PATTERN = "claude-*"
ADMINISTRATOR = "admin"


class Found(msgspec.Struct, frozen=True):
    """A provider as the environment describes it, and the variable to name when something is wrong with it."""

    name: str
    base_url: str
    credential: str
    variable: str


def provider_from_environment(environ: Mapping[str, str] | None = None) -> list[str]:
    """Makes a provider and its routes where there is none yet; returns what to tell. By default from the settings."""
    if Provider.objects.filter(is_demo=False).exists():
        return []
    if environ is None:
        environ = {name: getattr(settings, name, "") for name in VARIABLES}
    found = described(environ)
    if found is None:
        return unfinished(environ)
    provider = Provider(name=found.name, type="openai", base_url=found.base_url)
    try:
        provider.full_clean()
    except ValidationError:
        return [f"{found.variable} is no URL such as https://api.example.com/v1: no provider was made."]
    provider.set_credential(found.credential)
    with transaction.atomic():
        provider.save()
        made = routes(provider, environ)
    return [f"Provider {provider} at {provider.base_url} was made from the environment.", *made]


def described(environ: Mapping[str, str]) -> Found | None:
    """BACKEND_URL first: nobody has it set by accident, which cannot be said of OPENAI_API_KEY."""
    if environ.get("BACKEND_URL") and environ.get("BACKEND_KEY"):
        base_url = environ["BACKEND_URL"].rstrip("/").removesuffix("/chat/completions")
        return Found("backend", base_url, environ["BACKEND_KEY"], "BACKEND_URL")
    base_url = environ.get("OPENAI_BASE_URL", "")
    openai, openrouter = environ.get("OPENAI_API_KEY"), environ.get("OPENROUTER_API_KEY")
    if openrouter and (not openai or "openrouter.ai" in base_url):
        return Found("openrouter", base_url or "https://openrouter.ai/api/v1", openrouter, "OPENAI_BASE_URL")
    if openai:
        return Found("openai", base_url or "https://api.openai.com/v1", openai, "OPENAI_BASE_URL")
    return None


def unfinished(environ: Mapping[str, str]) -> list[str]:
    pair = ("BACKEND_URL", "BACKEND_KEY")
    there = [name for name in pair if environ.get(name)]
    if len(there) == 1:
        return [f"{there[0]} is set without {pair[1 - pair.index(there[0])]}: no provider was made."]
    return []


def routes(provider: Provider, environ: Mapping[str, str]) -> list[str]:
    """The large models' names to one model of the provider, the small one's to another; routes that exist stay."""
    big = environ.get("BIG_MODEL_NAME") or environ.get("SMALL_MODEL_NAME") or PASSTHROUGH
    small = environ.get("SMALL_MODEL_NAME") or big
    told = []
    for position, (pattern, model) in enumerate(
        [*((pattern, big) for pattern in BIG_PATTERNS), *((pattern, small) for pattern in SMALL_PATTERNS)]
    ):
        route, is_new = ModelRoute.objects.get_or_create(pattern=pattern, defaults={"position": position})
        if is_new:
            RouteTarget.objects.create(route=route, provider=provider, upstream_model=model)
            told.append(f"Route {pattern} to {model} of {provider} was made.")
    if big == PASSTHROUGH:
        told.append(
            "BIG_MODEL_NAME and SMALL_MODEL_NAME are not set: the provider is asked for the client's own model names."
        )
    return told


@transaction.atomic
def demo_route(base_url: str) -> bool:
    """Whether the demo stands in for a provider: it comes while there is none, and leaves when there is one."""
    demo = Provider.objects.filter(is_demo=True).first()
    if Provider.objects.filter(is_demo=False).exists():
        leave()
        return False
    demo = demo or Provider(name=DEMO, type="anthropic", is_demo=True)
    if demo._state.adding or demo.base_url != base_url:
        demo.base_url = base_url
        demo.set_credential("demo")  # the built-in mock takes any; another host would get none of ours
        demo.save()
    route = ModelRoute.objects.filter(pattern=DEMO_PATTERN).first() or ModelRoute.objects.create(pattern=DEMO_PATTERN)
    if not route.targets.exists():
        RouteTarget.objects.create(route=route, provider=demo)
    return True


def prices() -> list[str]:
    """Fills the price list where nothing of the shipped one stands yet; returns what to tell."""
    taken = list_prices.fill()
    return [f"{taken} prices were taken from {list_prices.edition()}."] if taken else []


def sums() -> None:
    """An empty ledger counts as summed, so that the first request does not look like a quarter of an hour behind."""
    if not UsageRecord.objects.exists():
        rollups.roll_up()


def administrator() -> str | None:
    """Makes the user `admin` where no superuser exists and returns the password: show it now or never."""
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(18)
    try:
        with transaction.atomic():
            users.create_superuser(ADMINISTRATOR, "", password)
    except IntegrityError:
        return None  # another process was faster, or somebody else has the name: createsuperuser is there for that
    return password
