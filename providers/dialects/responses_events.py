"""Events of OpenAI Responses in one shape, whatever shape they came in. The usual one is decoded straight into it."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.dialects.loose import loads

Json = dict[str, Any]


class Event(msgspec.Struct, gc=False):
    type: str | None = None
    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    summary_index: int | None = None
    delta: str | None = None
    text: str | None = None
    arguments: str | None = None
    refusal: str | None = None
    input: str | None = None
    name: str | None = None
    item: Any = None
    response: Any = None
    error: Any = None
    object: str | None = None
    output: Any = None


_decode = msgspec.json.Decoder(Event).decode


def read_event(data: bytes) -> Event | None:
    """None for what is no JSON object."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _event(loads(data))


def _event(value: Any) -> Event | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return None
    return Event(
        type=_string(value.get("type")),
        output_index=_index(value.get("output_index")),
        item_id=_string(value.get("item_id")),
        content_index=_index(value.get("content_index")),
        summary_index=_index(value.get("summary_index")),
        delta=_text(value.get("delta")),
        text=_text(value.get("text")),
        arguments=json_text(value.get("arguments")),
        refusal=_text(value.get("refusal")),
        input=_text(value.get("input")),
        name=_string(value.get("name")),
        item=value.get("item"),
        response=value.get("response"),
        error=value.get("error"),
        object=_string(value.get("object")),
        output=value.get("output"),
    )


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    """A string, or an object that holds one; an object of any other kind as JSON."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    return json_text(value)


def json_text(value: Any) -> str | None:
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return _string(value)


def _index(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value[:9])
    return int(value) if isinstance(value, int | float) and abs(value) < 1e9 else None


# Output items


def string(item: Json, field: str) -> str:
    value = item.get(field)
    return value if isinstance(value, str) else ""


def texts(parts: Any) -> list[str]:
    """The texts of an item's content or summary; a refusal is one as well."""
    if isinstance(parts, str):
        return [parts]
    if not isinstance(parts, list):
        return []
    found = [part if isinstance(part, str) else part.get("text") or part.get("refusal") for part in parts if part]
    return [text for text in found if isinstance(text, str)]


def refuses(parts: Any) -> bool:
    return isinstance(parts, list) and any(isinstance(part, dict) and part.get("refusal") for part in parts)


def found_pages(item: Json) -> tuple[str, list[Json]]:
    """What a web search looked for, and what it found."""
    action = item.get("action")
    if not isinstance(action, dict):
        return "", []
    queries = action.get("queries")
    asked = [action.get("query"), *(queries if isinstance(queries, list) else ()), action.get("url")]
    sources = action.get("sources")
    pages = [source for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    return next((text for text in asked if isinstance(text, str) and text), ""), pages
