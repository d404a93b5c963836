"""count_tokens: asked of the provider where it offers that, counted here where it does not. Never booked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from gateway.intake import Question
from gateway.runtime import Runtime
from providers import tokens, weighing
from providers.dialects import DIALECTS, Exchange, Outbound
from providers.errors import UpstreamError
from providers.routing import Candidate

PATIENCE = 5.0
# A provider that does not count is not asked again for so long, in seconds.
REMEMBER = 3600.0
MOST_REPLY = 64 * 1024
NOT_OFFERED = frozenset({404, 405, 501})
REFUSED = frozenset({400, 413, 422})
CREDENTIAL_REFUSED = frozenset({401, 403})


class Count(msgspec.Struct):
    input_tokens: Annotated[int, msgspec.Meta(ge=0)]
    context_management: Any = msgspec.UNSET


class _Asked(msgspec.Struct):
    context_management: msgspec.Raw = msgspec.Raw(b"null")  # what is inside, nobody here has looked at


async def count_tokens(question: Question, runtime: Runtime) -> Count:
    """Raises what the provider refuses: it would refuse the request itself as well."""
    candidate = question.candidates[0]
    count = DIALECTS[candidate.endpoint.type].count
    if count is not None and runtime.not_counting.get(candidate.endpoint.id, 0.0) <= time.monotonic():
        told = await _asked(question, candidate, count, runtime)
        if told is not None:
            return told
    counted = Count(await _counted(question, candidate, runtime))
    if _manages_context(question.body):
        # Nothing is cleared on this way: what remains is what there was.
        counted.context_management = {"original_input_tokens": counted.input_tokens}
    return counted


async def _counted(question: Question, candidate: Candidate, runtime: Runtime) -> int:
    """Off the event loop where it would take long: running streams must not wait for it."""
    endpoint, model = candidate.endpoint, candidate.model
    if len(question.body) <= tokens.COUNTED_AT_ONCE and tokens.is_ready(weighing.encoding_of(endpoint)):
        return weighing.count(question.request, endpoint, model)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(runtime.counters, weighing.count, question.request, endpoint, model)


def _manages_context(body: bytes) -> bool:
    if b'"context_management"' not in body:
        return False
    return bytes(msgspec.json.decode(body, type=_Asked).context_management) != b"null"


async def _asked(
    question: Question, candidate: Candidate, count: Callable[[Exchange], Outbound], runtime: Runtime
) -> Count | None:
    """What the provider says; None where it says nothing usable in time."""
    exchange = question.towards(candidate, runtime.state_secret)
    headers = question.headers_for(candidate)
    async with runtime.upstreams.call(candidate.endpoint, count(exchange), headers) as call:
        try:
            body = await call.whole(asyncio.get_running_loop().time() + PATIENCE, MOST_REPLY)
        except UpstreamError:
            return None
        if call.failure is not None:
            return None
    if body is None or (call.status in NOT_OFFERED and not _is_about(candidate.model, body)):
        runtime.not_counting[candidate.endpoint.id] = time.monotonic() + REMEMBER
        return None
    # A credential of our own is our trouble, and this can be counted without it.
    is_theirs = call.status in CREDENTIAL_REFUSED and candidate.endpoint.client_token
    if call.status in REFUSED or is_theirs:
        raise DIALECTS[candidate.endpoint.type].refusal(exchange, call.status, call.headers, body)
    try:
        return msgspec.json.decode(body, type=Count) if call.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_about(model: str, body: bytes) -> bool:
    """It lacks this model, and may well count for others."""
    return bool(model) and model.encode("utf-8", "replace") in body
