"""What the mock answers: the script of a request, its figures, and the bytes in each vendor's language. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, pairwise, zip_longest
from typing import Annotated, Any, Literal

import msgspec

from providers.mock import bill
from providers.mock.bill import Figures, Language, Outcome

Event = dict[str, Any]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

DEFAULT_TEXT = "Hello from the mock upstream: deterministic, billed to the token, naïve by design ✓"
FILLER = "All work and no play makes a dull answer. "
SIGNATURE = "bW9jay1zaWduYXR1cmU="
DIRECTIVE = "[[mock:"
# What decoding raises: msgspec has classes of its own for some of it only.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Unusable(Exception):
    """The request, or the script it names, cannot be read; answered as a 400."""


class ToolUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    input: dict[str, Any] = {}


class FiguresGiven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures that replace those of the rule; None keeps the rule's."""

    input: Count | None = None
    cache_read: Count | None = None
    cache_write_5m: Count | None = None
    cache_write_1h: Count | None = None
    output: Count | None = None
    thinking: Count | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to answer one call; docs/mock-upstream.md has the table with an example for each field."""

    text: str | None = None
    size: Count = 0
    thinking: str = ""
    tools: tuple[ToolUse, ...] = ()
    stop_reason: str = ""
    usage: FiguresGiven | Literal["none"] | None = None
    repeat_ids: bool = False
    chunks: Annotated[int, msgspec.Meta(ge=1)] = 4
    tool_fragment: Annotated[int, msgspec.Meta(ge=1)] = 16
    interleave: bool = False
    first_delay: Seconds = 0.0
    first_chunk_delay: Seconds = 0.0
    chunk_delay: Seconds = 0.0
    split: Count = 0
    crlf: bool = False
    no_done: bool = False
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    error: str | dict[str, Any] = ""
    retry_after: Seconds | None = None
    error_in_stream: Count | None = None
    cut_after: Count | None = None
    cut: Literal["close", "abort"] = "close"
    html: bool = False
    json_instead: bool = False
    empty: bool = False
    hang: bool = False
    agent: tuple[Script, ...] = ()


class ScriptChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The object form of POST /__script: what is absent stays as it was."""

    default: Script | msgspec.UnsetType | None = msgspec.UNSET
    queue: list[Script] | msgspec.UnsetType = msgspec.UNSET


DEFAULT = Script()
# Chosen by a model named mock-<word>.
NAMED: dict[str, Script] = {
    "thinking": Script(thinking="Let me think about that for a moment."),
    "tool": Script(tools=(ToolUse("Bash", {"command": "true", "description": "Do nothing"}),)),
    "slow": Script(chunks=10, chunk_delay=0.2),
    "long": Script(size=100_000, chunks=1000),
    "429": Script(status=429, retry_after=1),
    "500": Script(status=500),
    "529": Script(status=529),
    "cut": Script(cut_after=2),
    "hang": Script(hang=True),
}


def read_script(text: str | bytes) -> Script:
    try:
        return msgspec.json.decode(text, type=Script)
    except UNREADABLE as error:
        raise Unusable(f"mock script: {error}") from error


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Body(msgspec.Struct):
    """The few fields that matter here; what is only weighed stays raw."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    messages: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    system: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    input: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    instructions: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    tools: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class Prompt(msgspec.Struct, frozen=True):
    """A request as far as the answer depends on it."""

    language: Language
    model: str
    stream: bool
    include_usage: bool
    history: bytes  # the JSON of messages or input
    offers_tools: bool
    figures: Figures


def read_prompt(language: Language, body: bytes) -> Prompt:
    try:
        fields = msgspec.json.decode(body, type=Body)
    except UNREADABLE as error:
        raise Unusable(f"request: {error}") from error
    history, *others = _weighed(language, fields)
    if not history:
        raise Unusable("input: Field required" if language == "responses" else "messages: Field required")
    total = bill.tokens_of(len(history) + sum(map(len, others)))
    marked = b'"cache_control"' in body
    one_hour = marked and re.search(rb'"ttl"\s*:\s*"1h"', body) is not None
    return Prompt(
        language=language,
        model=fields.model,
        stream=bool(fields.stream),
        include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
        history=history,
        offers_tools=bytes(fields.tools) not in (b"", b"null", b"[]"),
        figures=bill.split_prompt(total, language, marked=marked, one_hour=one_hour),
    )


def prompt_tokens(prompt: Prompt) -> int:
    """All of the prompt, cached or not: the answer of count_tokens."""
    figures = prompt.figures
    return figures.input + figures.cache_read + figures.cache_write_5m + figures.cache_write_1h


def _weighed(language: Language, body: Body) -> list[bytes]:
    """The fields whose bytes are the prompt, the conversation first."""
    if language == "anthropic":
        return [bytes(body.messages), bytes(body.system), bytes(body.tools)]
    if language == "openai":
        return [bytes(body.messages), bytes(body.tools)]
    return [bytes(body.input), bytes(body.instructions), bytes(body.tools)]


class Turn(msgspec.Struct, frozen=True):
    """An entry of the conversation: whose it is, and the text of a user's."""

    assistant: bool
    texts: tuple[str, ...] = ()


def read_turns(prompt: Prompt) -> list[Turn]:
    try:
        items = msgspec.json.decode(prompt.history)
    except UNREADABLE as error:
        raise Unusable(f"messages: {error}") from error
    if isinstance(items, str):
        return [Turn(assistant=False, texts=(items,))]
    if not isinstance(items, list):
        raise Unusable("messages: not an array")
    return [_turn(item) for item in items if isinstance(item, dict)]


def _turn(item: Event) -> Turn:
    role = item.get("role")
    if role == "assistant" or item.get("type") in ("function_call", "reasoning"):
        return Turn(assistant=True)
    return Turn(assistant=False, texts=tuple(_texts(item.get("content"))) if role == "user" else ())


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def count_answers(turns: Iterable[Turn]) -> int:
    """Runs of assistant entries: a translator may spread one answer over several."""
    return sum(assistant for assistant, _ in groupby(turn.assistant for turn in turns))


def choose(prompt: Prompt, ordered: Script | None, default: Script) -> Script:
    """The script of a request; `ordered` comes from the header or the queue and goes first."""
    if ordered is not None:
        return _step(ordered, prompt, None)
    directed = _directed(prompt)
    if directed is not None:
        script, answers = directed
        return _step(script, prompt, answers)
    named = NAMED.get(prompt.model.removeprefix("mock-")) if prompt.model.startswith("mock-") else None
    return _step(named or default, prompt, None)


def _directed(prompt: Prompt) -> tuple[Script, int] | None:
    """A directive in the user's text and the answers given since: a new one, or the first agent's at any age."""
    if DIRECTIVE.encode() not in prompt.history:
        return None
    turns = read_turns(prompt)
    found = [
        (script, count_answers(turns[place:]))
        for place, turn in enumerate(turns)
        for text in turn.texts
        if (script := find_directive(text)) is not None
    ]
    fresh = [(script, answers) for script, answers in found if answers == 0]
    agents = [(script, answers) for script, answers in found if script.agent]
    return next(iter(fresh + agents), None)


def find_directive(text: str) -> Script | None:
    """The script of the first `[[mock: {json}]]`."""
    start = text.find(DIRECTIVE)
    if start < 0:
        return None
    source = text[start + len(DIRECTIVE) :].lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(source)
    except ValueError as error:
        raise Unusable(f"mock directive: {error}") from error
    return read_script(source[:end])


def _step(script: Script, prompt: Prompt, answers: int | None) -> Script:
    """The step of an agent script: the default answer after the last, and for tools that were not offered."""
    if not script.agent:
        return script
    if answers is None:
        answers = count_answers(read_turns(prompt))
    if answers >= len(script.agent):
        return DEFAULT
    step = script.agent[answers]
    # Claude Code asks for titles with the user's prompt in it: such a request offers no tools.
    return DEFAULT if step.tools and not prompt.offers_tools else step


class Block(msgspec.Struct, frozen=True):
    """A part of the answer; `text` is the arguments' JSON for a tool."""

    kind: Literal["thinking", "text", "tool"]
    text: str
    name: str = ""
    id: str = ""


class Delta(msgspec.Struct, frozen=True):
    """A piece of a block; `first` and `last` of its block may be the same piece."""

    index: int
    text: str
    first: bool
    last: bool


class Answer(msgspec.Struct, frozen=True):
    """All that the renderers need. `figures` is the price if the answer is produced to its end."""

    prompt: Prompt
    script: Script
    id: str
    created: int
    blocks: tuple[Block, ...]
    stop_reason: str
    figures: Figures

    @property
    def reports_usage(self) -> bool:
        return self.script.usage != "none"


TOOL_IDS: Mapping[Language, str] = {"anthropic": "toolu_", "openai": "call_", "responses": "call_"}


def compose(prompt: Prompt, script: Script, seed: str, created: int) -> Answer:
    """`seed` makes the ids, as long each time: they come back in the next prompt, where bytes are counted."""
    prefix = "call_" if script.repeat_ids else f"{TOOL_IDS[prompt.language]}{seed}"
    blocks = tuple(_blocks(script, prefix))
    return Answer(
        prompt=prompt,
        script=script,
        id="mock" if script.repeat_ids else seed,
        created=created,
        blocks=blocks,
        stop_reason=script.stop_reason or ("tool_use" if script.tools else "end_turn"),
        figures=_priced(prompt.figures, blocks, script),
    )


def _blocks(script: Script, id_prefix: str) -> Iterator[Block]:
    if script.thinking:
        yield Block("thinking", script.thinking)
    text = _answer_text(script)
    if text:
        yield Block("text", text)
    for number, tool in enumerate(script.tools):
        arguments = msgspec.json.encode(tool.input).decode()
        yield Block("tool", arguments, tool.name, f"{id_prefix}{number}")


def _answer_text(script: Script) -> str:
    if script.size:
        return (FILLER * (script.size // len(FILLER) + 1))[: script.size]
    if script.text is not None:
        return script.text
    return "" if script.tools else DEFAULT_TEXT


def _priced(prompt: Figures, blocks: Iterable[Block], script: Script) -> Figures:
    output = thinking = 0
    for block in blocks:
        tokens = bill.tokens_of(len((block.name + block.text).encode()))
        output += tokens
        thinking += tokens if block.kind == "thinking" else 0
    figures = msgspec.structs.replace(prompt, output=output, thinking=thinking)
    if isinstance(script.usage, FiguresGiven):
        given = {name: value for name, value in msgspec.structs.asdict(script.usage).items() if value is not None}
        figures = msgspec.structs.replace(figures, **given)
    return figures


def deltas(answer: Answer) -> list[Delta]:
    """The pieces in the order of sending: block after block, or the tools' in turns."""
    script = answer.script
    runs = [_pieces(index, block, script) for index, block in enumerate(answer.blocks)]
    if not script.interleave:
        return [delta for run in runs for delta in run]
    others = [run for run, block in zip(runs, answer.blocks, strict=True) if block.kind != "tool"]
    tools = runs[len(others) :]  # they come last
    return [delta for run in others for delta in run] + [
        delta for rank in zip_longest(*tools) for delta in rank if delta is not None
    ]


def _pieces(index: int, block: Block, script: Script) -> list[Delta]:
    text = block.text
    if block.kind == "tool":
        parts = [text[at : at + script.tool_fragment] for at in range(0, len(text), script.tool_fragment)]
    else:
        count = min(script.chunks, len(text))
        bounds = [len(text) * n // count for n in range(count + 1)]
        parts = [text[start:end] for start, end in pairwise(bounds)]
    last = len(parts) - 1
    return [Delta(index, part, n == 0, n == last) for n, part in enumerate(parts)]


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
