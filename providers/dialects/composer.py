"""What a foreign model says, put into Messages events in an order that clients can read.

It may say things in any order, at once, run together or twice. Here one block is open at a time, calls leave in the
order in which they began, and what comes too early waits for its turn.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any

import msgspec

from providers import identity
from providers.dialects import asked, tools
from providers.dialects.arguments import BROKEN, Arguments, mended, parsed, repaired, same_json
from providers.dialects.chat_chunks import merge_details, whole_details
from providers.dialects.dialect import Exchange
from providers.dialects.names import ToolNames
from providers.dialects.profiles import Habits
from providers.dialects.stops import Stops
from providers.dialects.think_tags import ThinkTags
from providers.errors import BrokenStream
from providers.events import MessageWriter
from providers.messages import Tool
from providers.state import State, seal
from providers.tokens import CHARACTERS_PER_TOKEN, COUNTED_AT_ONCE
from providers.usage import Usage

MOST_RUN_TOGETHER = 64
PROBE = 16  # whoever asks for so few tokens only wants to know whether anybody answers
# How long the beginning of a call waits for the signature that some put into its first fragments.
SIGNED_WITHIN = 1024
# A client that sees no thinking may want to know how much of it there is: told every so many tokens.
COUNT_BETA, COUNT_STEP = "thinking-token-count-2026-05-13", 64


class Words:
    """Text or thinking that waits for its turn."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.details: list[dict[str, Any]] = []
        self.ends = False  # what follows begins a block of its own


class Call:
    """A tool call on its way."""

    def __init__(self, *, echo_of: Call | None = None) -> None:
        self.name = ""
        self.signature = ""  # the provider's own, which it wants back with the call
        self.arguments = Arguments()
        self.unsent: list[str] = []
        self.is_open = False
        self.is_closed = False
        self.is_told = False  # all of it has come, complete or not
        self.next: Call | None = None  # begun by an object after this one's
        self.echo_of = echo_of  # set while it may turn out to be a repeat of that

    def last(self) -> Call:
        call = self
        while call.next is not None:
            call = call.next
        return call


class Composer:
    """Told what was said as it arrives; `writer` has what may leave."""

    def __init__(self, exchange: Exchange, habits: Habits, dialect: str, message_id: str) -> None:
        self.writer = MessageWriter(message_id, exchange.request.model)
        self.characters = 0
        self.sample = ""
        self._samples = True
        self.notes: set[str] = set()
        self.said_text = self.used_tool = self.cut_call = False
        self.stopped_by: str | None = None  # a stop sequence was met: nothing after it counts

        self._exchange = exchange
        self._habits = habits
        self._dialect = dialect
        self._queue: deque[Words | Call] = deque()  # from the open call on; empty while text flows
        self._run_together = 0
        self._calls_once = habits.strict_parallel and asked.forbids_parallel_calls(exchange.request)
        self._has_called = False
        self._blank: list[str] = []  # white space that only text after it would justify
        stops = asked.stop_sequences(exchange.request)
        self._stops = Stops(stops) if stops else None
        self._tags = None if habits.think_tags == "no" else ThinkTags(opened=habits.think_tags == "open")
        self._display = self._thinking_display()
        self._counts = self._display == "omit" and COUNT_BETA in exchange.headers.get("anthropic-beta", "")
        self._uncounted = 0  # characters of thinking that the client has not been told of
        self._thought: list[str] = []  # the reasoning of the open block, as far as it must come back
        self._details: list[dict[str, Any]] = []
        self._after_text = False  # no other block has begun since
        self._signatures: dict[str, str] = {}
        self._flowing: Call | None = None  # open, and its arguments leave as they come

    # Text and thinking

    def say(self, text: str) -> None:
        if self._tags is None:
            self._say(text)
            return
        for kind, piece in self._tags.split(text):
            self.reason(piece) if kind == "thinking" else self._say(piece)
        if self._tags.is_over:
            self._tags = None

    def _say(self, text: str) -> None:
        if self._stops is not None:
            text = self._until_stop(self._stops, text)
        self._note(text)
        queue = self._queue
        if not queue and self.writer.block == "text":
            self.writer.text(text)
            return
        if not text:
            return
        follows_text = bool(queue) and isinstance(queue[-1], Words) and queue[-1].kind == "text"
        if text.isspace() and not follows_text:
            self._blank.append(text)
            return
        if self._blank:
            text = "".join((*self._blank, text))
            self._blank.clear()
        self._put("text", text)

    def _until_stop(self, stops: Stops, text: str) -> str:
        if self.stopped_by is not None:
            return ""
        text, self.stopped_by = stops.passed(text)
        return text

    def _say_held(self) -> None:
        """Other content begins: what was held as the beginning of a stop sequence was none."""
        if self._stops is not None and (held := self._stops.held()):
            stops, self._stops = self._stops, None
            self._say(held)
            self._stops = stops

    def reason(self, text: str, details: list[dict[str, Any]] | None = None) -> None:
        """Thinking, and what the provider wants back with it next turn."""
        if text or details:
            self._say_held()
            self._note(text)
            if self._display != "none":
                self._put("thinking", text, details or [])

    def _put(self, kind: str, text: str, details: list[dict[str, Any]] | None = None) -> None:
        if not self._queue:
            self._emit(kind, text, details or [])
            return
        last = self._queue[-1]
        if not isinstance(last, Words) or last.kind != kind or last.ends:
            last = Words(kind)
            self._queue.append(last)
        last.pieces.append(text)
        last.details.extend(details or [])
        self._advance()

    def part(self, kind: str) -> None:
        """What comes next of this kind begins a block of its own."""
        if kind == "text":
            self._say_held()
        if not self._queue:
            self._end_block(kind)
        elif isinstance(last := self._queue[-1], Words) and last.kind == kind:
            last.ends = True

    def _end_block(self, kind: str) -> None:
        if kind == "thinking":
            self._end_thinking()
        elif self.writer.block == kind:
            self.writer.close()

    def place(self, blocks: list[dict[str, Any]]) -> None:
        """Whole blocks, at their place among the rest."""
        self._say_held()
        self._put("blocks", "", blocks)

    def _place(self, block: dict[str, Any]) -> None:
        given = block.get("input")
        self.writer.open(block if given is None else {**block, "input": {}})
        if given is not None:
            self.writer.delta({"type": "input_json_delta", "partial_json": msgspec.json.encode(given).decode()})
        self.writer.close()

    def _emit(self, kind: str, text: str, details: list[dict[str, Any]]) -> None:
        if kind == "text":
            if self.writer.block != "text":
                self._end_thinking()
            self.writer.text(text)
            self.said_text = self._after_text = True
            return
        if kind == "blocks":
            self._end_thinking()
            self._after_text = False
            for block in details:
                self._place(block)
            return
        if self._habits.reasoning_history == "reasoning_content":
            self._thought.append(text)
        merge_details(self._details, details)
        if self._after_text and not (text and self._display == "show"):
            # Claude Code prints only the last piece of a text that a thought divides, and nothing of one that a thought
            # follows (seen with 2.1.329). Where the thought would not be seen, its block waits for what comes next.
            return
        self.writer.thinking(text if self._display == "show" else "")
        if self._counts:
            self._count_thinking(len(text))

    def _count_thinking(self, characters: int) -> None:
        self._uncounted += characters
        counted = int(self._uncounted / CHARACTERS_PER_TOKEN)
        if counted >= COUNT_STEP:
            self._uncounted = 0
            self.writer.delta({"type": "thinking_delta", "thinking": "", "estimated_tokens": counted})

    def _end_thinking(self) -> None:
        if self.writer.block != "thinking":
            if not self._details and not self._thought:
                return
            self.writer.thinking("")
        state = State(
            self._dialect,
            self._habits.family,
            self._exchange.model,
            "".join(self._thought),
            whole_details(self._details),
            self._signatures,
        )
        self.writer.sign(seal(state, self._exchange.secret))
        self._thought, self._details, self._signatures = [], [], {}
        self._after_text = False

    def _note(self, text: str) -> None:
        self.characters += len(text)
        if self._samples:
            self._sample(text)

    def _sample(self, text: str) -> None:
        self.sample += text[:COUNTED_AT_ONCE]
        self._samples = len(self.sample) < COUNTED_AT_ONCE

    # Tool calls

    def begin_call(self) -> Call:
        self._say_held()
        self._blank.clear()
        call = Call()
        if self._calls_once and self._has_called:
            call.is_closed = True
            self.notes.add("parallel_call_dropped")
        else:
            self._queue.append(call)
        self._has_called = True
        return call

    def name(self, call: Call, name: str) -> None:
        if not call.name:
            call.name = name
            if call.next is not None:
                self.name(call.next, name)
        elif self._habits.split_names and not call.is_open and call.arguments.blank and name != call.name:
            call.name += name

    def sign(self, call: Call, signature: str) -> None:
        call.signature = call.signature or signature

    def add(self, call: Call, fragment: str) -> None:
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

    def go_on(self, call: Call, fragment: str) -> None:
        """A fragment, and what may leave then."""
        if call is not self._flowing:
            self.add(call, fragment)
            self.move(call)
            return
        arguments = call.arguments
        # Nearly every fragment: of the call that is open, in the middle of its arguments.
        self.characters += len(fragment)
        if self._samples:
            self._sample(fragment)
        self.writer.arguments(arguments.go_on(fragment))
        if arguments.complete:
            self._flowing = None
            if arguments.spill:
                self._run_on(call, arguments.spill)
            self.move(call)

    def move(self, call: Call) -> None:
        """After news of a call: what may leave, leaves."""
        if self._queue and self._queue[0] is call:
            self._send(call)
        else:
            self._advance()

    def complete(self, call: Call) -> None:
        """Nothing more will come for it, nor for what ran on from it."""
        while call.next is not None:
            call.is_told = True
            call = call.next
        call.is_told = True
        self._advance()

    def _run_on(self, call: Call, spill: str) -> None:
        """More after a complete object: another call of the same tool, run together with it, or a mere repeat."""
        if not spill.startswith("{") or self._run_together >= MOST_RUN_TOGETHER or self._calls_once:
            self.notes.add("garbage_after_arguments")
            call.arguments.is_over = True
            return
        self._run_together += 1
        call.next = echo = Call(echo_of=call)
        echo.name = call.name
        self._queue.insert(self._queue.index(call) + 1, echo)
        self.add(echo, spill)

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
                if head.ends:
                    self._end_block(head.kind)
                continue
            if head.echo_of is not None:
                return
            self._send(head)
            is_last = len(self._queue) == 1
            if not head.name or not (head.is_told or (head.arguments.complete and not is_last)):
                return
            behind = None if is_last else self._queue[1]
            if isinstance(behind, Call) and behind.echo_of is not None:
                if not head.is_told:
                    return  # if that is a repeat, more may follow for this one
                self._decide(behind, head)
                continue
            self._close(head)
            self._queue.popleft()

    def _send(self, call: Call) -> None:
        if not call.is_open:
            if not call.name or (self._habits.split_names and call.arguments.blank) or self._may_be_signed(call):
                return
            self._open(call)
        if call.unsent and not self._habits.repair_args:
            self.writer.arguments("".join(call.unsent))
            call.unsent.clear()
            self._flowing = None if call.arguments.complete else call

    def _may_be_signed(self, call: Call) -> bool:
        if self._habits.reasoning_history != "thought_signature" or call.signature:
            return False
        return not call.arguments.complete and call.arguments.length < SIGNED_WITHIN

    def _open(self, call: Call) -> None:
        call.is_open = self.used_tool = True
        self._after_text = False
        tool_use_id = identity.tool_use_id()
        if call.signature:
            self._signatures[tool_use_id] = call.signature
            self.writer.thinking("")
        self._end_thinking()
        self.writer.tool_use(tool_use_id, self._names.full(call.name))

    def _close(self, call: Call) -> None:
        if not call.is_open:
            self._open(call)
        call.is_closed, self._flowing = True, None
        if self._habits.repair_args:
            text = self._mended(call)
            self.cut_call = parsed(text) is BROKEN
        else:
            self._send(call)
            text = call.arguments.rest()
            self.cut_call = not call.arguments.complete and not isinstance(parsed(text), dict)
        self.writer.arguments(text)
        self.writer.close()

    def _mended(self, call: Call) -> str:
        name = self._names.full(call.name)
        tool: Tool = next((tool for tool in self._offered if tool.get("name") == name), {})
        return mended(repaired(call.arguments.text), tool.get("input_schema") or {})

    @cached_property
    def _offered(self) -> list[Tool]:
        return tools.offered_by(self._exchange.request, self._habits)

    @cached_property
    def _names(self) -> ToolNames:
        return asked.tool_names(self._exchange.request, self._habits, self._offered)

    # The end

    def drain(self) -> None:
        """Everything that still waits leaves now, complete or not."""
        for kind, piece in self._tags.flush() if self._tags else ():
            self.reason(piece) if kind == "thinking" else self._say(piece)
        if self.stopped_by is None:
            self._say_held()
        while self._queue:
            head = self._queue[0]
            if isinstance(head, Call) and head.echo_of is not None:
                self._decide(head, head.echo_of)
                continue
            self._queue.popleft()
            if isinstance(head, Words):
                self._emit(head.kind, "".join(head.pieces), head.details)
                if head.ends:
                    self._end_block(head.kind)
            elif head.name or len(self._offered) == 1:
                head.name = head.name or str(self._offered[0].get("name"))
                self._close(head)
            else:
                self.notes.add("nameless_call")
        if self.writer.block == "thinking" or self.used_tool:
            self._end_thinking()

    def end(self, reason: str, usage: Usage, stop_sequence: str | None) -> None:
        """After `drain`. Raises BrokenStream where there is no answer at all."""
        self._fill_empty(reason)
        details = {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None
        self.writer.end(reason, usage, stop_sequence=stop_sequence, details=details)

    def _fill_empty(self, reason: str) -> None:
        """Clients repeat a turn without text and tools, then give up in silence: none must look finished."""
        if self.said_text or self.used_tool or reason not in {"end_turn", "stop_sequence", "pause_turn"}:
            return
        if self.writer.started:
            self.writer.text(self._habits.empty_answer_text)
        elif reason == "stop_sequence" or (self._exchange.request.max_tokens or PROBE + 1) <= PROBE:
            self.writer.text("")
        else:
            raise BrokenStream("the model returned an empty answer")

    def _thinking_display(self) -> str:
        """show, omit (a block without its text), or none at all for those who did not ask."""
        request = self._exchange.request
        thinking = request.thinking or {}
        if thinking.get("type") not in {"enabled", "adaptive"}:
            comes_back = self._habits.reasoning_history != "none" and bool(request.tools)
            return "omit" if comes_back else "none"
        hidden = thinking.get("display") == "omitted" or self._habits.thinking == "hide"
        return "omit" if hidden else "show"
