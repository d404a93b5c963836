"""What `export_config` prints, `apply` makes again; and nothing secret is in it."""

from __future__ import annotations

import datetime as dt
import io
import re
from decimal import Decimal
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting.models import ApiKey, CostCentre, Price
from gateway.apply import apply
from gateway.export_config import credential_variables, export
from gateway.yaml_lines import BadFile
from providers.balancing import STRATEGIES
from providers.models import ConfigVersion, ModelRoute, Provider, RouteTarget

pytestmark = pytest.mark.django_db

SECRET = "sk-canary-5d1e"
RATES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
URL = "https://api.example.com/v1"


def variables_of(text: str) -> dict[str, str]:
    """Every variable that the head of the file asks for."""
    return {name: f"{SECRET} {name}" for name in re.findall(r"^#   (\w+)$", text, re.MULTILINE)}


def forget_everything() -> None:
    for model in (Price, ApiKey, CostCentre, RouteTarget, ModelRoute, Provider):
        model.objects.all().delete()


def small_house() -> Provider:
    provider = Provider(name="open-router", type="openai", base_url=URL, options={"pdf": True, "extra": {"b": 1}})
    provider.set_credential(SECRET)
    provider.save()
    route = ModelRoute.objects.create(pattern="*sonnet*", strategy="random", position=7)
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="z", priority=2, weight=3)
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="a")
    centre = CostCentre.objects.create(code="R&D", name="Research")
    expires = dt.datetime(2999, 1, 1, 12, tzinfo=dt.UTC)
    ApiKey.issue("alice", owner="Alice", cost_centre=centre, allowed_models=["*haiku*"], expires_at=expires)
    ApiKey.issue("bob", scopes=["messages", "operator"], revoked_at=timezone.now())
    Price.objects.create(
        model="m", provider=provider, valid_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), input="0.27", output=3
    )
    return provider


def test_the_file_reads_as_a_person_would_write_it() -> None:
    small_house()
    text = export()
    tree = yaml.safe_load(text)
    [provider] = tree["providers"]
    assert provider["auth_value"] == "${PROVIDER_OPEN_ROUTER_CREDENTIAL}"
    assert provider["options"] == {"extra": {"b": 1}, "pdf": True}
    assert tree["model_routes"] == {
        "*sonnet*": {
            "strategy": "random",
            "position": 7,
            "targets": [
                {"provider": "open-router", "model": "z", "priority": 2, "weight": 3},
                {"provider": "open-router", "model": "a", "priority": 1, "weight": 1},
            ],
        }
    }
    alice, bob = tree["keys"]
    assert (alice["cost_centre"], alice["models"]) == ("R&D", ["*haiku*"])
    assert alice["expires"] == "2999-01-01T12:00:00+00:00"
    assert (bob["scopes"], bob["revoked"], "revoked" in alice) == (["messages", "operator"], True, False)
    assert "\n  input: 0.27\n" in text
    assert "\n  output: 3\n" in text


def test_no_secret_is_in_it_and_its_head_says_what_is_missing() -> None:
    small_house()
    tokens = [token for key in ApiKey.objects.all() for token in (key.digest, key.prefix)]
    text = export()
    for secret in (SECRET, Provider.objects.get().sealed_credential, *tokens):
        assert secret not in text
    head = text.partition("\n\n")[0]
    assert list(variables_of(head)) == ["PROVIDER_OPEN_ROUTER_CREDENTIAL"]
    assert "gets a new token" in head


def test_without_its_credentials_the_file_is_refused_by_name() -> None:
    small_house()
    with pytest.raises(BadFile, match="PROVIDER_OPEN_ROUTER_CREDENTIAL is not set"):
        apply(export(), {})


def test_applied_to_where_it_came_from_it_changes_nothing() -> None:
    small_house()
    before, text = ConfigVersion.current(), export()
    report = apply(text, {"PROVIDER_OPEN_ROUTER_CREDENTIAL": SECRET})
    assert (report.changes, report.issued, ConfigVersion.current()) == ([], [], before)


def test_applied_to_an_empty_database_it_makes_the_same_with_credentials_and_new_tokens() -> None:
    small_house()
    text = export()
    forget_everything()
    report = apply(text, {"PROVIDER_OPEN_ROUTER_CREDENTIAL": SECRET})
    assert export() == text
    assert Provider.objects.get().credential == SECRET
    assert [name for name, _ in report.issued] == ["alice", "bob"]
    assert [key.state() for key in ApiKey.objects.all()] == ["active", "revoked"]


def test_what_belongs_to_the_product_itself_is_left_out() -> None:
    provider = small_house()
    text = export()
    demo = Provider.objects.create(name="demo", type="anthropic", base_url="http://127.0.0.1:1", is_demo=True)
    route = ModelRoute.objects.create(pattern="claude-*")
    RouteTarget.objects.create(route=route, provider=demo)
    Price.objects.create(model="listed", listed=True, provider=provider, input=1)
    Price.objects.create(model="of the demo", provider=demo)
    # Of the demo's model and moment: the listed row must not be taken for one's own.
    own = Price.objects.get(model="m")
    Price.objects.create(model="m", provider=provider, valid_from=own.valid_from, input=9, listed=True)
    assert export() == text
    environ = {"PROVIDER_OPEN_ROUTER_CREDENTIAL": SECRET}
    assert apply(text, environ).changes == ["the demo has left, and its route with it"]
    assert apply(text, environ).changes == []
    assert Price.objects.get(model="m", listed=True).input == 9


def test_a_listed_price_is_no_price_of_ones_own() -> None:
    Price.objects.create(model="m", listed=True, input=1)
    apply("prices: [{model: m, input: 1}]", {})
    apply("prices: [{model: m, input: 2}]", {})
    own = Price.objects.filter(model="m", listed=False).order_by("valid_from")
    assert [price.input for price in own] == [1, 2]


def test_an_empty_database_makes_a_file_that_changes_nothing() -> None:
    text = export()
    assert apply(text, {}).changes == []
    assert "Credentials" not in text


def test_a_route_that_leads_nowhere_keeps_taking_its_names() -> None:
    ModelRoute.objects.create(pattern="forbidden-*")
    text = export()
    ModelRoute.objects.all().delete()
    apply(text, {})
    assert ModelRoute.objects.get().pattern == "forbidden-*"
    assert not RouteTarget.objects.exists()


def test_every_provider_has_a_variable_of_its_own() -> None:
    found = credential_variables(["A", "a", "a 2", "Müller", "日本", "日本 "])
    assert found == {
        "A": "PROVIDER_A_CREDENTIAL",
        "a": "PROVIDER_A_2_CREDENTIAL",
        "a 2": "PROVIDER_A_2_2_CREDENTIAL",
        "Müller": "PROVIDER_M_LLER_CREDENTIAL",
        "日本": "PROVIDER_UNNAMED_CREDENTIAL",
        "日本 ": "PROVIDER_UNNAMED_2_CREDENTIAL",
    }


def test_the_command_prints_the_file_and_nothing_else() -> None:
    small_house()
    out = io.StringIO()
    call_command("export_config", stdout=out)
    assert out.getvalue() == export()


# Whatever may stand in a database

AWKWARD = (
    "${HOME}",
    "$${X}",
    "a${B:-c}d$",
    "null",
    "~",
    "yes",
    "*",
    "- x",
    "a: b #c",
    "'",
    '"',
    "0123",
    "1e3",
    "1_0",
    "<<",
    "=",
    "2026-01-01",
    "a\u2028b",
    "é\x85é",
    "&a",
    "|",
)
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def texts(most: int, least: int = 0) -> st.SearchStrategy[str]:
    """As a form or a file would leave them."""
    stripped = st.one_of(st.text(characters, max_size=min(most, 12)), st.sampled_from(AWKWARD)).map(str.strip)
    return stripped.filter(lambda text: least <= len(text) <= most)


scalars = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(-1e6, 1e6, allow_subnormal=False), st.text(characters)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(12), inner, max_size=3)
)
decimals = st.decimals(min_value=0, max_value=10**6, places=6)
moments = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2999, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
timeouts = st.floats(0.1, 1e6)


@st.composite
def providers(draw: st.DrawFn, name: str) -> Provider:
    made = Provider(
        name=name,
        type=draw(st.sampled_from(["anthropic", "openai", "responses"])),
        base_url=draw(st.sampled_from([URL, "http://ollama:11434", "https://a.example/${TENANT}/v1"])),
        auth_type=draw(st.sampled_from(["api_key", "bearer", "header:X-Key"])),
        credential_mode=draw(st.sampled_from(["own", "client_token"])),
        enabled=draw(st.booleans()),
        dialect=draw(st.sampled_from(["", "deepseek"])),
        idle_timeout=draw(timeouts),
        total_timeout=draw(timeouts),
        options={f"x {name}": value for name, value in draw(st.dictionaries(texts(12), values, max_size=2)).items()},
    )
    if draw(st.booleans()):
        made.sealed_credential = "a credential"  # sealed by whoever saves it
    return made


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(texts(100, 1), max_size=3, unique=True))
    patterns = draw(st.lists(texts(200, 1), max_size=3, unique=True))
    return {
        "providers": [draw(providers(name)) for name in names],
        "centres": {
            code: draw(texts(200)) for code in draw(st.lists(texts(50, 1), min_size=1, max_size=2, unique=True))
        },
        "routes": [
            (
                ModelRoute(pattern=pattern, strategy=draw(st.sampled_from(list(STRATEGIES))), position=position),
                draw(st.lists(st.tuples(st.integers(0, 2), texts(200, 1), st.integers(0, 9)), max_size=3)),
            )
            for pattern, position in zip(patterns, draw(st.tuples(*[st.integers(0, 3)] * 3)), strict=False)
        ],
        "keys": [
            {
                "name": name,
                "owner": draw(texts(150)),
                "allowed_models": draw(st.lists(texts(40, 1), max_size=2)),
                "scopes": draw(st.lists(st.sampled_from(["messages", "operator"]), unique=True)),
                "expires_at": draw(st.none() | moments),
                "revoked_at": draw(st.none() | moments),
            }
            for name in draw(st.lists(texts(100, 1), max_size=2, unique=True))
        ],
        "prices": [
            Price(
                model=model, valid_from=moment, currency=draw(st.sampled_from(["USD", "EUR"])), source=draw(texts(200))
            )
            for model, moment in draw(st.lists(st.tuples(texts(200, 1), moments), max_size=2, unique=True))
        ],
        "rates": draw(st.tuples(*[decimals] * len(RATES))),
    }


def build(found: dict[str, Any]) -> None:
    for provider in found["providers"]:
        if provider.sealed_credential:
            provider.set_credential(SECRET)
        provider.save()
    centres = [CostCentre.objects.create(code=code, name=name) for code, name in found["centres"].items()]
    for route, targets in found["routes"]:
        route.save()
        for place, model, priority in targets:
            if place < len(found["providers"]):
                RouteTarget.objects.create(
                    route=route, provider=found["providers"][place], upstream_model=model, priority=priority
                )
    for fields in found["keys"]:
        ApiKey.issue(cost_centre=centres[0], **fields)
    for place, price in enumerate(found["prices"]):
        price.provider = dict(enumerate(found["providers"])).get(place - 1)
        for name, rate in zip(RATES, found["rates"], strict=True):
            setattr(price, name, Decimal(rate))
        price.save()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(configurations())
def test_there_and_back_again(found: dict[str, Any]) -> None:
    with transaction.atomic():
        build(found)
        text = export()
        credentials = dict.fromkeys(variables_of(text), SECRET)
        assert apply(text, credentials).changes == []
        forget_everything()
        apply(text, credentials)
        assert export() == text
        transaction.set_rollback(True)
