"""The pure functions as the player: no server, no clock; what a relay does around them is done here in small."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.conformance.cases import Setup
from providers.conformance.running import Call, Outcome, Received
from providers.conformance.scripts import Reply
from providers.dialects import DIALECTS, Answer, Dialect, Exchange
from providers.errors import BrokenStream, ProxyError, UpstreamError
from providers.messages import Limits, read_request
from providers.routing import Endpoint
from providers.usage import Usage

SECRET = b"the secret of a gateway that does not run"
BASE_URL = "https://llm.example.com/v1"
REQUEST_ID = "req_conformance"


class Pure:
    def __init__(self, size: int | None = None) -> None:
        self.strict = True
        self.ids: set[str] = set()
        self._size = size  # of the pieces in which every answer comes; None: as the case says

    def model(self, setup: Setup) -> str:
        return f"conformance-{setup.name}"

    def play(self, call: Call) -> Outcome:
        dialect = DIALECTS.get(call.setup.language)
        if dialect is None:
            return Outcome(trouble=f"there is no dialect named {call.setup.language}")
        outcome = Outcome(upstream=[])
        try:
            exchange = self._exchange(call)
            outbound = dialect.encode(exchange)
            outcome.upstream.append(Received(outbound.path, dict(outbound.headers), outbound.body))
            self._answer(exchange, dialect, call.replies[-1], outcome)
        except ProxyError as error:
            _tell(error, outcome)
        return outcome

    def _exchange(self, call: Call) -> Exchange:
        setup = call.setup
        options: dict[str, Any] = msgspec.json.decode(setup.options) if setup.options else {}
        if setup.dialect:
            options["dialect"] = setup.dialect
        request, body = read_request(call.body, Limits())
        return Exchange(
            request=request,
            body=body,
            headers={name.lower(): value for name, value in call.headers.items()},
            query=call.path.partition("?")[2],
            endpoint=Endpoint(1, setup.name, setup.language, BASE_URL, options=options),
            model=setup.upstream_model or request.model,
            request_id=REQUEST_ID,
            key_id="key-1",
            secret=SECRET,
        )

    def _answer(self, exchange: Exchange, dialect: Dialect, reply: Reply, outcome: Outcome) -> None:
        body, content_type = reply.body(streamed=exchange.streams)
        if reply.status != 200:
            raise dialect.refusal(exchange, reply.status, {**reply.headers, "content-type": content_type}, body)
        answer = dialect.answer(exchange, content_type)
        answer.count = Usage
        outcome.status, outcome.headers = 200, {"content-type": "application/json"}
        if not exchange.streams:
            outcome.body = answer.whole(body)
            if answer.error is not None:
                raise answer.error
            return
        outcome.headers["content-type"] = "text/event-stream; charset=utf-8"
        outcome.body = self._streamed(answer, body, reply)
        if answer.error is not None and not answer.began:
            raise answer.error
        if answer.error is not None:
            outcome.body += answer.error.event(REQUEST_ID)

    def _streamed(self, answer: Answer, body: bytes, reply: Reply) -> bytes:
        size = (reply.split if self._size is None else self._size) or max(len(body), 1)
        told = b""
        for at in range(0, len(body), size):
            told += answer.feed(body[at : at + size])
            if answer.complete or answer.error is not None:
                return told
        if reply.ends == "abort" and not answer.finishing:
            answer.error = BrokenStream("the connection broke in the middle of the answer")
            return told
        return told + answer.finish()


def _tell(error: ProxyError, outcome: Outcome) -> None:
    """The error as a gateway's view tells it."""
    original = error.original if isinstance(error, UpstreamError) else None
    if original is not None:
        outcome.status, headers, outcome.body = original
        outcome.headers = dict(headers)
        return
    outcome.status, outcome.body = error.status, error.envelope(REQUEST_ID)
    outcome.headers = {"content-type": "application/json", **error.headers()}
