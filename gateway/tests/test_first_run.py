"""What a first start makes by itself."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from accounting import rollups
from accounting.models import Price
from gateway import first_run
from providers.models import ConfigVersion, ModelRoute, Provider, RouteTarget

pytestmark = pytest.mark.django_db

SECRET = "sk-canary-7f3a"
MODELS = {"BIG_MODEL_NAME": "big", "SMALL_MODEL_NAME": "small"}


def routed() -> dict[str, str]:
    return {target.route.pattern: target.upstream_model for target in RouteTarget.objects.select_related("route")}


@pytest.mark.parametrize(
    ("environ", "name", "base_url"),
    [
        ({"OPENAI_API_KEY": SECRET}, "openai", "https://api.openai.com/v1"),
        ({"OPENROUTER_API_KEY": SECRET}, "openrouter", "https://openrouter.ai/api/v1"),
        ({"OPENAI_API_KEY": SECRET, "OPENROUTER_API_KEY": "other"}, "openai", "https://api.openai.com/v1"),
        (
            {
                "OPENAI_API_KEY": "other",
                "OPENROUTER_API_KEY": SECRET,
                "OPENAI_BASE_URL": "https://openrouter.ai/api/v1",
            },
            "openrouter",
            "https://openrouter.ai/api/v1",
        ),
        ({"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": "http://vllm:8000/v1"}, "openai", "http://vllm:8000/v1"),
        ({"BACKEND_URL": "http://b:1/v1/chat/completions", "BACKEND_KEY": SECRET}, "backend", "http://b:1/v1"),
        ({"BACKEND_URL": "http://b:1", "BACKEND_KEY": SECRET, "OPENAI_API_KEY": "other"}, "backend", "http://b:1"),
    ],
)
def test_the_environment_makes_a_provider(environ: dict[str, str], name: str, base_url: str) -> None:
    told = first_run.provider_from_environment({**environ, **MODELS})
    provider = Provider.objects.get()
    assert (provider.name, provider.type, provider.base_url) == (name, "openai", base_url)
    assert provider.credential == SECRET
    assert routed() == {"*opus*": "big", "*sonnet*": "big", "*haiku*": "small"}
    assert len(told) == 4
    assert SECRET not in "".join(told)


@pytest.mark.parametrize(
    ("names", "big", "small"),
    [
        ({}, "passthrough", "passthrough"),
        ({"BIG_MODEL_NAME": "big"}, "big", "big"),
        ({"SMALL_MODEL_NAME": "small"}, "small", "small"),
    ],
)
def test_one_model_does_for_both(names: dict[str, str], big: str, small: str) -> None:
    told = first_run.provider_from_environment({"OPENAI_API_KEY": SECRET, **names})
    assert routed() == {"*opus*": big, "*sonnet*": big, "*haiku*": small}
    assert any("are not set" in line for line in told) is (not names)


def test_the_settings_are_the_environment(settings: Settings) -> None:
    for name in first_run.VARIABLES:
        setattr(settings, name, "")
    assert first_run.provider_from_environment() == []
    settings.OPENAI_API_KEY = SECRET
    assert first_run.provider_from_environment()
    assert Provider.objects.get().credential == SECRET


def test_a_provider_that_exists_is_left_alone() -> None:
    Provider.objects.create(name="mine", type="openai", base_url="https://mine.example", enabled=False)
    before = ConfigVersion.current()
    assert first_run.provider_from_environment({"OPENAI_API_KEY": SECRET}) == []
    assert ConfigVersion.current() == before


def test_a_route_that_exists_is_left_alone() -> None:
    ModelRoute.objects.create(pattern="*opus*")
    first_run.provider_from_environment({"OPENAI_API_KEY": SECRET, **MODELS})
    assert routed() == {"*sonnet*": "big", "*haiku*": "small"}


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BACKEND_URL": "http://b:1"}, "BACKEND_URL is set without BACKEND_KEY"),
        ({"BACKEND_KEY": SECRET}, "BACKEND_KEY is set without BACKEND_URL"),
        ({"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": "vllm:8000"}, "OPENAI_BASE_URL is no URL"),
        ({"BACKEND_URL": "nowhere", "BACKEND_KEY": SECRET}, "BACKEND_URL is no URL"),
    ],
)
def test_an_environment_that_will_not_do_is_told(environ: dict[str, str], sentence: str) -> None:
    [line] = first_run.provider_from_environment(environ)
    assert sentence in line
    assert SECRET not in line
    assert not Provider.objects.exists()


def test_an_empty_environment_makes_nothing() -> None:
    assert first_run.provider_from_environment(dict.fromkeys(first_run.VARIABLES, "")) == []
    assert ConfigVersion.current() == 0


def test_the_demo_stands_in_while_there_is_no_provider() -> None:
    assert first_run.demo_route("http://127.0.0.1:9001")
    demo = Provider.objects.get()
    assert (demo.name, demo.is_demo, demo.type) == ("demo", True, "anthropic")
    assert routed() == {"claude-*": "passthrough"}


def test_the_demo_follows_its_address_and_is_else_left_alone() -> None:
    first_run.demo_route("http://127.0.0.1:9001")
    before = ConfigVersion.current()
    assert first_run.demo_route("http://127.0.0.1:9001")
    assert ConfigVersion.current() == before

    assert first_run.demo_route("http://127.0.0.1:9002")

    demo = Provider.objects.get()
    assert demo.base_url == "http://127.0.0.1:9002"
    assert demo.has_credential
    assert ModelRoute.objects.count() == 1


def test_the_demo_leaves_with_its_route() -> None:
    first_run.demo_route("http://127.0.0.1:9001")
    Provider.objects.create(name="mine", type="openai", base_url="https://mine.example")
    assert not first_run.demo_route("http://127.0.0.1:9001")
    assert list(Provider.objects.values_list("name", flat=True)) == ["mine"]
    assert not ModelRoute.objects.exists()


def test_the_demo_leaves_a_route_that_leads_elsewhere_too() -> None:
    first_run.demo_route("http://127.0.0.1:9001")
    mine = Provider.objects.create(name="mine", type="openai", base_url="https://mine.example")
    RouteTarget.objects.create(route=ModelRoute.objects.get(), provider=mine, upstream_model="m")
    first_run.demo_route("http://127.0.0.1:9001")
    assert routed() == {"claude-*": "m"}


def test_an_administrator_is_made_once(client: Any) -> None:
    password = first_run.administrator()
    assert password is not None
    assert len(password) >= 20
    assert client.login(username="admin", password=password)
    assert first_run.administrator() is None


def test_a_superuser_of_any_name_will_do() -> None:
    get_user_model().objects.create_superuser("root", "", "x")
    assert first_run.administrator() is None
    assert get_user_model().objects.count() == 1


def test_somebody_elses_account_is_never_raised() -> None:
    get_user_model().objects.create_user("admin", "", "x")
    assert first_run.administrator() is None
    assert not get_user_model().objects.filter(is_superuser=True).exists()


def test_prices_are_filled_in_once_and_told() -> None:
    (told,) = first_run.prices()
    assert f"{Price.objects.count()} prices were taken from genai-prices" in told
    assert first_run.prices() == []


def test_the_first_request_does_not_make_the_reports_look_late() -> None:
    first_run.sums()
    with transaction.atomic():
        rollups.mark_quarters([timezone.now() - dt.timedelta(minutes=14)])
    behind = rollups.lag()
    assert behind is not None
    assert behind < 60
