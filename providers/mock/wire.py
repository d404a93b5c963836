"""The mock's answers in each vendor's own form: heads, pieces, tails, documents and errors as bytes. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from providers.mock import bill
from providers.mock.bill import Figures, Language, Outcome
from providers.mock.scripts import SIGNATURE, Answer, Block, Delta, Event, Script, deltas, prompt_tokens

COMMENT = b": keep-alive\n\n"


def _role(answer: Answer) -> Event:
    return {} if answer.script.no_role else {"role": "assistant"}


def _ids(answer: Answer, **own: str) -> Event:
    """The fields that hold ids, if the script leaves them there."""
    told: Mapping[str, Event] = {"none": {}, "empty": dict.fromkeys(own, "")}
    return told.get(answer.script.ids, own)


def _position(answer: Answer, name: str, number: int) -> Event:
    """The field by which the pieces of a block find together."""
    script = answer.script
    if script.index == "none":
        return {}
    return {name: 0 if script.index == "zero" else script.first_index + number}


def _arguments(answer: Answer, block: Block) -> str | Event:
    given: Event = json.loads(block.text)
    return given if answer.script.arguments_object else block.text


def message_head(answer: Answer) -> list[Event]:
    message = {**_message(answer), "content": [], "stop_reason": None}
    if answer.reports_usage and not answer.script.no_start_usage:
        message["usage"] = bill.anthropic_start_usage(answer.figures)
    return [{"type": "message_start", "message": message}, {"type": "ping"}]


def message_delta(answer: Answer, delta: Delta) -> list[Event]:
    block = answer.blocks[delta.index]
    index = _position(answer, "index", delta.index)
    is_whole = block.kind == "tool" and answer.script.arguments_object
    events: list[Event] = []
    if delta.first:
        opened = _content_block(answer, block, empty=not is_whole)
        events.append({"type": "content_block_start", **index, "content_block": opened})
    if not is_whole:
        events.append({"type": "content_block_delta", **index, "delta": _content_delta(block, delta)})
    if delta.last:
        if block.kind == "thinking":
            signed = {"type": "signature_delta", "signature": SIGNATURE}
            events.append({"type": "content_block_delta", **index, "delta": signed})
        events.append({"type": "content_block_stop", **index})
    return events


def _content_delta(block: Block, delta: Delta) -> Event:
    if block.kind == "thinking":
        return {"type": "thinking_delta", "thinking": delta.text}
    if block.kind == "text":
        return {"type": "text_delta", "text": delta.text}
    return {"type": "input_json_delta", "partial_json": delta.text}


def message_running(_: Answer, events: list[Event], figures: Figures) -> list[Event]:
    return [*events, {"type": "message_delta", "delta": {}, "usage": bill.anthropic_usage(figures)}]


def message_tail(answer: Answer) -> list[Event]:
    ending: Event = {"type": "message_delta", "delta": {"stop_reason": answer.stop_reason, "stop_sequence": None}}
    if answer.reports_usage:
        ending["usage"] = bill.anthropic_usage(answer.figures)
    return [ending, {"type": "message_stop"}]


def message_document(answer: Answer) -> Event:
    message = {**_message(answer), "content": [_content_block(answer, block, empty=False) for block in answer.blocks]}
    if answer.reports_usage:
        message["usage"] = bill.anthropic_full_usage(answer.figures)
    return message


def _message(answer: Answer) -> Event:
    return {
        **_ids(answer, id=f"msg_{answer.id}"),
        "type": "message",
        **_role(answer),
        "model": answer.prompt.model,
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
    }


def _content_block(answer: Answer, block: Block, *, empty: bool) -> Event:
    if block.kind == "thinking":
        thought = {"thinking": "", "signature": ""} if empty else {"thinking": block.text, "signature": SIGNATURE}
        return {"type": "thinking", **thought}
    if block.kind == "text":
        return {"type": "text", "text": "" if empty else block.text}
    called = {"type": "tool_use", **_ids(answer, id=block.id), "name": block.name}
    return {**called, "input": {} if empty else json.loads(block.text)}


FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def chat_head(answer: Answer) -> list[Event]:
    head = [_chunk(answer, {**_role(answer), "content": ""})]
    if not answer.script.filter_first:
        return head
    filtered = {"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
    return [{"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [filtered]}, *head]


def chat_delta(answer: Answer, delta: Delta) -> list[Event]:
    block = answer.blocks[delta.index]
    if block.kind == "thinking":
        return [_chunk(answer, _reasoning(answer, delta.text, delta.index))]
    if block.kind == "text":
        return [_chunk(answer, {"content": delta.text})]
    number = sum(each.kind == "tool" for each in answer.blocks[: delta.index])
    call = _position(answer, "index", number)
    arguments = _arguments(answer, block) if answer.script.arguments_object else delta.text
    if delta.first:
        call |= {**_ids(answer, id=block.id), "type": "function"}
        call["function"] = {"name": block.name, "arguments": arguments}
    else:
        call["function"] = {"arguments": arguments}
    return [_chunk(answer, {"tool_calls": [call]})]


def _reasoning(answer: Answer, text: str, index: int) -> Event:
    """Under the name of the script's choice; OpenRouter says it twice."""
    if answer.script.thinking_as == "reasoning_content":
        return {"reasoning_content": text}
    if answer.script.thinking_as == "reasoning":
        return {"reasoning": text}
    detail = {"type": "reasoning.text", "text": text, "index": index, "format": "unknown"}
    return {"reasoning": text, "reasoning_details": [detail]}


def chat_running(_: Answer, events: list[Event], figures: Figures) -> list[Event]:
    return [{**event, "usage": bill.chat_usage(figures)} for event in events]


def chat_tail(answer: Answer) -> list[Event]:
    events = [_chunk(answer, {}, _finish_reason(answer))]
    if answer.prompt.include_usage and answer.reports_usage:
        usage = bill.chat_usage(answer.figures)
        events.append({**_completion(answer, "chat.completion.chunk"), "choices": [], "usage": usage})
    return events


def chat_document(answer: Answer) -> Event:
    message: Event = {**_role(answer), "content": _joined(answer, "text") or None}
    if reasoning := _joined(answer, "thinking"):
        message |= _reasoning(answer, reasoning, 0)
    if calls := [
        {
            **_ids(answer, id=block.id),
            "type": "function",
            "function": {"name": block.name, "arguments": _arguments(answer, block)},
        }
        for block in answer.blocks
        if block.kind == "tool"
    ]:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
    document = {**_completion(answer, "chat.completion"), "choices": [choice]}
    return {**document, "usage": bill.chat_usage(answer.figures)} if answer.reports_usage else document


def _chunk(answer: Answer, delta: Event, finish: str | None = None) -> Event:
    said = {"delta": delta}
    if answer.script.message_instead:
        said = {"message": delta} if delta else {}
    chunk = {
        **_completion(answer, "chat.completion.chunk"),
        "choices": [{"index": 0, **said, "finish_reason": finish}],
    }
    return {**chunk, "usage": None} if answer.prompt.include_usage and answer.reports_usage else chunk


def _completion(answer: Answer, kind: str) -> Event:
    described = {"object": kind, "created": answer.created, "model": answer.prompt.model}
    return {**_ids(answer, id=f"chatcmpl-{answer.id}"), **described}


def _finish_reason(answer: Answer) -> str:
    return FINISH_REASONS.get(answer.stop_reason, answer.stop_reason)


def _joined(answer: Answer, kind: str) -> str:
    return "".join(block.text for block in answer.blocks if block.kind == kind)


INCOMPLETE_REASONS = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}


def response_head(answer: Answer) -> list[Event]:
    response = {**_response(answer, "in_progress"), "output": []}
    return [{"type": "response.created", "response": response}, {"type": "response.in_progress", "response": response}]


def response_delta(answer: Answer, delta: Delta) -> list[Event]:
    block = answer.blocks[delta.index]
    item = _item(answer, delta.index)
    index = _position(answer, "output_index", delta.index)
    place = {**_ids(answer, item_id=_item_id(answer, delta.index)), **index}
    events: list[Event] = []
    if delta.first:
        events.append({"type": "response.output_item.added", **index, "item": {**item, **_OPENED[block.kind]}})
    if not (block.kind == "tool" and answer.script.arguments_object):
        events += _ITEM_EVENTS[block.kind](block, delta, place)
    if delta.last:
        events.append({"type": "response.output_item.done", **index, "item": item})
    return events


def response_running(answer: Answer, events: list[Event], figures: Figures) -> list[Event]:
    response = {**_response(answer, "in_progress"), "output": [], "usage": bill.responses_usage(figures)}
    return [*events, {"type": "response.in_progress", "response": response}]


def response_tail(answer: Answer) -> list[Event]:
    response = response_document(answer)
    return [{"type": f"response.{response['status']}", "response": response}]


def response_document(answer: Answer) -> Event:
    reason = INCOMPLETE_REASONS.get(answer.stop_reason)
    response = {
        **_response(answer, "incomplete" if reason else "completed"),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [_item(answer, index) for index in range(len(answer.blocks))],
    }
    return {**response, "usage": bill.responses_usage(answer.figures)} if answer.reports_usage else response


def _response(answer: Answer, status: str) -> Event:
    return {
        **_ids(answer, id=f"resp_{answer.id}"),
        "object": "response",
        "created_at": answer.created,
        "model": answer.prompt.model,
        "status": status,
        "error": None,
        "incomplete_details": None,
    }


def _item(answer: Answer, index: int) -> Event:
    """A complete output item; while it is streamed, `_OPENED` takes its content away."""
    block = answer.blocks[index]
    item_id = _ids(answer, id=_item_id(answer, index))
    if block.kind == "thinking":
        summary = [{"type": "summary_text", "text": block.text}]
        return {"type": "reasoning", **item_id, "summary": summary, "encrypted_content": SIGNATURE}
    if block.kind == "text":
        content = [{"type": "output_text", "text": block.text, "annotations": []}]
        return {"type": "message", **item_id, **_role(answer), "status": "completed", "content": content}
    called = {"type": "function_call", **item_id, **_ids(answer, call_id=block.id), "name": block.name}
    return {**called, "status": "completed", "arguments": _arguments(answer, block)}


def _item_id(answer: Answer, index: int) -> str:
    prefix = {"thinking": "rs_", "text": "msg_", "tool": "fc_"}[answer.blocks[index].kind]
    return f"{prefix}{answer.id}{index}"


_OPENED: Mapping[str, Event] = {
    "thinking": {"summary": [], "encrypted_content": None},
    "text": {"status": "in_progress", "content": []},
    "tool": {"status": "in_progress", "arguments": ""},
}


def _reasoning_events(block: Block, delta: Delta, place: Event) -> Iterator[Event]:
    place = {**place, "summary_index": 0}
    event = "response.reasoning_summary"
    if delta.first:
        yield {"type": f"{event}_part.added", **place, "part": {"type": "summary_text", "text": ""}}
    yield {"type": f"{event}_text.delta", **place, "delta": delta.text}
    if delta.last:
        yield {"type": f"{event}_text.done", **place, "text": block.text}
        yield {"type": f"{event}_part.done", **place, "part": {"type": "summary_text", "text": block.text}}


def _text_events(block: Block, delta: Delta, place: Event) -> Iterator[Event]:
    place = {**place, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    if delta.first:
        yield {"type": "response.content_part.added", **place, "part": part}
    yield {"type": "response.output_text.delta", **place, "delta": delta.text}
    if delta.last:
        yield {"type": "response.output_text.done", **place, "text": block.text}
        yield {"type": "response.content_part.done", **place, "part": {**part, "text": block.text}}


def _call_events(block: Block, delta: Delta, place: Event) -> Iterator[Event]:
    yield {"type": "response.function_call_arguments.delta", **place, "delta": delta.text}
    if delta.last:
        yield {"type": "response.function_call_arguments.done", **place, "arguments": block.text}


_ITEM_EVENTS: Mapping[str, Callable[[Block, Delta, Event], Iterable[Event]]] = {
    "thinking": _reasoning_events,
    "text": _text_events,
    "tool": _call_events,
}


ANTHROPIC_ERRORS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OPENAI_ERRORS = {402: "insufficient_quota", 429: "rate_limit_error"}
OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded", 503: "server_is_overloaded"}


def error_document(language: Language, status: int, error: str | dict[str, Any]) -> Event:
    """An error body in the vendor's form; an object is the whole body itself."""
    if isinstance(error, dict):
        return error
    message = error or f"the mock upstream was told to answer {status}"
    if language == "anthropic":
        kind = ANTHROPIC_ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = OPENAI_ERRORS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": OPENAI_CODES.get(status)}}


def overflow_document(answer: Answer) -> Event:
    """How the vendor of the language, or the server that the script names, refuses a prompt that is too long."""
    tokens, window = prompt_tokens(answer.prompt), answer.script.context_window
    language, vendor = answer.prompt.language, answer.script.vendor
    if vendor == "own" and language == "anthropic":
        return error_document(language, 400, f"prompt is too long: {tokens} tokens > {window} maximum")
    longest = f"This model's maximum context length is {window} tokens. However, "
    if vendor == "vllm":
        message = f"{longest}your request has {tokens} input tokens. Please reduce the length of the input messages."
        return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
    if vendor == "llamacpp":
        message = "the request exceeds the available context size, try increasing it"
        error = {"code": 400, "message": message, "type": "exceed_context_size_error"}
        return {"error": {**error, "n_prompt_tokens": tokens, "n_ctx": window}}
    if vendor == "openrouter":
        message = f"This endpoint's maximum context length is {window} tokens. However, you requested about {tokens}"
        return {"error": {"message": f"{message} tokens ({tokens} of text input).", "code": 400}}
    if vendor == "gemini":
        message = f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({window})."
        return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}
    message = f"{longest}your messages resulted in {tokens} tokens. Please reduce the length of the messages."
    param = "messages"
    if language == "responses":
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        param = "input"
    kind = {"type": "invalid_request_error", "param": param, "code": "context_length_exceeded"}
    return {"error": {"message": message, **kind}}


def error_status(script: Script) -> int:
    """The status that names an error's kind, also inside a stream; overloaded if the script names none."""
    return script.status if script.status >= 400 else 529


def error_event(answer: Answer) -> Event:
    script, language = answer.script, answer.prompt.language
    document = error_document(language, error_status(script), script.error)
    if language != "responses" or isinstance(script.error, dict):
        return document
    error = {"code": document["error"]["code"] or "server_error", "message": document["error"]["message"]}
    return {"type": "response.failed", "response": {**_response(answer, "failed"), "output": [], "error": error}}


class Dialect(msgspec.Struct, frozen=True):
    head: Callable[[Answer], list[Event]]
    delta: Callable[[Answer, Delta], list[Event]]
    tail: Callable[[Answer], list[Event]]
    document: Callable[[Answer], Event]
    running: Callable[[Answer, list[Event], Figures], list[Event]]  # a piece's events, with what it has cost so far


DIALECTS: Mapping[Language, Dialect] = {
    "anthropic": Dialect(message_head, message_delta, message_tail, message_document, message_running),
    "openai": Dialect(chat_head, chat_delta, chat_tail, chat_document, chat_running),
    "responses": Dialect(response_head, response_delta, response_tail, response_document, response_running),
}


class Stream(msgspec.Struct, frozen=True):
    """An answer as writes: each of `pieces` is a chunk of content with the events that open or close its block."""

    head: bytes
    pieces: list[bytes]
    ending: list[bytes]  # nothing if it is to be cut
    outcome: Outcome
    planned: int  # pieces of the whole answer, of which `pieces` are those that the script lets out


def render_stream(answer: Answer) -> Stream:
    dialect = DIALECTS[answer.prompt.language]
    head = _heads(answer, dialect)
    planned = [dialect.delta(answer, delta) for delta in deltas(answer)]
    if answer.script.usage_everywhere and answer.reports_usage:
        shares = (answer.figures.share(done, len(planned)) for done in range(1, len(planned) + 1))
        planned = [dialect.running(answer, piece, share) for piece, share in zip(planned, shares, strict=True)]
    outcome, limit = _end_of_stream(answer.script)
    pieces = planned[:limit]
    ending: list[Event] = []
    if outcome == "completed":
        ending = dialect.tail(answer)
    elif outcome == "error":
        ending = [error_event(answer)]
    if answer.prompt.language == "responses":
        _number([*head, *(event for piece in pieces for event in piece), *ending])
    return Stream(
        head=_frames(answer, head),
        pieces=[_frames(answer, piece) for piece in pieces],
        ending=_marked_end(answer, [_frames(answer, [event]) for event in ending], outcome),
        outcome=outcome,
        planned=len(planned),
    )


def _heads(answer: Answer, dialect: Dialect) -> list[Event]:
    if answer.script.no_head:
        return []
    return [event for _ in range(2 if answer.script.two_heads else 1) for event in dialect.head(answer)]


def _end_of_stream(script: Script) -> tuple[Outcome, int | None]:
    """How the stream ends, and after how many pieces."""
    if script.error_in_stream is not None:
        return "error", script.error_in_stream
    if script.cut_after is not None:
        return "cut", script.cut_after
    return "completed", None


def _marked_end(answer: Answer, ending: list[bytes], outcome: Outcome) -> list[bytes]:
    """With the last marker, which is an event of its own except in Chat Completions, or without it."""
    if outcome != "completed":
        return ending
    if answer.prompt.language == "openai":
        return ending if answer.script.no_done else [*ending, _line_ends(answer, b"data: [DONE]\n\n")]
    return ending[:-1] if answer.script.no_done else ending


def render_document(answer: Answer) -> bytes:
    return msgspec.json.encode(DIALECTS[answer.prompt.language].document(answer))


def _number(events: Iterable[Event]) -> None:
    for number, event in enumerate(events):
        event["sequence_number"] = number


def _frames(answer: Answer, events: Iterable[Event]) -> bytes:
    return b"".join(_frame(answer, event) for event in events)


def _frame(answer: Answer, event: Event) -> bytes:
    data = b"data: " + msgspec.json.encode(event) + b"\n\n"
    if answer.prompt.language != "openai" and "type" in event and not answer.script.no_event_names:
        data = b"event: " + event["type"].encode() + b"\n" + data
    if answer.script.comments:
        data = COMMENT + data
    return _line_ends(answer, data)


def keep_alive(answer: Answer, *, stream: bool) -> bytes:
    """What proves life before the answer, or between its events, and means nothing."""
    return _line_ends(answer, COMMENT if stream else b"\n")


def _line_ends(answer: Answer, frame: bytes) -> bytes:
    # JSON has no raw line feeds, so all of them are the framing's.
    return frame.replace(b"\n", b"\r\n") if answer.script.crlf else frame
