"""Which tools a foreign upstream is offered, and their schemas cleaned of what upstreams stumble over."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from providers.errors import BadMessage
from providers.messages import MessagesRequest, Tool

_STRING: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "integer"}
_EDITS: dict[str, Any] = {
    "path": _STRING,
    "file_text": _STRING,
    "old_str": _STRING,
    "new_str": _STRING,
    "insert_line": _NUMBER,
    "insert_text": _STRING,
    "view_range": {"type": "array", "items": _NUMBER},
}


def _function(description: str, commands: tuple[str, ...], properties: dict[str, Any]) -> Tool:
    command = {"type": "string", "enum": list(commands)} if commands else _STRING
    schema = {"type": "object", "properties": {"command": command, **properties}, "required": ["command"]}
    return {"description": description, "input_schema": schema if commands else {**schema, "required": []}}


_VIEW_AND_EDIT = ("view", "create", "str_replace", "insert")

# Tools that models of the vendor know by heart; the others need them spelled out. By the beginning of the type.
CLIENT_TOOLS: Mapping[str, Tool] = {
    "bash_": _function("Run a command in a persistent shell.", (), {"restart": {"type": "boolean"}}),
    "text_editor_20250124": _function("View, create and edit text files.", (*_VIEW_AND_EDIT, "undo_edit"), _EDITS),
    "text_editor_": _function("View, create and edit text files.", _VIEW_AND_EDIT, _EDITS),
    "memory_": _function(
        "Keep notes in files below /memories.",
        (*_VIEW_AND_EDIT, "delete", "rename"),
        {"path": _STRING, "old_path": _STRING, "new_path": _STRING, **_EDITS},
    ),
}
# Without them the client would wait for what never comes.
IMPOSSIBLE_TOOLS = ("computer_", "browser_toolset_")
SEARCH_TOOLS = "tool_search_tool_"


def offered(request: MessagesRequest, most: int) -> list[Tool]:
    """The tools that a foreign model can be given, by name once each: plain functions with an input_schema.

    Raises BadMessage where nothing would be left of what the client relies on.
    """
    changes = _changes(request)
    references = _references(request) if any(tool.get("defer_loading") for tool in request.tools or ()) else set()
    searchable = any(_kind(tool).startswith(SEARCH_TOOLS) for tool in request.tools or ())
    usable: dict[str, Tool] = {}
    missing: list[str] = []
    for tool in [*(request.tools or ()), *_definitions(request)]:
        name = str(tool.get("name") or _kind(tool))
        is_open = searchable or name in references or changes.get(name) is True or not tool.get("defer_loading")
        if not is_open or changes.get(name) is False or name in usable:
            continue
        plain = _as_function(tool)
        if plain is not None:
            usable[name] = plain
        elif not _kind(tool).startswith(SEARCH_TOOLS):
            missing.append(name)
    if missing and not usable:
        raise BadMessage(f"{', '.join(missing)} is not available on this route")
    return list(usable.values())[:most]


def _kind(tool: Tool) -> str:
    return str(tool.get("type") or "custom")


def _as_function(tool: Tool) -> Tool | None:
    """None for what only the vendor's own servers can run."""
    kind = _kind(tool)
    if kind == "custom" or isinstance(tool.get("input_schema"), dict):
        return tool
    if kind.startswith(IMPOSSIBLE_TOOLS):
        raise BadMessage(f"tools: {kind} is not available on this route")
    known = next((known for beginning, known in CLIENT_TOOLS.items() if kind.startswith(beginning)), None)
    return {**known, "name": tool.get("name")} if known and isinstance(tool.get("name"), str) else None


def _changed(request: MessagesRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tool changes of the conversation: the type of the block, and the tool it speaks of."""
    for message in request.messages:
        if message.role in {"system", "developer"} and isinstance(message.content, list):
            for block in message.content:
                tool = block.get("tool")
                if block["type"] in {"tool_addition", "tool_removal"} and isinstance(tool, dict):
                    yield block["type"], tool


def _changes(request: MessagesRequest) -> dict[str, bool]:
    """By name: offered since, or withdrawn; the last word counts."""
    return {_changed_name(tool): kind == "tool_addition" for kind, tool in _changed(request)}


def _changed_name(tool: dict[str, Any]) -> str:
    definition = tool.get("definition")
    return str((definition if isinstance(definition, dict) else tool).get("name"))


def _definitions(request: MessagesRequest) -> list[Tool]:
    definitions = (tool.get("definition") for kind, tool in _changed(request) if kind == "tool_addition")
    return [definition for definition in definitions if isinstance(definition, dict)]


def _references(request: MessagesRequest) -> set[str]:
    """Tools that were found by a search of the client's own."""
    return {
        str(part.get("tool_name"))
        for message in request.messages
        for block in message.blocks()
        if block["type"] == "tool_result" and isinstance(block.get("content"), list)
        for part in block["content"]
        if isinstance(part, dict) and part.get("type") == "tool_reference"
    }


# Schemas

NOISE = frozenset({"$schema", "$id", "$comment"})
# Under these stand schemas by name, and the names are the tool's own.
NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# And under these stands data.
DATA = frozenset({"enum", "const", "default", "examples", "required"})
_CACHED = 512
_LONGEST_CACHED = 32 * 1024


def parameters(tool: Tool) -> msgspec.Raw:
    """The cleaned schema of a tool as JSON. The same tools come with every request: remembered by their bytes."""
    schema = msgspec.json.encode(tool.get("input_schema") or {})
    return _remembered(schema) if len(schema) <= _LONGEST_CACHED else _cleaned_json(schema)


def _cleaned_json(schema: bytes) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(cleaned(msgspec.json.decode(schema))))


_remembered = functools.lru_cache(maxsize=_CACHED)(_cleaned_json)


def cleaned(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What every upstream takes: an object with properties at the root, and no keywords that are only for people."""
    root: dict[str, Any] = _plain(schema)
    branches = [branch for key in ("allOf", "anyOf", "oneOf") for branch in _list(root.pop(key, None))]
    properties = dict(_dict(root.get("properties")))
    for branch in branches:
        for name, value in _dict(_resolved(branch, root).get("properties")).items():
            properties.setdefault(name, value)
    root["type"], root["properties"] = "object", properties
    if branches or not isinstance(root.get("required", []), list):
        root.pop("required", None)
    return root


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {}
    for key, value in schema.items():
        if key in DATA or key in NOISE:
            if key in DATA:
                plain[key] = value
        elif key in NAMED_SCHEMAS and isinstance(value, dict):
            plain[key] = {name: _plain(inner) for name, inner in value.items()}
        else:
            plain[key] = _plain(value)
    return plain


def _resolved(branch: Any, root: dict[str, Any]) -> dict[str, Any]:
    """A branch, or what it points to in this schema."""
    pointer = _dict(branch).get("$ref")
    if not isinstance(pointer, str) or not pointer.startswith("#/"):
        return _dict(branch)
    found: Any = root
    for step in pointer[2:].split("/"):
        found = _dict(found).get(step.replace("~1", "/").replace("~0", "~"))
    return _dict(found)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_strict(schema: Any) -> bool:
    """Whether strict mode takes it: every object closed, every property required."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or set(_dict(properties)) != set(_list(required)):
            return False
    named = [inner for key in NAMED_SCHEMAS for inner in _dict(schema.get(key)).values()]
    others = [value for key, value in schema.items() if key not in NAMED_SCHEMAS and key not in DATA]
    return all(map(is_strict, [*named, *others]))
