"""A Messages request in the words of Chat Completions. The same conversation always gives the same bytes."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from providers.dialects import asked, lessons, tools
from providers.dialects.dialect import Exchange, Outbound
from providers.dialects.history import (
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
    system_text,
)
from providers.dialects.names import ToolNames
from providers.dialects.profiles import Habits, habits_of
from providers.dialects.reasoning import REASONING, reasons_always, thinks
from providers.errors import BadMessage
from providers.messages import MessagesRequest, Tool

Json: TypeAlias = dict[str, Any]

MOST_STOPS = 4
SIGNATURE_LOST = "skip_thought_signature_validator"
OPENING = "(conversation continues)"


def encode(exchange: Exchange) -> Outbound:
    request, ours = exchange.request, habits_of(exchange)
    asked.refuse_the_impossible(request)
    offered = tools.offered(request, ours.most_tools)
    turns = read_turns(request, ours, exchange.secret, "openai")
    names = asked.tool_names(request, ours, offered)
    body: Json = {
        "model": exchange.model,
        "messages": _messages(request, turns, ours, names),
        **_tools(request, ours, offered, names),
        **_limits(request, ours),
        **_sampling(exchange, ours),
        **REASONING[ours.reasoning](request, exchange.model, ours),
        **_format(request, ours),
        **_delivery(exchange, ours),
    }
    if body["messages"][-1]["role"] == "assistant":
        _prefill(body, ours)
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if exchange.streams else "application/json",
    }
    return Outbound("/chat/completions", msgspec.json.encode(lessons.apply(body, exchange.lessons)), headers)


# Messages


def _messages(request: MessagesRequest, turns: list[Turn], ours: Habits, names: ToolNames) -> list[Json]:
    conversation = _Conversation(ours, names, thinks=thinks(request))
    system = _system(request, ours)
    if system:
        conversation.messages.append({"role": ours.system_role, "content": system})
    if not turns or (turns[0].assistant and ours.user_first):
        conversation.user([{"type": "text", "text": OPENING}])
    calls: list[Call] = []
    for turn in turns:
        if turn.assistant:
            calls = turn.calls()
            conversation.assistant(turn, calls)
        else:
            conversation.results(calls)
            conversation.user_side(turn)
            calls = []
    conversation.results(calls)
    conversation.flush()
    return conversation.messages


def _system(request: MessagesRequest, ours: Habits) -> str:
    system = system_text(request)
    schema = asked.wanted_schema(request)
    if schema is not None and ours.structured != "json_schema":
        wanted = f"Answer with JSON alone, after this schema:\n{msgspec.json.encode(schema).decode()}"
        system = f"{system}\n\n{wanted}" if system else wanted
    return system


class _Conversation:
    """The messages so far. A user's parts are gathered, so that there are never two of his messages in a row."""

    def __init__(self, ours: Habits, names: ToolNames, *, thinks: bool) -> None:
        self.messages: list[Json] = []
        self._gathered: list[Json] = []
        self._ours = ours
        self._names = names
        self._filler = ours.reasoning_filler if thinks else None

    def user(self, parts: list[Json]) -> None:
        self._gathered.extend(parts)

    def flush(self) -> None:
        parts, self._gathered = self._gathered, []
        if not parts:
            return
        if self._ours.assistant_after_tool and self.messages and self.messages[-1]["role"] == "tool":
            self.messages.append({"role": "assistant", "content": "Understood."})
        texts = [part["text"] for part in parts if part["type"] == "text"]
        # Many servers refuse a list where a string would do.
        content = "\n\n".join(texts) if len(texts) == len(parts) else parts
        self.messages.append({"role": "user", "content": content})

    def assistant(self, turn: Turn, calls: list[Call]) -> None:
        self.flush()
        text = "\n\n".join(part.text for part in turn.parts if isinstance(part, Text))
        empty = None if self._ours.null_content else ""
        message: Json = {"role": "assistant", "content": text or empty}
        if calls:
            message["tool_calls"] = [self._call(call) for call in calls]
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
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result_text(call.result)})
        for call in calls:
            for part in call.result.parts if call.result else ():
                if not isinstance(part, Text):
                    kind = "image" if isinstance(part, Image) else "document"
                    self.user([_text_part(f"[{kind} returned by {call.name}]"), _content_part(part)])

    def user_side(self, turn: Turn) -> None:
        for part in turn.parts:
            if isinstance(part, Result):
                if part.stray_of:
                    self.user([_text_part(f"[result of an earlier tool call {part.stray_of}]")])
                    self.user([_content_part(inner) for inner in part.parts])
            elif isinstance(part, SystemText):
                self.flush()
                self.messages.append({"role": self._ours.mid_system, "content": part.text})
            elif isinstance(part, Text | Image | File):
                self.user([_content_part(part)])


def _text_part(text: str) -> Json:
    return {"type": "text", "text": text}


def _content_part(part: Text | Image | File) -> Json:
    if isinstance(part, Text):
        return _text_part(part.text)
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
    choice = asked.choice(request, ours, offered)
    if not offered:
        return {}
    fields: Json = {"tools": [_function(tool, names) for tool in offered]}
    if choice is not None and choice.kind == "none" and not ours.none_choice:
        return fields if asked.has_calls(request) else {}
    if choice is not None:
        fields["tool_choice"] = _choice(choice, ours, names)
    if asked.forbids_parallel_calls(request) and ours.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _choice(choice: asked.Choice, ours: Habits, names: ToolNames) -> Any:
    if choice.kind == "tool":
        return {"type": "function", "function": {"name": names.sent(choice.name)}}
    return ours.forced_choice if choice.kind == "any" else choice.kind


def _function(tool: Tool, names: ToolNames) -> Json:
    function: Json = {"name": names.sent(str(tool.get("name")))}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    function["parameters"] = tools.parameters(tool)
    if tool.get("strict") is True and tools.is_strict(tool.get("input_schema")):
        function["strict"] = True
    return {"type": "function", "function": function}


# Parameters


def _limits(request: MessagesRequest, ours: Habits) -> Json:
    if request.max_tokens is None:
        return {}
    return {ours.max_tokens_field: min(request.max_tokens, ours.max_output_tokens or request.max_tokens)}


def _sampling(exchange: Exchange, ours: Habits) -> Json:
    request, reasons = exchange.request, bool(reasons_always(exchange.model, ours))
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
    wanted = {"name": "output", "schema": tools.cleaned(schema), "strict": tools.is_strict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _delivery(exchange: Exchange, ours: Habits) -> Json:
    fields: Json = {}
    if exchange.streams:
        fields["stream"] = True
        if ours.stream_usage:
            fields["stream_options"] = {"include_usage": True}
    if ours.service_tier and exchange.request.service_tier == "standard_only":
        fields["service_tier"] = "default"
    if ours.prompt_cache_key:
        fields["prompt_cache_key"] = asked.cache_key(exchange)
    return fields
