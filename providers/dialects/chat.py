"""OpenAI Chat Completions: requests are translated by chat_request, answers by the machine below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.dialects import refusals
from providers.dialects.chat_calls import Calls
from providers.dialects.chat_chunks import Choice, Chunk, Delta, Entry, detail_text, read_chunk
from providers.dialects.chat_request import encode
from providers.dialects.dialect import Dialect, Exchange
from providers.dialects.foreign import CONTEXT_WINDOW, ForeignAnswer, details
from providers.dialects.loose import loads
from providers.errors import Overloaded, UpstreamError
from providers.usage import Usage, of_totals, tokens

# What a finish reason means when no tool was called.
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

_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount")
_WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cached_creation_tokens")
_REASONING = ("reasoning_tokens", "thoughtsTokenCount")


def usage_of(reported: Mapping[str, Any], *, reasoning_outside: bool = False) -> Usage:
    """Cached tokens are a part of the prompt here, reasoning of the completion, except where it is counted apart."""
    prompt_details = details(reported, "prompt_tokens_details", "input_tokens_details")
    completion_details = details(reported, "completion_tokens_details", "output_tokens_details")
    return of_totals(
        read=_figure(reported, _PROMPT),
        cached=_figure(prompt_details, _CACHED) or _figure(reported, _CACHED),
        written=_figure(prompt_details, _WRITTEN) or _figure(reported, ("cache_creation_input_tokens",)),
        made=_figure(reported, _COMPLETION),
        reasoning=_figure(completion_details, _REASONING) or _figure(reported, _REASONING),
        total=_figure(reported, ("total_tokens", "totalTokenCount")),
        reasoning_outside=reasoning_outside,
    )


def _figure(reported: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((tokens(reported[name]) for name in names if reported.get(name) is not None), 0)


def is_nameless_error(told: Mapping[str, Any]) -> bool:
    """DashScope puts a code and a message at the top, FastAPI a detail."""
    code, message = told.get("code"), told.get("message")
    failed = code is not None and str(code).lower() not in {"", "0", "200", "ok", "success"}
    return (failed and isinstance(message, str) and bool(message)) or bool(told.get("detail"))


class ChatAnswer(ForeignAnswer):
    """Chunks in, Messages events out."""

    dialect = "openai"

    def __init__(self, exchange: Exchange, content_type: str) -> None:
        super().__init__(exchange, content_type)
        self._calls = Calls(self._composer, split_names=self._habits.split_names)
        self._finish = ""
        self._reported: dict[str, Any] = {}
        self._said_by_usage: int | None = None  # so much was said when a chunk of usage alone came

    def _take_data(self, data: bytes) -> bool:
        chunk = read_chunk(data)
        if chunk is None:
            return False
        self._take(chunk, data)
        return True

    def _take_document(self, body: bytes) -> None:
        """One complete answer, or one chunk per line."""
        chunk = read_chunk(body)
        if chunk is None:
            self._take_lines(body)
            return
        if chunk.choices is None and not chunk.is_error():
            raise refusals.in_answer(loads(body), self._exchange)
        self._take(chunk, body)
        self._finish = self._finish or "stop"
        self.finishing = True

    def _take(self, chunk: Chunk, data: bytes) -> None:
        if (chunk.error or chunk.base_resp or chunk.object == "error") and chunk.is_error():
            raise refusals.in_answer(loads(data), self._exchange)
        if self.upstream_id is None:
            self.upstream_id = chunk.id
        if chunk.usage or chunk.x_groq:
            self._said_by_usage = None if chunk.choices else self._composer.characters
            self._report(chunk.usage or (chunk.x_groq.get("usage") if isinstance(chunk.x_groq, dict) else None))
        elif chunk.choices is None:
            self._take_oddity(data)
        for choice in chunk.choices or ():
            if choice.index:  # none, or 0: GitHub Copilot spreads one answer over two choices without a number
                continue
            delta = choice.delta or choice.message
            if delta is not None:
                self._take_delta(delta)
            if choice.finish_reason or choice.usage or choice.error or choice.stop_reason or choice.matched_stop:
                self._take_ending(choice)

    def _take_oddity(self, data: bytes) -> None:
        """Neither choices nor usage: metadata, or an error that does not call itself one."""
        told = loads(data)
        if isinstance(told, dict) and is_nameless_error(told):
            raise refusals.in_answer(told, self._exchange)

    def _take_delta(self, delta: Delta) -> None:
        composer = self._composer
        thought = delta.reasoning_content or delta.reasoning
        if thought or delta.reasoning_details:
            pieces = delta.reasoning_details or []
            wanted = pieces if self._habits.reasoning_history == "reasoning_details" else []
            composer.reason(thought or detail_text(pieces), wanted)
        if delta.content:
            composer.say(delta.content)
        if delta.refusal:
            self._finish = "refusal"
            composer.say(delta.refusal)
        if delta.tool_calls:
            for entry in delta.tool_calls:
                self._calls.take(entry)
        if delta.function_call is not None:
            self._calls.take(Entry(0, None, delta.function_call))

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

    def _may_end(self) -> bool:
        return bool(self._finish) or self._said_by_usage == self._composer.characters

    def _meaning(self) -> str:
        finish = self._finish.lower()
        failure = FAILURES.get(finish)
        if failure is not None:
            raise failure(f"the provider broke off its answer ({self._finish}): try again")
        if finish and finish not in STOP_REASONS:
            self.notes.add(f"finish_reason {self._finish[:40]}")
        return STOP_REASONS.get(finish, "end_turn")


DIALECT = Dialect(encode=encode, answer=ChatAnswer, refusal=refusals.read)
