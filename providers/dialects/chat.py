"""OpenAI Chat Completions: requests are translated by chat_request, answers by the machine below."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from providers import identity
from providers.dialects import refusals, tools
from providers.dialects.arguments import BROKEN, Arguments, mended, parsed, repaired, same_json
from providers.dialects.chat_chunks import (
    Choice,
    Chunk,
    Delta,
    Entry,
    detail_text,
    loads,
    merge_details,
    read_chunk,
)
from providers.dialects.chat_request import encode, tool_names
from providers.dialects.dialect import Dialect, Exchange
from providers.dialects.names import ToolNames
from providers.dialects.profiles import habits
from providers.dialects.think_tags import ThinkTags
from providers.errors import BrokenStream, Overloaded, UpstreamError
from providers.events import MessageWriter, fold
from providers.messages import Tool
from providers.sse import LONGEST, Frame, Reader
from providers.state import State, seal
from providers.usage import Usage, tokens

SAMPLE = 8192
MOST_BAD_CHUNKS = 10
MOST_RUN_TOGETHER = 64
PROBE = 16  # whoever asks for so few tokens only wants to know whether anybody answers
CONTEXT_WINDOW = "model_context_window_exceeded"

# What a finish reason means when no tool was called; with a tool, `stop_reason` below.
STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "eos": "end_turn",
    "end_turn": "end_turn",
    "tool_calls": "end_turn",
    "function_call": "end_turn",
    "tool_use": "end_turn",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "model_length": CONTEXT_WINDOW,
    "context_length": CONTEXT_WINDOW,
    "content_filter": "refusal",
    "safety": "refusal",
    "recitation": "refusal",
    "sensitive": "refusal",
    "refusal": "refusal",
    "prohibited_content": "refusal",
    "pause_turn": "pause_turn",
}
# And these mean that there is no answer.
FAILURES: Mapping[str, type[UpstreamError]] = {
    "error": UpstreamError,
    "network_error": UpstreamError,
    "abort": UpstreamError,
    "cancelled": UpstreamError,
    "insufficient_system_resource": Overloaded,
}


def stop_reason(finish: str, *, tool_used: bool = False, call_cut: bool = False) -> str:
    meaning = STOP_REASONS.get(finish.lower(), "end_turn")
    if meaning in {"refusal", CONTEXT_WINDOW} or not tool_used:
        return meaning
    return "max_tokens" if meaning == "max_tokens" and call_cut else "tool_use"


_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount")
_REASONING = ("reasoning_tokens", "thoughtsTokenCount")


def usage_of(reported: Mapping[str, Any], *, reasoning_outside: bool = False) -> Usage:
    """Cached tokens are a part of the prompt here, reasoning of the completion, except where it is counted apart."""
    prompt_details = _details(reported, "prompt_tokens_details", "input_tokens_details")
    completion_details = _details(reported, "completion_tokens_details", "output_tokens_details")
    prompt, completion = _figure(reported, _PROMPT), _figure(reported, _COMPLETION)
    cached = min(_figure(prompt_details, _CACHED) or _figure(reported, _CACHED), prompt)
    written = _figure(prompt_details, ("cache_write_tokens",)) or _figure(reported, ("cache_creation_input_tokens",))
    written = min(written, prompt - cached)
    reasoning = _figure(completion_details, _REASONING) or _figure(reported, _REASONING)
    total = _figure(reported, ("total_tokens", "totalTokenCount"))
    if total > prompt + completion and (reasoning_outside or total == prompt + completion + reasoning):
        completion = total - prompt
    return Usage(
        input=prompt - cached - written,
        cache_read=cached,
        cache_write_5m=written,
        output=completion,
        thinking=min(reasoning, completion),
    )


def _details(reported: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((reported[name] for name in names if isinstance(reported.get(name), dict)), {})


def _figure(reported: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((tokens(reported[name]) for name in names if reported.get(name) is not None), 0)


class Words:
    """Text or thinking that waits for its turn."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.details: list[dict[str, Any]] = []


class Call:
    """A tool call on its way."""

    def __init__(self, index: int | None, echo_of: Call | None = None) -> None:
        self.index = index
        self.upstream_id = ""
        self.name = ""
        self.arguments = Arguments()
        self.unsent: list[str] = []
        self.is_open = False
        self.is_closed = False
        self.next: Call | None = None  # begun by an object after this one's
        self.echo_of = echo_of  # set while it may turn out to be a repeat of that

    def last(self) -> Call:
        call = self
        while call.next is not None:
            call = call.next
        return call


class Calls:
    """Which call a fragment belongs to: upstreams number and name them in every way but the documented one."""

    def __init__(self, *, split_names: bool) -> None:
        self._split_names = split_names
        self._by_index: dict[int, Call] = {}
        self._by_id: dict[str, Call] = {}
        self._latest: Call | None = None

    def of(self, entry: Entry) -> tuple[Call, bool] | None:
        """The call, and whether it is new; None for an entry that says nothing."""
        known = self._known(entry)
        function = entry.function
        name = (function.name if function else None) or ""
        arguments = (function.arguments if function else None) or ""
        if known is not None and not self._begins_another(known.last(), entry.id or "", name, arguments):
            if entry.id and not known.upstream_id:
                known.upstream_id = entry.id
                self._by_id[entry.id] = known
            return known.last(), False
        if not name and not arguments and not entry.id:
            return None
        return self._new(entry), True

    def _known(self, entry: Entry) -> Call | None:
        by_id = self._by_id.get(entry.id) if entry.id else None
        if entry.index is not None:
            return by_id if by_id and by_id.index == entry.index else self._by_index.get(entry.index)
        return by_id if entry.id else self._latest

    def _begins_another(self, call: Call, given_id: str, name: str, arguments: str) -> bool:
        """Some number every parallel call 0, with ids, without, or with the same id: only a name tells."""
        if not name:
            return False
        if given_id and call.upstream_id and given_id != call.upstream_id:
            return True
        if call.arguments.blank:
            return bool(call.name) and name != call.name and not given_id and not self._split_names
        if not call.arguments.is_valid() or (given_id and given_id == call.upstream_id and not arguments.strip()):
            return False
        return name != call.name or not call.arguments.repeats(arguments)

    def _new(self, entry: Entry) -> Call:
        call = self._latest = Call(entry.index)
        if entry.index is not None:
            self._by_index[entry.index] = call
        if entry.id:
            call.upstream_id = entry.id
            self._by_id[entry.id] = call
        return call


class ChatAnswer:
    """Chunks in, Messages events out. A complete answer takes the same way as a stream."""

    def __init__(self, exchange: Exchange, content_type: str) -> None:
        self.message_id = identity.message_id()
        self.usage: Usage | None = None
        self.output_is_told = True
        self.stop_reason: str | None = None
        self.upstream_id: str | None = None
        self.began = self.ended = self.complete = self.finishing = False
        self.error: UpstreamError | None = None
        self.count: Callable[[], Usage] | None = None
        self.output_characters = 0
        self.output_sample = ""
        self.notes: set[str] = set()  # oddities worth a line in the log

        self._exchange = exchange
        self._content_type = content_type
        self._habits = habits(exchange.endpoint)
        self._writer = MessageWriter(self.message_id, exchange.request.model)
        self._reader = Reader()
        self._document: list[bytes] | None = None  # a body that is no event stream
        self._document_length = 0
        self._is_known = False  # which of the two it is
        self._bad_chunks = 0

        self._queue: deque[Words | Call] = deque()  # from the open call on; empty while text flows
        self._calls = Calls(split_names=self._habits.split_names)
        self._run_together = 0
        self._blank = ""  # white space that only text after it would justify
        self._tags = self._think_tags()
        self._display = self._thinking_display()
        self._thought: list[str] = []  # the reasoning of the open block, as far as it must come back
        self._details: list[dict[str, Any]] = []

        self._finish = ""
        self._matched_stop: str | None = None
        self._reported: dict[str, Any] = {}
        self._usage_came_last = False
        self._said_text = self._used_tool = self._cut_call = False

    # Bytes

    def feed(self, data: bytes) -> bytes:
        if self.ended or self.error is not None:
            return b""
        try:
            self._read(data)
        except UpstreamError as error:
            self.error = error
        self.began = self._writer.started
        return self._writer.take()

    def finish(self) -> bytes:
        if self.ended or self.error is not None:
            return b""
        try:
            if self._document is not None:
                self._read_document(b"".join(self._document))
            else:
                self._take_frames(self._reader.flush())
            if not self.ended:
                self._close_stream()
        except UpstreamError as error:
            self.error = error
        self.began = self._writer.started
        return self._writer.take()

    def whole(self, body: bytes) -> bytes:
        events = self.feed(body) + self.finish()
        return b"" if self.error is not None else msgspec.json.encode(fold(events))

    def _read(self, data: bytes) -> None:
        if not self._is_known:
            beginning = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            if not beginning:
                return
            if beginning == b"<":
                raise BrokenStream(self._not_an_answer())
            self._is_known = True
            self._document = [] if beginning in b"{[" else None
        if self._document is None:
            self._take_frames(self._reader.feed(data))
            return
        self._document.append(data)
        self._document_length += len(data)
        if self._document_length > LONGEST:
            raise BrokenStream("the provider's answer is too long to be read")

    def _not_an_answer(self) -> str:
        return f"the provider answered with {self._content_type or 'no content type'} in place of an answer"

    def _take_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            if self.ended:
                return
            data = frame.data
            if data[:6] == b"[DONE]" or data.strip() == b"[DONE]":
                self._end()
                continue
            if frame.event == "error" and b'"error"' not in data:
                raise refusals.in_answer({"error": loads(data) or data.decode()}, self._exchange)
            chunk = read_chunk(data)
            if chunk is not None:
                self._bad_chunks = 0
                self._take(chunk, data)
            else:
                self._take_lines(data)

    def _take_lines(self, data: bytes) -> None:
        """Some end their events with one line feed: what does not parse together may parse line by line."""
        good = False
        for line in data.split(b"\n") if b"\n" in data else ():
            chunk = read_chunk(line)
            if chunk is not None:
                good = True
                self._take(chunk, line)
            elif line.strip() == b"[DONE]":
                good = True
                self._end()
            if self.ended:
                return
        self._bad_chunks = 0 if good else self._bad_chunks + 1
        if not good:
            self.notes.add("bad_chunk")
        if self._bad_chunks >= MOST_BAD_CHUNKS:
            raise BrokenStream("the provider's stream cannot be read")

    def _read_document(self, body: bytes) -> None:
        """One complete answer, or one chunk per line."""
        body = body.strip(b"\xef\xbb\xbf \t\r\n")
        chunk = read_chunk(body)
        if chunk is None:
            self._take_lines(body)
            return
        if chunk.choices is None and not chunk.is_error():
            raise refusals.in_answer(loads(body), self._exchange)
        self._take(chunk, body)
        self._finish = self._finish or "stop"

    # Chunks

    def _take(self, chunk: Chunk, data: bytes) -> None:
        if (chunk.error or chunk.base_resp or chunk.object == "error") and chunk.is_error():
            raise refusals.in_answer(loads(data), self._exchange)
        if self.upstream_id is None:
            self.upstream_id = chunk.id
        if chunk.usage or chunk.x_groq:
            self._usage_came_last = not chunk.choices
            self._report(chunk.usage or (chunk.x_groq.get("usage") if isinstance(chunk.x_groq, dict) else None))
        choices = chunk.choices
        choice = choices[0] if choices and not choices[0].index else chunk.first_choice()
        if choice is None:
            return
        delta = choice.delta or choice.message
        if delta is not None:
            self._take_delta(delta)
        if choice.finish_reason or choice.usage or choice.error or choice.stop_reason or choice.matched_stop:
            self._take_ending(choice)

    def _take_delta(self, delta: Delta) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought or delta.reasoning_details:
            self._reason(thought or detail_text(delta.reasoning_details or []), delta.reasoning_details or [])
        if delta.content:
            if self._tags is None:
                self._say(delta.content)
            else:
                self._say_tagged(self._tags, delta.content)
        if delta.refusal:
            self._finish = "refusal"
            self._say(delta.refusal)
        if delta.tool_calls:
            for entry in delta.tool_calls:
                self._call(entry)
        if delta.function_call is not None:
            self._call(Entry(0, None, delta.function_call))

    def _take_ending(self, choice: Choice) -> None:
        """Nothing is closed yet: usage and late content may follow."""
        if choice.error:
            raise refusals.in_answer({"error": choice.error}, self._exchange)
        if choice.usage:
            self._report(choice.usage)
        stops = self._exchange.request.stop_sequences or ()
        for matched in (choice.stop_reason, choice.matched_stop):
            if isinstance(matched, str) and matched in stops:
                self._matched_stop = matched
        if choice.finish_reason:
            self._finish = self._finish or choice.finish_reason
            self.finishing = True

    def _report(self, usage: Any) -> None:
        """Some send running totals with every chunk: later figures replace earlier ones, they are never added."""
        if isinstance(usage, dict) and any(usage.get(name) is not None for name in (*_PROMPT, *_COMPLETION)):
            self._reported.update({name: value for name, value in usage.items() if value is not None})
            self.usage = usage_of(self._reported, reasoning_outside=self._habits.reasoning_outside)

    # Text and thinking

    def _say(self, text: str) -> None:
        self._note(text)
        queue = self._queue
        if not queue and self._writer.block == "text":
            self._writer.text(text)
            return
        follows_text = bool(queue) and isinstance(queue[-1], Words) and queue[-1].kind == "text"
        if text.isspace() and not follows_text:
            self._blank += text
            return
        self._put("text", self._blank + text)
        self._blank = ""

    def _say_tagged(self, tags: ThinkTags, text: str) -> None:
        for kind, piece in tags.split(text):
            if kind == "thinking":
                self._reason(piece, [])
            else:
                self._say(piece)
        if tags.is_over:
            self._tags = None

    def _reason(self, text: str, details: list[dict[str, Any]]) -> None:
        if self._habits.reasoning_history != "reasoning_details":
            details = []
        if text or details:
            self._note(text)
            if self._display != "none":
                self._put("thinking", text, details)

    def _put(self, kind: str, text: str, details: list[dict[str, Any]] | None = None) -> None:
        if not self._queue:
            self._emit(kind, text, details or [])
            return
        last = self._queue[-1]
        if not isinstance(last, Words) or last.kind != kind:
            last = Words(kind)
            self._queue.append(last)
        last.pieces.append(text)
        last.details.extend(details or [])
        self._advance()

    def _emit(self, kind: str, text: str, details: list[dict[str, Any]]) -> None:
        if kind == "text":
            self._end_thinking()
            self._writer.text(text)
            self._said_text = True
            return
        if self._habits.reasoning_history == "reasoning_content":
            self._thought.append(text)
        merge_details(self._details, details)
        self._writer.thinking(text if self._display == "show" else "")

    def _end_thinking(self) -> None:
        if self._writer.block == "thinking":
            state = State("openai", self._habits.family, self._exchange.model, "".join(self._thought), self._details)
            self._writer.sign(seal(state, self._exchange.secret))
            self._thought, self._details = [], []

    def _note(self, text: str) -> None:
        self.output_characters += len(text)
        if len(self.output_sample) < SAMPLE:
            self.output_sample += text[:SAMPLE]

    # Tool calls

    def _call(self, entry: Entry) -> None:
        found = self._calls.of(entry)
        if found is None:
            return
        call, is_new = found
        if is_new:
            self._blank = ""
            self._queue.append(call)
        function = entry.function
        if function is not None and function.name:
            self._name(call, function.name)
        if function is not None and function.arguments:
            self._add(call, function.arguments)
        if self._queue and self._queue[0] is call:
            self._send(call)
        else:
            self._advance()

    def _name(self, call: Call, name: str) -> None:
        if not call.name:
            call.name = name
        elif self._habits.split_names and not call.is_open and call.arguments.blank and name != call.name:
            call.name += name

    def _add(self, call: Call, fragment: str) -> None:
        if call.is_closed:
            if fragment.strip() and not call.arguments.repeats(fragment):
                self.notes.add("late_arguments")
            return
        self._note(fragment)
        leaving = call.arguments.add(fragment)
        if leaving:
            call.unsent.append(leaving)
        spill = call.arguments.spill
        if call.echo_of is not None and call.arguments.complete:
            call = self._decide(call, call.echo_of)
        if spill:
            self._run_on(call, spill)

    def _run_on(self, call: Call, spill: str) -> None:
        """More after a complete object: another call of the same tool, run together with it, or a mere repeat."""
        if not spill.startswith("{") or self._run_together >= MOST_RUN_TOGETHER:
            self.notes.add("garbage_after_arguments")
            call.arguments.is_over = True
            return
        self._run_together += 1
        call.next = echo = Call(call.index, echo_of=call)
        echo.name = call.name
        self._queue.insert(self._queue.index(call) + 1, echo)
        self._add(echo, spill)

    def _decide(self, echo: Call, original: Call) -> Call:
        """A repeat disappears; anything else has become a call of its own. Returns the one to go on with."""
        mine, theirs = echo.arguments.text, original.arguments.text
        repeats = same_json(parsed(mine), parsed(theirs)) if echo.arguments.complete else theirs.startswith(mine)
        if not repeats:
            echo.echo_of = None
            return echo
        original.next = None
        self._queue.remove(echo)
        return original

    def _advance(self) -> None:
        """Sends what may leave: the first in the queue, and the next ones as soon as those before are complete."""
        while self._queue:
            head = self._queue[0]
            if isinstance(head, Words):
                self._emit(head.kind, "".join(head.pieces), head.details)
                self._queue.popleft()
                continue
            if head.echo_of is not None:
                return
            self._send(head)
            if len(self._queue) == 1 or not head.arguments.complete or not head.name:
                return
            behind = self._queue[1]
            if isinstance(behind, Call) and behind.echo_of is not None:
                return  # if that is a repeat, more may follow for this one
            self._close(head)
            self._queue.popleft()

    def _send(self, call: Call) -> None:
        if not call.is_open:
            if not call.name or (self._habits.split_names and call.arguments.blank):
                return
            self._open(call)
        if call.unsent and not self._habits.repair_args:
            self._writer.arguments("".join(call.unsent))
            call.unsent.clear()

    def _open(self, call: Call) -> None:
        self._end_thinking()
        call.is_open = self._used_tool = True
        self._writer.tool_use(identity.tool_use_id(), self._names.full(call.name))

    def _close(self, call: Call) -> None:
        if not call.is_open:
            self._open(call)
        call.is_closed = True
        if self._habits.repair_args:
            text = self._mended(call)
            self._cut_call = parsed(text) is BROKEN
        else:
            self._send(call)
            text = call.arguments.rest()
            self._cut_call = not call.arguments.complete and not isinstance(parsed(text), dict)
        self._writer.arguments(text)
        self._writer.close()

    def _mended(self, call: Call) -> str:
        name = self._names.full(call.name)
        tool: Tool = next((tool for tool in self._offered if tool.get("name") == name), {})
        return mended(repaired(call.arguments.text), tool.get("input_schema") or {})

    @cached_property
    def _offered(self) -> list[Tool]:
        return tools.offered(self._exchange.request, self._habits.most_tools)

    @cached_property
    def _names(self) -> ToolNames:
        return tool_names(self._exchange.request, self._habits, self._offered)

    # The end

    def _close_stream(self) -> None:
        if self._finish or self._usage_came_last:
            self._end()
        elif self._writer.started:
            raise BrokenStream("the provider closed the stream before the answer was complete")
        elif self._is_known and "event-stream" not in self._content_type:
            raise BrokenStream(self._not_an_answer())
        else:
            raise BrokenStream("the provider closed the stream without an answer")

    def _end(self) -> None:
        failure = FAILURES.get(self._finish.lower())
        if failure is not None:
            raise failure(f"the provider broke off its answer ({self._finish}): try again")
        self._drain()
        reason = self._stop_reason()
        self._fill_empty(reason)
        usage = self.usage or (self.count() if self.count is not None else Usage())
        details = {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None
        stop_sequence = self._matched_stop if reason == "stop_sequence" else None
        self._writer.end(reason, usage, stop_sequence=stop_sequence, details=details)
        self.stop_reason = reason
        self.ended = self.complete = True

    def _drain(self) -> None:
        """Everything that still waits leaves now, complete or not."""
        for kind, piece in self._tags.flush() if self._tags else ():
            self._reason(piece, []) if kind == "thinking" else self._say(piece)
        while self._queue:
            head = self._queue[0]
            if isinstance(head, Call) and head.echo_of is not None:
                self._decide(head, head.echo_of)
                continue
            self._queue.popleft()
            if isinstance(head, Words):
                self._emit(head.kind, "".join(head.pieces), head.details)
            elif head.name or len(self._offered) == 1:
                head.name = head.name or str(self._offered[0].get("name"))
                self._close(head)
            else:
                self.notes.add("nameless_call")
        self._end_thinking()

    def _stop_reason(self) -> str:
        reason = stop_reason(self._finish, tool_used=self._used_tool, call_cut=self._cut_call)
        if self._finish and self._finish.lower() not in STOP_REASONS:
            self.notes.add(f"finish_reason {self._finish[:40]}")
        if reason == "refusal" and self._habits.refusal_stop_reason == "end_turn":
            return "tool_use" if self._used_tool else "end_turn"
        if reason == CONTEXT_WINDOW and not knows_context_window(self._exchange):
            return "max_tokens"
        return "stop_sequence" if reason == "end_turn" and self._matched_stop else reason

    def _fill_empty(self, reason: str) -> None:
        """Clients repeat a turn without text and tools, then give up in silence: none must look finished."""
        if self._said_text or self._used_tool or reason not in {"end_turn", "stop_sequence", "pause_turn"}:
            return
        if self._writer.started:
            self._writer.text(self._habits.empty_answer_text)
        elif (self._exchange.request.max_tokens or PROBE + 1) <= PROBE:
            self._writer.text("")
        else:
            raise BrokenStream("the model returned an empty answer")

    def _think_tags(self) -> ThinkTags | None:
        kind = self._habits.think_tags
        return None if kind == "no" else ThinkTags(opened=kind == "open")

    def _thinking_display(self) -> str:
        """show, omit (a block without its text), or none at all for those who did not ask."""
        request = self._exchange.request
        thinking = request.thinking or {}
        if thinking.get("type") not in {"enabled", "adaptive"}:
            comes_back = self._habits.reasoning_history != "none" and bool(request.tools)
            return "omit" if comes_back else "none"
        hidden = thinking.get("display") == "omitted" or self._habits.thinking == "hide"
        return "omit" if hidden else "show"


_VERSION = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2}))?(?!\d)")


def knows_context_window(exchange: Exchange) -> bool:
    """Whether the client knows that reason to stop: models since 4.5 have it, older ones by a beta."""
    if CONTEXT_WINDOW.replace("_", "-") in exchange.headers.get("anthropic-beta", ""):
        return True
    version = _VERSION.search(exchange.request.model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (4, 5)


DIALECT = Dialect(encode=encode, answer=ChatAnswer, refusal=refusals.read)
