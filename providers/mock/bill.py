"""What the mock's answers cost, in each vendor's words. It shares no code with the gateway, which is checked by it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

Language = Literal["anthropic", "openai", "responses"]
Outcome = Literal["running", "completed", "cut", "abandoned", "error"]


class Figures(msgspec.Struct, frozen=True):
    """Disjoint token counts, except that `output` includes `thinking`."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    thinking: int = 0

    def share(self, done: int, of: int) -> Figures:
        """The prompt in full, and of the answer what was produced: `done` of `of` pieces, rounded down."""
        if done >= of:
            return self
        return msgspec.structs.replace(self, output=self.output * done // of, thinking=self.thinking * done // of)


def tokens_of(size: int) -> int:
    """The mock's only tokenizer: four bytes of UTF-8 are a token, a rest counts as one."""
    return (size + 3) // 4


def split_prompt(total: int, language: Language, *, marked: bool, one_hour: bool) -> Figures:
    """Prompt tokens by price. `marked`: the request has a cache_control; `one_hour`: one of them asks for 1h."""
    if language != "anthropic":
        return Figures(input=total - total // 3, cache_read=total // 3)
    if not marked:
        return Figures(input=total)
    read, write = total // 3, total // 6
    figures = Figures(input=total - read - write, cache_read=read)
    if one_hour:
        return msgspec.structs.replace(figures, cache_write_1h=write)
    return msgspec.structs.replace(figures, cache_write_5m=write)


def anthropic_usage(figures: Figures) -> dict[str, Any]:
    """`input_tokens` excludes the cache columns. The split by lifetime is in `anthropic_start_usage` only."""
    usage: dict[str, Any] = {
        "input_tokens": figures.input,
        "cache_creation_input_tokens": figures.cache_write_5m + figures.cache_write_1h,
        "cache_read_input_tokens": figures.cache_read,
        "output_tokens": figures.output,
    }
    if figures.thinking:
        usage["output_tokens_details"] = {"thinking_tokens": figures.thinking}
    return usage


def anthropic_full_usage(figures: Figures) -> dict[str, Any]:
    """As a plain reply has it."""
    lifetimes = {
        "ephemeral_5m_input_tokens": figures.cache_write_5m,
        "ephemeral_1h_input_tokens": figures.cache_write_1h,
    }
    return {**anthropic_usage(figures), "cache_creation": lifetimes, "service_tier": "standard"}


def anthropic_start_usage(figures: Figures) -> dict[str, Any]:
    """As message_start has it: one token of output already, so that adding up start and end shows."""
    return anthropic_full_usage(msgspec.structs.replace(figures, output=1, thinking=0))


def chat_usage(figures: Figures) -> dict[str, Any]:
    """`prompt_tokens` includes the cache columns."""
    prompt = figures.input + figures.cache_read + figures.cache_write_5m + figures.cache_write_1h
    return {
        "prompt_tokens": prompt,
        "completion_tokens": figures.output,
        "total_tokens": prompt + figures.output,
        "prompt_tokens_details": _cache_details(figures),
        "completion_tokens_details": {"reasoning_tokens": figures.thinking},
    }


def responses_usage(figures: Figures) -> dict[str, Any]:
    """`input_tokens` includes the cache columns, other than in the field of that name at Anthropic's."""
    prompt = figures.input + figures.cache_read + figures.cache_write_5m + figures.cache_write_1h
    return {
        "input_tokens": prompt,
        "input_tokens_details": _cache_details(figures),
        "output_tokens": figures.output,
        "output_tokens_details": {"reasoning_tokens": figures.thinking},
        "total_tokens": prompt + figures.output,
    }


def _cache_details(figures: Figures) -> dict[str, int]:
    written = figures.cache_write_5m + figures.cache_write_1h
    details = {"cached_tokens": figures.cache_read}
    return {**details, "cache_write_tokens": written} if written else details


class Call(msgspec.Struct):
    """One row of the bill. `status` is 0 until headers left; `finished_at` is None while the call runs."""

    call: int
    request_id: str
    model: str
    language: Language
    stream: bool
    status: int = 0
    outcome: Outcome = "running"
    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    thinking: int = 0
    stop_reason: str | None = None
    started_at: str = ""
    finished_at: str | None = None

    def charge(self, figures: Figures) -> None:
        for name in Figures.__struct_fields__:
            setattr(self, name, getattr(figures, name))


class Bill:
    """The calls since the last reset; with a file, each state of a row is a line of it and the last line counts."""

    def __init__(self, path: Path | None = None) -> None:
        self.calls: list[Call] = []
        self._file: int | None = None
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self.calls = _read_calls(path)

    def open(self, *, request_id: str, model: str, language: Language, stream: bool, prompt: Figures) -> Call:
        """A row with the price of the prompt: what a provider has earned before it says a word."""
        call = Call(len(self.calls) + 1, request_id, model, language, stream, started_at=_now())
        call.charge(prompt)
        self.calls.append(call)
        self._append(call)
        return call

    def settle(self, call: Call, outcome: Outcome, figures: Figures, stop_reason: str | None = None) -> None:
        """The final numbers, once: what happens to a settled call no longer changes its price."""
        if call.finished_at is not None:
            return
        call.outcome, call.stop_reason, call.finished_at = outcome, stop_reason, _now()
        call.charge(figures)
        if any(call is row for row in self.calls[call.call - 1 : call.call]):  # not one from before a reset
            self._append(call)

    def reset(self) -> None:
        self.calls = []
        if self._file is not None:
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def document(self) -> dict[str, Any]:
        totals = {name: sum(getattr(call, name) for call in self.calls) for name in Figures.__struct_fields__}
        return {"calls": self.calls, "totals": {"calls": len(self.calls), **totals}}

    def _append(self, call: Call) -> None:
        # One os.write and no buffer of ours: the line outlives a kill -9 of this process.
        if self._file is not None:
            os.write(self._file, msgspec.json.encode(call) + b"\n")


def _read_calls(path: Path) -> list[Call]:
    lines = (msgspec.json.decode(line, type=Call) for line in path.read_bytes().splitlines())
    return list({row.call: row for row in lines}.values())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
