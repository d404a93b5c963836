"""The loops that run for every character or every line of an answer, as plain functions.

The build may compile this very file under the name `_hot_c`, with the types that stand in `_hot_c.pxd`; providers.hot
chooses. Functions that gained nothing from it are not here: `make bench` prints what these gain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F")

LINE = 48  # bytes that a line takes in memory beside its own


def scan(fragment: str, depth: int, in_string: bool, after_backslash: bool) -> tuple[int, int, bool, bool]:
    """Where the JSON value ends in this fragment of it, or -1; and the state in which the next one begins."""
    position, length, quote = 0, len(fragment), -1
    while position < length:
        if after_backslash:
            after_backslash = False
            position += 1
        elif in_string:
            if quote < position:
                quote = fragment.find('"', position)
                if quote < 0:
                    quote = length
            backslash = fragment.find("\\", position, quote)
            if backslash >= 0:
                after_backslash = True
                position = backslash + 1
            else:
                in_string = quote == length
                position = quote + 1
        else:
            character = fragment[position]
            position += 1
            if character == '"':
                in_string = True
            elif character == "{" or character == "[":  # noqa: PLR1714 - compiled, it compares numbers
                depth += 1
            elif character == "}" or character == "]":  # noqa: PLR1714
                depth -= 1
                if depth <= 0:
                    return position, 0, False, False
    return -1, depth, in_string, after_backslash


def frames(
    lines: list[bytes], data: list[bytes], event: str, held: int, make: Callable[[str, bytes], F]
) -> tuple[list[F], str, int]:
    """Server-sent events made of whole lines; `data`, `event` and `held` are of one whose end has not come."""
    found: list[F] = []
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
            held += len(line) + LINE
        elif not line:
            if data:
                joined = data[0] if len(data) == 1 else b"\n".join(data)
                found.append(make(event, joined if joined.isascii() else valid(joined)))
                data.clear()
                held = 0
            event = ""
        elif line.startswith(b"event:"):
            event = line[6:].strip().decode("utf-8", "replace")
        elif line == b"data":
            data.append(b"")
            held += LINE
        # Comments, ids, retry times and what is no field at all say nothing to us.
    return found, event, held


def valid(data: bytes) -> bytes:
    """As UTF-8, with U+FFFD for what is none."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data
