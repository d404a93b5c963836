"""YAML that knows its lines: every mistake of a file at once, duplicate keys refused, ${VARIABLES} filled in."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

import msgspec
import yaml

# $${NAME} stands for the text ${NAME}; the middle form has a default, as in a shell.
REFERENCE = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
STANDARD_TAG = "tag:yaml.org,2002:"
TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

Data: TypeAlias = "str | list[Value] | dict[str, Value] | None"


class Value(msgspec.Struct):
    """A part of the file. A scalar is kept as it was written, and beside it as YAML understands it."""

    line: int
    data: Data
    meaning: Any = None
    unknown: bool = False  # a mistake about it has been told: do not tell another


class Mistake(msgspec.Struct, frozen=True, order=True):
    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class BadFile(Exception):
    """Carries every mistake found, in the order of the lines."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = sorted(set(mistakes))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


def read_yaml(text: str, environ: Mapping[str, str], mistakes: list[Mistake]) -> Value | None:
    """The file as a tree, None for an empty one; adds to `mistakes`. Raises BadFile where it is no YAML at all."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        return _Reading(loader, environ, mistakes).value(root) if root else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadFile([Mistake(mark.line + 1 if mark else 1, _advice(error))]) from None
    except (yaml.YAMLError, RecursionError):
        raise BadFile([Mistake(1, "this is no YAML text")]) from None


def _advice(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "this is no YAML"
    takes_it_for_an_alias = "alias" in f"{error.context} {problem}"
    return f"{problem}; a pattern that begins with * needs quotes" if takes_it_for_an_alias else problem


class _Reading:
    def __init__(self, loader: yaml.SafeLoader, environ: Mapping[str, str], mistakes: list[Mistake]) -> None:
        self.loader, self.environ, self.mistakes = loader, environ, mistakes
        # An alias gives the same node again: it is read once, and found out when it contains itself.
        self._known: dict[int, Value] = {}
        self._inside: set[int] = set()

    def value(self, node: yaml.Node) -> Value:
        if id(node) not in self._known:
            if id(node) in self._inside:
                return self._mistake(node, "this refers to itself")
            self._inside.add(id(node))
            self._known[id(node)] = self._read(node)
            self._inside.discard(id(node))
        return self._known[id(node)]

    def _read(self, node: yaml.Node) -> Value:
        if not node.tag.startswith(STANDARD_TAG):
            return self._mistake(node, f"the tag {node.tag} has no meaning here")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode):
            items = [self.value(item) for item in node.value]
            return Value(_line(node), items, [item.meaning for item in items])
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode) -> Value:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._mistake(key, "a name is expected before the colon")
            elif key.value in seen:
                self._mistake(key, f"{key.value} stands here a second time; the first is in line {seen[key.value]}")
            else:
                seen[key.value] = _line(key)
        self.loader.flatten_mapping(node)  # << takes over another mapping
        pairs = {key.value: self.value(item) for key, item in node.value if isinstance(key, yaml.ScalarNode)}
        return Value(_line(node), pairs, {name: item.meaning for name, item in pairs.items()})

    def _scalar(self, node: yaml.Node) -> Value:
        missing: list[str] = []
        text = REFERENCE.sub(lambda found: self._resolve(found, missing), node.value)
        for name in missing:
            self._mistake(node, f"the environment variable {name} is not set; ${{{name}:-}} would allow that")
        if missing:
            return Value(_line(node), "", unknown=True)
        meaning = self._meaning(text, node)
        return Value(_line(node), None if meaning is None else text, meaning)

    def _resolve(self, found: re.Match[str], missing: list[str]) -> str:
        if found["escaped"]:
            return "${"
        held = self.environ.get(found["name"]) or found["default"]
        if held is None:
            missing.append(found["name"])
        return held or ""

    def _meaning(self, text: str, node: yaml.Node) -> Any:
        """true, 7 and null where they stand without quotes; everything that JSON has no word for stays a text."""
        if getattr(node, "style", None) is not None:
            return text
        tag = self.loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        try:
            meaning = self.loader.construct_object(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark))
        except (yaml.YAMLError, ValueError):
            return text
        if isinstance(meaning, float):
            return meaning if math.isfinite(meaning) else text
        return meaning if meaning is None or isinstance(meaning, bool | int) else text

    def _mistake(self, node: yaml.Node, reason: str) -> Value:
        self.mistakes.append(Mistake(_line(node), reason))
        return Value(_line(node), "", unknown=True)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class Entry:
    """A mapping of the file, read field by field: what has the wrong shape becomes a mistake at its line."""

    def __init__(self, label: str, value: Value, mistakes: list[Mistake]) -> None:
        self.label, self.line, self.mistakes = label, value.line, mistakes
        self.fields: dict[str, Value] = value.data if isinstance(value.data, dict) else {}

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def line_of(self, name: str) -> int:
        return self.fields[name].line if name in self.fields else self.line

    def mistake(self, name: str, reason: str) -> None:
        self.mistakes.append(Mistake(self.line_of(name), f"{self.label}: {reason}"))

    def known_only(self, known: Iterable[str]) -> None:
        known = tuple(known)
        for name in self.fields.keys() - set(known):
            self.mistake(name, f"{name} is unknown{near(name, known)}")

    def is_unknown(self, name: str) -> bool:
        return name in self.fields and self.fields[name].unknown

    def text(self, name: str) -> str:
        """As it was written, so that 0123 keeps its zero; "" where the field is absent or null."""
        value = self.fields.get(name)
        if value is None or value.data is None or value.unknown:
            return ""
        if not isinstance(value.data, str):
            self.mistake(name, f"{name}: a text is expected")
            return ""
        return value.data.strip()

    def texts(self, name: str) -> list[str]:
        value = self.fields[name]
        if value.data is None or value.unknown:
            return []
        items = value.data if isinstance(value.data, list) else [value]
        found = [item.data.strip() for item in items if isinstance(item.data, str) and item.data.strip()]
        if len(found) != len(items) and not any(item.unknown for item in items):
            self.mistake(name, f"{name}: a list of names is expected")
        return found

    def truth(self, name: str, default: bool) -> bool:
        if name not in self.fields or self.fields[name].unknown:
            return default
        said = TRUTHS.get(self.text(name).lower())
        if said is None:
            self.mistake(name, f"{name}: true or false is expected")
        return bool(said)

    def moment(self, name: str, read: Callable[[str], dt.datetime]) -> dt.datetime | None:
        """`read` raises ValueError for what is no date."""
        if not (text := self.text(name)):
            return None
        try:
            return read(text)
        except ValueError:
            self.mistake(name, f"{name}: a day or a moment is expected, such as 2026-01-31")
            return None


def near(name: str, known: Iterable[str]) -> str:
    likely = get_close_matches(name, list(known), n=1)
    return f"; did you mean {likely[0]}?" if likely else ""
