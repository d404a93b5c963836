"""GET /v1/models: the names a key may use, in pages, and one by one for any name that a route takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.tests.conftest import LIMITED_TOKEN, OWNER_TOKEN, Gateway, endpoint
from providers.routing import CLAUDE_MODELS, Endpoint, KnownModel, Route, Target

NOWHERE = "http://127.0.0.1:9"
FIELDS = {
    "type",
    "id",
    "display_name",
    "created_at",
    "lifecycle",
    "max_input_tokens",
    "max_tokens",
    "capabilities",
    "line",
    "deprecated_at",
    "retires_at",
}


def listing(*models: KnownModel) -> Endpoint:
    known = {model.name.lower(): model for model in models}
    return msgspec.structs.replace(endpoint(1, "openai", NOWHERE), models=known)


LISTED = listing(
    KnownModel("z-ai/GLM-4.6", 200_000, 64_000),
    KnownModel("z-ai/glm-4.6-haiku-like"),
    KnownModel("gpt-5", 400_000),
)


@pytest.fixture
def routed(gateway: Gateway) -> Gateway:
    gateway.route(
        Route("claude-glm", (Target(LISTED, "z-ai/glm-4.6"),)),
        Route("claude-*", (Target(LISTED, "gpt-5"),)),
        Route("z-ai/*", (Target(LISTED),)),
    )
    return gateway


async def get(gateway: Gateway, path: str, token: str = OWNER_TOKEN) -> tuple[int, Any]:
    reply = await gateway.ask(b"", method="GET", path=f"/v1/models{path}", token=token)
    return reply.status, reply.json()


async def names(gateway: Gateway, path: str = "", token: str = OWNER_TOKEN) -> list[str]:
    status, page = await get(gateway, path, token)
    assert status == 200
    return [model["id"] for model in page["data"]]


ALL = ["claude-glm", *CLAUDE_MODELS, "z-ai/GLM-4.6", "z-ai/glm-4.6-haiku-like"]


async def test_aliases_known_names_and_what_providers_list_are_published(routed: Gateway) -> None:
    assert await names(routed) == ALL
    assert await names(routed, token=LIMITED_TOKEN) == [name for name in ALL if "haiku" in name]


async def test_every_model_has_all_fields_and_the_limits_of_its_provider(routed: Gateway) -> None:
    _, page = await get(routed, "")
    assert all(set(model) == FIELDS for model in page["data"])
    limits = {model["id"]: (model["max_input_tokens"], model["max_tokens"]) for model in page["data"]}
    assert limits["claude-glm"] == limits["z-ai/GLM-4.6"] == (200_000, 64_000)
    assert limits["claude-opus-5-5"] == (400_000, None)
    assert limits["z-ai/glm-4.6-haiku-like"] == (None, None)
    first = page["data"][0]
    assert (first["type"], first["lifecycle"], first["display_name"]) == ("model", "active", "claude-glm")
    assert first["created_at"] == "2025-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("query", "expected", "has_more"),
    [
        ("?limit=1", ALL[:1], True),
        (f"?limit={len(ALL)}", ALL, False),
        ("?limit=1000", ALL, False),
        (f"?limit=2&after_id={ALL[0]}", ALL[1:3], True),
        (f"?limit=2&after_id={ALL[-3]}", ALL[-2:], False),
        (f"?after_id={ALL[-1]}", [], False),
        (f"?limit=2&before_id={ALL[3]}", ALL[1:3], True),
        (f"?limit=3&before_id={ALL[3]}", ALL[:3], False),
        (f"?before_id={ALL[0]}", [], False),
    ],
)
async def test_pages(routed: Gateway, query: str, expected: list[str], has_more: bool) -> None:
    status, page = await get(routed, query)
    assert (status, [model["id"] for model in page["data"]], page["has_more"]) == (200, expected, has_more)
    assert page["first_id"] == (expected[0] if expected else None)
    assert page["last_id"] == (expected[-1] if expected else None)


async def test_twenty_to_a_page_unless_asked_otherwise(gateway: Gateway) -> None:
    many = listing(*(KnownModel(f"model-{number:02}") for number in range(45)))
    gateway.route(Route("model-*", (Target(many),)))
    seen = page = await names(gateway)
    while page:
        assert len(page) <= 20
        page = await names(gateway, f"?after_id={page[-1]}")
        seen = seen + page
    assert seen == [f"model-{number:02}" for number in range(45)]


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=-1", "?limit=many", "?limit=", "?after_id=gpt-5", "?before_id=x"]
)
async def test_pages_that_cannot_be(routed: Gateway, query: str) -> None:
    status, error = await get(routed, query)
    assert (status, error["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("claude-glm", "claude-glm"),
        ("Claude-GLM", "claude-glm"),
        ("claude-opus-5-5[1m]", "claude-opus-5-5"),
        ("claude-of-next-year", "claude-of-next-year"),
        ("Z-AI/glm-4.6", "z-ai/GLM-4.6"),
        ("z-ai/GLM-4.6/", "z-ai/GLM-4.6"),
    ],
)
async def test_one_model_answers_for_any_name_a_route_takes(routed: Gateway, asked: str, told: str) -> None:
    status, model = await get(routed, f"/{asked}")
    assert (status, model["id"], set(model)) == (200, told, FIELDS)


@pytest.mark.parametrize(
    ("asked", "is_limited", "near"),
    [
        ("gpt-5-mini", False, "GET /v1/models"),  # it is listed by a provider, but no route takes it
        ("zai/glm-4.6", False, "z-ai/GLM-4.6"),
        ("clade-opus-5-5", False, "claude-opus-5-5"),
        ("claude-opus-5-5", True, "claude-haiku-5-5"),  # the key may not use it
    ],
)
async def test_an_unknown_model_is_404_and_names_what_is_near(
    routed: Gateway, asked: str, is_limited: bool, near: str
) -> None:
    status, error = await get(routed, f"/{asked}", LIMITED_TOKEN if is_limited else OWNER_TOKEN)
    assert (status, error["error"]["type"]) == (404, "not_found_error")
    assert near in error["error"]["message"]
