"""Anthropic Messages: a pass-through. The client's bytes go up, the upstream's bytes come down, read on the side.

Decoding and encoding again would drop the field a client invented last week, and would break the caches and
signatures that depend on the very bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import identity, splice
from providers.dialects import refusals
from providers.dialects.dialect import Dialect, Exchange, Outbound
from providers.errors import AccountRefused, BrokenStream, UpstreamError
from providers.sse import Reader
from providers.state import MARK
from providers.usage import Usage, tokens

# What is forwarded of the client's headers, besides everything that begins with one of the prefixes.
FORWARDED = frozenset({"accept", "content-type", "user-agent", "x-app"})
FORWARDED_PREFIXES = ("anthropic-", "x-stainless-", "x-claude-code-")
# An upstream that repeats its message ids makes clients merge turns: remember as many as an hour may bring.
REMEMBERED_IDS = 20_000
SAMPLE = 8192
MOST_HELD = 16 * 1024 * 1024


def encode(exchange: Exchange) -> Outbound:
    return Outbound(_path("/messages", exchange), _body(exchange), _headers(exchange))


def count(exchange: Exchange) -> Outbound:
    return Outbound(_path("/messages/count_tokens", exchange), _body(exchange), _headers(exchange))


def _path(path: str, exchange: Exchange) -> str:
    return f"{path}?{exchange.query}" if exchange.query else path


def _body(exchange: Exchange) -> bytes:
    body = exchange.body
    if exchange.model != exchange.request.model:
        body = splice.replace_members(body, {"model": msgspec.json.encode(exchange.model)})
    if MARK in body:
        body = without_our_thinking(body)
    return body


def _headers(exchange: Exchange) -> dict[str, str]:
    kept = {
        name: value
        for name, value in exchange.headers.items()
        if name in FORWARDED or name.startswith(FORWARDED_PREFIXES)
    }
    kept.setdefault("anthropic-version", "2023-06-01")
    kept.setdefault("content-type", "application/json")
    return kept


def without_our_thinking(body: bytes) -> bytes:
    """An Anthropic upstream refuses, for the rest of the session, signatures that are not its own."""
    spans = splice.member_spans(body)
    if spans is None or "messages" not in spans:
        return body
    messages = body[slice(*spans["messages"])]
    kept = []
    for start, end in splice.element_spans(messages):
        message = _message_without_our_thinking(messages[start:end])
        if message is not None:
            kept.append(message)
    return splice.replace_members(body, {"messages": b"[" + b",".join(kept) + b"]"})


def _message_without_our_thinking(message: bytes) -> bytes | None:
    """The message as it was, or without those blocks, or None when nothing else was in it."""
    if MARK not in message:
        return message
    spans = splice.member_spans(message)
    if spans is None or "content" not in spans:
        return message
    content = message[slice(*spans["content"])]
    if not content.startswith(b"["):
        return message
    blocks = splice.element_spans(content)
    kept = [span for span in blocks if not _is_our_thinking(content[slice(*span)])]
    if len(kept) == len(blocks):
        return message
    return splice.replace_members(message, {"content": splice.keep_elements(content, kept)}) if kept else None


def _is_our_thinking(block: bytes) -> bool:
    if MARK not in block:
        return False
    decoded = msgspec.json.decode(block)
    return decoded.get("type") == "thinking" and str(decoded.get("signature", "")).startswith(MARK.decode())


class _Message(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: dict[str, Any] | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    delta: _Delta | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)


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
        self._exchange = exchange
        self._content_type = content_type
        self._reader = Reader()
        self._held = b""  # the beginning of an event
        self._waiting: list[bytes] = []  # whole events before the first content
        self._reported: dict[str, Any] = {}

    def feed(self, data: bytes) -> bytes:
        self._held += data
        end = _last_boundary(self._held)
        if not end:
            if not self.began and self._held.lstrip()[:1] in (b"{", b"[", b"<"):
                self._fail(f"the provider answered with {self._content_type or 'no content type'}, not an event stream")
            elif len(self._held) > MOST_HELD:
                self._fail("the provider sent an event without end")
            return b""
        events, self._held = self._held[:end], self._held[end:]
        return self._pass(events)

    def finish(self) -> bytes:
        rest = self._pass(self._held.rstrip(b"\r\n") + b"\n\n") if self._held.strip() and not self.error else b""
        self._held = b""
        if self.error is None and not self.complete:
            if self.stop_reason is None:
                self._fail("the provider closed the stream before the answer was complete")
            else:
                self.ended = True
                rest += b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        return rest

    def whole(self, body: bytes) -> bytes:
        try:
            reply = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._fail(f"the provider answered with {self._content_type or 'no content type'} that is no JSON object")
            return b""
        if "error" in reply or not isinstance(reply.get("content"), list):
            self.error = refusals.in_answer(reply)
            return b""
        self.began = self.ended = True
        self.stop_reason = reply.get("stop_reason") if isinstance(reply.get("stop_reason"), str) else "end_turn"
        if isinstance(reply.get("usage"), dict):
            self.usage = usage_of(reply["usage"])
        edits = self._edits(reply.get("id"), reply.get("model"))
        self._note(msgspec.json.encode(reply["content"]).decode() if self.usage is None else "")
        return splice.replace_members(body, edits) if edits else body

    def _pass(self, events: bytes) -> bytes:
        for frame in self._reader.feed(events):
            try:
                event = _events.decode(frame.data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # what we cannot read is not ours to judge
            if event.type == "error":
                self.error = refusals.in_answer({"error": event.error})
                events = events[: _last_boundary(events[: max(events.find(frame.data), 0)])]
                break
            edited = self._observe(event, frame.data)
            if edited is not None:
                events = events.replace(frame.data, edited, 1)
        if self.error and not self.began:
            return b""
        if not self.began:
            self._waiting.append(events)
            return b""
        if self._waiting:
            events = b"".join([*self._waiting, events])
            self._waiting.clear()
        return events

    def _observe(self, event: _Event, data: bytes) -> bytes | None:
        """Takes note of an event; returns its data where it must be edited."""
        delta = event.delta
        if event.type == "content_block_delta" and delta is not None:
            self.began = True
            self._note(delta.text or delta.thinking or delta.partial_json or "")
        elif event.type == "content_block_start":
            self.began = True
        elif event.type == "message_start" and event.message is not None:
            self._report(event.message.usage)
            edits = self._edits(event.message.id, event.message.model)
            return _edited_start(data, edits) if edits else None
        elif event.type == "message_delta":
            self._report(event.usage)
            if delta is not None and delta.stop_reason is not None:
                self.began = self.ended = True
                self.stop_reason = delta.stop_reason
        elif event.type == "message_stop":
            self.began = self.ended = self.complete = True
            self.stop_reason = self.stop_reason or "end_turn"
        return None

    def _report(self, usage: dict[str, Any] | None) -> None:
        """Later totals replace earlier ones, field by field; they are never added."""
        if usage:
            self._reported.update({name: value for name, value in usage.items() if value is not None})
            self.usage = usage_of(self._reported)

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

    def _note(self, text: str) -> None:
        self.output_characters += len(text)
        if len(self.output_sample) < SAMPLE:
            self.output_sample += text[:SAMPLE]

    def _fail(self, message: str) -> None:
        self.error = BrokenStream(message)


def _edited_start(data: bytes, edits: Mapping[str, bytes]) -> bytes:
    spans = splice.member_spans(data)
    if spans is None or "message" not in spans:
        return data
    start, end = spans["message"]
    return data[:start] + splice.replace_members(data[start:end], edits) + data[end:]


def _last_boundary(data: bytes) -> int:
    """Where the last whole event ends."""
    ends = (at + len(blank) for blank in (b"\n\n", b"\r\n\r\n", b"\r\r") if (at := data.rfind(blank)) >= 0)
    return max(ends, default=0)


def refusal(exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """Goes back byte for byte, since clients act on its wording; our own account's troubles do not."""
    error = refusals.read(exchange, status, headers, body)
    if not isinstance(error, AccountRefused) or exchange.endpoint.client_token:
        error.original = (status, headers, body)
    return error


DIALECT = Dialect(encode=encode, answer=PassThrough, refusal=refusal, count=count)
