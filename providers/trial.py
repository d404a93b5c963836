"""One small question to a provider, asked by an administrator: does it answer, how fast, and if not, why.

It goes the way of a client's request, over connections of its own, and is booked to nobody.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

import msgspec

from providers import identity
from providers.dialects import DIALECTS, Answer, Exchange
from providers.dialects.lessons import LEARNT
from providers.dialects.preview import CLIENT, HIDDEN
from providers.dialects.refusals import report_of, scrub
from providers.errors import BrokenStream, ProxyError, RateLimited, Refused, TimedOut
from providers.messages import Limits, read_request
from providers.routing import Endpoint
from providers.upstream import (
    MOST_ERROR_BODY,
    NO_HOST,
    NO_NAME,
    NO_TLS,
    NOT_ALLOWED,
    NOT_IN_TIME,
    WAS_REFUSED,
    Call,
    Upstreams,
    run_apart,
    url_for,
)
from providers.usage import Usage

SECONDS = 30.0
# After the reason to stop, usage may still follow.
LAST_SECONDS = 2.0
MOST_TEXT = 200
MOST_LESSONS = 4
QUESTION = "Say hello in a few words."
# Enough for a model that thinks first; the answer is short all the same.
MOST_TOKENS = 300

ADVICE: Mapping[int, str] = {
    400: "Its sentence says what it does not like; often it is the name of the model, or the dialect.",
    402: "Top up the account at the provider.",
    404: "Check the name of the model (List its models shows them) and the base URL.",
    405: "Check the base URL: something else answers at this address.",
    413: "Check the base URL: even a small request is too large for what answers there.",
    429: "Wait a moment and try again; if it stays so, look at the account's limits and its balance.",
}
WHY_UNREACHABLE: Mapping[str, str] = {
    NO_NAME: "Check the spelling of the host in the base URL, and whether this machine can look up names. In a"
    " container only the names of its own network are known.",
    NO_TLS: "Check whether the address speaks https at all, and whether its certificate is valid and known here.",
    NOT_IN_TIME: "Check the host and the port, and whether a firewall stands between.",
    WAS_REFUSED: "Check that the server runs and that the port is right. In a container, localhost is the container.",
    NO_HOST: "Correct the base URL.",
    NOT_ALLOWED: "Link-local and metadata addresses are never called, private ones not with"
    " PROVIDER_PRIVATE_NETWORKS=deny. Correct the base URL or that setting.",
}
REFUSED = "Enter the credential again, and check that the auth type is the one the provider's documentation names."
NO_CREDENTIAL = "No credential is stored for this provider: enter one."
TOO_SLOW = "A model that is being loaded, or thinks for long, may answer the next time; otherwise look at its server."
WEB_PAGE = "Check the base URL: a web page lives at this address, and no API."
REDIRECT = "No redirect is followed. Put the address it leads to into the base URL."
THEIR_FAULT = "The provider itself has trouble: try again in a minute, and look at its status page or its log."


class Trial(msgspec.Struct, frozen=True):
    """`problem` is empty where the provider answered; `said` is its own sentence where it refused."""

    model: str
    url: str = ""
    first_ms: int | None = None
    milliseconds: int = 0
    text: str = ""
    usage: Usage | None = None
    learnt: str = ""
    status: int = 0
    problem: str = ""
    said: str = ""
    advice: str = ""


class _Heard:
    """What has come so far, for the one who tells of it however it ends."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.status = 0
        self.first_ms: int | None = None
        self.web_page = False
        self.said = ""

    def milliseconds(self) -> int:
        return int((time.monotonic() - self.started) * 1000)

    def head(self, call: Call) -> None:
        self.status, self.first_ms = call.status, self.milliseconds()
        self.web_page = "html" in call.headers.get("content-type", "")


def try_out(endpoint: Endpoint, model: str, seconds: float = SECONDS) -> Trial:
    """Blocks for as long; not for the thread of an event loop."""
    return run_apart(_try(endpoint, model, seconds))


async def _try(endpoint: Endpoint, model: str, seconds: float) -> Trial:
    if endpoint.client_token:
        return Trial(
            model,
            problem="The provider is called with the token that each client brings, and a trial has none.",
            advice="Try it with Claude Code, or give the provider a credential of its own.",
        )
    heard, upstreams = _Heard(), Upstreams()
    exchange = _exchange(endpoint, model)
    until = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            try:
                answer = await _ask(upstreams, exchange, heard, until)
                return _told(exchange, heard, answer)
            except Refused as error:
                if error.lesson is None or error.lesson in exchange.lessons or len(exchange.lessons) >= MOST_LESSONS:
                    raise
                exchange = msgspec.structs.replace(exchange, lessons=(*exchange.lessons, error.lesson))
    except ProxyError as error:
        return _failed(exchange, heard, error)
    finally:
        await upstreams.close()


def _exchange(endpoint: Endpoint, model: str) -> Exchange:
    question = {
        "model": model,
        "max_tokens": MOST_TOKENS,
        "stream": True,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    request, body = read_request(json.dumps(question).encode(), Limits())
    return Exchange(
        request=request,
        body=body,
        headers=CLIENT,
        query="",
        endpoint=endpoint,
        model=model,
        request_id=identity.request_id(),
        key_id="trial",
        secret=b"of no conversation",
        lessons=LEARNT.of_provider(endpoint.id).get(model, ()),
    )


async def _ask(upstreams: Upstreams, exchange: Exchange, heard: _Heard, until: float) -> Answer:
    """The whole answer; raises ProxyError where there is none."""
    endpoint, dialect = exchange.endpoint, DIALECTS[exchange.endpoint.type]
    headers = {"x-request-id": exchange.request_id}
    if endpoint.credential:
        headers[endpoint.auth_header] = endpoint.auth_scheme + endpoint.credential
    async with upstreams.call(endpoint, dialect.encode(exchange), headers) as call:
        if not await call.wait(until):
            raise TimedOut("the provider gave no answer in time")
        if call.failure is not None:
            raise call.failure
        heard.head(call)
        if call.status == 200:
            answer = dialect.answer(exchange, call.headers.get("content-type", ""))
            await _read(call, answer, until)
            return answer
        if call.status < 400:
            raise BrokenStream(f"the provider answered HTTP {call.status} where an answer was due")
        body = await call.whole(until, MOST_ERROR_BODY) or b""
        heard.said = report_of(call.status, call.headers, body).message
        raise dialect.refusal(exchange, call.status, call.headers, body)


async def _read(call: Call, answer: Answer, until: float) -> None:
    clock = asyncio.get_running_loop().time
    while not answer.complete and answer.error is None:
        has_news = await call.wait(min(until, clock() + LAST_SECONDS) if answer.finishing else until)
        if call.has_data:
            answer.feed(call.take())
        elif answer.finishing or (has_news and call.failure is None):
            answer.finish()
            break
        else:
            raise call.failure or TimedOut("the provider began to answer and did not end in time")
    if answer.error is not None:
        raise answer.error


def _told(exchange: Exchange, heard: _Heard, answer: Answer) -> Trial:
    return Trial(
        exchange.model,
        url=_url(exchange),
        status=heard.status,
        first_ms=heard.first_ms,
        milliseconds=heard.milliseconds(),
        text=_plain(exchange, answer.output_sample)[:MOST_TEXT],
        usage=answer.usage,
        learnt="; ".join(map(str, exchange.lessons)),
    )


def _failed(exchange: Exchange, heard: _Heard, error: ProxyError) -> Trial:
    sentence = error.message[:1].upper() + error.message[1:]
    problem = f"HTTP {heard.status}: {error.message}" if heard.status >= 300 else sentence
    said = _plain(exchange, heard.said)
    return Trial(
        exchange.model,
        url=_url(exchange),
        status=heard.status,
        milliseconds=heard.milliseconds(),
        problem=_plain(exchange, problem),
        said="" if said in problem else said,
        advice=_advice(exchange.endpoint, heard, error),
    )


def _advice(endpoint: Endpoint, heard: _Heard, error: ProxyError) -> str:
    for why, advice in WHY_UNREACHABLE.items():
        if why in error.message:
            return advice
    if heard.status in (401, 403):
        return REFUSED if endpoint.credential else NO_CREDENTIAL
    if 300 <= heard.status < 400:
        return REDIRECT
    if heard.web_page:
        return WEB_PAGE
    if isinstance(error, TimedOut):
        return TOO_SLOW
    if isinstance(error, RateLimited):
        return ADVICE[429]
    return ADVICE.get(heard.status, THEIR_FAULT if heard.status >= 500 or not heard.status else ADVICE[400])


def _url(exchange: Exchange) -> str:
    try:
        return url_for(exchange.endpoint.base_url, DIALECTS[exchange.endpoint.type].encode(exchange).path)
    except ProxyError:
        return ""


def _plain(exchange: Exchange, text: str) -> str:
    """Some repeat what they were sent: whatever stands in the text, the credential does not."""
    credential = exchange.endpoint.credential
    return scrub(text.replace(credential, HIDDEN) if credential else text).strip()
