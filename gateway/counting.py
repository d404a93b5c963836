"""count_tokens: asked of the provider where it offers that, counted here where it does not. Never booked."""

from __future__ import annotations

import asyncio
import time

import msgspec

from gateway.intake import Question
from gateway.runtime import Runtime
from providers import tokens
from providers.dialects import DIALECTS
from providers.errors import UpstreamError
from providers.routing import Candidate

PATIENCE = 5.0
# A provider that does not count is not asked again for so long, in seconds.
REMEMBER = 3600.0
MOST_REPLY = 64 * 1024


class _Count(msgspec.Struct):
    input_tokens: int


async def count_tokens(question: Question, runtime: Runtime) -> int:
    candidate = question.candidates[0]
    if runtime.not_counting.get(candidate.endpoint.id, 0.0) <= time.monotonic():
        told = await _asked(question, candidate, runtime)
        if told is not None:
            return told
        runtime.not_counting[candidate.endpoint.id] = time.monotonic() + REMEMBER
    # In a thread: running streams must not wait for a long request, nor for the vocabulary at its first use.
    return await asyncio.to_thread(tokens.count_request, question.request)


async def _asked(question: Question, candidate: Candidate, runtime: Runtime) -> int | None:
    """What the provider says; None where it says nothing usable in time."""
    count = DIALECTS[candidate.endpoint.type].count
    if count is None:
        return None
    outbound = count(question.towards(candidate, runtime.state_secret))
    headers = question.headers_for(candidate)
    async with runtime.upstreams.call(candidate.endpoint, outbound, headers) as call:
        try:
            body = await call.whole(asyncio.get_running_loop().time() + PATIENCE, MOST_REPLY)
        except UpstreamError:
            return None
        if call.failure is not None or call.status != 200 or not body:
            return None
    try:
        return msgspec.json.decode(body, type=_Count).input_tokens
    except msgspec.DecodeError:
        return None
