"""Anthropic's own SDKs, in Python and in TypeScript, talk to the gateway as they would to Anthropic."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import pytest

from ccproxy_site.tests.e2e.claude_code import LANGUAGES, MODELS, demand
from ccproxy_site.tests.e2e.family import ROOT, Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.habits import CASES
from ccproxy_site.tests.e2e.reconcile import reconcile

pytestmark = pytest.mark.e2e

TYPESCRIPT = ROOT / ".e2e" / "node_modules" / "@anthropic-ai" / "sdk"
MANY_MODELS = [f"model-{number:02}" for number in range(45)]
MOST_BYTES = 200_000
SOON = 7.5  # five times what a change of configuration should take
QUESTION: Any = [{"role": "user", "content": "What is the weather in Lyon and in Zürich?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a town.",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
CALLS = [{"name": "weather", "input": {"town": "Lyon"}}, {"name": "weather", "input": {"town": "Zürich"}}]
THINKING: Any = {"type": "enabled", "budget_tokens": 2000}


@dataclass
class House:
    gateway: Installation
    mock: Mock
    key: str

    def client(self, **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.gateway.url, **{"api_key": self.key, **options})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """At the end, whatever the tests have asked must stand in the ledger as it stands on the bill."""
    folder = tmp_path_factory.mktemp("house")
    with mock(folder) as upstream, installation(folder, MAX_BODY_BYTES=str(MOST_BYTES)) as gateway:
        gateway.start()
        gateway.apply(configuration(upstream))
        key = gateway.issue_key()
        gateway.wait_until_key_works(key)
        yield House(gateway, upstream, key)
        assert reconcile(gateway, upstream).calls


@pytest.fixture(autouse=True)
def no_script_is_left(house: House) -> Iterator[None]:
    yield
    house.mock.queue()


def configuration(upstream: Mock) -> dict[str, Any]:
    providers = [
        {"name": name, "type": name, "base_url": upstream.url, "auth_value": "sk-upstream"} for name in LANGUAGES
    ]
    routes = {MODELS[name]: [{"provider": name}] for name in LANGUAGES}
    routes |= {name: [{"provider": LANGUAGES[0]}] for name in MANY_MODELS}
    return {"providers": providers, "model_routes": routes}


@dataclass
class Refused(Exception):
    """An SDK's error: the name of its class, and what it tells of the answer."""

    name: str
    message: str
    status: int | None = None
    type: str | None = None
    request_id: str | None = None


class PythonSdk:
    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def ask(self, call: str, *, key: str = "", **fields: Any) -> Any:
        """What comes of a call, as plain data. Raises Refused."""
        with anthropic.Anthropic(base_url=self._url, api_key=key or self._key, max_retries=0) as client:
            try:
                return PYTHON_CALLS[call](client, fields)
            except anthropic.APIStatusError as error:
                name, status = type(error).__name__, error.status_code
                raise Refused(name, str(error), status, error.type, error.request_id) from error

    def close(self) -> None:
        """Each call has had a client of its own."""


def streamed(client: anthropic.Anthropic, fields: dict[str, Any]) -> Any:
    with client.messages.stream(**fields) as stream:
        return {"text": "".join(stream.text_stream), "message": stream.get_final_message().to_dict(mode="json")}


PYTHON_CALLS: dict[str, Callable[[anthropic.Anthropic, dict[str, Any]], Any]] = {
    "stream": streamed,
    "create": lambda client, fields: client.messages.create(**fields).to_dict(mode="json"),
    "count": lambda client, fields: client.messages.count_tokens(**fields).to_dict(mode="json"),
    "list": lambda client, fields: [model.to_dict(mode="json") for model in client.models.list(**fields)],
    "retrieve": lambda client, fields: client.models.retrieve(fields["id"]).to_dict(mode="json"),
}


class TypeScriptSdk:
    """The same, in a process of Node."""

    def __init__(self, url: str, key: str) -> None:
        demand(TYPESCRIPT)
        self._key = key
        command = ["node", str(Path(__file__).with_name("sdk.mjs")), str(ROOT / ".e2e"), url]
        self._node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, call: str, *, key: str = "", **fields: Any) -> Any:
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(
            json.dumps({"call": call, "ask": fields, "options": {"apiKey": key or self._key}}) + "\n"
        )
        self._node.stdin.flush()
        told = json.loads(self._node.stdout.readline())
        if "error" in told:
            raise Refused(**told["error"])
        return told["answer"]

    def close(self) -> None:
        self._node.communicate(timeout=10)


Sdk = PythonSdk | TypeScriptSdk
SDKS: dict[str, type[Sdk]] = {"Python": PythonSdk, "TypeScript": TypeScriptSdk}


@pytest.fixture(scope="module", params=SDKS)
def sdk(house: House, request: pytest.FixtureRequest) -> Iterator[Sdk]:
    sdk = SDKS[request.param](house.gateway.url, house.key)
    yield sdk
    sdk.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_conversation_with_tools_and_thinking(house: House, sdk: Sdk, language: str) -> None:
    """Streamed, then the results asked plain: the second answer needs everything the first one said."""
    house.mock.queue(
        {"thinking": "Two towns, two calls.", "text": "I look it up.", "tools": CALLS, "interleave": True},
        {"thinking": "Both are known.", "text": "Rain in Lyon, sun in Zürich ✓"},
    )
    ask = {"model": MODELS[language], "max_tokens": 4000, "tools": [WEATHER], "thinking": THINKING}
    streamed = sdk.ask("stream", **ask, messages=QUESTION)
    first = streamed["message"]

    assert streamed["text"] == "I look it up."
    assert [block["type"] for block in first["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert first["content"][0]["thinking"] == "Two towns, two calls."
    assert first["content"][0]["signature"]
    assert first["stop_reason"] == "tool_use"
    assert (first["model"], first["role"]) == (MODELS[language], "assistant")
    calls = first["content"][2:]
    assert [{"name": call["name"], "input": call["input"]} for call in calls] == CALLS
    assert calls[0]["id"] != calls[1]["id"]

    results = [
        {"type": "tool_result", "tool_use_id": calls[0]["id"], "content": "rain"},
        {"type": "tool_result", "tool_use_id": calls[1]["id"], "content": "no such town", "is_error": True},
    ]
    history = [*QUESTION, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
    second = sdk.ask("create", **ask, messages=history)

    assert [block["type"] for block in second["content"]] == ["thinking", "text"]
    assert second["content"][1]["text"] == "Rain in Lyon, sun in Zürich ✓"
    assert second["stop_reason"] == "end_turn"
    assert second["id"] != first["id"]
    billed = house.mock.bill()[-2:]
    assert [usage_told(answer) for answer in (first, second)] == [usage_billed(call) for call in billed]


def usage_told(answer: dict[str, Any]) -> tuple[int, int, int, int]:
    usage = answer["usage"]
    written = usage["cache_creation_input_tokens"]
    return usage["input_tokens"], usage["cache_read_input_tokens"], written, usage["output_tokens"]


def usage_billed(call: dict[str, Any]) -> tuple[int, int, int, int]:
    return call["input"], call["cache_read"], call["cache_write_5m"] + call["cache_write_1h"], call["output"]


@pytest.mark.parametrize(("language", "habit"), CASES)
def test_an_answer_is_read_under_a_habit(house: House, sdk: Sdk, language: str, habit: dict[str, Any]) -> None:
    """The SDKs are stricter than Claude Code: with the order of events, and with figures that are missing."""
    house.mock.queue({"thinking": "Two towns ✓", "text": "I look it up: naïve.", "tools": CALLS, **habit})

    ask = {"model": MODELS[language], "max_tokens": 4000, "tools": [WEATHER], "thinking": THINKING}
    streamed = sdk.ask("stream", **ask, messages=QUESTION)

    answer = streamed["message"]
    assert streamed["text"] == "I look it up: naïve."
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    calls = answer["content"][2:]
    assert [{"name": call["name"], "input": call["input"]} for call in calls] == CALLS
    assert len({call["id"] for call in calls} - {""}) == 2
    assert answer["id"]
    assert usage_told(answer) == usage_billed(house.mock.bill()[-1])


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_image_goes_up_and_a_stop_reason_comes_down(house: House, sdk: Sdk, language: str) -> None:
    house.mock.queue({"text": "A small picture, cut sh", "stop_reason": "max_tokens"})
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    picture = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]

    answer = sdk.ask("create", model=MODELS[language], max_tokens=10, messages=[{"role": "user", "content": picture}])

    assert answer["stop_reason"] == "max_tokens"
    assert "iVBORw0KGgo=" in house.mock.requests()[-1]["text"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_tokens_are_counted_and_cost_nothing(house: House, sdk: Sdk, language: str) -> None:
    billed = len(house.mock.bill())
    short = sdk.ask("count", model=MODELS[language], messages=QUESTION)
    long = sdk.ask("count", model=MODELS[language], messages=QUESTION * 10, tools=[WEATHER], system="Be brief.")

    assert 5 < short["input_tokens"] < 50
    assert long["input_tokens"] > 5 * short["input_tokens"]
    assert len(house.mock.bill()) == billed


def test_every_model_is_listed_once_over_several_pages(sdk: Sdk) -> None:
    expected = sorted([*MANY_MODELS, *(MODELS[name] for name in LANGUAGES)])
    listed = sdk.ask("list", limit=10)

    assert sorted(model["id"] for model in listed) == expected
    assert all(model["display_name"] and model["created_at"] for model in listed)
    assert sdk.ask("retrieve", id=listed[-1]["id"]) == listed[-1]


# What the upstream answers, the class of the SDKs for it, and the vendor's word in the body.
UPSTREAM_ERRORS = [
    ({"status": 400, "error": "tools.0: no"}, "BadRequestError", 400, "invalid_request_error"),
    ({"status": 429, "retry_after": 2}, "RateLimitError", 429, "rate_limit_error"),
    ({"status": 529}, "OverloadedError", 529, "overloaded_error"),
]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("call", ["create", "stream"])
@pytest.mark.parametrize(("script", "name", "status", "kind"), UPSTREAM_ERRORS, ids=["400", "429", "529"])
def test_an_upstream_error_has_its_type(
    house: House, sdk: Sdk, language: str, call: str, script: dict[str, Any], name: str, status: int, kind: str
) -> None:
    house.mock.queue(script)
    with pytest.raises(Refused) as refused:
        sdk.ask(call, model=MODELS[language], max_tokens=10, messages=QUESTION)

    assert (refused.value.name, refused.value.status, refused.value.type) == (name, status, kind)
    assert (refused.value.request_id or "").startswith("req_")
    assert house.mock.bill()[-1]["status"] == status


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_error_in_the_middle_of_a_stream_has_its_type(house: House, sdk: Sdk, language: str) -> None:
    """Chat Completions has no word for overloaded there."""
    said = {"anthropic": "overloaded_error", "openai": "api_error", "responses": "overloaded_error"}[language]
    house.mock.queue(
        {"error_in_stream": 2, "text": "Half of an answ", "status": 503 if language == "responses" else 529}
    )

    with pytest.raises(Refused) as refused:
        sdk.ask("stream", model=MODELS[language], max_tokens=10, messages=QUESTION)

    assert said in refused.value.message


@pytest.mark.parametrize(
    ("fields", "name", "status", "message"),
    [
        ({"key": "sk-ant-wrong"}, "AuthenticationError", 401, "this is no key of this gateway"),
        ({"model": "claude-opus-5-6"}, "NotFoundError", 404, "near to it: claude-opus-5-5"),
        ({"max_tokens": -1}, "BadRequestError", 400, "max_tokens"),
    ],
    ids=["unknown key", "unknown model", "bad number"],
)
def test_what_the_gateway_refuses_has_its_class(
    house: House, sdk: Sdk, fields: dict[str, Any], name: str, status: int, message: str
) -> None:
    calls = len(house.mock.bill())
    with pytest.raises(Refused) as refused:
        sdk.ask("create", **{"model": MODELS["anthropic"], "max_tokens": 10, "messages": QUESTION, **fields})

    assert (refused.value.name, refused.value.status) == (name, status)
    assert message in refused.value.message
    assert len(house.mock.bill()) == calls


@pytest.mark.parametrize(
    ("options", "request_fields", "error", "message"),
    [
        ({"api_key": "sk-ant-wrong"}, {}, anthropic.AuthenticationError, "this is no key of this gateway"),
        ({"api_key": None, "auth_token": "wrong"}, {}, anthropic.AuthenticationError, "this is no key of this gateway"),
        ({}, {"model": "claude-opus-5-6"}, anthropic.NotFoundError, "near to it: claude-opus-5-5"),
        ({}, {"max_tokens": -1}, anthropic.BadRequestError, "max_tokens"),
        ({}, {"messages": [{"role": "nobody", "content": "x"}]}, anthropic.BadRequestError, r"messages\.0\.role"),
        ({}, {"system": "x" * MOST_BYTES}, anthropic.ContentTooLargeError, "shorten the conversation"),
    ],
    ids=["unknown key", "unknown token", "unknown model", "bad number", "bad role", "too large"],
)
def test_what_the_gateway_refuses_is_said_once(
    house: House,
    options: dict[str, Any],
    request_fields: dict[str, Any],
    error: type[anthropic.APIStatusError],
    message: str,
) -> None:
    """With the SDK's own retries on: a refusal that another try would not change must cause none."""
    calls = len(house.mock.bill())
    asked: dict[str, Any] = {"model": MODELS["anthropic"], "max_tokens": 10, "messages": QUESTION, **request_fields}
    with house.client(**options) as client, pytest.raises(error, match=message) as refused:
        client.messages.create(**asked)

    answer = refused.value
    assert answer.request.headers["x-stainless-retry-count"] == "0"
    assert answer.request_id == answer.body["request_id"]  # type: ignore[index]
    assert answer.request_id is not None
    assert answer.request_id.startswith("req_")
    assert len(house.mock.bill()) == calls


def test_a_revoked_key_is_told_so(house: House) -> None:
    token = house.gateway.issue_key("leaver")
    house.gateway.wait_until_key_works(token)
    house.gateway.apply({"keys": [{"name": "leaver", "revoked": True}]})

    with house.client(api_key=token) as client:
        refused = until_refused(client)

    assert "was revoked" in str(refused)
    assert refused.response.headers["x-should-retry"] == "false"


def until_refused(client: anthropic.Anthropic) -> anthropic.AuthenticationError:
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        try:
            client.models.list()
        except anthropic.AuthenticationError as error:
            return error
    raise AssertionError(f"the key was still served after {SOON} s")
