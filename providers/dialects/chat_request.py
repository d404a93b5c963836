"""A Messages request in the words of Chat Completions. The same conversation always gives the same bytes."""

from __future__ import annotations

import fnmatch
import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from providers.dialects import tools
from providers.dialects.dialect import Exchange, Outbound
from providers.dialects.history import Call, File, Image, Result, SystemText, Text, Thinking, Turn, read_turns
from providers.dialects.history import system_text as read_system_text
from providers.dialects.names import ToolNames
from providers.dialects.profiles import EFFORTS, Habits, habits
from providers.errors import BadMessage
from providers.messages import MessagesRequest, Tool

Json: TypeAlias = dict[str, Any]

MOST_STOPS = 4
INTERRUPTED = "[no result: the call was interrupted]"
OPENING = "(conversation continues)"


def encode(exchange: Exchange) -> Outbound:
    request, ours = exchange.request, habits(exchange.endpoint)
    _refuse_the_impossible(request)
    offered = tools.offered(request, ours.most_tools)
    turns = read_turns(request, ours, exchange.secret)
    names = tool_names(request, ours, offered)
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
    return Outbound("/chat/completions", msgspec.json.encode(body), headers)


def _refuse_the_impossible(request: MessagesRequest) -> None:
    """What would silently change the answer if it were dropped."""
    if request.mcp_servers:
        raise BadMessage("mcp_servers: not available on this route: the model would lack their tools")
    if request.safeguards:
        raise BadMessage("safeguards: not available on this route")
    if request.thread is not None and (not isinstance(request.thread, dict) or request.thread.get("type") != "create"):
        raise BadMessage("thread: only new threads are available on this route")
    if request.max_tokens == 0:
        raise BadMessage("max_tokens: 0 is not available on this route")


def tool_names(request: MessagesRequest, ours: Habits, offered: list[Tool]) -> ToolNames:
    """Every name the request speaks of; what is offered comes first and wins where names fall together."""
    spoken = [str(tool.get("name")) for tool in offered]
    for message in request.messages:
        if message.role == "assistant":
            spoken += [block["name"] for block in message.blocks() if block["type"] == "tool_use"]
    return ToolNames(spoken, ours.tool_name_limit)


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
    system = read_system_text(request)
    schema = _wanted_schema(request)
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
        self._reason(message, [part for part in turn.parts if isinstance(part, Thinking)])
        self.messages.append(message)

    def _call(self, call: Call) -> Json:
        function = {"name": self._names.sent(call.name), "arguments": call.arguments}
        return {"id": call.id, "type": "function", "function": function}

    def _reason(self, message: Json, thoughts: list[Thinking]) -> None:
        """What the model thought, for those who want it back."""
        if self._ours.reasoning_history == "reasoning_details":
            details = [item for thought in thoughts if thought.state for item in thought.state.items]
            if details:
                message["reasoning_details"] = details
        elif self._ours.reasoning_history == "reasoning_content":
            text = "\n\n".join(thought.text for thought in thoughts if thought.text)
            if text:
                message["reasoning_content"] = text
            elif self._filler is not None and "tool_calls" in message:
                message["reasoning_content"] = self._filler

    def results(self, calls: list[Call]) -> None:
        """One tool message for each call, in the order of the calls; media cannot stand there and comes after."""
        for call in calls:
            content = _result_text(call.result) if call.result else INTERRUPTED
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
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


_ERROR_BEGINNINGS = ("error", "<tool_use_error>", "[tool error")


def _result_text(result: Result) -> str:
    text = "\n".join(part.text for part in result.parts if isinstance(part, Text))
    if not text:
        text = "(attached below)" if result.parts else "(no output)"
    marked = text.lower().startswith(_ERROR_BEGINNINGS)
    return f"Error: {text}" if result.is_error and not marked else text


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
    if not offered:
        _refuse_forced_choice(request)
        return {}
    choice = _choice(request, ours, offered, names)
    if choice == "none" and not ours.none_choice:
        return {"tools": [_function(tool, names) for tool in offered]} if _has_calls(request) else {}
    fields: Json = {"tools": [_function(tool, names) for tool in offered]}
    if choice is not None:
        fields["tool_choice"] = choice
    if (request.tool_choice or {}).get("disable_parallel_tool_use") is True and ours.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _function(tool: Tool, names: ToolNames) -> Json:
    function: Json = {"name": names.sent(str(tool.get("name")))}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    function["parameters"] = tools.parameters(tool)
    if tool.get("strict") is True and tools.is_strict(tool.get("input_schema")):
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(request: MessagesRequest, ours: Habits, offered: list[Tool], names: ToolNames) -> Any:
    choice = request.tool_choice or {}
    kind = choice.get("type")
    if kind in {"any", "tool"} and not ours.forced_choice_when_thinking and thinks(request):
        return "auto"
    if kind == "any":
        return ours.forced_choice
    if kind == "tool":
        name = choice.get("name")
        if not any(tool.get("name") == name for tool in offered):
            _refuse_forced_choice(request)
        return {"type": "function", "function": {"name": names.sent(str(name))}}
    return kind if kind in {"auto", "none"} else None


def _refuse_forced_choice(request: MessagesRequest) -> None:
    choice = request.tool_choice or {}
    if choice.get("type") == "tool":
        raise BadMessage(f"tool_choice: the tool {choice.get('name')!r} is not available on this route")
    if choice.get("type") == "any":
        absent = ", ".join(str(tool.get("name")) for tool in request.tools or ()) or "no tool"
        raise BadMessage(f"tool_choice: a tool is demanded and none can be offered on this route ({absent})")


def _has_calls(request: MessagesRequest) -> bool:
    return any(block["type"] == "tool_use" for message in request.messages for block in message.blocks())


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
        fields["stop"] = [stop for stop in request.stop_sequences or () if stop.strip()][:MOST_STOPS] or None
    return {name: value for name, value in fields.items() if value is not None}


def reasons_always(model: str, ours: Habits) -> bool | None:
    """None where nobody knows."""
    if ours.reasoning_models is None:
        return None
    return any(fnmatch.fnmatchcase(model.lower(), pattern) for pattern in ours.reasoning_models)


def thinks(request: MessagesRequest) -> bool:
    return (request.thinking or {}).get("type") in {"enabled", "adaptive"}


def _format(request: MessagesRequest, ours: Habits) -> Json:
    schema = _wanted_schema(request)
    if schema is None or ours.structured == "none":
        return {}
    if ours.structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    wanted = {"name": "output", "schema": tools.cleaned(schema), "strict": tools.is_strict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _wanted_schema(request: MessagesRequest) -> Mapping[str, Any] | None:
    wanted = (request.output_config or {}).get("format") or request.output_format
    schema = wanted.get("schema") if isinstance(wanted, dict) and wanted.get("type") == "json_schema" else None
    return schema if isinstance(schema, dict) else None


def _delivery(exchange: Exchange, ours: Habits) -> Json:
    fields: Json = {}
    if exchange.streams:
        fields["stream"] = True
        if ours.stream_usage:
            fields["stream_options"] = {"include_usage": True}
    if ours.service_tier and exchange.request.service_tier == "standard_only":
        fields["service_tier"] = "default"
    if ours.prompt_cache_key:
        fields["prompt_cache_key"] = cache_key(exchange)
    return fields


def cache_key(exchange: Exchange) -> str:
    """Stable in a session, and nobody can tell from it whose session it is."""
    session = exchange.headers.get("x-claude-code-session-id") or ""
    about = session or f"{exchange.key_id}\0{read_system_text(exchange.request)[:1024]}"
    return hmac.digest(exchange.secret, b"prompt cache\0" + about.encode("utf-8", "replace"), "sha256").hex()[:32]


# Reasoning: each way of asking for it is a function, found by its name in the provider's habits

_BUDGETS = ((1024, "minimal"), (4096, "low"), (16384, "medium"), (32768, "high"))


def effort(request: MessagesRequest) -> str | None:
    """What the client asked for: a level, `none` where it switched thinking off, or nothing."""
    thinking = request.thinking or {}
    if thinking.get("type") in {"disabled", "between_tools"}:
        return "none"
    for config in _configs(request):
        if isinstance(config.get("effort"), str) and config["effort"] in EFFORTS:
            return str(config["effort"])
    budget = thinking.get("budget_tokens")
    if thinking.get("type") != "enabled" or not isinstance(budget, int):
        return None
    return next((level for most, level in _BUDGETS if budget <= most), "xhigh")


def _configs(request: MessagesRequest) -> Iterator[Json]:
    """The last word first: system messages in the middle may change the effort."""
    for message in reversed(request.messages):
        if message.role in {"system", "developer"} and message.output_config:
            yield message.output_config
    yield request.output_config or {}


def nearest(wanted: str | None, levels: tuple[str, ...]) -> str | None:
    """The level itself, else the nearest below, else above. Thinking is never switched off by rounding."""
    if wanted is None or wanted in levels:
        return wanted
    if wanted == "none":
        return "minimal" if "minimal" in levels else None
    rank = EFFORTS.index(wanted)
    known = sorted(EFFORTS.index(level) for level in levels if level in EFFORTS and level != "none")
    below = [level for level in known if level < rank]
    chosen = below[-1:] or known[:1]
    return EFFORTS[chosen[0]] if chosen else None


Reasoning: TypeAlias = Callable[[MessagesRequest, str, Habits], Json]


def _by_effort(request: MessagesRequest, model: str, ours: Habits) -> Json:
    if reasons_always(model, ours) is False:
        return {}
    level = nearest(effort(request), ours.efforts)
    return {"reasoning_effort": level} if level else {}


def _by_switch(request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    if effort(request) == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled"}} if thinks(request) else {}


def _by_switch_and_effort(request: MessagesRequest, model: str, ours: Habits) -> Json:
    switch = _by_switch(request, model, ours)
    if effort(request) in {None, "none"}:
        return switch
    wanted = {"medium": "high", "xhigh": "high"}.get(str(effort(request)), effort(request))
    return {**switch, "reasoning_effort": nearest(wanted, ours.efforts)}


def _as_object(request: MessagesRequest, _model: str, ours: Habits) -> Json:
    level, thinking = effort(request), request.thinking or {}
    named = any(config.get("effort") for config in _configs(request))
    if level == "none":
        return {"reasoning": {"enabled": False}}
    if level and not named and isinstance(thinking.get("budget_tokens"), int):
        return {"reasoning": {"max_tokens": thinking["budget_tokens"]}}
    return {"reasoning": {"effort": nearest(level, ours.efforts)}} if level else {}


def _by_enabling(request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    if effort(request) == "none":
        return {"enable_thinking": False}
    budget = (request.thinking or {}).get("budget_tokens")
    if not thinks(request):
        return {}
    return {"enable_thinking": True, **({"thinking_budget": budget} if isinstance(budget, int) else {})}


def _not_at_all(_request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    return {}


REASONING: Mapping[str, Reasoning] = {
    "effort": _by_effort,
    "thinking": _by_switch,
    "thinking_effort": _by_switch_and_effort,
    "openrouter": _as_object,
    "qwen": _by_enabling,
    "off": _not_at_all,
}
