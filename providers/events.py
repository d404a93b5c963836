"""Messages events: a writer that cannot put them in a wrong order, and the fold that makes one reply of them.

message_start ( content_block_start content_block_delta* content_block_stop )* message_delta message_stop
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers.sse import Reader
from providers.usage import Usage

_encode = msgspec.json.encode
_END = b"}}\n\n"


class WrongOrder(Exception):
    """A translator's mistake: this would have left as a stream no client can read."""


def event(payload: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), encoded(payload))


def encoded(value: Any) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()  # half of a surrogate pair, whose other half the next event may bring


PING = event({"type": "ping"})


class MessageWriter:
    """Owns the open block and the index. `take` returns what was written since it was last asked.

    One that goes on where other bytes have left already is told so: whether a message_start was among them, the
    next index, and the block that is open.
    """

    def __init__(
        self, message_id: str, model: str, *, started: bool = False, index: int = 0, block: str | None = None
    ) -> None:
        self.started = started
        self.ended = False
        self.index = index  # of the open block, else of the next
        self.block = block  # the type of the open block
        self._id = message_id
        self._model = model
        self._written: list[bytes] = []
        self._delta = self._begin_delta()

    def take(self) -> bytes:
        written = b"".join(self._written)
        self._written.clear()
        return written

    def start(self, message: Mapping[str, Any] | None = None) -> None:
        """Said by the first block, or by the ending of a message without any. One that is given leaves as it is."""
        if self.ended:
            raise WrongOrder("the message has ended")
        if self.started:
            return
        self.started = True
        message = message or {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": Usage().wire(),
        }
        self._written.append(event({"type": "message_start", "message": message}))

    def open(self, block: Mapping[str, Any]) -> None:
        """Starts a block as given, and ends the one before it."""
        self.close()
        self.start()
        self.block = block["type"]
        self._written.append(event({"type": "content_block_start", "index": self.index, "content_block": block}))
        self._delta = self._begin_delta()

    def text(self, text: str) -> None:
        if self.block != "text":
            self.open({"type": "text", "text": ""})
        if text:
            self._written += (self._delta, _encode(text), _END)

    def thinking(self, text: str) -> None:
        """An empty text opens the block and says nothing in it."""
        if self.block != "thinking":
            self.open({"type": "thinking", "thinking": "", "signature": ""})
        if text:
            self._written += (self._delta, _encode(text), _END)

    def sign(self, signature: str) -> None:
        """The last word of a thinking block."""
        if self.block != "thinking":
            raise WrongOrder("no thinking block is open")
        self.delta({"type": "signature_delta", "signature": signature})
        self.close()

    def tool_use(self, tool_use_id: str, name: str) -> None:
        self.open({"type": "tool_use", "id": tool_use_id, "name": name, "input": {}})

    def arguments(self, fragment: str) -> None:
        """Input always travels so: in the start event it is lost by clients."""
        if self.block != "tool_use":
            raise WrongOrder("no tool_use block is open")
        if fragment:
            self._written += (self._delta, _encode(fragment), _END)

    def delta(self, delta: Mapping[str, Any]) -> None:
        if self.block is None:
            raise WrongOrder("no block is open")
        self._written.append(event({"type": "content_block_delta", "index": self.index, "delta": delta}))

    def close(self) -> None:
        if self.block is not None:
            self._written.append(
                b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self.index
            )
            self.block = None
            self.index += 1

    def aside(self, payload: Mapping[str, Any]) -> None:
        """An event that may stand anywhere."""
        self._written.append(event(payload))

    def end(self, stop_reason: str, usage: Usage, *, stop_sequence: str | None = None, details: object = None) -> None:
        delta: dict[str, Any] = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        if details is not None:
            delta["stop_details"] = details
        self.end_with({"type": "message_delta", "delta": delta, "usage": usage.wire()})

    def end_with(self, message_delta: Mapping[str, Any]) -> None:
        """Ends the message with a message_delta that was made elsewhere."""
        self.close()
        self.start()
        self.ended = True
        self._written.append(event(message_delta))
        self._written.append(event({"type": "message_stop"}))

    def _begin_delta(self) -> bytes:
        """The bytes that begin every delta of the open block, made once."""
        if self.block not in _DELTAS:
            return b""
        delta, field = _DELTAS[self.block]
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self.index, delta, field)
        )


_DELTAS: dict[str | None, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}

# Deltas whose fragments join to one text, by the field they make.
_JOINED = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class Fold:
    """The reply in one piece, made of the events of a stream. What it does not know it leaves out."""

    def __init__(self) -> None:
        self.error: dict[str, Any] | None = None
        self._reader = Reader()
        self._reply: dict[str, Any] = {"type": "message", "role": "assistant", "content": []}
        self._block: dict[str, Any] = {}
        self._fragments: dict[str, list[str]] = {}

    def feed(self, events: bytes) -> None:
        for frame in self._reader.feed(events):
            payload = msgspec.json.decode(frame.data)
            step = _STEPS.get(payload.get("type"))
            if step is not None:
                step(self, payload)

    def reply(self) -> dict[str, Any]:
        return self._reply

    def _start(self, payload: dict[str, Any]) -> None:
        self._reply.update(payload["message"])

    def _open(self, payload: dict[str, Any]) -> None:
        self._block = dict(payload["content_block"])
        self._fragments = {}
        self._reply["content"].append(self._block)

    def _add(self, payload: dict[str, Any]) -> None:
        delta = payload["delta"]
        kind = delta.get("type")
        if kind in _JOINED:
            self._fragments.setdefault(_JOINED[kind], []).append(delta[_JOINED[kind]])
        elif kind == "input_json_delta":
            self._fragments.setdefault("input", []).append(delta["partial_json"])
        elif kind == "citations_delta":
            self._block["citations"] = [*(self._block.get("citations") or ()), delta["citation"]]

    def _close(self, _payload: dict[str, Any]) -> None:
        for field, fragments in self._fragments.items():
            joined = "".join(fragments)
            self._block[field] = parsed_input(joined) if field == "input" else self._block.get(field, "") + joined
        self._fragments = {}

    def _delta(self, payload: dict[str, Any]) -> None:
        self._reply.update(payload["delta"])
        reported = {name: value for name, value in (payload.get("usage") or {}).items() if value is not None}
        self._reply["usage"] = {**(self._reply.get("usage") or {}), **reported}

    def _fail(self, payload: dict[str, Any]) -> None:
        self.error = payload


_STEPS: dict[str, Callable[[Fold, dict[str, Any]], None]] = {
    "message_start": Fold._start,
    "content_block_start": Fold._open,
    "content_block_delta": Fold._add,
    "content_block_stop": Fold._close,
    "message_delta": Fold._delta,
    "error": Fold._fail,
}


def fold(events: bytes) -> dict[str, Any]:
    folded = Fold()
    folded.feed(events)
    return folded.reply()


def parsed_input(arguments: str) -> dict[str, Any]:
    """A reply's input must be an object. Broken arguments take the form in which clients show them to the model."""
    try:
        parsed = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        return parsed
    return {"__unparsedToolInput": {"raw": arguments, "len": len(arguments)}}
