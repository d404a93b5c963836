"""count_tokens: asked of the provider where it offers that, counted here where it does not. Never booked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from gateway.intake import Question
from gateway.runtime import Runtime
from providers import tokens
from providers.dialects import DIALECTS, Exchange, Outbound
from providers.errors import UpstreamError
from providers.routing import Candidate

PATIENCE = 5.0
# A provider that does not count is not asked again for so long, in seconds.
REMEMBER = 3600.0
MOST_REPLY = 64 * 1024
NOT_OFFERED = frozenset({404, 405, 501})
REFUSED = frozenset({400, 401, 403, 413, 422})


class _Count(msgspec.Struct):
    input_tokens: int


async def count_tokens(question: Question, runtime: Runtime) -> int:
    """Raises what the provider refuses: it would refuse the request itself as well."""
    candidate = question.candidates[0]
    count = DIALECTS[candidate.endpoint.type].count
    if count is not None and runtime.not_counting.get(candidate.endpoint.id, 0.0) <= time.monotonic():
        told = await _asked(question, candidate, count, runtime)
        if told is not None:
            return told
    # In a thread: running streams must not wait for a long request, nor for the vocabulary at its first use.
    return await asyncio.to_thread(tokens.count_request, question.request)


async def _asked(
    question: Question, candidate: Candidate, count: Callable[[Exchange], Outbound], runtime: Runtime
) -> int | None:
    """What the provider says; None where it says nothing usable in time."""
    exchange = question.towards(candidate, runtime.state_secret)
    headers = question.headers_for(candidate)
    async with runtime.upstreams.call(candidate.endpoint, count(exchange), headers) as call:
        try:
            body = await call.whole(asyncio.get_running_loop().time() + PATIENCE, MOST_REPLY)
        except UpstreamError:
            return None
        if call.failure is not None or body is None:
            return None
    if call.status in NOT_OFFERED:
        runtime.not_counting[candidate.endpoint.id] = time.monotonic() + REMEMBER
        return None
    if call.status in REFUSED:
        raise DIALECTS[candidate.endpoint.type].refusal(exchange, call.status, call.headers, body)
    try:
        return msgspec.json.decode(body, type=_Count).input_tokens if call.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
