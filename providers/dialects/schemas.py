"""Schemas of tools as upstreams take them: cleaned of what they stumble over, by the part of JSON Schema they know.

Names of properties never change: a call names them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from providers.messages import Tool

Json: TypeAlias = dict[str, Any]

NOISE = frozenset({"$schema", "$id", "$comment"})
# Under these stand schemas by name, and the names are the tool's own.
NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# And under these stands data.
DATA = frozenset({"enum", "const", "default", "examples", "required", "dependentRequired"})
COMBINATIONS = ("allOf", "anyOf", "oneOf")

DEEPEST_REFERENCE = 8
DEEPEST_MINIMAL = 10
DEEPEST = 60
# References multiply: a schema that grows beyond this many parts ends there.
MOST_PARTS = 5000
_CACHED = 512
_LONGEST_CACHED = 32 * 1024


def parameters(tool: Tool, profile: str = "openai") -> msgspec.Raw:
    """The cleaned schema of a tool as JSON. The same tools come with every request: remembered by their bytes."""
    schema = msgspec.json.encode(tool.get("input_schema") or {})
    return _remembered(schema, profile) if len(schema) <= _LONGEST_CACHED else _cleaned_json(schema, profile)


def _cleaned_json(schema: bytes, profile: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(cleaned(msgspec.json.decode(schema), profile)))


_remembered = functools.lru_cache(maxsize=_CACHED)(_cleaned_json)


def cleaned(schema: Mapping[str, Any], profile: str = "openai") -> Json:
    """What this part of JSON Schema allows, with an object at the root and no keywords that are only for people."""
    root = _rooted(_plain(schema))
    if profile == "openai":
        return root
    narrowed = _Narrowing(root, minimal=profile == "minimal").schema(root, ())
    return {**narrowed, "type": "object", "properties": _dict(narrowed.get("properties"))}


def is_strict(schema: Any) -> bool:
    """Whether strict mode takes it: every object closed, every property required."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        required = [name for name in _list(schema.get("required")) if isinstance(name, str)]
        if schema.get("additionalProperties") is not False or set(_dict(properties)) != set(required):
            return False
    named = [inner for key in NAMED_SCHEMAS for inner in _dict(schema.get(key)).values()]
    others = [value for key, value in schema.items() if key not in NAMED_SCHEMAS and key not in DATA]
    return all(map(is_strict, [*named, *others]))


# What every upstream needs


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {}
    for key, value in schema.items():
        if key in NOISE:
            continue
        if key in DATA:
            plain[key] = value
        elif key in NAMED_SCHEMAS and isinstance(value, dict):
            plain[key] = {name: _plain(inner) for name, inner in value.items()}
        else:
            plain[key] = _plain(value)
    return plain


def _rooted(plain: Any) -> Json:
    """An object with properties; what its branches have is its own."""
    root = _dereferenced(_dict(plain))
    branches = [branch for key in COMBINATIONS for branch in _list(root.pop(key, None))]
    properties = dict(_dict(root.get("properties")))
    for branch in branches:
        for name, value in _dict(resolved(branch, root).get("properties")).items():
            properties.setdefault(name, value)
    root["type"], root["properties"] = "object", properties
    if branches or not isinstance(root.get("required", []), list):
        root.pop("required", None)
    return root


def _dereferenced(root: Json) -> Json:
    for _ in range(DEEPEST_REFERENCE):
        if "$ref" not in root:
            break
        own = {key: value for key, value in root.items() if key != "$ref"}
        found = resolved(root, root)
        root = own if found is root else {**found, **own}
    return {key: value for key, value in root.items() if key != "$ref"}


def resolved(schema: Any, root: Json) -> Json:
    """A schema, or what it points to in the root; nothing where it points elsewhere."""
    pointer = _dict(schema).get("$ref")
    if pointer is None:
        return _dict(schema)
    if not isinstance(pointer, str) or not pointer.startswith("#"):
        return {}
    found: Any = root
    for step in pointer[1:].split("/")[1:]:
        found = _dict(found).get(step.replace("~1", "/").replace("~0", "~"))
    return _dict(found)


# Gemini's part, and the least


class _Narrowing:
    """One schema on its way into Gemini's part of JSON Schema; references are replaced by what they point to."""

    def __init__(self, root: Json, *, minimal: bool) -> None:
        self._root = root
        self._minimal = minimal
        self._parts = 0

    def schema(self, given: Any, path: tuple[str, ...], depth: int = 0) -> Json:
        """`path` are the references on the way here: one that leads back to itself ends there."""
        self._parts += 1
        if self._parts > MOST_PARTS or depth > DEEPEST:
            return {}
        if self._minimal and depth > DEEPEST_MINIMAL:
            return {"type": "object"}
        pointer = _dict(given).get("$ref")
        if pointer is not None:
            if str(pointer) in path or len(path) >= DEEPEST_REFERENCE:
                return {"type": "object"}
            path = (*path, str(pointer))
            own = {key: value for key, value in given.items() if key != "$ref"}
            return self.schema({**resolved(given, self._root), **own}, path, depth)
        given, nullable = _without_null(_merged(_dict(given), self._root))
        narrow = self._combined(given, path, depth) if "anyOf" in given else self._one(given, path, depth)
        if nullable:
            narrow = _with_null(narrow)
        return narrow

    def _combined(self, given: Json, path: tuple[str, ...], depth: int) -> Json:
        """`anyOf` stands alone, or not at all where it only qualifies what stands beside it."""
        own = {key: value for key, value in given.items() if key != "anyOf"}
        branches = given["anyOf"]
        if _STRUCTURE & own.keys() or not branches:
            return self.schema(own, path, depth)
        if len(branches) == 1 or self._minimal:
            about = {key: own[key] for key in ("description",) if key in own}
            return self.schema({**about, **_dict(branches[0])}, path, depth + 1)
        return {"anyOf": [_typed(self.schema(branch, path, depth + 1)) for branch in branches]}

    def _one(self, given: Json, path: tuple[str, ...], depth: int) -> Json:
        narrow = {key: value for key, value in given.items() if key in _KEPT}
        if narrow.get("format") not in {None, "date-time", "enum"}:
            del narrow["format"]
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if _is_number(given.get(exclusive)):
                narrow.setdefault(bound, given[exclusive])
        if isinstance(given.get("properties"), dict):
            inner = given["properties"].items()
            narrow["properties"] = {name: _typed(self.schema(value, path, depth + 1)) for name, value in inner}
        if narrow.get("type") == "array" or "items" in given or "prefixItems" in given:
            items = given.get("items", given.get("prefixItems"))
            first = _list(items)[0] if _list(items) else items
            narrow["items"] = _typed(self.schema(first, path, depth + 1))
        _limit_required(narrow, given)
        _tell_choices(narrow, given)
        return narrow


_KEPT = frozenset(
    {"type", "description", "format", "nullable", "minimum", "maximum", "minItems", "maxItems", "minLength"}
    | {"maxLength", "pattern", "minProperties", "maxProperties"}
)
_STRUCTURE = frozenset({"properties", "items", "prefixItems", "enum", "const"})


def _merged(given: Json, root: Json) -> Json:
    """`oneOf` and lists of types become `anyOf`, and what `allOf` demands is the schema's own."""
    merged = dict(given)
    for _ in range(DEEPEST_REFERENCE):
        for branch in _list(merged.pop("allOf", None)):
            found = resolved(branch, root)
            properties = {**_dict(found.get("properties")), **_dict(merged.get("properties"))}
            merged = {**found, **merged, **({"properties": properties} if properties else {})}
    merged.pop("allOf", None)
    branches = [*_list(merged.pop("anyOf", None)), *_list(merged.pop("oneOf", None))]
    if isinstance(merged.get("type"), str) or "type" not in merged:
        return {**merged, "anyOf": branches} if branches else merged
    kinds = [kind for kind in _list(merged.pop("type")) if isinstance(kind, str)]
    real = [kind for kind in kinds if kind != "null"]
    if len(real) > 1 and not branches and not _STRUCTURE & merged.keys():
        return {"anyOf": [{**merged, "type": kind} for kind in dict.fromkeys(kinds)]}
    merged.update({"type": real[0]} if real else {})
    merged.update({"nullable": True} if "null" in kinds else {})
    return {**merged, "anyOf": branches} if branches else merged


def _without_null(given: Json) -> tuple[Json, bool]:
    """The schema without the branches that are only null, and whether there were any."""
    if given.get("type") == "null":
        return {**given, "type": "string"}, True
    branches = given.get("anyOf")
    if branches is None:
        return given, False
    real = [branch for branch in branches if _dict(branch).get("type") != "null"]
    return {**given, "anyOf": real}, len(real) < len(branches)


def _with_null(narrow: Json) -> Json:
    if "anyOf" in narrow:
        return {"anyOf": [{**branch, "nullable": True} for branch in narrow["anyOf"]]}
    return {**narrow, "nullable": True}


def _typed(narrow: Json) -> Json:
    """With a type, which is guessed where none is told."""
    if "type" in narrow or "anyOf" in narrow:
        return narrow
    kind = "object" if "properties" in narrow else "array" if "items" in narrow else "string"
    if {"minimum", "maximum"} & narrow.keys():
        kind = "number"
    return {"type": kind, **narrow}


def _limit_required(narrow: Json, given: Json) -> None:
    known = _dict(narrow.get("properties"))
    required = [name for name in _list(given.get("required")) if isinstance(name, str) and name in known]
    if required:
        narrow["required"] = required


def _tell_choices(narrow: Json, given: Json) -> None:
    """Choices are texts here, whatever they were, and one of them is chosen always."""
    values = _list(given.get("enum")) or ([given["const"]] if "const" in given else [])
    if not values:
        return
    if None in values:
        narrow["nullable"] = True
    texts = [value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values]
    # An empty one is refused.
    named = (text for text, value in zip(texts, values, strict=True) if value is not None and text)
    narrow["enum"] = list(dict.fromkeys(named))
    narrow["type"] = "string"
    if not narrow["enum"]:
        del narrow["enum"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
