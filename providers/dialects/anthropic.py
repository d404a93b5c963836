"""Anthropic Messages: a pass-through. The client's bytes go up, the upstream's bytes come down, read on the side.

Decoding and encoding again would drop the field a client invented last week, and would break the caches and
signatures that depend on the very bytes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from providers import identity, splice
from providers.dialects import refusals
from providers.dialects.dialect import Dialect, Exchange, Outbound
from providers.errors import AccountRefused, BrokenStream, UpstreamError
from providers.events import MessageWriter
from providers.messages import Block, Message
from providers.sse import Reader
from providers.state import MARK
from providers.usage import Usage, tokens

# What is forwarded of the client's headers, besides everything that begins with one of the prefixes.
FORWARDED = frozenset({"accept", "content-type", "user-agent", "x-app"})
FORWARDED_PREFIXES = ("anthropic-", "x-stainless-", "x-claude-code-")
# An upstream that repeats its message ids makes clients merge turns: remember as many as an hour may bring.
REMEMBERED_IDS = 20_000
SAMPLE = 8192
SIGN = MARK.decode()
MOST_HELD = 16 * 1024 * 1024
# What ends an event.
BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")


def encode(exchange: Exchange) -> Outbound:
    return Outbound(_path("/messages", exchange), _body(exchange), _headers(exchange))


def count(exchange: Exchange) -> Outbound:
    return Outbound(_path("/messages/count_tokens", exchange), _body(exchange), _headers(exchange))


def _path(path: str, exchange: Exchange) -> str:
    return f"{path}?{exchange.query}" if exchange.query and is_plain(exchange.query) else path


def is_plain(text: str) -> bool:
    """Whether it may stand in a header or an address; whatever else a client put there is its own and stays here."""
    return text.isascii() and text.isprintable()


def _body(exchange: Exchange) -> bytes:
    body = exchange.body
    if exchange.model != exchange.request.model:
        body = splice.replace_members(body, {"model": msgspec.json.encode(exchange.model)})
    if any(map(_has_our_thinking, exchange.request.messages)):
        body = without_our_thinking(body, exchange.request.messages)
    return body


def _headers(exchange: Exchange) -> dict[str, str]:
    kept = {
        name: value
        for name, value in exchange.headers.items()
        if (name in FORWARDED or name.startswith(FORWARDED_PREFIXES)) and is_plain(value)
    }
    kept.setdefault("anthropic-version", "2023-06-01")
    kept.setdefault("content-type", "application/json")
    return kept


def without_our_thinking(body: bytes, messages: Sequence[Message]) -> bytes:
    """An Anthropic upstream refuses, for the rest of the session, signatures that are not its own."""
    spans = splice.member_spans(body)
    if spans is None or "messages" not in spans:
        return body
    text = body[slice(*spans["messages"])]
    kept = []
    for span, message in zip(splice.element_spans(text), messages, strict=True):
        rest = _message_without_our_thinking(text[slice(*span)], message)
        if rest is not None:
            kept.append(rest)
    return splice.replace_members(body, {"messages": b"[" + b",".join(kept) + b"]"})


def _message_without_our_thinking(text: bytes, message: Message) -> bytes | None:
    """The message as it was, or without those blocks, or None when nothing else was in it."""
    spans = splice.member_spans(text) if _has_our_thinking(message) else None
    if spans is None:
        return text
    content = text[slice(*spans["content"])]
    blocks = zip(splice.element_spans(content), message.blocks(), strict=True)
    kept = [span for span, block in blocks if not _is_our_thinking(block)]
    return splice.replace_members(text, {"content": splice.keep_elements(content, kept)}) if kept else None


def _has_our_thinking(message: Message) -> bool:
    return isinstance(message.content, list) and any(map(_is_our_thinking, message.content))


def _is_our_thinking(block: Block) -> bool:
    return block.get("type") == "thinking" and str(block.get("signature", "")).startswith(SIGN)


class _Event(msgspec.Struct):
    """Any value anywhere: an upstream's odd field must not hide the rest of its event."""

    type: str
    message: Any = None
    delta: Any = None
    usage: Any = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)
_plain_event = re.compile(rb"event: [^\r\n]*\ndata: ([^\r\n]*)\n\n")


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
        self._exchange = exchange
        self._content_type = content_type
        self._reader = Reader()
        self._held = bytearray()  # the beginning of an event
        # Whole events that wait: before the first content, since another may still answer; and from the stop reason
        # on, since the usage that is settled with it may follow.
        self._waiting: list[bytes] = []
        self._waiting_length = 0
        self._reported: dict[str, Any] = {}

    def feed(self, data: bytes) -> bytes:
        if self.began and not self._held and data.endswith(BOUNDARIES):
            return self._pass(data)
        looked_at = len(self._held)
        self._held += data
        if not self.began and bytes(self._held[:64]).lstrip()[:1] in (b"{", b"[", b"<"):
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
        if not self.began and held[:1] in (b"{", b"[", b"<"):
            return self._as_events(held)
        rest = self._pass(held + b"\n\n") if _is_whole(held) and not self.error else b""
        if self.error is not None or self.complete:
            return rest
        if self.stop_reason is None:
            self._fail("the provider closed the stream before the answer was complete")
            return rest
        self.ended = self.complete = True
        return rest + self._released() + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def whole(self, body: bytes) -> bytes:
        reply = self._read_reply(body)
        if reply is None:
            return b""
        edits = self._edits(reply.get("id"), reply.get("model"))
        return splice.replace_members(body, edits) if edits else body

    def _read_reply(self, body: bytes) -> dict[str, Any] | None:
        try:
            reply = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(f"the provider answered with {self._content_type or 'no content type'} that is no reply")
            return None
        if "error" in reply or not isinstance(reply.get("content"), list):
            self.error = refusals.in_answer(reply)
            return None
        self.began = self.ended = self.complete = True
        self.stop_reason = reply.get("stop_reason") if isinstance(reply.get("stop_reason"), str) else "end_turn"
        self._report(reply.get("usage"), final=True)
        if self.usage is None:
            self._note(msgspec.json.encode(reply["content"]).decode())
        return reply

    def _as_events(self, body: bytes) -> bytes:
        """A complete reply where a stream was asked for."""
        reply = self._read_reply(body)
        if reply is None:
            return b""
        self._edits(reply.get("id"), None)
        writer = MessageWriter(self.message_id or identity.message_id(), self._exchange.request.model)
        for block in reply["content"]:
            if isinstance(block, dict) and isinstance(block.get("type"), str):
                _write_block(writer, block)
        writer.end(self.stop_reason or "end_turn", self.usage or Usage())
        return writer.take()

    def _pass(self, events: bytes) -> bytes:
        for data in self._data_of(events):
            if self.complete:
                break
            event = self._decoded(data)
            if event is None:
                continue  # what we cannot read is not ours to judge
            if event.type == "error":
                self.error = refusals.in_answer({"error": event.error})
                events = events[: _last_boundary(events[: max(events.find(data), 0)])]
                break
            edited = self._observe(event, data)
            if edited is not None:
                events = events.replace(data, edited, 1)
        if self.error and not self.began:
            return b""
        self._waiting.append(events)
        if self.error or self.complete or (self.began and self.stop_reason is None):
            self.ended = self.complete
            return self._released()
        self.finishing = self.stop_reason is not None
        self._waiting_length += len(events)
        if self._waiting_length > MOST_HELD:
            self._fail("the provider sent too much before its answer began")
        return b""

    def _data_of(self, events: bytes) -> list[bytes]:
        """Nearly always a line for the name and one for the data: what is between such events is nothing."""
        parts = _plain_event.split(events)
        if any(parts[::2]):
            return [frame.data for frame in self._reader.feed(events)]
        return parts[1::2]

    def _released(self) -> bytes:
        events = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_length = 0
        return events

    def _decoded(self, data: bytes) -> _Event | None:
        try:
            return _events.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            mended = data.decode("utf-8", "replace").encode()
            if mended != data:
                return self._decoded(mended)
            # Not to be read, but the client may find an ending in it: then it must be settled before it leaves.
            if b'"message_stop"' in data:
                return _Event("message_stop")
            if b'"stop_reason":"' in data.replace(b" ", b""):
                return _Event("message_delta", delta={"stop_reason": "end_turn"})
            return None

    def _observe(self, event: _Event, data: bytes) -> bytes | None:
        """Takes note of an event; returns its data where it must be edited."""
        delta = event.delta if isinstance(event.delta, dict) else {}
        if event.type == "content_block_delta":
            self.began = True
            self._note(delta.get("text") or delta.get("thinking") or delta.get("partial_json"))
        elif event.type == "content_block_start":
            self.began = True
        elif event.type == "message_start" and isinstance(event.message, dict):
            self._report(event.message.get("usage"), final=False)
            edits = self._edits(event.message.get("id"), event.message.get("model"))
            return _edited_start(data, edits) if edits else None
        elif event.type == "message_delta":
            self._report(event.usage, final=True)
            if isinstance(delta.get("stop_reason"), str):
                self.began = True
                self.stop_reason = delta["stop_reason"]
        elif event.type == "message_stop":
            self._report(event.usage, final=True)
            self.began = self.complete = True
            self.stop_reason = self.stop_reason or "end_turn"
        return None

    def _report(self, usage: Any, *, final: bool) -> None:
        """Later totals replace earlier ones, field by field; they are never added."""
        if isinstance(usage, dict) and usage:
            self._reported.update({name: value for name, value in usage.items() if value is not None})
            self.usage = usage_of(self._reported)
            self.output_is_told = self.output_is_told or (final and usage.get("output_tokens") is not None)

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

    def _note(self, text: Any) -> None:
        if isinstance(text, str):
            if self.output_characters < SAMPLE:
                self.output_sample += text[:SAMPLE]
            self.output_characters += len(text)

    def _fail(self, message: str) -> None:
        self.error = BrokenStream(message)


def _edited_start(data: bytes, edits: Mapping[str, bytes]) -> bytes:
    spans = splice.member_spans(data)
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def refusal(exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """Goes back byte for byte, since clients act on its wording; what is no envelope or tells a secret does not."""
    error = refusals.read(exchange, status, headers, body)
    ours = isinstance(error, AccountRefused) and not exchange.endpoint.client_token
    if not ours and 400 <= status <= 599 and _is_clean_envelope(body):
        error.original = (status, headers, body)
    return error


def _is_clean_envelope(body: bytes) -> bool:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(told, dict) or told.get("type") != "error" or not isinstance(told.get("error"), dict):
        return False
    message, text = told["error"].get("message"), body.decode()
    return isinstance(message, str) and refusals.scrub(message) == message and refusals.scrub(text) == text


def _write_block(writer: MessageWriter, block: Mapping[str, Any]) -> None:
    if block["type"] == "text":
        writer.text(str(block.get("text", "")))
        writer.close()
    elif block["type"] == "thinking":
        writer.thinking(str(block.get("thinking", "")))
        writer.sign(str(block.get("signature", "")))
    elif block["type"] == "tool_use":
        writer.tool_use(str(block.get("id") or identity.tool_use_id()), str(block.get("name", "")))
        writer.arguments(msgspec.json.encode(block.get("input") or {}).decode())
    else:
        writer.open(block)


DIALECT = Dialect(encode=encode, answer=PassThrough, refusal=refusal, count=count)
