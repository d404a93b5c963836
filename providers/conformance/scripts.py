"""What a scripted upstream answers: the shorthand of the cases, written out as the bytes of each language."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from providers.conformance.cases import Json, Language, Script

DONE = "data: [DONE]\n\n"
CREATED = 1767225600
# What END and its sisters report, unless a case says otherwise; and the same as a client has to read it.
PROMPT, COMPLETION = 10, 5
USUAL_USAGE = [PROMPT, 0, 0, COMPLETION]
CHAT_USAGE: Json = {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "total_tokens": PROMPT + COMPLETION}
RESPONSES_USAGE: Json = {
    "input_tokens": PROMPT,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": COMPLETION,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": PROMPT + COMPLETION,
}
# The last item of a short stream: the reason to stop, the usage, and whatever ends the language's streams.
ENDINGS = {"END": "stop", "CALLS": "tool_calls", "LENGTH": "length"}
MESSAGES_REASONS = {"END": "end_turn", "CALLS": "tool_use", "LENGTH": "max_tokens"}


class Reply(msgspec.Struct, frozen=True):
    """One answer of the upstream, ready to be written."""

    status: int
    headers: Mapping[str, str]
    stream: bytes | None
    whole: bytes | None
    ends: str
    split: int

    def body(self, *, streamed: bool) -> tuple[bytes, str]:
        """The bytes and their content type, for a call that asked for a stream or not."""
        if self.stream is not None and (streamed or self.whole is None):
            return self.stream, self.headers.get("content-type", "text/event-stream; charset=utf-8")
        return self.whole or b"", self.headers.get("content-type", "application/json")


def replies(script: Script, language: Language) -> list[Reply]:
    """For the first call, the second …; the last one stands for all that follow."""
    last = _reply(script, language)
    if script.first is None:
        return [last]
    return [_reply(msgspec.convert(script.first, Script), language), last]


def _reply(script: Script, language: Language) -> Reply:
    stream, whole = _bodies(script, LANGUAGES[language])
    headers = dict(script.answer_headers)
    if script.content_type:
        headers["content-type"] = script.content_type
    return Reply(script.status, headers, stream, whole, script.ends, script.split)


def _bodies(script: Script, language: Wording) -> tuple[bytes | None, bytes | None]:
    if script.document is not None:
        return None, script.document.encode()
    if script.body is not msgspec.UNSET:
        return None, json.dumps(script.body, ensure_ascii=False).encode()
    if script.status != 200:
        return None, b""
    if script.frames is not None:
        stream = script.frames
    elif script.chunks is not None:
        stream = "".join(language.chunks(script.chunks))
    else:
        reported = language.usage if script.reported is msgspec.UNSET else script.reported
        stream = "".join(language.chunks(language.stream(reported)))
        return stream.encode(), json.dumps(language.whole(reported)).encode()
    if script.unnamed:
        stream = "\n".join(line for line in stream.split("\n") if not line.startswith("event:"))
    if script.crlf:
        stream = stream.replace("\n", "\r\n")
    return stream.encode(), None


def _data(payload: Any) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"


def _event(payload: Json) -> str:
    return f"event: {payload['type']}\n{_data(payload)}"


# Chat Completions: a text is written as it stands; {text, reasoning, call, calls, delta, finish, usage, choice, chunk}
# are parts of one chunk, {json} is a whole one.


def _chat(items: list[Any]) -> Iterator[str]:
    for item in items:
        if not isinstance(item, str):
            yield _data(item["json"] if "json" in item else _chunk(item))
        elif item in ENDINGS:
            yield _data(_chunk({"finish": ENDINGS[item]}))
            yield _data(_chunk({"usage": CHAT_USAGE}))
            yield DONE
        else:
            yield DONE if item == "DONE" else item


def _chunk(item: Json) -> Json:
    chunk: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": "upstream"}
    if set(item) == {"usage"}:
        return {**chunk, "choices": [], "usage": item["usage"]}
    delta = dict(item.get("delta") or {})
    if "text" in item:
        delta["content"] = item["text"]
    if "reasoning" in item:
        delta["reasoning_content"] = item["reasoning"]
    calls = [*([item["call"]] if "call" in item else []), *item.get("calls", [])]
    if calls:
        delta["tool_calls"] = list(map(_call, calls))
    choice = {"index": 0, "delta": delta, "finish_reason": item.get("finish"), **item.get("choice", {})}
    usage = {"usage": item["usage"]} if "usage" in item else {}
    return {**chunk, "choices": [choice], **usage, **item.get("chunk", {})}


def _call(call: Json) -> Json:
    """`{at, id, name, args}`; whatever is left out is not sent, and anything else is sent as it stands."""
    written = {name: value for name, value in call.items() if name not in {"at", "name", "args"}}
    if "at" in call:
        written["index"] = call["at"]
    function = {to: call[name] for name, to in (("name", "name"), ("args", "arguments")) if name in call}
    return {**written, **({"type": "function"} if call.get("id") else {}), "function": function}


def _chat_stream(usage: Any) -> list[Any]:
    return [{"text": "Hi"}, {"finish": "stop"}, {"usage": usage}, "DONE"]


def _chat_whole(usage: Any) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "upstream",
        "choices": [choice],
        "usage": usage,
    }


# Responses: {text, args, args_done, summary, item, item_done …} with `at`, the output index; {json} is a whole event.


def _responses(items: list[Any]) -> Iterator[str]:
    done: list[Json] = []
    for number, item in enumerate(items):
        if isinstance(item, str) and item not in RESPONSE_EVENTS:
            yield DONE if item == "DONE" else item
            continue
        payload = _item_event(RESPONSE_EVENTS[item] if isinstance(item, str) else item, done)
        yield _event({"sequence_number": number, **payload})


RESPONSE_EVENTS: Mapping[str, Json] = {
    "created": {"json": {"type": "response.created"}},
    "END": {"completed": {}},
    "CALLS": {"completed": {}},
    "LENGTH": {"incomplete": "max_output_tokens"},
}


def _response(fields: Json) -> Json:
    """With all that OpenAI's own responses hold: some readers insist on it."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "model": "upstream",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        **fields,
    }


def _item_event(item: Json, done: list[Json]) -> Json:
    """One event; what is done is gathered, since the last event repeats it."""
    at = {"output_index": item.get("at", 0), "item_id": f"item_{item.get('at', 0)}"}
    kind = next(name for name in item if name != "at")
    value = item[kind]
    if kind == "json":
        created = {"response": _response({"status": "in_progress"})} if value["type"] == "response.created" else {}
        return {**created, **value}
    if kind in DELTA_EVENTS:
        event, field = DELTA_EVENTS[kind]
        index = {"summary_index": item.get("part", 0)} if "summary" in kind else {"content_index": 0}
        return {"type": f"response.{event}", **at, **index, field: value}
    if kind == "item":
        return {"type": "response.output_item.added", **at, "item": {"id": at["item_id"], **value}}
    if kind == "item_done":
        done.append({"id": at["item_id"], "status": "completed", **value})
        return {"type": "response.output_item.done", **at, "item": done[-1]}
    if kind not in {"completed", "incomplete", "failed"}:
        raise ValueError(f"{kind} is no shorthand of the Responses language")
    return {"type": f"response.{kind}", "response": _response(_ended(kind, value, done))}


def _ended(kind: str, value: Any, done: list[Json]) -> Json:
    if kind == "failed":
        return {"status": "failed", "error": value}
    if kind == "incomplete":
        value = {"incomplete_details": {"reason": value}}
    return {"status": kind, "output": list(done), "usage": RESPONSES_USAGE, **value}


DELTA_EVENTS = {
    "text": ("output_text.delta", "delta"),
    "refusal": ("refusal.delta", "delta"),
    "args": ("function_call_arguments.delta", "delta"),
    "args_done": ("function_call_arguments.done", "arguments"),
    "summary": ("reasoning_summary_text.delta", "delta"),
    "reasoning": ("reasoning_text.delta", "delta"),
}


def _responses_stream(usage: Any) -> list[Any]:
    return ["created", {"item": _MESSAGE}, {"text": "Hi"}, {"item_done": _said("Hi")}, {"completed": {"usage": usage}}]


_MESSAGE: Json = {"type": "message", "role": "assistant", "status": "in_progress", "content": []}


def _said(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _responses_whole(usage: Any) -> Json:
    return _response({"status": "completed", "output": [{"id": "item_0", **_said("Hi")}], "usage": usage})


# Messages: {start}, {block, at}, {text, thinking, signature, args, at}, {stop}, {end, usage}; {json} is a whole event.


def _messages(items: list[Any]) -> Iterator[str]:
    for item in items:
        if not isinstance(item, str):
            yield _event(_message_event(item))
        elif item in ENDINGS:
            usage = {"input_tokens": PROMPT, "output_tokens": COMPLETION}
            yield _event(_message_event({"end": MESSAGES_REASONS[item], "usage": usage}))
            yield _event({"type": "message_stop"})
        else:
            yield _event({"type": item}) if item in {"ping", "message_stop"} else item


def _message_event(item: Json) -> Json:
    at = {"index": item.get("at", 0)}
    if "json" in item:
        return dict(item["json"])
    if "start" in item:
        return {"type": "message_start", "message": {**_MESSAGE_START, **(item["start"] or {})}}
    if "block" in item:
        return {"type": "content_block_start", **at, "content_block": item["block"]}
    if "stop" in item:
        return {"type": "content_block_stop", "index": item["stop"]}
    if "end" in item:
        usage = {"usage": item["usage"]} if "usage" in item else {}
        return {"type": "message_delta", "delta": {"stop_reason": item["end"], "stop_sequence": None}, **usage}
    kind = next(name for name in item if name != "at")
    delta = {"type": DELTA_TYPES[kind][0], DELTA_TYPES[kind][1]: item[kind]}
    return {"type": "content_block_delta", **at, "delta": delta}


DELTA_TYPES = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
    "args": ("input_json_delta", "partial_json"),
}
_MESSAGE_START: Json = {
    "id": "msg_up",
    "type": "message",
    "role": "assistant",
    "model": "upstream",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {
        "input_tokens": PROMPT,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 1,
    },
}


def _messages_stream(usage: Any) -> list[Any]:
    text = {"type": "text", "text": ""}
    return [{"start": {}}, {"block": text}, {"text": "Hi"}, {"stop": 0}, {"end": "end_turn", "usage": usage}, *_STOP]


_STOP = ["message_stop"]


def _messages_whole(usage: Any) -> Json:
    content = [{"type": "text", "text": "Hi"}]
    return {**_MESSAGE_START, "content": content, "stop_reason": "end_turn", "usage": usage}


class Wording(msgspec.Struct, frozen=True):
    """How a language is written out."""

    chunks: Callable[[list[Any]], Iterator[str]]
    stream: Callable[[Any], list[Any]]
    whole: Callable[[Any], Json]
    usage: Json


Wordings: TypeAlias = Mapping[Language, Wording]
LANGUAGES: Wordings = {
    "openai": Wording(_chat, _chat_stream, _chat_whole, CHAT_USAGE),
    "responses": Wording(_responses, _responses_stream, _responses_whole, RESPONSES_USAGE),
    "anthropic": Wording(
        _messages,
        _messages_stream,
        _messages_whole,
        {"input_tokens": PROMPT, "output_tokens": COMPLETION},
    ),
}
