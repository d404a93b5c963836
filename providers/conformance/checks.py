"""Finding a place in a JSON document by its path, and comparing what stands there with what a case expects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "nothing"})()
LONGEST_SHOWN = 300


def find(document: Any, path: str) -> Any:
    """`messages.-1.content`; `messages.role=tool.0` is the first of the messages whose role is tool."""
    for step in path.split(".") if path else ():
        document = _step(document, step)
    return document


def _step(document: Any, step: str) -> Any:
    if isinstance(document, list):
        name, equals, value = step.partition("=")
        if equals:
            return [item for item in document if isinstance(item, dict) and str(item.get(name)) == value]
        if re.fullmatch(r"-?\d+", step):
            at = int(step)
            return document[at] if -len(document) <= at < len(document) else ABSENT
        return ABSENT
    return document.get(step, ABSENT) if isinstance(document, dict) else ABSENT


def complaints(document: Any, expected: Mapping[str, Any], what: str) -> list[str]:
    """One sentence for each path at which something else stands than expected."""
    found = []
    for path, wanted in expected.items():
        if isinstance(wanted, dict) and "same_as" in wanted:
            wanted = {"present": True, "equals": find(document, wanted["same_as"])}  # noqa: PLW2901
        problem = mismatch(find(document, path), wanted)
        if problem:
            found.append(f"{what} {path or 'as a whole'}: {problem}")
    return found


def mismatch(found: Any, wanted: Any) -> str | None:
    """None where it is as wanted: a value, or an object of operators that must all hold."""
    if isinstance(wanted, dict) and wanted and set(wanted) <= set(OPERATORS):
        for name, argument in wanted.items():
            if not OPERATORS[name](found, argument):
                return f"expected {name} {shown(argument)}, got {shown(found)}"
        return None
    return None if same(found, wanted) else f"expected {shown(wanted)}, got {shown(found)}"


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, 1.0 is 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def holds(found: Any, part: Any) -> bool:
    """Whether an object has at least these members, a list these elements in this order, a text this piece."""
    if isinstance(found, dict) and isinstance(part, dict):
        return all(name in found and holds(found[name], value) for name, value in part.items())
    if isinstance(found, list) and isinstance(part, list):
        rest = iter(found)
        return all(any(holds(item, wanted) for item in rest) for wanted in part)
    return same(found, part)


def texts(value: Any) -> Iterator[str]:
    """Every string in it, and the names of members."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts(item)


def readable(value: Any) -> Any:
    """The text of a content that may be a string or a list of parts: both are legal, and mean the same."""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "\n\n".join(part["text"] for part in value)
    return value


def _contains(found: Any, part: Any) -> bool:
    if isinstance(part, str):
        return any(part in text for text in texts(found))
    return holds(found, part) or (isinstance(found, list) and any(holds(item, part) for item in found))


def _json(found: Any, wanted: Any) -> bool:
    try:
        return isinstance(found, str) and same(json.loads(found), wanted)
    except ValueError:
        return False


def _number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "equals": same,
    "absent": lambda found, wanted: (found is ABSENT) is wanted,
    "present": lambda found, wanted: (found is not ABSENT) is wanted,
    # No value at all, or none that says anything: both are common.
    "empty": lambda found, wanted: (found is ABSENT or found in (None, False, "", [], {})) is wanted,
    "contains": lambda found, wanted: found is not ABSENT and _contains(found, wanted),
    "lacks": lambda found, wanted: found is ABSENT or not _contains(found, wanted),
    "has": holds,
    "matches": lambda found, wanted: isinstance(found, str) and re.search(wanted, found) is not None,
    "length": lambda found, wanted: isinstance(found, str | list | dict) and len(found) == wanted,
    "json": _json,
    "text": lambda found, wanted: same(readable(found), wanted),
    "one_of": lambda found, wanted: any(same(found, each) for each in wanted),
    "at_least": lambda found, wanted: _number(found) and found >= wanted,
    "at_most": lambda found, wanted: _number(found) and found <= wanted,
}


def shown(value: Any) -> str:
    text = repr(value) if value is ABSENT else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
