"""An answer of an Anthropic-compatible provider put right: its events from the first fault on, or a whole reply."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import identity
from providers.dialects.dialect import Exchange
from providers.dialects.faults import (
    BLOCKS_OF,
    NEEDS_CONTENT,
    SAID_IN,
    WITH_INPUT,
    Json,
    ToolIds,
    Watch,
    has_counts,
    has_frame,
    is_content,
    is_name,
    says_text,
    stop_reason,
)
from providers.errors import BrokenStream
from providers.events import MessageWriter, encoded, parsed_input
from providers.messages import MessagesRequest
from providers.usage import Usage

MOST_BUFFERED = 16 * 1024 * 1024
# So few tokens only ask whether the model is there: no answer is an answer.
PROBE = 16


class Part(msgspec.Struct):
    """A block on its way: only the first of them is open, what arrives of the others waits."""

    start: Json
    is_open: bool = False  # its start has left
    is_over: bool = False
    signed: bool = False
    deltas: list[Json] = []  # wait until it is open
    told: str = ""  # the input or the signature that stood in its start: said at its end, unless a delta says it

    @property
    def kind(self) -> str:
        return str(self.start["type"])

    @property
    def holds(self) -> bool:
        """Input that is told twice is told once, when all of it is known."""
        return bool(self.told) and self.kind in WITH_INPUT

    @property
    def ends_with_the_next(self) -> bool:
        """Whether it needs no stop: calls run side by side, and a signature may come late. Nothing else does."""
        return self.signed or self.kind not in WITH_INPUT | {"thinking"}


class Rewriter:
    """Takes events as they came and writes them as they should have come."""

    def __init__(self, exchange: Exchange, watch: Watch, ids: ToolIds, message_id: str) -> None:
        self.said_text = watch.said_text
        self.used_tool = watch.used_tool
        self.writer = MessageWriter(
            message_id, exchange.request.model, started=watch.started, index=watch.index, block=watch.block
        )
        self._is_probe = is_probe(exchange.request)
        self._ids = ids
        self._only_tool = only_tool(exchange.request)
        self._parts: deque[Part] = deque()
        self._by_index: dict[int, Part] = {}
        self._buffered = 0
        if watch.block is not None:
            self._enter(watch.index, Part({"type": watch.block}, is_open=True, signed=watch.signed))

    def take(self, event: Json) -> None:
        """Raises BrokenStream where more would have to wait than memory should hold."""
        step = _STEPS.get(event["type"])
        if step is not None:
            step(self, event)
        elif event["type"] and event["type"].isprintable():
            self.writer.aside(event)

    def end(self, message_delta: Json, usage: Json, empty_text: str, *, began: bool) -> str:
        """Everything that waits, and the ending; returns the reason to stop. Raises BrokenStream for no answer."""
        for part in self._parts:
            part.is_over = True
        self._advance()
        delta = message_delta.get("delta") or {}
        reason = stop_reason(delta.get("stop_reason"), used_tool=self.used_tool)
        if reason in NEEDS_CONTENT and not (self.said_text or self.used_tool):
            self._fill(empty_text, began=began)
        told = {"stop_sequence": None, **delta, "stop_reason": reason}
        self.writer.end_with({**message_delta, "type": "message_delta", "delta": told, "usage": usage})
        return reason

    def _fill(self, empty_text: str, *, began: bool) -> None:
        """Clients repeat a turn without text and tools, then give up in silence: none must look finished."""
        if began:
            self.writer.close()
            self.writer.text(empty_text)
        elif not self._is_probe:
            raise empty_answer()
        elif not self.writer.index:
            self.writer.text("")

    def _message_start(self, event: Json) -> None:
        if self.writer.started or not isinstance(event.get("message"), dict):
            return
        content = event["message"].get("content")
        self.writer.start({**event["message"], "content": []})
        for block in content if isinstance(content, list) else ():
            self._start_block({"content_block": block})
            self._stop_block({})

    def _start_block(self, event: Json) -> None:
        block, index = event.get("content_block"), event.get("index")
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            return  # its first delta will tell what it is
        part = self._part(block)
        if part is not None:
            self._enter(index, part)
        elif isinstance(index, int):
            self._by_index[index] = Part(block)  # nobody's call: what belongs to it goes nowhere

    def _part(self, block: Json) -> Part | None:
        kind, start = block["type"], dict(block)
        part = Part(start)
        if kind in ("text", "thinking"):
            start[kind] = ""
            if isinstance(block.get(kind), str) and block[kind]:
                self._hear(part, {"type": f"{kind}_delta", kind: block[kind]})
        if kind == "thinking":
            start["signature"], part.told = "", str(block.get("signature") or "")
        if kind in WITH_INPUT:
            start["input"], part.told = {}, _told_input(block.get("input"))
        if kind == "tool_use" and not self._name(start):
            return None
        return part

    def _name(self, call: Json) -> bool:
        """Gives a call the id and the name it needs; False where nobody knows whose it is."""
        if not is_name(call.get("name")):
            call["name"] = self._only_tool
        if call["name"] and not self._ids.is_fresh(call.get("id")):
            call["id"] = identity.tool_use_id()
        return bool(call["name"])

    def _enter(self, index: Any, part: Part) -> None:
        if self._parts and self._parts[-1].ends_with_the_next:
            self._parts[-1].is_over = True
        if type(index) is int:
            if index in self._by_index:
                self._by_index[index].is_over = True
            self._by_index[index] = part
        self._parts.append(part)
        self.used_tool = self.used_tool or part.kind == "tool_use"
        self.said_text = self.said_text or is_content(part.start)
        self._advance()

    def _delta(self, event: Json) -> None:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            return
        kind = delta.get("type")
        if not isinstance(kind, str):
            kind = next((kind for kind, field in SAID_IN.items() if field in delta), "")
            delta = {**delta, "type": kind}
        if not kind or (kind in SAID_IN and not isinstance(delta.get(SAID_IN[kind]), str)):
            return
        part = self._receiver(event.get("index"), kind)
        if part is not None:
            self._hear(part, delta)

    def _receiver(self, index: Any, kind: str) -> Part | None:
        """The block a delta is for: the one it names, else the last that can take it, else one it begins."""
        fitting = BLOCKS_OF.get(kind)
        named = self._by_index.get(index) if type(index) is int else None
        candidates: list[Part] = [*([named] if named else ()), *reversed(self._parts)]
        for part in candidates:
            if not part.is_over and (fitting is None or part.kind in fitting):
                return part
        if kind == "signature_delta" and (self._parts or self.writer.index):
            return None  # of a block that is over
        return self._implied(index, kind) if kind in SAID_IN else None

    def _implied(self, index: Any, kind: str) -> Part | None:
        block = {"type": {"text_delta": "text", "input_json_delta": "tool_use"}.get(kind, "thinking")}
        part = self._part(block)
        if part is not None:
            self._enter(index, part)
        return part

    def _hear(self, part: Part, delta: Json) -> None:
        self.said_text = self.said_text or says_text(delta)
        if delta["type"] == "signature_delta":
            part.signed, part.told = True, ""
        if part.is_open and not part.holds:
            self.writer.delta(delta)
            return
        part.deltas.append(delta)
        self._buffered += 64 + len(str(delta.get(SAID_IN.get(delta["type"], ""), "")))
        if self._buffered > MOST_BUFFERED:
            raise BrokenStream("the provider sent more blocks at once than can be put in order: try again")

    def _stop_block(self, event: Json) -> None:
        index = event.get("index")
        part = self._by_index.pop(index, None) if type(index) is int else None
        if part is None:
            running = [part for part in self._parts if not part.is_over]
            part = running[0] if len(running) == 1 else None
        if part is not None:
            part.is_over = True
            self._advance()

    def _advance(self) -> None:
        """The first block says all it can; when it is over, the next one is the first."""
        while self._parts:
            part = self._parts[0]
            if not part.is_open:
                self.writer.open(part.start)
                part.is_open = True
            if part.is_over:
                _conclude(part)
            if not part.holds:
                for delta in part.deltas:
                    self.writer.delta(delta)
                part.deltas = []
            if not part.is_over:
                return
            self.writer.close()
            self._parts.popleft()


_STEPS: Mapping[str, Callable[[Rewriter, Json], None]] = {
    "message_start": Rewriter._message_start,
    "content_block_start": Rewriter._start_block,
    "content_block_delta": Rewriter._delta,
    "content_block_stop": Rewriter._stop_block,
    # The ending is written by `end`.
    "message_delta": lambda *_: None,
    "message_stop": lambda *_: None,
}


def _conclude(part: Part) -> None:
    """What the start told becomes a delta, unless the deltas have told more."""
    if part.kind == "thinking" and part.told:
        part.deltas.append({"type": "signature_delta", "signature": part.told})
    elif part.holds:
        said = "".join(delta["partial_json"] for delta in part.deltas if delta["type"] == "input_json_delta")
        told = part.told if parsed_input(said or "{}") == {} else said
        part.deltas = [{"type": "input_json_delta", "partial_json": told}]
    part.told = ""


def _told_input(given: Any) -> str:
    if not given:
        return ""
    return given if isinstance(given, str) else encoded(given).decode()


def empty_answer() -> BrokenStream:
    return BrokenStream("the model returned an empty answer")


def is_probe(request: MessagesRequest) -> bool:
    return request.max_tokens is not None and request.max_tokens <= PROBE


def only_tool(request: MessagesRequest) -> str:
    """The name of the only tool on offer, for calls that forgot it."""
    names = [tool.get("name") for tool in request.tools or ()]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else ""


def wire_usage(told: Any, usage: Usage) -> Json:
    """What a provider told, with our reading of the figures clients count with."""
    return {**(told if isinstance(told, dict) else {}), **usage.wire()}


def repaired_reply(reply: Json, exchange: Exchange, usage: Usage, empty_text: str) -> Json:
    """A reply as it should have been; the same object where nothing was wrong. Raises BrokenStream for no answer."""
    if _is_one_sound_text(reply):
        return reply
    content = _repaired_content(reply.get("content"), exchange.request)
    used_tool = any(block["type"] == "tool_use" for block in content)
    reason = stop_reason(reply.get("stop_reason"), used_tool=used_tool)
    if reason in NEEDS_CONTENT and not any(map(_says_something, content)):
        if not content and not is_probe(exchange.request):
            raise empty_answer()
        content = [*content, {"type": "text", "text": empty_text if content else ""}]
    sound = has_frame(reply) and has_counts(reply.get("usage"), "input_tokens", "output_tokens")
    if sound and content == reply.get("content") and reason == reply.get("stop_reason"):
        return reply
    return {
        **reply,
        "id": reply.get("id") or "",
        "type": "message",
        "role": "assistant",
        "model": reply["model"] if is_name(reply.get("model")) else exchange.request.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": reply.get("stop_sequence"),
        "usage": wire_usage(reply.get("usage"), usage),
    }


def _is_one_sound_text(reply: Json) -> bool:
    """The most frequent reply, which needs no closer look."""
    content = reply.get("content")
    if reply.get("stop_reason") != "end_turn" or not isinstance(content, list) or len(content) != 1:
        return False
    block = content[0]
    if not isinstance(block, dict) or block.get("type") != "text":
        return False
    text = block.get("text")
    says_something = isinstance(text, str) and bool(text) and not text.isspace()
    return says_something and has_frame(reply) and has_counts(reply.get("usage"), "input_tokens", "output_tokens")


def _repaired_content(content: Any, request: MessagesRequest) -> list[Json]:
    if isinstance(content, str):
        content = [content] if content else []
    ids, name = ToolIds(request), only_tool(request)
    blocks = (_repaired_block(block, ids, name) for block in (content if isinstance(content, list) else ()))
    return [block for block in blocks if block is not None]


def _repaired_block(block: Any, ids: ToolIds, only_name: str) -> Json | None:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        return None
    mended, kind = dict(block), block["type"]
    if kind in ("text", "thinking") and not isinstance(block.get(kind), str):
        mended[kind] = ""
    if kind in WITH_INPUT and not isinstance(block.get("input"), dict):
        mended["input"] = parsed_input(_told_input(block.get("input")))
    if kind == "tool_use" and not is_name(block.get("name")):
        mended["name"] = only_name
    if kind == "tool_use" and not ids.is_fresh(block.get("id")):
        mended["id"] = identity.tool_use_id()
    return mended if kind != "tool_use" or mended["name"] else None


def _says_something(block: Json) -> bool:
    return is_content(block) or (block["type"] == "text" and bool(block["text"].strip()))
