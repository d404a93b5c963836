"""The preview of an edit: what would be routed otherwise, and nothing is saved."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from providers import models
from providers.models import ConfigVersion, ModelList, ModelRoute, Provider, RouteTarget
from providers.tests.test_admin import (
    ADD,
    FORM,
    SECRET,
    admin_client,
    change,
    provider,
    route_form,
    saved,
    settings_form,
)

__all__ = ["admin_client"]  # the fixture
pytestmark = [pytest.mark.django_db, pytest.mark.urls("providers.tests.test_admin")]
ADD_ROUTE = "admin:providers_modelroute_add"


def previewed(client: Client, url: str, form: dict[str, str]) -> Any:
    """The page, once it was seen that nothing has changed."""
    before = stored()
    with patch.object(models, "_announce") as announced:
        answer = client.post(url, {**form, "_preview": "Preview"})
    assert answer.status_code == 200
    assert stored() == before
    announced.assert_not_called()
    return answer


def stored() -> Any:
    return (
        ConfigVersion.current(),
        LogEntry.objects.count(),
        *(list(model.objects.order_by("pk").values()) for model in (Provider, ModelRoute, RouteTarget)),
    )


def moves(answer: Any) -> dict[str, tuple[str, str]]:
    return {move.what: (move.before, move.after) for move in answer.context["changes"].moves}


def fields(answer: Any) -> dict[str, tuple[str, str]]:
    return {field.what: (field.before, field.after) for field in answer.context["changes"].fields}


def test_a_new_route_shows_which_names_it_would_take(admin_client: Client) -> None:
    first = provider()
    form = route_form({"provider": first.pk, "upstream_model": "gpt-5.1"})
    answer = previewed(admin_client, reverse(ADD_ROUTE), form)
    assert moves(answer) == {
        "claude-sonnet-5-5": ("no route takes it", "*sonnet*: first as gpt-5.1"),
        "claude-sonnet-4-5": ("no route takes it", "*sonnet*: first as gpt-5.1"),
    }
    page = answer.content.decode()
    assert "*sonnet*: first as gpt-5.1" in page
    assert 'name="_save"' in page
    assert 'value="*sonnet*"' in page
    assert 'value="gpt-5.1"' in page


def test_what_was_previewed_can_be_saved_from_the_same_page(admin_client: Client) -> None:
    first = provider()
    form = route_form({"provider": first.pk, "upstream_model": "gpt-5.1"})
    previewed(admin_client, reverse(ADD_ROUTE), form)
    saved(admin_client, reverse(ADD_ROUTE), form)
    assert ModelRoute.objects.get().targets.get().upstream_model == "gpt-5.1"


def test_an_edit_of_a_route_shows_what_it_takes_from_others_and_leaves_to_them(admin_client: Client) -> None:
    first, second = provider(), provider(name="second")
    every, opus = ModelRoute.objects.create(pattern="*"), ModelRoute.objects.create(pattern="*opus*")
    RouteTarget.objects.create(route=every, provider=first)
    target = RouteTarget.objects.create(route=opus, provider=second)
    ModelList.objects.create(
        provider=first, base_url=first.base_url, listed=[["zeta-haiku", None, None]], seen_at=timezone.now()
    )
    form = {**route_form({"id": target.pk, "route": opus.pk, "provider": second.pk}, initial=1), "pattern": "*haiku*"}
    moved = moves(previewed(admin_client, change(opus), form))
    assert moved["claude-opus-5-5"] == ("*opus*: second as claude-opus-5-5", "*: first as claude-opus-5-5")
    assert moved["zeta-haiku"] == ("*: first as zeta-haiku", "*haiku*: second as zeta-haiku")
    assert "claude-sonnet-5-5" not in moved


def test_an_order_that_was_dragged_is_a_change(admin_client: Client) -> None:
    first, second = provider(), provider(name="second")
    route = ModelRoute.objects.create(pattern="m")
    one = RouteTarget.objects.create(route=route, provider=first, priority=1)
    two = RouteTarget.objects.create(route=route, provider=second, priority=2)
    form = {
        **route_form(
            {"id": one.pk, "route": route.pk, "provider": first.pk, "priority": 1},
            {"id": two.pk, "route": route.pk, "provider": second.pk, "priority": 0},
            initial=2,
        ),
        "pattern": "m",
    }
    moved = moves(previewed(admin_client, change(route), form))
    assert moved == {"m": ("m: first as m, then second as m", "m: second as m, then first as m")}


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("priority", "m: first as m, then second as m"),
        ("round_robin", "m: by turns first as m, second as m"),
        ("random", "m: first as m (1) or second as m (3)"),
    ],
)
def test_each_strategy_has_its_words(admin_client: Client, strategy: str, told: str) -> None:
    form = route_form({"provider": provider().pk}, {"provider": provider(name="second").pk, "weight": 3})
    answer = previewed(admin_client, reverse(ADD_ROUTE), {**form, "pattern": "m", "strategy": strategy})
    assert moves(answer) == {"m": ("no route takes it", told)}


def test_disabling_a_provider_shows_who_takes_over(admin_client: Client) -> None:
    first, second = provider(), provider(name="second")
    for pattern, providers in (("*opus*", [first, second]), ("*haiku*", [first])):
        route = ModelRoute.objects.create(pattern=pattern)
        for priority, each in enumerate(providers):
            RouteTarget.objects.create(route=route, provider=each, priority=priority)
    form = settings_form(admin_client, first)
    del form["enabled"]
    answer = previewed(admin_client, change(first), form)
    assert moves(answer)["claude-opus-5-5"] == (
        "*opus*: first as claude-opus-5-5, then second as claude-opus-5-5",
        "*opus*: second as claude-opus-5-5",
    )
    assert moves(answer)["claude-haiku-5-5"] == ("*haiku*: first as claude-haiku-5-5", "*haiku*: nobody is enabled")
    assert fields(answer)["enabled"] == ("yes", "no")


def test_an_edit_of_a_provider_shows_every_setting_that_would_hold_otherwise(admin_client: Client) -> None:
    known = provider(SECRET, base_url="https://api.openai.com/v1", options={"own": 1})
    form = settings_form(
        admin_client, known, base_url="https://api.mistral.ai/v1", option_pdf="no", options='{"own": 2}'
    )
    answer = previewed(admin_client, change(known), form)
    told = fields(answer)
    assert told["base url"] == ("https://api.openai.com/v1", "https://api.mistral.ai/v1")
    assert told["credential"] == ("the one stored", "none: it was given for another host")
    assert told["own"] == ("1", "2")
    assert ("yes", "no") in told.values()  # PDF
    assert len(told) > 8  # and what the vendor does otherwise
    page = answer.content.decode()
    assert "was dropped" not in page
    assert 'id="no-moves"' in page
    assert SECRET not in page


def test_a_credential_is_in_no_preview_and_has_to_be_typed_again(admin_client: Client) -> None:
    answer = previewed(admin_client, reverse(ADD), {**FORM, "credential": SECRET})
    page = answer.content.decode()
    assert SECRET not in page
    assert 'id="type-again"' in page
    assert "credential" in answer.context["adminform"].form.errors


def test_what_is_wrong_is_told_as_it_is_on_saving(admin_client: Client) -> None:
    answer = previewed(admin_client, reverse(ADD), {**FORM, "base_url": "example.com"})
    assert "changes" not in answer.context
    assert "A URL is expected" in answer.content.decode()
    form = route_form({"provider": provider().pk, "weight": 0})
    answer = previewed(admin_client, reverse(ADD_ROUTE), form)
    assert "greater than or equal to 1" in answer.content.decode()


def test_many_moves_are_cut(admin_client: Client) -> None:
    first = provider()
    listed = [[f"model-{number:03}", None, None] for number in range(150)]
    ModelList.objects.create(provider=first, base_url=first.base_url, listed=listed, seen_at=timezone.now())
    answer = previewed(admin_client, reverse(ADD_ROUTE), {**route_form({"provider": first.pk}), "pattern": "model-*"})
    assert len(moves(answer)) == 150
    assert "And 50 more." in answer.content.decode()
    assert "model-120" not in answer.content.decode()


def test_hostile_names_in_a_preview_stay_text(admin_client: Client) -> None:
    first = provider(name="<script>a()</script>")
    form = {**route_form({"provider": first.pk}), "pattern": '"><img src=x onerror=b()>'}
    page = previewed(admin_client, reverse(ADD_ROUTE), form).content.decode()
    assert "<script>a()" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_who_may_only_look_is_offered_no_preview(admin_client: Client, client: Client) -> None:
    from django.contrib.auth.models import Permission, User

    known = provider()
    assert 'name="_preview"' in admin_client.get(change(known)).content.decode()
    person = User.objects.create(username="viewer", is_staff=True)
    person.user_permissions.add(Permission.objects.get(codename="view_provider"))
    client.force_login(person)
    assert 'name="_preview"' not in client.get(change(known)).content.decode()
    assert client.post(change(known), {**FORM, "_preview": "1"}).status_code == 403
