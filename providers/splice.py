"""Edits of a JSON text that leave every other byte as the client wrote it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import msgspec

_members: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_key = re.compile(rb'[\s,]*"((?:[^"\\]|\\.)*)"\s*:\s*')
_gap = re.compile(rb"[\s,]*")

Span = tuple[int, int]


def member_spans(text: bytes) -> dict[str, Span] | None:
    """Where each value of an object stands. None where a key occurs twice: then nothing stands where it seems to."""
    found = _entries(text)
    return None if found is None else {name: (start, end) for name, (_, start, end) in found.items()}


def _entries(text: bytes) -> dict[str, tuple[int, int, int]] | None:
    """Where each key begins, and where its value begins and ends."""
    position = text.index(b"{") + 1
    entries = {}
    for name, raw in _members.decode(text).items():
        key, value = _key.match(text, position), bytes(raw)
        if key is None or not text.startswith(value, key.end()):
            return None
        position = key.end() + len(value)
        entries[name] = (key.start(1) - 1, key.end(), position)
    return entries if text[position:].strip() == b"}" else None


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


def remove_members(text: bytes, names: Collection[str]) -> bytes:
    """The object without these members; the others stay to the byte, unless a key occurs twice."""
    entries = _entries(text)
    if entries is None:
        last = _members.decode(text)
        return msgspec.json.encode({name: value for name, value in last.items() if name not in names})
    if not any(name in entries for name in names):
        return text
    parts: list[bytes] = []
    before, is_first = 0, True
    for name, (start, _, end) in entries.items():
        gap = text[before:start]
        if not parts:
            parts.append(gap)
        if name not in names:
            parts += [b"" if is_first else gap, text[start:end]]
            is_first = False
        before = end
    return b"".join([*parts, text[before:]])


def keep_elements(text: bytes, spans: Sequence[Span]) -> bytes:
    """An array of some of its elements, each as it was written."""
    return b"[" + b",".join(text[start:end] for start, end in spans) + b"]"
