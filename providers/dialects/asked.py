"""What a client asks for besides the conversation, in no upstream's words yet: both foreign languages write from it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from providers.dialects import lessons, tools
from providers.dialects.dialect import Exchange, Outbound
from providers.dialects.fields import REFUSALS
from providers.dialects.history import system_text
from providers.dialects.names import ToolNames
from providers.dialects.profiles import Habits
from providers.dialects.reasoning import thinks
from providers.errors import BadMessage
from providers.messages import MessagesRequest, Tool

# The gateway itself looks for each of them in every piece of text.
MOST_STOPS = 100


def refuse_the_impossible(request: MessagesRequest) -> None:
    """What would silently change the answer if it were dropped."""
    for name, is_refused, sentence in REFUSALS:
        if is_refused(getattr(request, name)):
            raise BadMessage(f"{name}: {sentence}")
    if len(request.stop_sequences or ()) > MOST_STOPS:
        raise BadMessage(f"stop_sequences: {MOST_STOPS} at most are kept on this route")


def tool_names(request: MessagesRequest, ours: Habits, offered: list[Tool]) -> ToolNames:
    """Every name the request speaks of; what is offered comes first and wins where names fall together."""
    called = [
        block["name"]
        for message in request.messages
        if message.role == "assistant" and type(message.content) is list
        for block in message.content
        if block["type"] == "tool_use"
    ]
    return ToolNames([*[str(tool.get("name")) for tool in offered], *called], ours.tool_name_limit)


class Wishes(msgspec.Struct, frozen=True):
    """What both languages begin with: the request as far as it can be met, and the tools under their names."""

    request: MessagesRequest
    ours: Habits
    offered: list[Tool]
    names: ToolNames


def read_wishes(exchange: Exchange, ours: Habits) -> Wishes:
    """Raises BadMessage where the client would not get what it relies on."""
    request = without_thinking(exchange.request, ours)
    refuse_the_impossible(request)
    offered = tools.offered_by(request, ours)
    if offered and not ours.structured_with_tools:
        ours = msgspec.structs.replace(ours, structured="none")
    return Wishes(request, ours, offered, tool_names(request, ours, offered))


def written(exchange: Exchange, ours: Habits, path: str, body: dict[str, Any]) -> Outbound:
    """The request as it leaves, with what refusals have taught."""
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if exchange.streams else "application/json",
    }
    query = f"?{urlencode({'api-version': ours.api_version})}" if ours.api_version else ""
    return Outbound(path + query, msgspec.json.encode(lessons.apply(body, exchange.lessons)), headers)


class Choice(msgspec.Struct, frozen=True):
    """Which tool the model must call: `auto`, `any`, `none`, or `tool` with its name."""

    kind: str
    name: str = ""


def choice(request: MessagesRequest, ours: Habits, offered: list[Tool]) -> Choice | None:
    """None where the client did not say; raises BadMessage where nothing offered could be what it demands."""
    wanted = request.tool_choice or {}
    kind, name = wanted.get("type"), str(wanted.get("name"))
    if kind in {"any", "tool"}:
        _refuse_the_absent(request, kind, name, offered)
        if ours.forced_choice_when_thinking == "auto" and thinks(request):
            return Choice("auto")
    return Choice(kind, name if kind == "tool" else "") if kind in {"auto", "any", "none", "tool"} else None


def without_thinking(request: MessagesRequest, ours: Habits) -> MessagesRequest:
    """For upstreams that cannot be made to call a tool while they think: the call matters more."""
    is_forced = (request.tool_choice or {}).get("type") in {"any", "tool"}
    if ours.forced_choice_when_thinking != "stop_thinking" or not is_forced or not thinks(request):
        return request
    return msgspec.structs.replace(request, thinking={"type": "disabled"})


def _refuse_the_absent(request: MessagesRequest, kind: str, name: str, offered: list[Tool]) -> None:
    if kind == "tool" and not any(tool.get("name") == name for tool in offered):
        raise BadMessage(f"tool_choice: the tool {name!r} is not available on this route")
    if kind == "any" and not offered:
        absent = ", ".join(str(tool.get("name")) for tool in request.tools or ()) or "no tool"
        raise BadMessage(f"tool_choice: a tool is demanded and none can be offered on this route ({absent})")


def forbids_parallel_calls(request: MessagesRequest) -> bool:
    return (request.tool_choice or {}).get("disable_parallel_tool_use") is True


def has_calls(request: MessagesRequest) -> bool:
    return any(block["type"] == "tool_use" for message in request.messages for block in message.blocks())


def wanted_schema(request: MessagesRequest) -> Mapping[str, Any] | None:
    """Of the answer, where it must be JSON of a certain shape."""
    wanted = (request.output_config or {}).get("format") or request.output_format
    schema = wanted.get("schema") if isinstance(wanted, dict) and wanted.get("type") == "json_schema" else None
    return schema if isinstance(schema, dict) else None


def instructions(request: MessagesRequest, ours: Habits) -> str:
    """The system prompt, with the wanted schema where the upstream has no other place for it."""
    system, schema = system_text(request), wanted_schema(request)
    if schema is None or ours.structured == "json_schema":
        return system
    wanted = f"Answer with JSON alone, after this schema:\n{msgspec.json.encode(schema).decode()}"
    return f"{system}\n\n{wanted}" if system else wanted


def stop_sequences(request: MessagesRequest) -> list[str]:
    """Those that can stop anything: white space alone is no reason to end."""
    return [stop for stop in request.stop_sequences or () if stop.strip()]


def user_digest(exchange: Exchange) -> str:
    """Always the same for a key, and nobody can tell from it whose key it is."""
    return "u_" + hmac.digest(exchange.secret, b"user\0" + exchange.key_id.encode(), "sha256").hex()[:32]


def cache_key(exchange: Exchange) -> str:
    """Stable in a session, and nobody can tell from it whose session it is."""
    session = exchange.headers.get("x-claude-code-session-id") or ""
    about = session or f"{exchange.key_id}\0{system_text(exchange.request)[:1024]}"
    return hmac.digest(exchange.secret, b"prompt cache\0" + about.encode("utf-8", "replace"), "sha256").hex()[:32]
