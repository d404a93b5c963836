"""A Messages request in the words of OpenAI Responses. The same conversation always gives the same bytes."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from providers.dialects import asked, lessons, schemas, tools
from providers.dialects.dialect import Exchange, Outbound
from providers.dialects.history import (
    OPENING,
    Call,
    File,
    Image,
    Result,
    SystemText,
    Text,
    Thinking,
    Turn,
    read_turns,
    result_text,
    retell,
)
from providers.dialects.names import ToolNames
from providers.dialects.profiles import Habits, habits_of
from providers.dialects.reasoning import effort, nearest, reasons_always, thinks
from providers.errors import BadMessage
from providers.messages import MessagesRequest, Tool

Json: TypeAlias = dict[str, Any]

DIALECT_NAME = "responses"
LEAST_OUTPUT = 16  # a smaller limit is refused
# What this language takes whoever speaks it, unless an option of the provider says otherwise.
OURS: Json = {
    "mid_system": "developer",
    "tool_id_limit": 64,
    "document_addresses": True,
}


def ours_of(exchange: Exchange) -> Habits:
    """The provider's habits as far as they hold in this language. A row's way with reasoning is that of Chat."""
    ours, options = habits_of(exchange), exchange.endpoint.options
    fields = {name: value for name, value in OURS.items() if name not in options}
    if exchange.option("reasoning_history") != "none":
        fields["reasoning_history"] = "items"
    return msgspec.structs.replace(ours, **fields)


def encode(exchange: Exchange) -> Outbound:
    wishes = asked.read_wishes(exchange, ours_of(exchange))
    request, ours, names = wishes.request, wishes.ours, wishes.names
    body: Json = {
        "model": exchange.model,
        **_instructions(request, ours),
        "input": _input(_turns(exchange, ours), ours, names),
        **_tools(request, ours, wishes.offered, names),
        **_limits(exchange, ours),
        **_sampling(request, exchange.model, ours),
        **_reasoning(request, exchange.model, ours),
        **_format(request, ours),
        **_included(request, exchange.model, ours),
        **_delivery(exchange, ours),
    }
    return asked.written(exchange, ours, "/responses", body)


def _instructions(request: MessagesRequest, ours: Habits) -> Json:
    instructions = asked.instructions(request, ours)
    return {"instructions": instructions} if instructions else {}


# Input


def _turns(exchange: Exchange, ours: Habits) -> list[Turn]:
    """What was refused as reasoning is left out of this one request; what the answer brings is kept all the same."""
    if any(lesson.field == lessons.STATE_REFUSED for lesson in exchange.lessons):
        ours = msgspec.structs.replace(ours, reasoning_history="none")
    return read_turns(exchange.request, ours, exchange.secret, DIALECT_NAME)


def _input(turns: list[Turn], ours: Habits, names: ToolNames) -> list[Json]:
    conversation = _Conversation(ours, names)
    retell(turns, conversation, user_first=ours.user_first)
    items = conversation.items
    if items[-1].get("role") == "assistant":
        _prefill(items[-1], ours)
    return items


def _prefill(last: Json, ours: Habits) -> None:
    """The conversation ends with the beginning of the answer."""
    if ours.prefill == "refuse":
        raise BadMessage("this model does not support assistant prefill; the conversation must end with a user message")
    last["content"][0]["text"] = last["content"][0]["text"].rstrip()


class _Conversation:
    """The items so far. A user's parts are gathered into one message."""

    def __init__(self, ours: Habits, names: ToolNames) -> None:
        self.items: list[Json] = []
        self._gathered: list[Json] = []
        self._ours = ours
        self._names = names

    def opening(self) -> None:
        self.user([_text_part(OPENING)])

    def user(self, parts: list[Json]) -> None:
        self._gathered.extend(parts)

    def flush(self) -> None:
        if self._gathered:
            self.items.append({"type": "message", "role": "user", "content": self._gathered})
            self._gathered = []

    def assistant(self, turn: Turn, _calls: list[Call]) -> None:
        """Reasoning stands right before what it led to; text never stands between a call and its result."""
        self.flush()
        said: list[Json] = []
        called: list[Json] = []
        reasoned: list[Json] = []
        for part in turn.parts:
            if isinstance(part, Thinking):
                reasoned += _reasoned(part)
            elif isinstance(part, Text):
                said += [*reasoned, _said(part.text)]
                reasoned = []
            elif isinstance(part, Call):
                called += [*reasoned, self._call(part)]
                reasoned = []
        self.items += said + called

    def _call(self, call: Call) -> Json:
        name = self._names.sent(call.name)
        return {"type": "function_call", "call_id": call.id, "name": name, "arguments": call.arguments}

    def results(self, calls: list[Call]) -> None:
        for call in calls:
            self.items.append({"type": "function_call_output", "call_id": call.id, "output": _output(call.result)})

    def user_side(self, turn: Turn) -> None:
        for part in turn.parts:
            if isinstance(part, Result):
                if part.stray_of:
                    self.user([_text_part(f"[result of an earlier tool call {part.stray_of}]")])
                    self.user([_content_part(inner) for inner in part.parts])
            elif isinstance(part, SystemText):
                self.flush()
                shown = [_text_part(part.text)]
                self.items.append({"type": "message", "role": self._ours.mid_system, "content": shown})
            elif isinstance(part, Text | Image | File):
                self.user([_content_part(part)])


def _reasoned(thinking: Thinking) -> list[Json]:
    """The provider's own items, exactly as they came."""
    items = thinking.state.items if thinking.state else []
    return [item for item in items if isinstance(item, dict) and item.get("type") == "reasoning"]


def _said(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def _output(result: Result | None) -> str | list[Json]:
    """Pictures and files stay inside the result here."""
    if result is None or all(isinstance(part, Text) for part in result.parts):
        return result_text(result)
    shown = [_content_part(part) for part in result.parts]
    return [_text_part("Error:"), *shown] if result.is_error else shown


def _text_part(text: str) -> Json:
    return {"type": "input_text", "text": text}


def _content_part(part: Text | Image | File) -> Json:
    if isinstance(part, Text):
        return _text_part(part.text)
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": part.url, "detail": "auto"}
    if part.url.startswith("data:"):
        return {"type": "input_file", "filename": part.name, "file_data": part.url}
    return {"type": "input_file", "file_url": part.url}


# Tools


def _tools(request: MessagesRequest, ours: Habits, offered: list[Tool], names: ToolNames) -> Json:
    search = tools.search_of(request, ours)
    sent = [_function(tool, ours, names) for tool in offered]
    if search is not None:
        sent.append(_search(search))
    choice = _choice(request, ours, offered, names)
    if not sent:
        return {}
    if choice == "none" and not ours.none_choice:
        return {"tools": sent} if asked.has_calls(request) else {}
    fields: Json = {"tools": sent}
    if choice is not None:
        fields["tool_choice"] = choice
    if asked.forbids_parallel_calls(request) and ours.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _choice(request: MessagesRequest, ours: Habits, offered: list[Tool], names: ToolNames) -> Any:
    search = tools.search_of(request, ours)
    choice = asked.choice(request, ours, [*offered, search] if search is not None else offered)
    if choice is None:
        return None
    if choice.kind == "tool":
        if search is not None and choice.name == search.get("name"):
            return {"type": "web_search"}
        return {"type": "function", "name": names.sent(choice.name)}
    return ours.forced_choice if choice.kind == "any" else choice.kind


def _function(tool: Tool, ours: Habits, names: ToolNames) -> Json:
    function: Json = {"type": "function", "name": names.sent(str(tool.get("name")))}
    description = tools.described(tool, ours)
    if description is not None:
        function["description"] = description
    function["parameters"] = schemas.parameters(tool, ours.schema_profile)
    # Left out, it may be taken for true.
    function["strict"] = _may_be_strict(tool, ours)
    return function


def _may_be_strict(tool: Tool, ours: Habits) -> bool:
    return (
        tool.get("strict") is True and ours.schema_profile == "openai" and schemas.is_strict(tool.get("input_schema"))
    )


def _search(tool: Tool) -> Json:
    search: Json = {"type": "web_search"}
    if isinstance(tool.get("allowed_domains"), list) and tool["allowed_domains"]:
        search["filters"] = {"allowed_domains": tool["allowed_domains"]}
    if isinstance(tool.get("user_location"), dict):
        search["user_location"] = tool["user_location"]
    return search


# Parameters


def _limits(exchange: Exchange, ours: Habits) -> Json:
    wanted = exchange.request.max_tokens
    if wanted is None:
        return {}
    known = (ours.max_output_tokens, exchange.endpoint.known(exchange.model).max_output)
    return {"max_output_tokens": max(LEAST_OUTPUT, min([wanted, *(most for most in known if most)]))}


def _sampling(request: MessagesRequest, model: str, ours: Habits) -> Json:
    if reasons_always(model, ours) or thinks(request):
        return {}
    fields = {"temperature": request.temperature, "top_p": request.top_p}
    return {name: value for name, value in fields.items() if value is not None}


def _reasoning(request: MessagesRequest, model: str, ours: Habits) -> Json:
    """How much to think, and whether to tell of it; nothing for models that never do."""
    if reasons_always(model, ours) is False or ours.reasoning == "off":
        return {}
    fields: Json = {}
    level = nearest(effort(request), ours.efforts)
    if level:
        fields["effort"] = level
    shown = thinks(request) and (request.thinking or {}).get("display") != "omitted" and ours.thinking != "hide"
    if ours.reasoning_summary == "always" or (ours.reasoning_summary == "asked" and shown):
        fields["summary"] = "auto"
    return {"reasoning": fields} if fields else {}


def _format(request: MessagesRequest, ours: Habits) -> Json:
    schema = asked.wanted_schema(request)
    if schema is None or ours.structured == "none":
        return {}
    if ours.structured == "json_object":
        return {"text": {"format": {"type": "json_object"}}}
    clean = schemas.cleaned(schema, ours.schema_profile)
    wanted = {"name": "output", "schema": clean, "strict": schemas.is_strict(clean)}
    return {"text": {"format": {"type": "json_schema", **wanted}}}


def _included(request: MessagesRequest, model: str, ours: Habits) -> Json:
    """What of an answer is only told when asked for: thoughts in a form that can come back, and what a search found."""
    always = reasons_always(model, ours)
    reasons = thinks(request) or effort(request) not in {None, "none"} if always is None else always
    include = ["reasoning.encrypted_content"] if reasons and ours.reasoning_history == "items" else []
    if tools.search_of(request, ours) is not None:
        include.append("web_search_call.action.sources")
    return {"include": include} if include else {}


def _delivery(exchange: Exchange, ours: Habits) -> Json:
    """Nothing is stored there: what must be remembered travels with the conversation."""
    fields: Json = {"store": False}
    if exchange.streams:
        fields["stream"] = True
    if ours.fast_tier and exchange.request.speed == "fast":
        fields["service_tier"] = "priority"
    elif ours.service_tier and exchange.request.service_tier == "standard_only":
        fields["service_tier"] = "default"
    if ours.safety_identifier != "none" and exchange.key_id:
        fields[ours.safety_identifier] = asked.user_digest(exchange)
    if ours.prompt_cache_key:
        fields["prompt_cache_key"] = asked.cache_key(exchange)
    return fields
