"""Values of anthropic-beta, and what of a request is legal only with them.

Only what is certain stands here. Values that concern the inside of messages (per-turn-control: output_config on
system messages; mid-conversation-tool-changes: tool_addition and tool_removal blocks) go alone: messages are left as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from providers import splice

_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


class Needs(msgspec.Struct, frozen=True):
    """Fields of the request, members of its output_config, members of each of its tools."""

    fields: tuple[str, ...] = ()
    output_config: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()


# By the name without its date: a later release of the same thing needs the same.
PAIRS: Mapping[str, Needs] = {
    "context-management": Needs(fields=("context_management",)),
    "effort": Needs(output_config=("effort",)),
    "structured-outputs": Needs(fields=("output_format",)),
    "advanced-tool-use": Needs(tools=("defer_loading", "allowed_callers", "input_examples")),
    "fast-mode": Needs(fields=("speed",)),
}


def listed(header: str) -> list[str]:
    return [value.strip() for value in header.split(",") if value.strip()]


def without_what_needs(beta: str, body: bytes) -> bytes:
    needs = PAIRS.get(_DATE.sub("", beta))
    if needs is None:
        return body
    body = splice.remove_members(body, needs.fields)
    if needs.output_config:
        body = _without_members(body, "output_config", needs.output_config)
    return _without_tool_members(body, needs.tools) if needs.tools else body


def _without_members(body: bytes, name: str, members: tuple[str, ...]) -> bytes:
    """Of one object of the request; an object that is empty then goes as well."""
    spans = splice.member_spans(body)
    value = body[slice(*spans[name])] if spans and name in spans else b""
    if not value.startswith(b"{"):
        return body
    rest = splice.remove_members(value, members)
    if rest == value:
        return body
    empty = splice.member_spans(rest) == {}
    return splice.remove_members(body, (name,)) if empty else splice.replace_members(body, {name: rest})


def _without_tool_members(body: bytes, members: tuple[str, ...]) -> bytes:
    spans = splice.member_spans(body)
    tools = body[slice(*spans["tools"])] if spans and "tools" in spans else b""
    if not tools.startswith(b"["):
        return body
    each = [tools[start:end] for start, end in splice.element_spans(tools)]
    rest = [splice.remove_members(tool, members) if tool.startswith(b"{") else tool for tool in each]
    return splice.replace_members(body, {"tools": b"[" + b",".join(rest) + b"]"}) if rest != each else body
