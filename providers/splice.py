"""Edits of a JSON text that leave every other byte as the client wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

_members: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_key = re.compile(rb'[\s,]*"((?:[^"\\]|\\.)*)"\s*:\s*')
_gap = re.compile(rb"[\s,]*")

Span = tuple[int, int]


def member_spans(text: bytes) -> dict[str, Span] | None:
    """Where each value of an object stands. None where a key occurs twice: then nothing stands where it seems to."""
    position = text.index(b"{") + 1
    spans = {}
    for name, raw in _members.decode(text).items():
        key, value = _key.match(text, position), bytes(raw)
        if key is None or not text.startswith(value, key.end()):
            return None
        position = key.end() + len(value)
        spans[name] = (key.end(), position)
    return spans if text[position:].strip() == b"}" else None


def element_spans(text: bytes) -> list[Span]:
    """Where each element of an array stands."""
    position = text.index(b"[") + 1
    spans = []
    for value in _elements.decode(text):
        gap = _gap.match(text, position)
        start = gap.end() if gap else position
        position = start + len(bytes(value))
        spans.append((start, position))
    return spans


def replace_members(text: bytes, values: Mapping[str, bytes]) -> bytes:
    """The object with these members' values replaced; the others stay to the byte, unless a key occurs twice."""
    spans = member_spans(text)
    if spans is None:
        last = _members.decode(text)
        return msgspec.json.encode({**last, **{name: msgspec.Raw(value) for name, value in values.items()}})
    edits = sorted((spans[name], value) for name, value in values.items() if name in spans)
    parts, position = [], 0
    for (start, end), value in edits:
        parts += [text[position:start], value]
        position = end
    return b"".join([*parts, text[position:]])


def keep_elements(text: bytes, spans: Sequence[Span]) -> bytes:
    """An array of some of its elements, each as it was written."""
    return b"[" + b",".join(text[start:end] for start, end in spans) + b"]"
