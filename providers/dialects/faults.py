"""What clients of a Messages stream stumble over, seen while its events pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from providers.messages import MessagesRequest
from providers.usage import MOST_TOKENS

Json: TypeAlias = dict[str, Any]

WITH_INPUT = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
# The blocks in which a delta may stand, and the field that holds what it says.
BLOCKS_OF: Mapping[str, frozenset[str]] = {
    "text_delta": frozenset({"text"}),
    "citations_delta": frozenset({"text"}),
    "thinking_delta": frozenset({"thinking"}),
    "signature_delta": frozenset({"thinking"}),
    "input_json_delta": WITH_INPUT,
}
SAID_IN: Mapping[str, str] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
# Words of other languages for the reason to stop.
FOREIGN_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "eos": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_output_tokens": "max_tokens",
    "content_filter": "refusal",
    "safety": "refusal",
    "sensitive": "refusal",
}
# With any other reason an answer may be empty: the client knows what to do.
NEEDS_CONTENT = frozenset({"end_turn", "stop_sequence", "pause_turn", "tool_use"})
_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class TextDelta(msgspec.Struct, tag="text_delta", gc=False):
    said: str = msgspec.field(name="text")


class ThinkingDelta(msgspec.Struct, tag="thinking_delta", gc=False):
    said: str = msgspec.field(name="thinking")


class InputDelta(msgspec.Struct, tag="input_json_delta", gc=False):
    said: str = msgspec.field(name="partial_json")


class BlockDelta(msgspec.Struct, gc=False):
    """The event of which a stream nearly wholly consists."""

    type: Literal["content_block_delta"]  # a tag could be missing
    index: int
    delta: TextDelta | ThinkingDelta | InputDelta


class ToolIds:
    """The ids of tool calls that the client has seen: it drops a second call that has one of them."""

    def __init__(self, request: MessagesRequest) -> None:
        self._request = request
        self._seen: set[str] | None = None

    def is_fresh(self, tool_use_id: Any) -> bool:
        """Whether a call may have it; asking marks it as used."""
        if not isinstance(tool_use_id, str) or not tool_use_id:
            return False
        if self._seen is None:
            self._seen = self._of_history()
        if tool_use_id in self._seen:
            return False
        self._seen.add(tool_use_id)
        return True

    def _of_history(self) -> set[str]:
        contents = (message.content for message in self._request.messages if isinstance(message.content, list))
        return {str(block["id"]) for content in contents for block in content if block.get("type") == "tool_use"}


class Watch:
    """Where a stream stands of which nothing but sound events has passed."""

    def __init__(self, ids: ToolIds) -> None:
        self.started = False
        self.index = 0  # of the open block, else of the next
        self.block: str | None = None  # the type of the open block
        self.signed = False  # its signature has passed: nothing of it will follow
        self.said_text = False
        self.used_tool = False
        self.told_ending = False
        self._ids = ids
        self.flowing: type | None = None  # of which the open block consists, delta after delta

    def hear(self, said: str) -> None:
        """What deltas of the open block said that have passed unseen."""
        if not self.said_text and self.block == "text":
            self.said_text = bool(said.strip())

    def fault(self, event: Json) -> str:
        """What is wrong with the next event; "" when it is sound: then it has passed."""
        check = _CHECKS.get(event["type"])
        return check(self, event) if check is not None else ""

    def _start(self, event: Json) -> str:
        if self.started:
            return "a second message_start"
        if not is_whole_message(event.get("message")):
            return "a message_start that lacks something"
        self.started = True
        return ""

    def _open(self, event: Json) -> str:
        block = event.get("content_block")
        if not self.started:
            return "no message_start"
        if self.block is not None or self.told_ending:
            return "a block that begins before the last has ended, or after the ending"
        if not self._is_here(event):
            return "a wrong index"
        if not isinstance(block, dict) or not begins_empty(block):
            return "a block with content in its start"
        if block["type"] == "tool_use" and not (is_name(block.get("name")) and self._ids.is_fresh(block["id"])):
            return "a call without a name or with an id of another"
        self.block, self.signed = block["type"], False
        self.used_tool = self.used_tool or self.block == "tool_use"
        self.said_text = self.said_text or is_content(block)
        self.flowing = _DELTAS_OF.get(block["type"])
        return ""

    def _delta(self, event: Json) -> str:
        delta = event.get("delta")
        if self.block is None or not self._is_here(event):
            return "a delta outside its block"
        if not isinstance(delta, dict) or not isinstance(delta.get("type"), str):
            return "a delta without a type"
        kind = delta["type"]
        if kind in BLOCKS_OF and self.block not in BLOCKS_OF[kind]:
            return "a delta of another kind than its block"
        if kind in SAID_IN and not isinstance(delta.get(SAID_IN[kind]), str):
            return "a delta that says nothing"
        self.signed = self.signed or kind == "signature_delta"
        self.said_text = self.said_text or says_text(delta)
        return ""

    def _close(self, event: Json) -> str:
        if self.block is None or not self._is_here(event):
            return "a stop outside its block"
        self.block = self.flowing = None
        self.index += 1
        return ""

    def _ending(self, event: Json) -> str:
        if not self.started or self.block is not None or self.told_ending:
            return "a message_delta that is not the one before the end"
        if not has_counts(event.get("usage"), "output_tokens"):
            return "a message_delta without usage"
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if not isinstance(reason, str) or reason != stop_reason(reason, used_tool=self.used_tool):
            return "no reason to stop, or one in the words of another language"
        if reason in NEEDS_CONTENT and not (self.said_text or self.used_tool):
            return "an answer without text"
        self.told_ending = True
        return ""

    def _stop(self, _event: Json) -> str:
        return "" if self.told_ending else "no message_delta"

    def _is_here(self, event: Json) -> bool:
        index = event.get("index")
        return type(index) is int and index == self.index


_CHECKS: Mapping[str, Callable[[Watch, Json], str]] = {
    "message_start": Watch._start,
    "content_block_start": Watch._open,
    "content_block_delta": Watch._delta,
    "content_block_stop": Watch._close,
    "message_delta": Watch._ending,
    "message_stop": Watch._stop,
}
_DELTAS_OF: Mapping[str, type] = {
    "text": TextDelta,
    "thinking": ThinkingDelta,
    **dict.fromkeys(WITH_INPUT, InputDelta),
}
# The events a client listens for, by their names.
KNOWN = frozenset({*_CHECKS, "ping", "error"})


def is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_whole_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and has_frame(message)
        and message.get("content") == []
        and has_counts(message.get("usage"), "input_tokens", "output_tokens")
    )


def has_frame(message: Json) -> bool:
    """What stands around the content of a message."""
    names = is_name(message.get("id")) and is_name(message.get("model"))
    return names and message.get("type") == "message" and message.get("role") == "assistant"


def has_counts(usage: Any, *needed: str) -> bool:
    if not isinstance(usage, dict) or any(usage.get(name) is None for name in needed):
        return False
    counts = [usage[name] for name in _COUNTS if usage.get(name) is not None]
    return all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts)


def begins_empty(block: Json) -> bool:
    """Clients lose what stands in the start of a block that deltas could tell."""
    kind = block.get("type")
    if not isinstance(kind, str):
        return False
    if kind == "text":
        return block.get("text") == ""
    if kind == "thinking":
        return block.get("thinking") == "" and not block.get("signature")
    if kind in WITH_INPUT:
        return block.get("input") == {} and isinstance(block.get("id"), str)
    return True


def is_content(block: Json) -> bool:
    """Whether a block is an answer by being there: neither thinking nor a text that may be empty."""
    return block.get("type") not in {"text", "thinking", "redacted_thinking"}


def says_text(delta: Json) -> bool:
    return delta.get("type") == "text_delta" and isinstance(delta.get("text"), str) and bool(delta["text"].strip())


def stop_reason(told: Any, *, used_tool: bool) -> str:
    """In the words of Messages; what nobody knows stays, since it may be a word of next year."""
    if not isinstance(told, str) or not told:
        return "tool_use" if used_tool else "end_turn"
    reason = FOREIGN_REASONS.get(told.lower(), told)
    if reason == "end_turn" and used_tool:
        return "tool_use"
    return "end_turn" if reason == "tool_use" and not used_tool else reason
