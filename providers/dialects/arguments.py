"""The arguments of one tool call while they arrive in fragments: what may leave, where they end, what was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from providers import hot

_EMPTY_OBJECTS = re.compile(r"(?:\{\s*\}\s*)+")


class Arguments:
    """Fed fragments; `add` returns what may leave at once. `spill` is what the last one held after the object's end.

    Some servers send `{}` before the real arguments, so an object leaves only when it is sure not to be that.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.complete = False  # one whole object is there
        self.sent = False  # something has left: nothing can be repaired any more
        self.spill = ""
        self.is_over = False  # garbage has followed: nothing more is listened to
        self.length = 0
        self._fragments: list[str] = []
        self._held: list[str] = []
        self._depth = 0
        self._in_string = False
        self._after_backslash = False
        self._are_snapshots = False  # every fragment holds all that came before

    @property
    def text(self) -> str:
        return "".join(self._fragments)

    @property
    def blank(self) -> bool:
        return not self._fragments

    def add(self, fragment: str) -> str:
        if self.sent and not self.complete:
            return self.go_on(fragment)
        leaving, self.spill = self._take(fragment)
        while not self.sent and self.spill.startswith("{"):
            after = _EMPTY_OBJECTS.sub("", self.spill) or "{}"
            self._reset()
            leaving, self.spill = self._take(after)
        return leaving

    def go_on(self, fragment: str) -> str:
        """In the middle of an object that has begun to leave: nearly every fragment."""
        if len(fragment) >= self.length and fragment.startswith("{"):
            fragment = self._news(fragment)
        end, self._depth, self._in_string, self._after_backslash = hot.scan(
            fragment, self._depth, self._in_string, self._after_backslash
        )
        if end >= 0:
            self.complete = True
            fragment, self.spill = fragment[:end], fragment[end:].strip()
        self._fragments.append(fragment)
        self.length += len(fragment)
        return fragment

    def _news(self, fragment: str) -> str:
        """Baidu's Qianfan sends all of the arguments so far in every fragment: what of it is new."""
        so_far = self.text
        if not fragment.startswith(so_far) or not (self._are_snapshots or self._breaks(so_far, fragment)):
            return fragment
        self._are_snapshots = True
        return fragment[len(so_far) :]

    def _breaks(self, so_far: str, repeat: str) -> bool:
        """Whether both joined would be no JSON: an object may begin like the one around it, and a key like both."""
        if self._in_string:
            return repeat.partition('"')[2][:1] not in " \t\r\n:,}]"
        return not so_far.rstrip().endswith((":", "[", ","))

    def rest(self) -> str:
        """The call ends: everything that was held, repaired where that can be done without inventing."""
        held = "".join(self._held)
        self._held.clear()
        return held if self.sent else repaired(held)

    def is_valid(self) -> bool:
        """Whether the call could end here, as an object or as anything else that is JSON."""
        if self.complete or self.blank or self._fragments[0].startswith("{"):
            return self.complete
        return parsed(self.text) is not BROKEN

    def repeats(self, text: str) -> bool:
        return text.strip() == self.text or (parsed(text) is not BROKEN and same_json(parsed(text), parsed(self.text)))

    def _take(self, fragment: str) -> tuple[str, str]:
        """What may leave, and what stood after the end."""
        if self.complete:
            return "", "" if self.is_over else fragment.strip()
        if self.blank:
            fragment = fragment.lstrip()
        elif len(fragment) >= self.length and fragment.startswith("{"):
            fragment = self._news(fragment)
        if not fragment:
            return "", ""
        self._fragments.append(fragment)
        self.length += len(fragment)
        if not self._fragments[0].startswith("{"):
            return self._hold(fragment), ""  # no object: to be looked at when all of it is there
        end = self._scan(fragment)
        after = ""
        if end >= 0:
            self.complete = True
            fragment, after = fragment[:end], fragment[end:].strip()
            self._fragments[-1] = fragment
        return fragment if self.sent else self._begin(fragment), after

    def _hold(self, fragment: str) -> str:
        self._held.append(fragment)
        return ""

    def _begin(self, fragment: str) -> str:
        self._held.append(fragment)
        if len(self._held) > 1 and fragment.isspace():
            return ""  # a model that loses itself in white space sends very much of it
        beginning = "".join(self._held) if len(self._held) > 1 else fragment
        if beginning[1:].lstrip()[:1] in ("", "}"):
            return ""
        self.sent = True
        self._held.clear()
        return beginning

    def _scan(self, fragment: str) -> int:
        """Where the object ends in this fragment, or -1."""
        end, self._depth, self._in_string, self._after_backslash = hot.scan(
            fragment, self._depth, self._in_string, self._after_backslash
        )
        return end


BROKEN: Any = object()


def parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return BROKEN


def same_json(one: Any, other: Any) -> bool:
    return one is not BROKEN and other is not BROKEN and type(one) is type(other) and bool(one == other)


def repaired(text: str) -> str:
    """Arguments of which nothing has left yet. What cannot be read stays as it is: no braces are invented."""
    value = parsed(text) if text.strip() else {}
    if isinstance(value, str):
        inner = parsed(value) if value.strip() else {}
        if isinstance(inner, dict):
            return value.strip() or "{}"
    return "{}" if value in (None, [], "") or value == {} else text


def mended(text: str, schema: Mapping[str, Any]) -> str:
    """For providers that send lists and objects as strings, and raw control characters inside strings."""
    try:
        arguments = json.loads(text, strict=False)
        properties = schema.get("properties")
        if not isinstance(arguments, dict) or not isinstance(properties, dict):
            return text
        meant = {name: _as_declared(value, properties.get(name)) for name, value in arguments.items()}
        return msgspec.json.encode(meant).decode()
    except (ValueError, RecursionError):
        return text


_CONTAINERS: Mapping[str, type] = {"array": list, "object": dict}


def _as_declared(value: Any, schema: Any) -> Any:
    """A string where the schema wants a list or an object and the string holds one; all else is left alone."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    wanted = _CONTAINERS.get(kind) if isinstance(kind, str) else None
    if wanted is None or not isinstance(value, str):
        return value
    meant = parsed(value)
    return meant if isinstance(meant, wanted) else value
