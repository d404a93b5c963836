"""Which route a model would take, as the page tells it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from providers.admin.which import Explanation
from providers.models import ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.routing import LONGEST_NAME
from providers.snapshot import read_routing
from providers.tests.test_admin import admin_client, provider

__all__ = ["admin_client"]  # the fixture
pytestmark = [pytest.mark.django_db, pytest.mark.urls("providers.tests.test_admin")]
WHICH = "admin:providers_modelroute_which"


def route(pattern: str, *targets: tuple[Provider, str], **fields: Any) -> ModelRoute:
    made = ModelRoute.objects.create(pattern=pattern, **fields)
    for priority, (to, model) in enumerate(targets, 1):
        RouteTarget.objects.create(route=made, provider=to, upstream_model=model, priority=priority)
    return made


def explained(client: Client, model: str) -> tuple[Explanation, str]:
    answer = client.get(reverse(WHICH), {"model": model})
    assert answer.status_code == 200
    return answer.context["explanation"], answer.content.decode()


def test_the_page_is_linked_from_the_routes_and_asks_for_a_name(admin_client: Client) -> None:
    assert reverse(WHICH) in admin_client.get(reverse("admin:providers_modelroute_changelist")).content.decode()
    assert "Step by step" not in admin_client.get(reverse(WHICH)).content.decode()


def test_every_route_that_matches_stands_in_the_order_that_decides(admin_client: Client) -> None:
    first = provider()
    for position, pattern in enumerate(("*", "claude-opus-5-5", "claude-*", "*opus-5", "*-opus-?", "claude*?")):
        route(pattern, (first, "passthrough"), position=position)
    seen, page = explained(admin_client, "Claude-OPUS-5-5[1m]")
    assert seen.plain == "Claude-OPUS-5-5"
    assert [match.pattern for match in seen.matches] == ["claude-opus-5-5", "claude-*", "claude*?", "*"]
    assert [match.takes_it for match in seen.matches] == [True, False, False, False]
    assert seen.matches[0].why == "the exact name comes before every pattern"
    assert seen.matches[1].why == "7 letters outside its wildcards"
    assert "mark [1m] is taken off" in page


def test_between_patterns_that_are_as_specific_the_list_decides(admin_client: Client) -> None:
    first = provider()
    route("*55", (first, "passthrough"), position=2)
    route("m5*", (first, "passthrough"), position=1)
    seen, _ = explained(admin_client, "m555")
    assert [match.pattern for match in seen.matches] == ["m5*", "*55"]
    assert "as many as m5*, which stands before it" in seen.matches[1].why


def test_the_targets_stand_in_the_order_in_which_a_request_would_try_them(admin_client: Client) -> None:
    well, ill, disabled = provider(name="well"), provider(name="ill"), provider(name="disabled", enabled=False)
    ProviderHealth.objects.create(provider=well, ok=True, checked_at=timezone.now())
    ProviderHealth.objects.create(provider=ill, ok=False, detail="refused", checked_at=timezone.now())
    route("*opus*", (disabled, "passthrough"), (ill, "gpt-5.1"), (well, "passthrough"))
    seen, page = explained(admin_client, "claude-opus-5-5")
    assert [(line.place, line.provider.name, line.model) for line in seen.lines] == [
        (1, "ill", "gpt-5.1"),
        (2, "well", "claude-opus-5-5"),
        (0, "disabled", "passthrough"),
    ]
    asked = read_routing().candidates("claude-opus-5-5")
    assert [(each.endpoint.name, each.model) for each in asked] == [
        (line.provider.name, line.model) for line in seen.lines if line.place
    ]
    assert [line.state.split(" at ")[0] for line in seen.lines] == ["ill: refused", "well", "disabled"]
    assert "not asked" in page


def test_a_route_whose_providers_are_all_disabled_says_what_a_client_gets(admin_client: Client) -> None:
    route("*", (provider(enabled=False), "passthrough"))
    seen, page = explained(admin_client, "m")
    assert not seen.has_candidates
    assert "a client gets 503" in page


def test_the_demo_steps_back(admin_client: Client) -> None:
    demo = provider(name="demo")
    Provider.objects.filter(pk=demo.pk).update(is_demo=True)
    route("*", (demo, "passthrough"), (provider(), "passthrough"))
    seen, _ = explained(admin_client, "m")
    assert [(line.place, line.provider.name) for line in seen.lines] == [(1, "first"), (0, "demo")]
    assert "steps back" in seen.lines[1].state


def test_a_name_nobody_takes_shows_what_is_near_and_how_to_route_it(admin_client: Client) -> None:
    route("gpt-5.1", (provider(), "passthrough"))
    seen, page = explained(admin_client, "gpt 5.1&x")
    assert (seen.matches, seen.near, seen.lines) == ([], ["gpt-5.1"], [])
    assert "?pattern=gpt%205.1%26x" in page
    assert "A client gets 404" in page


@pytest.mark.parametrize("strategy", ["round_robin", "random"])
def test_where_the_order_changes_the_page_says_so(admin_client: Client, strategy: str) -> None:
    route("*", (provider(), "passthrough"), (provider(name="second"), "passthrough"), strategy=strategy)
    seen, page = explained(admin_client, "m")
    assert "of one" in seen.order
    assert {line.provider.name for line in seen.lines} == {"first", "second"}
    assert seen.order in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=a()>', "\0", "m" * 600, "☃[1m]"])
def test_any_name_may_be_asked_for(admin_client: Client, name: str) -> None:
    route("*", (provider(name="<script>b()</script>"), "<script>c()</script>"))
    answer = admin_client.get(reverse(WHICH), {"model": name, "key": name})
    page = answer.content.decode()
    assert answer.status_code == 200
    assert not any(bad in page for bad in ("<script>alert", "<script>b", "<script>c", "<img src=x"))
    if len(name) > LONGEST_NAME or name == "\0":
        assert "explanation" not in answer.context
        assert answer.context["form"].errors


def test_only_who_may_see_routes_may_ask(client: Client) -> None:
    person = User.objects.create(username="viewer", is_staff=True)
    client.force_login(person)
    assert client.get(reverse(WHICH), {"model": "m"}).status_code == 403
    person.user_permissions.add(Permission.objects.get(codename="view_modelroute"))
    assert client.get(reverse(WHICH), {"model": "m"}).status_code == 200


def test_a_few_queries_answer(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    first = provider()
    for number in range(50):
        route(f"r{number}*", (first, "passthrough"), (first, "other"))
    with django_assert_max_num_queries(12):
        explained(admin_client, "r7")
