"""The mock's answers in each vendor's own form: heads, pieces, tails, documents and errors as bytes. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from providers.mock import bill
from providers.mock.bill import Language, Outcome
from providers.mock.scripts import SIGNATURE, Answer, Block, Delta, Event, Script, deltas


def message_head(answer: Answer) -> list[Event]:
    message = {**_message(answer), "content": [], "stop_reason": None}
    if answer.reports_usage:
        message["usage"] = bill.anthropic_start_usage(answer.figures)
    return [{"type": "message_start", "message": message}, {"type": "ping"}]


def message_delta(answer: Answer, delta: Delta) -> list[Event]:
    block = answer.blocks[delta.index]
    index = {"index": delta.index}
    events: list[Event] = []
    if delta.first:
        events.append({"type": "content_block_start", **index, "content_block": _content_block(block, empty=True)})
    body: Event
    if block.kind == "thinking":
        body = {"type": "thinking_delta", "thinking": delta.text}
    elif block.kind == "text":
        body = {"type": "text_delta", "text": delta.text}
    else:
        body = {"type": "input_json_delta", "partial_json": delta.text}
    events.append({"type": "content_block_delta", **index, "delta": body})
    if delta.last:
        if block.kind == "thinking":
            signed = {"type": "signature_delta", "signature": SIGNATURE}
            events.append({"type": "content_block_delta", **index, "delta": signed})
        events.append({"type": "content_block_stop", **index})
    return events


def message_tail(answer: Answer) -> list[Event]:
    ending: Event = {"type": "message_delta", "delta": {"stop_reason": answer.stop_reason, "stop_sequence": None}}
    if answer.reports_usage:
        ending["usage"] = bill.anthropic_usage(answer.figures)
    return [ending, {"type": "message_stop"}]


def message_document(answer: Answer) -> Event:
    message = {**_message(answer), "content": [_content_block(block, empty=False) for block in answer.blocks]}
    if answer.reports_usage:
        message["usage"] = bill.anthropic_full_usage(answer.figures)
    return message


def _message(answer: Answer) -> Event:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.prompt.model,
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
    }


def _content_block(block: Block, *, empty: bool) -> Event:
    if block.kind == "thinking":
        thought = {"thinking": "", "signature": ""} if empty else {"thinking": block.text, "signature": SIGNATURE}
        return {"type": "thinking", **thought}
    if block.kind == "text":
        return {"type": "text", "text": "" if empty else block.text}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": {} if empty else json.loads(block.text)}


FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def chat_head(answer: Answer) -> list[Event]:
    return [_chunk(answer, {"role": "assistant", "content": ""})]


def chat_delta(answer: Answer, delta: Delta) -> list[Event]:
    block = answer.blocks[delta.index]
    if block.kind == "thinking":
        return [_chunk(answer, {"reasoning_content": delta.text})]
    if block.kind == "text":
        return [_chunk(answer, {"content": delta.text})]
    position = delta.index - next(n for n, each in enumerate(answer.blocks) if each.kind == "tool")
    call: Event = {"index": position, "function": {"arguments": delta.text}}
    if delta.first:
        call = {**call, "id": block.id, "type": "function", "function": {"name": block.name, "arguments": delta.text}}
    return [_chunk(answer, {"tool_calls": [call]})]


def chat_tail(answer: Answer) -> list[Event]:
    events = [_chunk(answer, {}, _finish_reason(answer))]
    if answer.prompt.include_usage and answer.reports_usage:
        usage = bill.chat_usage(answer.figures)
        events.append({**_completion(answer, "chat.completion.chunk"), "choices": [], "usage": usage})
    return events


def chat_document(answer: Answer) -> Event:
    message: Event = {"role": "assistant", "content": _joined(answer, "text") or None}
    if reasoning := _joined(answer, "thinking"):
        message["reasoning_content"] = reasoning
    if calls := [
        {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.text}}
        for block in answer.blocks
        if block.kind == "tool"
    ]:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
    document = {**_completion(answer, "chat.completion"), "choices": [choice]}
    return {**document, "usage": bill.chat_usage(answer.figures)} if answer.reports_usage else document


def _chunk(answer: Answer, delta: Event, finish: str | None = None) -> Event:
    chunk = {
        **_completion(answer, "chat.completion.chunk"),
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return {**chunk, "usage": None} if answer.prompt.include_usage and answer.reports_usage else chunk


def _completion(answer: Answer, kind: str) -> Event:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": answer.created, "model": answer.prompt.model}


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
    place = {"item_id": item["id"], "output_index": delta.index}
    events: list[Event] = []
    if delta.first:
        opened = {**item, **_OPENED[block.kind]}
        events.append({"type": "response.output_item.added", "output_index": delta.index, "item": opened})
    events += _ITEM_EVENTS[block.kind](block, delta, place)
    if delta.last:
        events.append({"type": "response.output_item.done", "output_index": delta.index, "item": item})
    return events


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
        "id": f"resp_{answer.id}",
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
    if block.kind == "thinking":
        summary = [{"type": "summary_text", "text": block.text}]
        return {"type": "reasoning", "id": f"rs_{answer.id}", "summary": summary, "encrypted_content": SIGNATURE}
    if block.kind == "text":
        content = [{"type": "output_text", "text": block.text, "annotations": []}]
        message = {"type": "message", "id": f"msg_{answer.id}", "role": "assistant"}
        return {**message, "status": "completed", "content": content}
    called = {"type": "function_call", "id": f"fc_{answer.id}{index}", "call_id": block.id, "name": block.name}
    return {**called, "status": "completed", "arguments": block.text}


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


DIALECTS: Mapping[Language, Dialect] = {
    "anthropic": Dialect(message_head, message_delta, message_tail, message_document),
    "openai": Dialect(chat_head, chat_delta, chat_tail, chat_document),
    "responses": Dialect(response_head, response_delta, response_tail, response_document),
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
    head = dialect.head(answer)
    planned = [dialect.delta(answer, delta) for delta in deltas(answer)]
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
    if answer.prompt.language != "openai" and "type" in event:
        data = b"event: " + event["type"].encode() + b"\n" + data
    return _line_ends(answer, data)


def _line_ends(answer: Answer, frame: bytes) -> bytes:
    # JSON has no raw line feeds, so all of them are the framing's.
    return frame.replace(b"\n", b"\r\n") if answer.script.crlf else frame
