"""What all machines that read a foreign language share: bytes to frames or to one document, and the ending."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from providers import identity
from providers.dialects import refusals
from providers.dialects.composer import Composer
from providers.dialects.dialect import Exchange
from providers.dialects.loose import loads
from providers.dialects.profiles import Habits, habits_of
from providers.errors import BrokenStream, UpstreamError
from providers.events import fold
from providers.sse import LONGEST, Frame, Reader
from providers.usage import Usage

MOST_BAD_FRAMES = 10
PREVIEW = 200
CONTEXT_WINDOW = "model_context_window_exceeded"


class ForeignAnswer:
    """Events or a document in, Messages events out. A complete answer takes the same way as a stream.

    A language adds `_take_data`, which reads one event's data and says whether it could, `_take_document`, and
    `_meaning`, what its reason to stop is called in Messages.
    """

    dialect: str

    def __init__(self, exchange: Exchange, content_type: str) -> None:
        self.message_id = identity.message_id()
        self.usage: Usage | None = None
        self.output_is_told = True
        self.stop_reason: str | None = None
        self.upstream_id: str | None = None
        self.began = self.ended = self.complete = self.finishing = False
        self.error: UpstreamError | None = None
        self.count: Callable[[], Usage] | None = None

        self._exchange = exchange
        self._content_type = content_type
        self._habits = self._habits_of(exchange)
        self._composer = Composer(exchange, self._habits, self.dialect, self.message_id)
        self._reader = Reader()
        self._event = ""  # the name of the event that is being read
        self._document: list[bytes] | None = None  # a body that is no event stream
        self._document_length = 0
        self._is_known = False  # which of the two it is
        self._bad_frames = 0
        self._matched_stop: str | None = None  # the stop sequence, where the upstream names it

    @property
    def output_characters(self) -> int:
        return self._composer.characters

    @property
    def output_sample(self) -> str:
        return self._composer.sample

    @property
    def notes(self) -> set[str]:
        """Oddities worth a line in the log."""
        return self._composer.notes

    # Bytes

    def feed(self, data: bytes) -> bytes:
        if self.ended or self.error is not None:
            return b""
        try:
            self._read(data)
        except UpstreamError as error:
            self.error = error
        writer = self._composer.writer
        self.began = writer.started
        return writer.take()

    def finish(self) -> bytes:
        if self.ended or self.error is not None:
            return b""
        try:
            if self._document is not None:
                self._take_document(b"".join(self._document).strip(b"\xef\xbb\xbf \t\r\n"))
            else:
                self._take_frames(self._reader.flush())
            if not self.ended:
                self._close_stream()
        except UpstreamError as error:
            self.error = error
        self.began = self._composer.writer.started
        return self._composer.writer.take()

    def whole(self, body: bytes) -> bytes:
        events = self.feed(body) + self.finish()
        return b"" if self.error is not None else msgspec.json.encode(fold(events))

    def _read(self, data: bytes) -> None:
        if not self._is_known:
            beginning = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            if not beginning:
                return
            if beginning == b"<":
                raise self._not_an_answer(data)
            self._is_known = True
            self._document = [] if beginning in b"{[" else None
        if self._document is None:
            self._take_frames(self._reader.feed(data))
            return
        self._document.append(data)
        self._document_length += len(data)
        if self._document_length > LONGEST:
            raise BrokenStream("the provider's answer is too long to be read")

    def _not_an_answer(self, beginning: bytes = b"") -> BrokenStream:
        kind = self._content_type or "no content type"
        error = BrokenStream(f"the provider answered with {kind} in place of an answer")
        error.preview = beginning[:PREVIEW].decode("utf-8", "replace")
        return error

    def _take_frames(self, frames: list[Frame]) -> None:
        composer = self._composer
        for frame in frames:
            data = frame.data
            self._event = frame.event
            if not data.startswith(b"{") and data.strip()[:6] == b"[DONE]":
                self._done()
            elif frame.event == "error" and b'"error"' not in data:
                raise refusals.in_answer({"error": loads(data) or data.decode()}, self._exchange)
            elif self._take_data(data):
                self._bad_frames = 0
            else:
                self._take_lines(data)
            if composer.stopped_by is not None and not self.ended:
                self._end()
            if self.ended:
                return

    def _take_lines(self, data: bytes) -> None:
        """Some end their events with one line feed, or with nothing: what does not parse together may parse apart."""
        if not data.strip():
            return  # it keeps the connection alive
        good = False
        for line in data.split(b"\n") if b"\n" in data else run_together(data):
            if line.strip() == b"[DONE]":
                good = True
                self._done()
            elif self._take_data(line):
                good = True
            if self.ended:
                return
        self._bad_frames = 0 if good else self._bad_frames + 1
        if not good:
            self.notes.add("bad_chunk")
        if self._bad_frames >= MOST_BAD_FRAMES:
            raise BrokenStream("the provider's stream cannot be read")

    def _habits_of(self, exchange: Exchange) -> Habits:
        return habits_of(exchange)

    def _take_data(self, data: bytes) -> bool:
        raise NotImplementedError

    def _take_document(self, body: bytes) -> None:
        raise NotImplementedError

    def _meaning(self) -> str:
        raise NotImplementedError

    # The end

    def _done(self) -> None:
        """The marker that nothing follows."""
        self._end()

    def _may_end(self) -> bool:
        """Whether an end of the stream here is the end of the answer."""
        return self.finishing

    def _close_stream(self) -> None:
        if self._may_end():
            self._end()
        elif self._composer.writer.started:
            raise BrokenStream("the provider closed the stream before the answer was complete")
        elif self._is_known and "event-stream" not in self._content_type:
            raise self._not_an_answer()
        else:
            raise BrokenStream("the provider closed the stream without an answer")

    def _end(self) -> None:
        composer = self._composer
        meaning = "end_turn" if composer.stopped_by is not None else self._meaning()
        composer.drain()
        reason = self._stop_reason(meaning)
        usage = self.usage or (self.count() if self.count is not None else Usage())
        composer.end(reason, usage, self._matched_stop if reason == "stop_sequence" else None)
        self.stop_reason = reason
        self.ended = self.complete = True

    def _stop_reason(self, meaning: str) -> str:
        composer = self._composer
        self._matched_stop = composer.stopped_by or self._matched_stop
        if composer.stopped_by is not None:
            return "stop_sequence"
        reason = stop_reason(meaning, tool_used=composer.used_tool, call_cut=composer.cut_call)
        if reason == "refusal" and self._habits.refusal_stop_reason == "end_turn":
            return "tool_use" if composer.used_tool else "end_turn"
        if reason == CONTEXT_WINDOW and not knows_context_window(self._exchange):
            return "max_tokens"
        return "stop_sequence" if reason == "end_turn" and self._matched_stop else reason


_first_document = json.JSONDecoder().raw_decode
_between = re.compile(r"\s*(?:data:)?\s*")


def run_together(line: bytes) -> list[bytes]:
    """The documents of a line from which a proxy has lost what stood between them."""
    text, documents, at = line.decode("utf-8", "replace"), list[bytes](), 0
    while text.startswith("{", at):
        try:
            end = _first_document(text, at)[1]
        except (ValueError, RecursionError):
            return documents
        documents.append(text[at:end].encode("utf-8", "replace"))
        after = _between.match(text, end)
        at = after.end() if after else end
    return [*documents, text[at:].encode("utf-8", "replace")]


def stop_reason(meaning: str, *, tool_used: bool = False, call_cut: bool = False) -> str:
    """What a reason to stop becomes when tools were called: it is their turn, unless the last call is incomplete."""
    if meaning in {"refusal", CONTEXT_WINDOW} or not tool_used:
        return meaning
    return "max_tokens" if meaning == "max_tokens" and call_cut else "tool_use"


_VERSION = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2}))?(?!\d)")


def knows_context_window(exchange: Exchange) -> bool:
    """Whether the client knows that reason to stop: models since 4.5 have it, older ones by a beta."""
    if CONTEXT_WINDOW.replace("_", "-") in exchange.headers.get("anthropic-beta", ""):
        return True
    version = _VERSION.search(exchange.request.model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (4, 5)


def details(reported: Any, *names: str) -> dict[str, Any]:
    """The first of some members that is an object."""
    return next((reported[name] for name in names if isinstance(reported.get(name), dict)), {})
