"""Which tools a foreign upstream is offered, and how they are described to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from providers.dialects.profiles import Habits
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
_POINT: dict[str, Any] = {"type": "array", "items": _NUMBER}
COMPUTER: Tool = {
    "description": "See and use a computer: take a screenshot, move and click the mouse, type text and press keys.",
    "input_schema": {
        "type": "object",
        "properties": {
            "action": {
                "type": "string",
                "description": "screenshot, left_click, type, key, mouse_move, scroll, wait …",
            },
            "coordinate": {**_POINT, "description": "x and y on the screen, in pixels"},
            "start_coordinate": _POINT,
            "text": {"type": "string", "description": "to type, or the keys to press"},
            "scroll_direction": {"type": "string", "enum": ["up", "down", "left", "right"]},
            "scroll_amount": _NUMBER,
            "duration": {"type": "number", "description": "seconds"},
            "region": _POINT,
        },
        "required": ["action"],
    },
}
# Without them the client would wait for what never comes.
IMPOSSIBLE_TOOLS = ("computer_", "browser_toolset_")
TOOLSETS = ("computer_toolset_", "browser_toolset_")
SEARCH_TOOLS = "tool_search_tool_"
WEB_SEARCH = "web_search_"


def offered_by(request: MessagesRequest, ours: Habits) -> list[Tool]:
    """Those that this upstream's model is given, besides a search of its own."""
    if ours.web_search == "native":
        request = without_search(request)
    return offered(request, ours.most_tools, computer=ours.computer_use)


def search_of(request: MessagesRequest, ours: Habits) -> Tool | None:
    """The client's web search, where the provider has one of its own."""
    if ours.web_search != "native":
        return None
    return next((tool for tool in request.tools or () if _kind(tool).startswith(WEB_SEARCH)), None)


def without_search(request: MessagesRequest) -> MessagesRequest:
    others = [tool for tool in request.tools or () if not _kind(tool).startswith(WEB_SEARCH)]
    return request if len(others) == len(request.tools or ()) else msgspec.structs.replace(request, tools=others)


def offered(request: MessagesRequest, most: int, *, computer: bool = False) -> list[Tool]:
    """The tools that a foreign model can be given, by name once each: plain functions with an input_schema.

    Raises BadMessage where nothing would be left of what the client relies on.
    """
    changed = list(_changed(request))
    changes = {_changed_name(tool): kind == "tool_addition" for kind, tool in changed}  # the last word counts
    references = _references(request) if any(tool.get("defer_loading") for tool in request.tools or ()) else set()
    searchable = any(_kind(tool).startswith(SEARCH_TOOLS) for tool in request.tools or ())
    usable: dict[str, Tool] = {}
    missing: list[str] = []
    for tool in [*(request.tools or ()), *_definitions(changed)]:
        name = str(tool.get("name") or _kind(tool))
        is_open = searchable or name in references or changes.get(name) is True or not tool.get("defer_loading")
        if not is_open or changes.get(name) is False or name in usable:
            continue
        plain = _as_function(tool, computer=computer)
        if plain is not None:
            usable[name] = plain
        elif not _kind(tool).startswith(SEARCH_TOOLS):
            missing.append(name)
    if missing and not usable:
        raise BadMessage(f"{', '.join(missing)} is not available on this route")
    return list(usable.values())[:most]


def _kind(tool: Tool) -> str:
    return str(tool.get("type") or "custom")


def _as_function(tool: Tool, *, computer: bool) -> Tool | None:
    """None for what only the vendor's own servers can run."""
    kind = _kind(tool)
    if kind == "custom" or isinstance(tool.get("input_schema"), dict):
        return tool
    if computer and kind.startswith("computer_") and not kind.startswith(TOOLSETS):
        return {**COMPUTER, "name": tool.get("name") or "computer"}
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


def _changed_name(tool: dict[str, Any]) -> str:
    definition = tool.get("definition")
    return str((definition if isinstance(definition, dict) else tool).get("name"))


def _definitions(changed: list[tuple[str, Tool]]) -> list[Tool]:
    definitions = (tool.get("definition") for kind, tool in changed if kind == "tool_addition")
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


# Descriptions

_SENTENCE_END = re.compile(r"[.!?](?=\s)")


def described(tool: Tool, ours: Habits) -> str | None:
    """What the model is told of a tool, as long as the upstream lets it be."""
    given = tool.get("description")
    description = given if isinstance(given, str) else None
    examples = tool.get("input_examples")
    if ours.tool_examples and isinstance(examples, list) and examples:
        told = "\n".join(msgspec.json.encode(example).decode() for example in examples)
        description = f"{description or ''}\n\nExamples of its input:\n{told}".strip()
    most = ours.max_tool_description
    return description if description is None or most is None or len(description) <= most else _cut(description, most)


def _cut(text: str, most: int) -> str:
    """After the last sentence that fits; in the middle of the first, where that alone is too long."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, most + 1) if match.end() <= most]
    return text[: ends[-1]] if ends else text[:most]
