"""Whatever an upstream streams, its client hears events in order up to an ending, and the ledger what it heard."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.ledger import Attempt, Settled
from gateway.tests.conftest import Gateway, Reply, endpoint, question
from gateway.tests.mutations import (
    BYTE_STEPS,
    STEPS,
    WHERE,
    Json,
    assert_plain_reply,
    assert_refused,
    bounded,
    changed,
    changed_bytes,
    settled_since,
)
from gateway.tests.test_relay import route_to
from providers.dialects.profiles import PROFILES
from providers.mock import bill, scripts, wire
from providers.routing import Timeouts
from providers.tests import grammar
from providers.tests.hostile import CHUNKED, JSON, SSE, chunk, read_request, serving
from providers.usage import MOST_TOKENS

TIMES = Timeouts(connect=1.0, first_byte=0.5, idle=0.5, total=3.0)
SOON = 10.0
RECORDED = Path(grammar.__file__).parent / "streams"
FOLDERS = {"openai": RECORDED, "responses": RECORDED / "responses"}

SCRIPTS: list[Json] = [
    {"text": "Hello wörld 🙂"},
    {"text": "Four words are said", "thinking": "hm, let me think", "usage_everywhere": True},
    {"tools": [{"name": "Read", "input": {"file_path": "a"}}, {"name": "Bash", "input": {"command": "ls"}}]},
    {"thinking": "a plan", "text": "I look.", "tools": [{"name": "Read", "input": {}}], "interleave": True},
    {"text": "cut short", "stop_reason": "max_tokens", "usage": "none", "thinking_as": "reasoning_details"},
    {"thinking": "within", "text": "tags", "thinking_as": "think_tags", "no_start_usage": True},
]
TOOLS = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("Read", "Bash")]


def answer_of(kind: str, script: Json, *, stream: bool) -> scripts.Answer:
    prompt = scripts.Prompt(
        language=kind,  # type: ignore[arg-type]
        model="claude-opus-5-5",
        stream=stream,
        include_usage=True,
        history=b"[]",
        offers_tools=True,
        figures=bill.split_prompt(120, kind, marked=True, one_hour=True),  # type: ignore[arg-type]
    )
    return scripts.compose(prompt, scripts.read_script(json.dumps(script)), "seed", 1_800_000_000)


def streamed(kind: str, script: Json) -> bytes:
    stream = wire.render_stream(answer_of(kind, script, stream=True))
    return b"".join([stream.head, *stream.pieces, *stream.ending])


@cache
def sound_streams(kind: str) -> list[bytes]:
    recorded = sorted(FOLDERS[kind].glob("*.sse")) if kind in FOLDERS else []
    return [*(streamed(kind, script) for script in SCRIPTS), *(path.read_bytes() for path in recorded)]


@cache
def sound_documents(kind: str) -> list[Any]:
    return [json.loads(wire.render_document(answer_of(kind, script, stream=False))) for script in SCRIPTS]


def frames_of(stream: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in stream.split(b"\n\n") if frame]


def mutated_frame(frame: bytes, steps: Any) -> bytes:
    """Its data changed as JSON, where it is some."""
    head, mark, data = frame.partition(b"data: ")
    try:
        document = json.loads(data)
    except ValueError:
        return frame
    return head + mark + json.dumps(changed(document, steps)).encode() + b"\n\n"


FRAME_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["change", "change", "change", "drop", "repeat", "swap", "spoil"]), WHERE, STEPS, BYTE_STEPS
    ),
    max_size=3,
)


def mutated_stream(stream: bytes, steps: Any) -> bytes:
    frames = frames_of(stream)
    for operation, where, json_steps, byte_steps in steps:
        if not frames:
            break
        at = where % len(frames)
        if operation == "change":
            frames[at] = mutated_frame(frames[at], json_steps)
        elif operation == "drop":
            del frames[at]
        elif operation == "repeat":
            frames.insert(where * 31 % (len(frames) + 1), frames[at])
        elif operation == "swap":
            other = where * 31 % len(frames)
            frames[at], frames[other] = frames[other], frames[at]
        else:
            frames[at] = changed_bytes(frames[at], byte_steps)
    return b"".join(frames)


class Upstream:
    """Says what it was given last, to whoever asks."""

    url = ""
    pieces: list[bytes] = []
    then = "end"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self.then == "end":
                continue
            if self.then == "hold":
                await reader.read()
            if self.then == "reset":
                writer.transport.abort()
            return

    def streams(self, stream: bytes, cuts: list[int], then: str) -> None:
        places = sorted({0, len(stream), *(len(stream) * cut // 10_000 for cut in cuts)})
        pieces = [stream[start:end] for start, end in pairwise(places)]
        end = [b"0\r\n\r\n"] if then == "end" else []
        self.pieces, self.then = [SSE + CHUNKED, *map(chunk, pieces), *end], then

    def replies(self, document: bytes, status: bytes = b"200 OK") -> None:
        head = JSON.replace(b"200 OK", status) + b"content-length: %d\r\n\r\n" % len(document)
        self.pieces, self.then = [head + document], "end"


@pytest.fixture
async def hostile() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    async with serving(upstream) as server:
        upstream.url = server.url
        yield upstream


async def ask(gateway: Gateway, hostile: Upstream, kind: str, vendor: str, **fields: Any) -> Reply:
    options = {"dialect": vendor, "normalise": True}
    gateway.route(route_to(endpoint(1, kind, hostile.url, timeouts=TIMES, options=options)))
    begun = time.monotonic()
    async with asyncio.timeout(SOON):
        reply = await gateway.ask(question(tools=TOOLS, **fields))
    assert time.monotonic() - begun < SOON  # a busy loop would not let the timer in
    assert reply.finished
    return reply


def booked_once(gateway: Gateway) -> Settled:
    [settled] = settled_since(gateway)
    assert gateway.runtime.ledger.running == 0
    for attempt in settled.attempts:
        assert min(getattr(attempt.usage, name) for name in attempt.usage.__struct_fields__) >= 0
    return settled


def assert_heard_and_booked(reply: Reply, settled: Settled, sent: int) -> None:
    """An answer, an answer that was cut, or a refusal."""
    assert len(reply.body) < 20 * sent + 20_000
    if reply.status != 200:
        assert reply.status >= 400
        assert_refused(reply)
        assert settled.row.status == "failed"
        return
    if not reply.headers["content-type"].startswith("text/event-stream"):
        assert_told_and_booked(assert_plain_reply(reply)["usage"], settled)
        return
    errors = [event for event in grammar.read_events(reply.body) if event["type"] == "error"]
    events = grammar.obeys(reply.body, ended=not errors)
    if not errors:
        assert_told_and_booked(told_by(events), settled)
        return
    assert len(errors) == 1
    assert errors[0]["error"]["message"].strip()
    assert reply.body.rstrip().rpartition(b"\n\n")[2].startswith(b"event: error\n"), "something follows the error"
    assert settled.row.status in {"cut", "failed"}
    assert not {"message_delta", "message_stop"} & {event["type"] for event in events}


def told_by(events: list[Json]) -> Json:
    """What a client adds up to: the ending counts, where it says nothing the beginning."""
    first, last = events[0]["message"]["usage"], events[-2]["usage"]
    return {**first, **{name: value for name, value in last.items() if value is not None}}


def assert_told_and_booked(told: Json, settled: Settled) -> None:
    assert settled.row.status == "completed"
    attempt: Attempt = settled.attempts[-1]
    usage = attempt.usage
    figures = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
    }
    heard = {name: told.get(name) or 0 for name in figures}
    heard["cache_creation_input_tokens"] = max(heard["cache_creation_input_tokens"], told_by_lifetime(told))
    assert heard == figures, (told, attempt)


def told_by_lifetime(told: Json) -> int:
    """Cache writes may be told apart and not in all."""
    split = told.get("cache_creation")
    names = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    figures = [split.get(name) for name in names] if isinstance(split, dict) else []
    return sum(min(figure, MOST_TOKENS) for figure in figures if type(figure) is int and figure > 0)


ENDINGS = st.sampled_from(["end"] * 30 + ["close"] * 6 + ["reset"] * 3 + ["hold"])
vendors = st.sampled_from(sorted(PROFILES))
thinking = st.sampled_from([None, {"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}])


async def test_sound_streams_are_answers(gateway: Gateway, hostile: Upstream, kind: str) -> None:
    """Those from which the mutations start."""
    for script in SCRIPTS:
        hostile.streams(streamed(kind, script), [], "end")
        reply = await ask(gateway, hostile, kind, "generic")
        assert reply.events()[-1][0] == "message_stop"
        assert_heard_and_booked(reply, booked_once(gateway), 1000)


@bounded(200)
@given(data=st.data())
async def test_a_mutated_stream_is_an_answer_or_an_error(
    gateway: Gateway, hostile: Upstream, kind: str, data: st.DataObject
) -> None:
    sound = data.draw(st.sampled_from(sound_streams(kind)))
    stream = changed_bytes(mutated_stream(sound, data.draw(FRAME_STEPS)), data.draw(BYTE_STEPS))
    hostile.streams(stream, data.draw(st.lists(WHERE, max_size=6)), data.draw(ENDINGS))
    fields = {"thinking": data.draw(thinking), "stop_sequences": data.draw(st.sampled_from([None, ["words", "🙂"]]))}
    reply = await ask(gateway, hostile, kind, data.draw(vendors), **fields)
    assert_heard_and_booked(reply, booked_once(gateway), len(stream))


@bounded(200)
@given(data=st.data())
async def test_a_mutated_document_is_an_answer_or_an_error(
    gateway: Gateway, hostile: Upstream, kind: str, data: st.DataObject
) -> None:
    """Where a stream was asked for as well: some servers know nothing else."""
    sound = data.draw(st.sampled_from(sound_documents(kind)))
    document = changed_bytes(json.dumps(changed(sound, data.draw(STEPS))).encode(), data.draw(BYTE_STEPS))
    hostile.replies(document)
    reply = await ask(gateway, hostile, kind, data.draw(vendors), stream=data.draw(st.booleans()))
    assert_heard_and_booked(reply, booked_once(gateway), len(document))


REFUSALS: list[Json] = [
    {
        "error": {
            "message": "maximum context length is 100 tokens, you asked for 200",
            "code": "context_length_exceeded",
        }
    },
    {"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature", "type": "invalid_request"}},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"error": {"code": 429, "message": "slow down", "metadata": {"raw": "{}", "provider_name": "x"}}},
    {"detail": [{"loc": ["body", "tools"], "msg": "field required"}]},
    {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
]


@bounded(150)
@given(data=st.data())
async def test_a_mutated_refusal_is_an_error_that_says_something(
    gateway: Gateway, hostile: Upstream, kind: str, data: st.DataObject
) -> None:
    sound = data.draw(st.sampled_from(REFUSALS))
    document = changed_bytes(json.dumps(changed(sound, data.draw(STEPS))).encode(), data.draw(BYTE_STEPS))
    hostile.replies(
        document,
        data.draw(
            st.sampled_from([b"400 Bad", b"404 No", b"413 Big", b"422 Odd", b"429 Slow", b"500 Oh", b"529 Full"])
        ),
    )
    reply = await ask(gateway, hostile, kind, data.draw(vendors), stream=data.draw(st.booleans()), temperature=0.5)
    settled = booked_once(gateway)
    assert reply.status >= 400
    assert_refused(reply)
    assert settled.row.status == "failed"
    assert len(reply.body) < 20_000 + 2 * len(document)
