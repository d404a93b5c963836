"""Listings of models as providers write them, what is kept of them, and what becomes of it."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from providers import health
from providers.discovery import LONGEST_NAME, MOST_MODELS, by_name, read_listing, stored
from providers.models import ConfigVersion, ModelList, ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.routing import KnownModel
from providers.snapshot import read_routing


@pytest.mark.parametrize(
    ("listing", "models"),
    [
        ({"object": "list", "data": [{"id": "gpt-5", "object": "model"}]}, [KnownModel("gpt-5")]),
        (
            {
                "data": [
                    {
                        "id": "z-ai/glm-4.6",
                        "context_length": 202752,
                        "top_provider": {"context_length": 131072, "max_completion_tokens": 65536},
                    }
                ]
            },
            [KnownModel("z-ai/glm-4.6", 202752, 65536)],
        ),
        ({"data": [{"id": "Qwen/Qwen3", "max_model_len": 32768}]}, [KnownModel("Qwen/Qwen3", 32768)]),
        (
            {"data": [{"id": "llama-3", "context_window": 131072, "max_completion_tokens": 32768}]},
            [KnownModel("llama-3", 131072, 32768)],
        ),
        (
            {"models": [{"name": "models/gemini-3", "inputTokenLimit": 1048576, "outputTokenLimit": 65536}]},
            [KnownModel("gemini-3", 1048576, 65536)],
        ),
        ({"data": [{"id": "models/gemini-3"}]}, [KnownModel("gemini-3")]),
        (
            {"data": [{"type": "model", "id": "claude-x", "max_input_tokens": 200000, "max_tokens": 64000}]},
            [KnownModel("claude-x", 200000, 64000)],
        ),
        ({"data": [{"id": "local.gguf", "meta": {"n_ctx_train": 4096}}]}, [KnownModel("local.gguf", 4096)]),
        ([{"id": "b"}, {"id": "a"}], [KnownModel("a"), KnownModel("b")]),
        ({"data": [{"id": "A"}, {"id": "a", "context_length": 5}]}, [KnownModel("a", 5)]),
        ({"data": [], "models": None}, []),
        (
            {"data": [{"id": ""}, {"id": 7}, {}, None, "x", {"id": "x" * (LONGEST_NAME + 1)}, {"id": "a\nb"}]},
            [],
        ),
    ],
)
def test_listings_are_read(listing: Any, models: list[KnownModel]) -> None:
    assert read_listing(json.dumps(listing).encode()) == models


@pytest.mark.parametrize("value", ["8192", None, -1, 0, True, 1e300, {}, []])
def test_a_limit_that_is_none_is_left_out(value: Any) -> None:
    body = json.dumps({"data": [{"id": "odd", "context_length": value, "max_tokens": value}]}).encode()
    assert read_listing(body) == [KnownModel("odd")]


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"7", b'{"data": {}}', b'{"error": "no"}', b"[" * 100_000])
def test_what_is_no_listing_is_none(body: bytes) -> None:
    assert read_listing(body) is None


def test_a_listing_is_cut_where_it_is_beyond_reason() -> None:
    body = json.dumps([{"id": f"m{number}"} for number in range(MOST_MODELS + 10)]).encode()
    assert len(read_listing(body) or ()) == MOST_MODELS


def test_what_is_stored_is_read_back_and_what_others_wrote_is_not() -> None:
    models = [KnownModel("Big", 10, 5), KnownModel("small")]
    assert by_name(json.loads(json.dumps(stored(models)))) == {"big": models[0], "small": models[1]}
    assert by_name({"big": 5}) == by_name([["x"]]) == by_name(None) == {}


class Listing:
    """A provider that lists what it is told to."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.asked: list[str] = []
        listing = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listing.asked.append(self.path)
                self.send_response(listing.status)
                self.send_header("content-length", str(len(listing.body)))
                self.end_headers()
                self.wfile.write(listing.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tell(self, *names: str, status: int = 200, **fields: Any) -> None:
        self.status = status
        self.body = json.dumps({"data": [{"id": name, **fields} for name in names]}).encode()


@pytest.fixture
def listing() -> Iterator[Listing]:
    held = Listing()
    thread = threading.Thread(target=held.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield held
    held.server.shutdown()
    thread.join()
    held.server.server_close()


@pytest.fixture
def provider(db: None, listing: Listing, settings: Settings) -> Provider:
    settings.MODEL_LIST_SECONDS = settings.PROBE_SECONDS = 0
    made = Provider(name="first", type="openai", base_url=listing.url)
    made.save()
    route = ModelRoute.objects.create(pattern="*")
    RouteTarget.objects.create(route=route, provider=made)
    return made


def version_after_probe() -> int:
    health.probe_all()
    return ConfigVersion.current()


def test_a_probe_brings_the_models_into_the_configuration(provider: Provider, listing: Listing) -> None:
    listing.tell("GLM-4.6", "glm-4.5", context_length=200_000, max_tokens=64_000)
    health.probe_all()

    routing = read_routing()

    assert ProviderHealth.objects.get().ok
    assert routing.published([]) == ["GLM-4.6", "glm-4.5"]
    [candidate] = routing.candidates("glm-4.6")
    assert (candidate.model, candidate.limits) == ("GLM-4.6", KnownModel("GLM-4.6", 200_000, 64_000))
    assert listing.asked == ["/v1/models"]


def test_anthropic_providers_are_asked_for_all_at_once(provider: Provider, listing: Listing) -> None:
    Provider.objects.update(type="anthropic")
    health.probe_all()
    assert listing.asked == ["/v1/models?limit=1000"]


def test_only_another_list_moves_the_version(provider: Provider, listing: Listing) -> None:
    listing.tell("a", "b")
    first = version_after_probe()
    seen_at = ModelList.objects.get().seen_at
    listing.tell("b", "a")
    assert version_after_probe() == first
    assert ModelList.objects.get().seen_at > seen_at
    listing.tell("a", "c")
    assert version_after_probe() == first + 1


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_provider_that_lists_nothing_now_keeps_its_last_list(
    provider: Provider, listing: Listing, status: int
) -> None:
    listing.tell("a")
    first = version_after_probe()
    listing.tell("b", status=status)
    assert version_after_probe() == first
    assert by_name(ModelList.objects.get().listed) == {"a": KnownModel("a")}


def test_a_list_is_renewed_when_it_is_old_enough(provider: Provider, listing: Listing, settings: Settings) -> None:
    settings.MODEL_LIST_SECONDS, settings.PROBE_SECONDS = 60, 20
    listing.tell("a")
    health.probe_all()
    listing.tell("b")
    for age, expected in ((40, "a"), (55, "b")):
        ModelList.objects.update(seen_at=timezone.now() - dt.timedelta(seconds=age))
        health.probe_all()
        assert str(ModelList.objects.get()) == "1 models of first"
        assert list(by_name(ModelList.objects.get().listed)) == [expected]


def test_a_list_stays_with_the_address_it_came_from(provider: Provider, listing: Listing) -> None:
    listing.tell("a")
    health.probe_all()
    provider.base_url = "http://127.0.0.1:9"
    provider.save()
    assert read_routing().published([]) == []
    health.probe_all()
    assert not ProviderHealth.objects.get().ok
    provider.base_url = listing.url
    provider.save()
    assert read_routing().published([]) == ["a"]
