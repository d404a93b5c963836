"""A Messages request in the words of Chat Completions. The same conversation always gives the same bytes."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from providers.dialects import asked, schemas, tools
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
    joined,
    read_turns,
    result_text,
    retell,
    without_billing_line,
)
from providers.dialects.names import ToolNames
from providers.dialects.profiles import Habits, habits_of
from providers.dialects.reasoning import REASONING, effort, reasons_always, thinks
from providers.errors import BadMessage
from providers.messages import MessagesRequest, Tool

Json: TypeAlias = dict[str, Any]

MOST_STOPS = 4
SIGNATURE_LOST = "skip_thought_signature_validator"
CONTENT = (Text, Image, File)
# For upstreams that refuse a history of calls without tools.
STAND_IN: Json = {
    "type": "function",
    "function": {
        "name": "no_tool",
        "description": "Does nothing: there are no tools now.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def encode(exchange: Exchange) -> Outbound:
    wishes = asked.read_wishes(exchange, habits_of(exchange))
    request, ours = wishes.request, wishes.ours
    turns = read_turns(request, ours, exchange.secret, "openai")
    body: Json = {
        "model": exchange.model,
        "messages": _messages(request, turns, ours, wishes.names),
        **_tools(request, ours, wishes.offered, wishes.names),
        **_limits(exchange, ours),
        **_sampling(request, exchange.model, ours),
        **REASONING[ours.reasoning](request, exchange.model, ours),
        **_format(request, ours),
        **_delivery(exchange, ours),
    }
    if body["messages"][-1]["role"] == "assistant":
        _prefill(body, ours)
    return asked.written(exchange, ours, "/chat/completions", body)


# Messages


def _messages(request: MessagesRequest, turns: list[Turn], ours: Habits, names: ToolNames) -> list[Json]:
    conversation = _Conversation(ours, names, thinks=ours.reasoning_filler is not None and effort(request) != "none")
    system = _system(request, ours)
    if system:
        conversation.messages.append({"role": ours.system_role, "content": system})
    retell(turns, conversation, user_first=ours.user_first)
    return conversation.messages


def _system(request: MessagesRequest, ours: Habits) -> str | list[Json]:
    blocks = request.system_blocks() if ours.cache_marks != "drop" else []
    if not any(block.get("cache_control") for block in blocks):
        return asked.instructions(request, ours)
    parts = [
        _text_part(text, _marked(block.get("cache_control"), ours))
        for block in blocks
        if isinstance(block.get("text"), str) and (text := without_billing_line(block["text"]))
    ]
    only_wanted = asked.instructions(msgspec.structs.replace(request, system=None), ours)
    return [*parts, _text_part(only_wanted)] if only_wanted else parts


class _Conversation:
    """The messages so far. A user's parts are gathered, so that there are never two of his messages in a row."""

    def __init__(self, ours: Habits, names: ToolNames, *, thinks: bool) -> None:
        self.messages: list[Json] = []
        self._gathered: list[Json] = []
        self._ours = ours
        self._names = names
        self._filler = ours.reasoning_filler if thinks else None

    def opening(self) -> None:
        self.user([_text_part(OPENING)])

    def user(self, parts: list[Json]) -> None:
        self._gathered.extend(parts)

    def flush(self) -> None:
        parts, self._gathered = self._gathered, []
        if not parts:
            return
        if self._ours.assistant_after_tool and self.messages and self.messages[-1]["role"] == "tool":
            self.messages.append({"role": "assistant", "content": "Understood."})
        # Many servers refuse a list where a string would do; only a mark needs one.
        texts = [part["text"] for part in parts if part["type"] == "text" and len(part) == 2]
        content = "\n\n".join(texts) if len(texts) == len(parts) else parts
        self.messages.append({"role": "user", "content": content})

    def assistant(self, turn: Turn, calls: list[Call]) -> None:
        self.flush()
        empty = None if self._ours.null_content else ""
        message: Json = {"role": "assistant", "content": joined(turn.parts, "\n\n") or empty}
        if calls:
            message["tool_calls"] = [self._call(call) for call in calls]
        if self._ours.reasoning_history != "none":
            self._reason(message, [part for part in turn.parts if isinstance(part, Thinking)], calls)
        self.messages.append(message)

    def _call(self, call: Call) -> Json:
        function = {"name": self._names.sent(call.name), "arguments": call.arguments}
        return {"id": call.id, "type": "function", "function": function}

    def _reason(self, message: Json, thoughts: list[Thinking], calls: list[Call]) -> None:
        """What the model thought, for those who want it back."""
        if self._ours.reasoning_history == "thought_signature":
            self._sign(message, thoughts, calls)
        elif self._ours.reasoning_history == "reasoning_details":
            details = [item for thought in thoughts if thought.state for item in thought.state.items]
            if details:
                message["reasoning_details"] = details
        elif self._ours.reasoning_history == "reasoning_content":
            text = "\n\n".join(thought.text for thought in thoughts if thought.text)
            if text:
                message["reasoning_content"] = text
            elif self._filler is not None and "tool_calls" in message:
                message["reasoning_content"] = self._filler

    def _sign(self, message: Json, thoughts: list[Thinking], calls: list[Call]) -> None:
        """Gemini's signatures, each at its call; the first call of a turn must have one, or say that it is lost."""
        known = {
            key: value for thought in thoughts if thought.state for key, value in thought.state.tool_signatures.items()
        }
        for position, call in enumerate(calls):
            signature = known.get(call.given_id) or (SIGNATURE_LOST if position == 0 else "")
            if signature:
                message["tool_calls"][position]["extra_content"] = {"google": {"thought_signature": signature}}

    def results(self, calls: list[Call]) -> None:
        """One tool message for each call, in the order of the calls; media cannot stand there and comes after."""
        for call in calls:
            text: str | list[Json] = result_text(call.result)
            if call.result and call.result.mark and (mark := _marked(call.result.mark, self._ours)):
                text = [_text_part(str(text), mark)]
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
            for part in call.result.parts if call.result else ():
                if type(part) is not Text:
                    kind = "image" if isinstance(part, Image) else "document"
                    self.user([_text_part(f"[{kind} returned by {call.name}]"), _content_part(part, self._ours)])

    def user_side(self, turn: Turn) -> None:
        for part in turn.parts:
            if type(part) is Result:
                if part.stray_of:
                    self.user([_text_part(f"[result of an earlier tool call {part.stray_of}]")])
                    self.user([_content_part(inner, self._ours) for inner in part.parts])
            elif isinstance(part, SystemText):
                self.flush()
                self.messages.append({"role": self._ours.mid_system, "content": part.text})
            elif isinstance(part, CONTENT):
                self.user([_content_part(part, self._ours)])


def _text_part(text: str, mark: Json | None = None) -> Json:
    return {"type": "text", "text": text, **mark} if mark else {"type": "text", "text": text}


def _marked(mark: Any, ours: Habits) -> Json:
    """Where the client wants the cache to reach, in the upstream's words."""
    if ours.cache_marks == "drop" or not isinstance(mark, dict):
        return {}
    if ours.cache_marks == "breakpoint":
        return {"prompt_cache_breakpoint": {"mode": "explicit"}}
    return {"cache_control": mark}


def _content_part(part: Text | Image | File, ours: Habits) -> Json:
    if isinstance(part, Text):
        return _text_part(part.text, part.mark and _marked(part.mark, ours))
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.url}}
    return {"type": "file", "file": {"filename": part.name, "file_data": part.url}}


def _prefill(body: Json, ours: Habits) -> None:
    """The conversation ends with the beginning of the answer."""
    if ours.prefill == "refuse":
        raise BadMessage("this model does not support assistant prefill; the conversation must end with a user message")
    last = body["messages"][-1]
    last["content"] = last["content"].rstrip()
    if ours.prefill == "prefix":
        last["prefix"] = True
    elif ours.prefill == "continue":
        body.update(continue_final_message=True, add_generation_prompt=False)


# Tools


def _tools(request: MessagesRequest, ours: Habits, offered: list[Tool], names: ToolNames) -> Json:
    search = tools.search_of(request, ours)
    choice = asked.choice(request, ours, [*offered, search] if search is not None else offered)
    fields: Json = {"plugins": [{"id": "web"}]} if search is not None else {}
    if not offered:
        return {**fields, **_stand_in(request, ours)}
    if choice is not None and choice.kind == "none" and not ours.none_choice and not asked.has_calls(request):
        return fields
    fields["tools"] = [_function(tool, ours, names) for tool in offered]
    if choice is not None and (choice.kind != "none" or ours.none_choice):
        # A search is no call: the upstream makes it by itself.
        is_search = search is not None and choice.kind == "tool" and choice.name == search.get("name")
        fields["tool_choice"] = "auto" if is_search else _choice(choice, ours, names)
    if asked.forbids_parallel_calls(request) and ours.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _stand_in(request: MessagesRequest, ours: Habits) -> Json:
    if not ours.needs_tools or not asked.has_calls(request):
        return {}
    return {"tools": [STAND_IN], **({"tool_choice": "none"} if ours.none_choice else {})}


def _choice(choice: asked.Choice, ours: Habits, names: ToolNames) -> Any:
    if choice.kind == "tool" and ours.forced_choice != "auto":
        return {"type": "function", "function": {"name": names.sent(choice.name)}}
    return ours.forced_choice if choice.kind in {"any", "tool"} else choice.kind


def _function(tool: Tool, ours: Habits, names: ToolNames) -> Json:
    function: Json = {"name": names.sent(str(tool.get("name")))}
    description = tools.described(tool, ours)
    if description is not None:
        function["description"] = description
    function["parameters"] = schemas.parameters(tool, ours.schema_profile)
    if tool.get("strict") is True and ours.schema_profile == "openai" and schemas.is_strict(tool.get("input_schema")):
        function["strict"] = True
    return {"type": "function", "function": function}


# Parameters


def _limits(exchange: Exchange, ours: Habits) -> Json:
    wanted = exchange.request.max_tokens
    if wanted is None:
        return {}
    known = (ours.max_output_tokens, exchange.endpoint.known(exchange.model).max_output)
    return {ours.max_tokens_field: min([wanted, *(most for most in known if most)])}


def _sampling(request: MessagesRequest, model: str, ours: Habits) -> Json:
    reasons = bool(reasons_always(model, ours))
    fields: Json = {}
    if not reasons and not thinks(request):
        fields = {"temperature": request.temperature, "top_p": request.top_p}
        if ours.top_k:
            fields["top_k"] = request.top_k
    if ours.stop and not reasons:
        fields["stop"] = asked.stop_sequences(request)[:MOST_STOPS] or None
    return {name: value for name, value in fields.items() if value is not None}


def _format(request: MessagesRequest, ours: Habits) -> Json:
    schema = asked.wanted_schema(request)
    if schema is None or ours.structured == "none":
        return {}
    if ours.structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    clean = schemas.cleaned(schema, ours.schema_profile)
    wanted = {"name": "output", "schema": clean, "strict": schemas.is_strict(clean)}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _delivery(exchange: Exchange, ours: Habits) -> Json:
    request = exchange.request
    fields: Json = {}
    if exchange.streams:
        fields["stream"] = True
        if ours.stream_usage:
            fields["stream_options"] = {"include_usage": True}
    if ours.fast_tier and request.speed == "fast":
        fields["service_tier"] = "priority"
    elif ours.service_tier and request.service_tier == "standard_only":
        fields["service_tier"] = "default"
    if ours.safety_identifier != "none" and exchange.key_id:
        fields[ours.safety_identifier] = asked.user_digest(exchange)
    if ours.prompt_cache_key:
        fields["prompt_cache_key"] = asked.cache_key(exchange)
    return fields
