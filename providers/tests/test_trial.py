"""A trial of a provider: it answers, or the page says why not and what to do; no secret is in either."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any

import pytest

from providers.dialects import DIALECTS
from providers.mock.server import running
from providers.routing import Endpoint, Timeouts
from providers.tests.hostile import Script, serving
from providers.tests.hostile import says as raw
from providers.trial import ADVICE, NO_CREDENTIAL, REDIRECT, REFUSED, TOO_SLOW, WEB_PAGE, Trial, try_out

SECRET = "sk-canary-7f3aQz81LmPtRw27xKd03"
EVERY_LANGUAGE = pytest.mark.parametrize("kind", list(DIALECTS))


def endpoint(url: str, kind: str = "openai", **fields: Any) -> Endpoint:
    return Endpoint(7, "first", kind, url, **{"credential": SECRET, **fields})


async def tried(url: str, kind: str = "openai", *, seconds: float = 10.0, **fields: Any) -> Trial:
    return await asyncio.to_thread(try_out, endpoint(url, kind, **fields), "gpt-5.1", seconds)


def answers(status: int, body: str, kind: str = "application/json", head: str = "") -> Script:
    told = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{head}"
    return raw(f"{told}\r\n{body}".encode())


async def heard(script: Script, kind: str = "openai", **fields: Any) -> Trial:
    async with serving(script) as server:
        return await tried(server.url, kind, **fields)


@EVERY_LANGUAGE
async def test_a_provider_that_answers_shows_its_beginning_its_time_and_its_bill(kind: str) -> None:
    async with running() as url:
        trial = await tried(url, kind)
    assert (trial.problem, trial.advice, trial.status) == ("", "", 200)
    assert trial.text
    assert len(trial.text) <= 200
    assert trial.usage is not None
    assert trial.usage.output > 0
    assert trial.first_ms is not None
    assert 0 <= trial.first_ms <= trial.milliseconds
    assert trial.url.startswith(url)


async def test_the_request_is_small_and_carries_the_credential_where_the_provider_wants_it() -> None:
    async with serving(answers(500, "{}")) as server:
        await tried(server.url, auth_header="api-key", auth_scheme="")
    head, body = server.requests
    assert b"POST /v1/chat/completions" in head
    assert f"\r\napi-key: {SECRET}".encode() in head
    assert json.loads(body)["model"] == "gpt-5.1"
    assert len(body) < 1000


@pytest.mark.parametrize(
    ("status", "body", "problem", "said", "advice"),
    [
        (401, '{"error": {"message": "Key is wrong."}}', "HTTP 401", "Key is wrong.", REFUSED),
        (403, '{"error": {"message": "Not for you."}}', "HTTP 403", "Not for you.", REFUSED),
        (402, '{"error": {"message": "Insufficient Balance"}}', "HTTP 402", "Insufficient Balance", ADVICE[402]),
        (404, '{"error": {"message": "No such model."}}', "HTTP 404", "No such model.", ADVICE[404]),
        (405, "", "HTTP 405", "", ADVICE[405]),
        (429, '{"error": {"message": "Slow down."}}', "HTTP 429", "Slow down.", ADVICE[429]),
        (400, '{"error": {"message": "messages: too odd"}}', "HTTP 400: messages: too odd", "", ADVICE[400]),
        (307, "", "HTTP 307", "", REDIRECT),
    ],
)
async def test_a_refusal_is_told_with_what_to_do(status: int, body: str, problem: str, said: str, advice: str) -> None:
    trial = await heard(answers(status, body))
    assert trial.problem.startswith(problem)
    assert (trial.said, trial.advice) == (said, advice)
    assert trial.text == ""


async def test_a_provider_that_wants_a_credential_and_has_none_is_told_so() -> None:
    assert (await heard(answers(401, "{}"), credential="")).advice == NO_CREDENTIAL


@EVERY_LANGUAGE
@pytest.mark.parametrize("status", [200, 502])
async def test_a_web_page_is_recognised(kind: str, status: int) -> None:
    trial = await heard(answers(status, "<html><body>Sign in</body></html>", "text/html"), kind)
    assert trial.problem
    assert trial.advice == WEB_PAGE


async def test_a_server_error_is_the_providers_own_trouble() -> None:
    trial = await heard(answers(503, '{"error": {"message": "out of memory"}}'))
    assert "out of memory" in trial.problem
    assert "status page" in trial.advice


async def test_a_parameter_that_is_refused_is_left_out_as_it_is_for_clients() -> None:
    wants = '{"error": {"message": "Unsupported parameter: \'max_tokens\' is not supported with this model. Use \'max_completion_tokens\' instead.", "code": "unsupported_parameter", "param": "max_tokens"}}'  # noqa: E501
    done = json.dumps(
        {
            "id": "c",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        }
    )
    async with serving(answers(400, wants), answers(200, done)) as server:
        trial = await tried(server.url)
    assert (trial.problem, trial.text) == ("", "Hi.")
    assert "max_tokens is called max_completion_tokens" in trial.learnt


# What never comes to be an answer


async def test_a_name_that_does_not_resolve() -> None:
    trial = await tried("http://nowhere.invalid")
    assert "does not resolve" in trial.problem
    assert "spelling of the host" in trial.advice


async def test_a_port_nobody_listens_on() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        trial = await tried(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert "refused" in trial.problem
    assert "server runs" in trial.advice


async def test_no_tls_where_tls_was_expected() -> None:
    async def speaks_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 no TLS here\r\n\r\n")
        await writer.drain()

    async with serving(speaks_first) as server:
        trial = await tried(server.url.replace("http:", "https:"))
    assert "TLS" in trial.problem
    assert "certificate" in trial.advice


async def test_a_private_network_that_is_not_to_be_called(settings: Any) -> None:
    settings.PROVIDER_PRIVATE_NETWORKS = "deny"
    trial = await tried("http://localhost:9")
    assert "never called" in trial.problem
    assert "PROVIDER_PRIVATE_NETWORKS" in trial.advice


@pytest.mark.parametrize(
    "script",
    [raw(then="hold"), raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hm\n\n", then="hold")],
    ids=["silent", "begins"],
)
async def test_a_provider_that_says_nothing_is_not_waited_for_for_ever(script: Script) -> None:
    started = time.monotonic()
    trial = await heard(script, seconds=0.3)
    assert time.monotonic() - started < 5
    assert "in time" in trial.problem
    assert trial.advice == TOO_SLOW


async def test_a_name_server_that_hangs_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        released.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    try:
        trial = await tried("http://slow.example", timeouts=Timeouts(connect=0.3), seconds=5)
        took = time.monotonic() - started
    finally:
        released.set()
    assert took < 3
    assert "in time" in trial.problem


async def test_an_answer_that_is_cut_is_no_success() -> None:
    begun = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n'
    trial = await heard(raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + begun))
    assert trial.problem
    assert trial.text == ""


async def test_a_provider_that_wants_the_clients_token_is_not_called() -> None:
    async with serving(answers(200, "{}")) as server:
        trial = await tried(server.url, client_token=True)
        assert server.connections == 0
    assert "token that each client brings" in trial.problem


@EVERY_LANGUAGE
@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
async def test_a_credential_that_is_repeated_is_not_shown(kind: str, status: int) -> None:
    for credential in (SECRET, "short&odd"):
        for body in (
            f"bad key {credential}",
            json.dumps({"error": {"message": f"Incorrect key: {credential}", "type": "x"}}),
            json.dumps({"model": credential, "choices": [{"message": {"content": credential}}]}),
        ):
            trial = await heard(answers(status, body), kind, credential=credential)
            assert credential not in repr(trial)


async def test_trials_at_the_same_time_do_not_meet() -> None:
    """Each has a loop and connections of its own."""
    async with running() as url:
        trials = await asyncio.gather(*(tried(url, kind) for kind in DIALECTS for _ in range(3)))
    assert [trial.problem for trial in trials] == [""] * 9
