"""Chat Completions chunks in one shape, whatever shape they came in. The usual one is decoded straight into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from providers.dialects.loose import loads


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class Entry(msgspec.Struct, gc=False):
    """A fragment of a tool call, or all of it."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: Any = None

    @property
    def signature(self) -> str:
        """Gemini's, which it wants back with the call."""
        google = self.extra_content.get("google") if isinstance(self.extra_content, dict) else None
        signature = google.get("thought_signature") if isinstance(google, dict) else None
        return signature if isinstance(signature, str) else ""


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[Entry] | None = None
    function_call: Function | None = None


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None  # in a complete answer
    finish_reason: str | None = None
    stop_reason: Any = None
    matched_stop: Any = None
    usage: dict[str, Any] | None = None
    error: Any = None


class Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    object: str | None = None
    x_groq: Any = None
    base_resp: Any = None

    def is_error(self) -> bool:
        failed = isinstance(self.base_resp, dict) and bool(self.base_resp.get("status_code"))
        return bool(self.error) or failed or self.object == "error"


_decode = msgspec.json.Decoder(Chunk).decode


def read_chunk(data: bytes) -> Chunk | None:
    """None for what is no JSON object."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _chunk(loads(data))


def _chunk(value: Any) -> Chunk | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    return Chunk(
        id=_string(value.get("id")),
        choices=[_choice(choice) for choice in choices if isinstance(choice, dict)]
        if isinstance(choices, list)
        else None,
        usage=_dict(value.get("usage")),
        error=value.get("error"),
        object=_string(value.get("object")),
        x_groq=value.get("x_groq"),
        base_resp=value.get("base_resp"),
    )


def _choice(value: dict[str, Any]) -> Choice:
    return Choice(
        index=_index(value.get("index")),
        delta=_delta(value.get("delta")),
        message=_delta(value.get("message")),
        finish_reason=_string(value.get("finish_reason")),
        stop_reason=value.get("stop_reason"),
        matched_stop=value.get("matched_stop"),
        usage=_dict(value.get("usage")),
        error=value.get("error"),
    )


def _delta(value: Any) -> Delta | None:
    if not isinstance(value, dict):
        return None
    content = value.get("content")
    calls = value.get("tool_calls")
    details = value.get("reasoning_details")
    thoughts = _texts(content, {"thinking", "reasoning"})
    return Delta(
        content=_texts(content, {"text", "output_text"}),
        reasoning_content=_texts(value.get("reasoning_content")) or thoughts,
        reasoning=_texts(value.get("reasoning")),
        reasoning_details=[item for item in details if isinstance(item, dict)] if isinstance(details, list) else None,
        refusal=_string(value.get("refusal")),
        tool_calls=[_entry(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else None,
        function_call=_function(value.get("function_call")),
    )


def _texts(value: Any, kinds: Iterable[str] | None = None) -> str | None:
    """A string, or the texts of parts: all of them, or those of some types. A plain string is a text."""
    if isinstance(value, str):
        return value if kinds is None or "text" in kinds else None
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    pieces = []
    for part in value:
        if isinstance(part, str) and (kinds is None or "text" in kinds):
            pieces.append(part)
        elif isinstance(part, dict) and (kinds is None or part.get("type", "text") in kinds):
            inner = part.get("text", part.get("thinking", part.get("reasoning")))
            pieces.append(_texts(inner) or "")
    return "".join(pieces)


def _entry(value: dict[str, Any]) -> Entry:
    return Entry(
        _index(value.get("index")),
        _string(value.get("id")),
        _function(value.get("function")),
        value.get("extra_content"),
    )


def _function(value: Any) -> Function | None:
    if not isinstance(value, dict):
        return None
    arguments = value.get("arguments")
    if isinstance(arguments, dict | list):
        arguments = msgspec.json.encode(arguments).decode()
    return Function(_string(value.get("name")), _string(arguments))


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _dict(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _index(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value[:9])
    return int(value) if isinstance(value, int | float) and abs(value) < 1e9 else None


# OpenRouter's reasoning details: pieces of items, which it wants back whole

_GROWING = ("text", "summary", "data")


def detail_text(details: list[dict[str, Any]]) -> str:
    pieces = (item.get("text") or item.get("summary") for item in details)
    return "".join(piece for piece in pieces if isinstance(piece, str))


class _Pieces(list[str]):
    """Of a text that grows."""


def merge_details(items: list[dict[str, Any]], details: list[dict[str, Any]]) -> None:
    """Adds pieces to their items, in place; texts that grow are kept in their pieces until `whole_details`."""
    for piece in details:
        key = (piece.get("type"), piece.get("index"), piece.get("id") if piece.get("index") is None else None)
        item = next((item for item in reversed(items) if _same_item(item, key)), None)
        if item is None or key[1:] == (None, None):
            item = {}
            items.append(item)
        for field, value in piece.items():
            if field in _GROWING and isinstance(value, str):
                known = item.get(field)
                if isinstance(known, _Pieces):
                    known.append(value)
                else:
                    item[field] = _Pieces([value])
            elif value is not None or field not in item:
                item[field] = value


def whole_details(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {field: "".join(value) if isinstance(value, _Pieces) else value for field, value in item.items()}
        for item in items
    ]


def _same_item(item: dict[str, Any], key: tuple[Any, Any, Any]) -> bool:
    return (item.get("type"), item.get("index"), item.get("id") if item.get("index") is None else None) == key
