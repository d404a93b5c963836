"""What comes down from an Anthropic-format upstream: its bytes as they are, read on the side.

Where the provider is one that needs it, the bytes are watched too: from the first fault on, the events are read and
written anew.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import identity, splice
from providers.dialects import refusals
from providers.dialects.anthropic_options import normalises, option
from providers.dialects.dialect import Exchange
from providers.dialects.faults import KNOWN, WITH_INPUT, BlockDelta, Json, ToolIds, Watch
from providers.dialects.rewriting import Rewriter, repaired_reply, wire_usage
from providers.errors import BrokenStream, UpstreamError
from providers.events import MessageWriter, encoded
from providers.sse import Frame, Reader
from providers.tokens import COUNTED_AT_ONCE
from providers.usage import Usage, tokens

# An upstream that repeats its message ids makes clients merge turns: remember as many as an hour may bring.
REMEMBERED_IDS = 20_000
MOST_HELD = 16 * 1024 * 1024
# What ends an event; nearly always the first of them does.
_BOUNDARY = b"\n\n"
BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")
DOCUMENT = (b"{", b"[", b"<")  # begins what is no event stream
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_boundary = re.compile(rb"(?:\r\n\r\n|\n\n|\r\r)[\r\n]*")
_DELTA_EVENT = b"event: content_block_delta\ndata: "
_NAMED = len(_DELTA_EVENT)
_deltas = msgspec.json.Decoder(BlockDelta)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def usage_of(reported: Mapping[str, Any]) -> Usage:
    """Anthropic's own figures are disjoint already; an unsplit cache write is a five-minute one."""
    written = tokens(reported.get("cache_creation_input_tokens"))
    split = reported.get("cache_creation")
    hour = tokens(split.get("ephemeral_1h_input_tokens")) if isinstance(split, dict) else 0
    five_minutes = tokens(split.get("ephemeral_5m_input_tokens")) if isinstance(split, dict) else 0
    details = reported.get("output_tokens_details")
    tools = reported.get("server_tool_use")
    return Usage(
        input=tokens(reported.get("input_tokens")),
        cache_read=tokens(reported.get("cache_read_input_tokens")),
        cache_write_5m=max(five_minutes, written - hour),
        cache_write_1h=hour,
        output=tokens(reported.get("output_tokens")),
        thinking=tokens(details.get("thinking_tokens")) if isinstance(details, dict) else 0,
        web_searches=tokens(tools.get("web_search_requests")) if isinstance(tools, dict) else 0,
    )


# What is read of a usage; the rest, such as its iterations, only repeats it.
_FIGURES = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "output_tokens_details",
    "server_tool_use",
)


class RecentIds:
    """Message ids seen lately in this process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def is_fresh(self, message_id: Any) -> bool:
        """Whether it may be shown to a client; asking marks it as used."""
        if not isinstance(message_id, str) or not message_id or message_id in self._ids:
            return False
        self._ids[message_id] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)
        return True


_recent_ids = RecentIds(REMEMBERED_IDS)


class PassThrough:
    """Forwards whole events as they come. Everything before the first content waits, so that another may answer."""

    def __init__(self, exchange: Exchange, content_type: str) -> None:
        self.message_id = ""
        self.usage: Usage | None = None
        self.stop_reason: str | None = None
        self.upstream_id: str | None = None
        self.began = False
        self.ended = False
        self.complete = False
        self.finishing = False
        self.count: Callable[[], Usage] | None = None
        self.error: UpstreamError | None = None
        self.output_characters = 0
        self.output_sample = ""
        self.output_is_told = False
        self.notes: set[str] = set()
        self.fault = ""  # what made the events be written anew
        self._exchange = exchange
        self._content_type = content_type
        self._reader = Reader()
        self._has_events = False
        self._held = bytearray()  # the beginning of an event
        # Whole events that wait: before the first content, since another may still answer; and from the stop reason
        # on, since the usage that is settled with it may follow.
        self._waiting: list[bytes] = []
        self._ending: list[bytes] = []
        self._waiting_length = 0
        self._reported: Json = {}
        self._ids = ToolIds(exchange.request)
        self._watch = Watch(self._ids) if normalises(exchange.endpoint) else None
        self._rewriter: Rewriter | None = None
        self._last_word: Json = {}  # the message_delta, of all that came

    def _is_over(self) -> bool:
        return self.complete or self.error is not None

    def feed(self, data: bytes) -> bytes:
        if self.complete or self.error is not None:
            return b""
        if self._has_events and not self._held and data.endswith(BOUNDARIES):
            return self._pass(data)
        looked_at = len(self._held)
        self._held += data
        if not self._has_events and bytes(self._held[:64]).lstrip()[:1] in DOCUMENT:
            if len(self._held) > MOST_HELD:
                self._fail("the provider's answer is too long to be read")
            return b""  # no event stream: finish() will see what it is
        end = _last_boundary(self._held, max(looked_at - 3, 0))
        if not end:
            if len(self._held) > MOST_HELD:
                self._fail("the provider sent an event without end")
            return b""
        events = bytes(self._held[:end])
        del self._held[:end]
        return self._pass(events)

    def finish(self) -> bytes:
        held = bytes(self._held).strip()
        self._held.clear()
        if self._is_over():
            return b""
        if not self._has_events and held[:1] in DOCUMENT:
            return self._read_document(held)
        rest = self._pass(held + b"\n\n") if _is_whole(held) else b""
        if self._is_over():
            return rest
        if self.stop_reason is None:
            self._fail(self._what_is_missing(held))
            return rest
        self._stop()
        if self._rewriter is None:
            self._ending.append(MESSAGE_STOP)
        return rest + self._leaving()

    def _what_is_missing(self, held: bytes) -> str:
        if self._has_events:
            return "the provider closed the stream before the answer was complete"
        if held and "event-stream" not in self._content_type:
            kind = self._content_type or "no content type"
            return f"the provider answered with {kind} instead of an event stream: ask its operator, or retry"
        return "the provider closed the stream without an answer"

    # Replies in one piece

    def whole(self, body: bytes) -> bytes:
        reply = self._read_reply(body)
        if reply is None:
            return b""
        sound = self._repaired(reply) if self._watch is not None else reply
        if sound is None:
            return b""
        self._accept(sound)
        edits = self._edits(sound.get("id"), sound.get("model"))
        if sound is reply:
            return splice.replace_members(body, edits) if edits else body
        return encoded({**sound, **{name: msgspec.json.decode(value) for name, value in edits.items()}})

    def _read_document(self, body: bytes) -> bytes:
        """A complete reply, or events without their form, where a stream was asked for."""
        lines = body.splitlines()
        if len(lines) > 1 and all(map(_is_event, lines)):
            self._has_events = True
            self._rewrite("events of one line each")
            return self._pass(b"".join(b"data: %b\n\n" % line for line in lines)) + self.finish()
        reply = self._read_reply(body)
        sound = self._repaired(reply) if reply is not None else None
        if sound is None:
            return b""
        self._accept(sound)
        self._edits(sound.get("id"), None)
        writer = MessageWriter(self.message_id or identity.message_id(), self._exchange.request.model)
        for block in sound["content"]:
            _write_block(writer, block)
        delta = {"stop_reason": self.stop_reason, "stop_sequence": sound.get("stop_sequence")}
        usage = wire_usage(sound.get("usage"), self._known_usage())
        writer.end_with({"type": "message_delta", "delta": delta, "usage": usage})
        return writer.take()

    def _read_reply(self, body: bytes) -> Json | None:
        reply = _decoded(body)
        if reply is None:
            self._fail(f"the provider answered with {self._content_type or 'no content type'} that is no reply")
            return None
        is_one = isinstance(reply.get("content"), list) or (
            self._watch is not None and (isinstance(reply.get("content"), str) or reply.get("type") == "message")
        )
        if reply.get("error") or not is_one:
            self.error = refusals.in_answer(reply)
            return None
        self._report(reply.get("usage"), final=True)
        if self.usage is None:
            self._note(json.dumps(reply.get("content")))
        return reply

    def _repaired(self, reply: Json) -> Json | None:
        try:
            return repaired_reply(reply, self._exchange, self._known_usage(), self._empty_text)
        except BrokenStream as error:
            self.error = error
            return None

    def _accept(self, reply: Json) -> None:
        self.began = self.ended = self.complete = True
        self.stop_reason = reply.get("stop_reason") if isinstance(reply.get("stop_reason"), str) else "end_turn"

    # Streams

    def _pass(self, events: bytes) -> bytes:
        readable = self._watch is None or events.isascii() or _is_text(events)
        position, whole = 0, len(events)
        while position < whole:
            after = self._flow(events, position) if readable else position
            if after == whole and not position:
                return events  # nearly every read
            if after > position:
                self._wait(events[position:after])
            else:
                end = _boundary.search(events, position)
                after = end.end() if end is not None else whole
                try:
                    self._take(events[position:after])
                except BrokenStream as error:
                    self.error = error
                if self._is_over():
                    break
            position = after
        return self._leaving()

    def _flow(self, events: bytes, position: int) -> int:
        """Where the deltas of the open block end that begin here. Nearly all that comes is such."""
        if not self.began or self.stop_reason is not None or self._rewriter is not None:
            return position
        watch = self._watch
        heard: list[str] = []
        index, flowing = (watch.index, watch.flowing) if watch is not None else (0, None)
        while events.startswith(_DELTA_EVENT, position):
            end = events.find(_BOUNDARY, position)
            data = events[position + _NAMED : end]
            if end < 0 or b"\n" in data or b"\r" in data:
                break
            try:
                event = _deltas.decode(data)
            except _UNREADABLE:
                break
            delta = event.delta
            if watch is not None and (event.index != index or type(delta) is not flowing):
                break
            heard.append(delta.said)
            position = end + len(_BOUNDARY)
        if heard:
            said = heard[0] if len(heard) == 1 else "".join(heard)
            self._note(said)
            if watch is not None and not watch.said_text:
                watch.hear(said)
        return position

    def _take(self, raw: bytes) -> None:
        """One event, or what stands between two."""
        frames = self._reader.feed(raw)
        if self._watch is not None and self._rewriter is None and not _is_text(raw):
            self._rewrite("no UTF-8")
        if not frames:
            self._wait(raw if self._rewriter is None else _comments(raw))
            return
        self._has_events = True
        for frame in frames:
            read, fault = _read(frame)
            if self._watch is not None and self.stop_reason is not None and frame.data.strip() == b"[DONE]":
                read, fault = [{"type": "message_stop"}], "an end mark in place of message_stop"
            if fault and self._watch is not None and self._rewriter is None:
                self._rewrite(fault)
            for event in read:
                if not self._is_over():
                    raw = self._take_event(raw, frame.data, event)
            if not read and self._watch is None:
                self._observe_unreadable(frame.data)
        if self._rewriter is None and self.error is None:
            self._wait(raw)

    def _take_event(self, raw: bytes, data: bytes, event: Json) -> bytes:
        """Returns the bytes, with the data in them edited where it must be."""
        if event["type"] == "error":
            self.error = refusals.in_answer({"error": event.get("error")})
            return raw
        if self._watch is not None and self._rewriter is None and (fault := self._watch.fault(event)):
            self._rewrite(fault)
        edits = self._observe(event)
        if self._rewriter is not None:
            self._rewriter.take(self._edited_event(event, edits))
            if event["type"] == "message_stop":
                self._stop()
            self._wait(self._rewriter.writer.take())
        elif event["type"] == "message_stop":
            self._stop()
        return raw.replace(data, _edited_start(data, edits), 1) if edits else raw

    def _rewrite(self, fault: str) -> None:
        """From here on events are written anew; what has passed stays, but for an ending that still waits."""
        self.fault = fault
        self.notes.add(fault)
        self._ending.clear()
        self._watch = self._watch or Watch(self._ids)
        self.message_id = self.message_id or identity.message_id()
        self._rewriter = Rewriter(self._exchange, self._watch, self._ids, self.message_id)

    def _stop(self) -> None:
        """The answer has ended; the client gets what its ending lacks."""
        if self._rewriter is not None:
            usage = wire_usage(self._last_word.get("usage"), self._known_usage())
            try:
                self.stop_reason = self._rewriter.end(self._last_word, usage, self._empty_text, began=self.began)
            except BrokenStream as error:
                self.error = error
                return
            self._waiting.append(self._rewriter.writer.take())
        self.stop_reason = self.stop_reason or "end_turn"
        self.began = self.complete = True

    def _wait(self, events: bytes) -> None:
        waiting = self._waiting if self.stop_reason is None or self._rewriter is not None else self._ending
        if events:
            waiting.append(events)
            self._waiting_length += len(events)

    def _leaving(self) -> bytes:
        """What need not wait any more."""
        self.ended = self.complete
        self.finishing = self.stop_reason is not None and not self.complete
        if not self.began:
            if self._waiting_length > MOST_HELD and self.error is None:
                self._fail("the provider sent too much before its answer began")
            return b""
        events = b"".join([*self._waiting, *(self._ending if self.complete else ())])
        self._waiting.clear()
        self._waiting_length = sum(map(len, self._ending))
        if self._waiting_length > MOST_HELD and not self.complete:
            self._fail("the provider sent too much after its answer")
        return events

    # What is read on the side

    def _observe(self, event: Json) -> dict[str, bytes]:
        """Takes note of an event; returns what of its message must be edited."""
        kind, delta = event["type"], event.get("delta")
        if kind == "content_block_delta":
            self._hear(delta if isinstance(delta, dict) else {})
        elif kind == "content_block_start":
            block = event.get("content_block")
            is_text = isinstance(block, dict) and block.get("type") == "text" and not block.get("text")
            self.began = self.began or self._watch is None or not is_text
        elif kind == "message_start" and isinstance(event.get("message"), dict):
            return self._observe_start(event["message"])
        elif kind == "message_delta":
            self._report(event.get("usage"), final=True)
            self._note_ending(event)
        elif kind == "message_stop":
            self._report(event.get("usage"), final=True)
        return {}

    def _hear(self, delta: Json) -> None:
        said = delta.get("text") or delta.get("thinking") or delta.get("partial_json")
        if not isinstance(said, str):
            said = ""
        # White space alone is no answer: another provider may still give one.
        self.began = self.began or self._watch is None or bool(said.strip())
        self._note(said if said.isascii() else said.encode(errors="replace").decode())

    def _observe_start(self, message: Json) -> dict[str, bytes]:
        if self._rewriter is not None and self._rewriter.writer.started:
            return {}
        self._report(message.get("usage"), final=False)
        return self._edits(message.get("id"), message.get("model"))

    def _note_ending(self, event: Json) -> None:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            delta = {}
        if self._watch is not None:
            before = self._last_word.get("delta", {})
            told = {name: value for name, value in delta.items() if value is not None}
            kept = {name: before[name] for name in ("stop_reason", "stop_sequence", "stop_details") if name in before}
            self._last_word = {**event, "delta": {**kept, **told}}
        if isinstance(delta.get("stop_reason"), str):
            self.stop_reason = delta["stop_reason"]

    def _observe_unreadable(self, data: bytes) -> None:
        """The client may find an ending in it all the same: then it must be settled before it leaves."""
        if b'"message_stop"' in data:
            self._stop()
        elif b'"stop_reason":"' in data.replace(b" ", b""):
            self.stop_reason = "end_turn"

    def _report(self, usage: Any, *, final: bool) -> None:
        """Later totals replace earlier ones, field by field; they are never added."""
        if isinstance(usage, dict) and usage:
            self._reported.update({name: usage[name] for name in _FIGURES if usage.get(name) is not None})
            self.usage = usage_of(self._reported)
            self.output_is_told = self.output_is_told or (final and usage.get("output_tokens") is not None)

    def _known_usage(self) -> Usage:
        """For an ending: told by the provider, counted where it was not."""
        if self.usage is not None and (self.output_is_told or self.count is None):
            return self.usage
        counted = self.count() if self.count is not None else Usage()
        return counted if self.usage is None else msgspec.structs.replace(self.usage, output=counted.output)

    def _edits(self, message_id: Any, model: Any) -> dict[str, bytes]:
        """The client sees the name it asked for, and an id no other answer has."""
        self.upstream_id = message_id if isinstance(message_id, str) else None
        edits = {}
        if model is not None and self._exchange.model != self._exchange.request.model:
            edits["model"] = msgspec.json.encode(self._exchange.request.model)
        if _recent_ids.is_fresh(message_id):
            self.message_id = message_id
        elif message_id is not None:
            self.message_id = identity.message_id()
            edits["id"] = msgspec.json.encode(self.message_id)
        return edits

    def _edited_event(self, event: Json, edits: Mapping[str, bytes]) -> Json:
        """A message_start with all that a client expects there, the others as they are."""
        message = event.get("message")
        if event["type"] != "message_start" or not isinstance(message, dict):
            return event
        model = message.get("model")
        frame = {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": model
            if isinstance(model, str) and model and "model" not in edits
            else self._exchange.request.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": wire_usage(message.get("usage"), self.usage or Usage()),
        }
        return {**event, "message": {**message, **frame}}

    def _note(self, text: str) -> None:
        if self.output_characters < COUNTED_AT_ONCE:
            self.output_sample += text[:COUNTED_AT_ONCE]
        self.output_characters += len(text)

    @property
    def _empty_text(self) -> str:
        return str(option(self._exchange.endpoint, "empty_answer_text"))

    def _fail(self, message: str) -> None:
        self.error = BrokenStream(message)


def _read(frame: Frame) -> tuple[list[Json], str]:
    """The event of a frame, and what is wrong with its form; several events where only one newline was between them."""
    event, name = _decoded(frame.data), frame.event
    if event is None and b"\n" in frame.data:
        events = [_decoded(line) for line in frame.data.split(b"\n")]
        return [each for each in events if each is not None and isinstance(each.get("type"), str)], "no blank lines"
    if event is None:
        return [], "an event that cannot be read" if name in KNOWN else ""  # clients pass over what has no known name
    if event.get("error") and not isinstance(event.get("type"), str):
        return [{**event, "type": "error"}], ""
    if not isinstance(event.get("type"), str):
        return ([{**event, "type": name}], "no type") if name in KNOWN else ([], "")
    if b"\n" in frame.data:
        return [event], "data of several lines"
    if name != event["type"] and (name in KNOWN or event["type"] in KNOWN):
        return [event], "an event without its name"
    return [event], ""


def _decoded(data: bytes) -> Json | None:
    try:
        event = msgspec.json.decode(data)
    except _UNREADABLE:
        try:  # half of a surrogate pair stands in it: clients read that
            event = json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
    return event if isinstance(event, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _comments(raw: bytes) -> bytes:
    """They show that the provider lives."""
    lines = [line for line in raw.splitlines() if line.startswith(b":") and line.isascii()]
    return b"\n".join([*lines, b"\n"]) if lines else b""


def _edited_start(data: bytes, edits: Mapping[str, bytes]) -> bytes:
    try:
        spans = splice.member_spans(data)
    except _UNREADABLE:
        return data
    if spans is None or "message" not in spans:
        return data
    start, end = spans["message"]
    return data[:start] + splice.replace_members(data[start:end], edits) + data[end:]


def _last_boundary(data: bytes | bytearray, start: int = 0) -> int:
    """Where the last whole event ends that ends after `start`."""
    ends = (at + len(blank) for blank in BOUNDARIES if (at := data.rfind(blank, start)) >= 0)
    return max(ends, default=0)


def _is_whole(event: bytes) -> bool:
    """Whether a last event that no blank line ends is there to its last brace: half of one is no client's business."""
    try:
        return bool(event) and all(msgspec.json.decode(frame.data) for frame in Reader().feed(event + b"\n\n"))
    except _UNREADABLE:
        return False


def _is_event(line: bytes) -> bool:
    event = _decoded(line)
    return event is not None and event.get("type") in KNOWN


def _write_block(writer: MessageWriter, block: Mapping[str, Any]) -> None:
    if block["type"] == "text":
        writer.text(str(block.get("text", "")))
        writer.close()
    elif block["type"] == "thinking":
        writer.thinking(str(block.get("thinking", "")))
        if block.get("signature"):
            writer.sign(str(block["signature"]))
        writer.close()
    elif block["type"] in WITH_INPUT:
        writer.open({**block, "input": {}})
        writer.delta({"type": "input_json_delta", "partial_json": encoded(block["input"]).decode()})
    else:
        writer.open(block)
