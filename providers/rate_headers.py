"""What upstreams say in their answers' heads about how much more they would take, and whom to leave alone for a while.

Steering only changes an order: a resting upstream is asked last, never not at all.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec

# An answer that was given says that nothing remains: so long it is believed, in seconds. Most buckets fill all the
# time, and what they call their reset is when they are full again.
LONGEST_SPENT = 60.0
# A refusal that says when to come back is believed for so long.
LONGEST_REFUSED = 3600.0
MOST_REMEMBERED, LONGEST_HEADER = 1024, 64

REFUSALS = frozenset({429, 503, 529})
# Numbers above are moments since 1970, in seconds or milliseconds; below, seconds from now.
EPOCH_SECONDS, EPOCH_MILLISECONDS = 1e8, 1e11

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+")
_STEP = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
# x-ratelimit-remaining-tokens, ratelimit-reset, anthropic-ratelimit-input-tokens-remaining ...
_LEADING = re.compile(r"(?:x-)?ratelimit-(remaining|reset)(?:-(.+))?")
_TRAILING = re.compile(r"anthropic-ratelimit-(.+)-(remaining|reset|status)")


class Allowance(msgspec.Struct, frozen=True):
    """What is left of one thing (requests, tokens, ...), and when there is more; None: not told."""

    remaining: float | None = None
    resets_at: float | None = None

    @property
    def is_spent(self) -> bool:
        return self.remaining is not None and self.remaining <= 0


class Told(msgspec.Struct, frozen=True):
    """Of one answer's head: the allowances by what they are of, and when a refused caller should come back."""

    allowances: Mapping[str, Allowance] = {}
    retry_at: float | None = None


def telling(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of an answer's headers that are read here. Names are in lower case."""
    return {
        name: text
        for name, text in headers.items()
        if ("ratelimit" in name or name.startswith("retry-after")) and max(len(name), len(text)) <= LONGEST_HEADER
    }


def read(headers: Mapping[str, str], now: float) -> Told:
    """`now` and all moments are seconds since 1970. What cannot be read is not there."""
    remaining: dict[str, float] = {}
    resets: dict[str, float] = {}
    for name, text in headers.items():
        kind, what = _meaning(name)
        if what == "reset" and (moment := moment_of(text, now)) is not None:
            resets[kind] = moment
        elif (left := _left(what, text)) is not None:
            remaining[kind] = left
    kinds = {**remaining, **resets}
    allowances = {kind: Allowance(remaining.get(kind), resets.get(kind)) for kind in kinds}
    return Told(allowances, _retry_at(headers, now))


@lru_cache(maxsize=256)
def _meaning(name: str) -> tuple[str, str]:
    """Of what a header speaks, and what it says of it; "" where it is not for us."""
    leading = _LEADING.fullmatch(name)
    if leading:
        return leading[2] or "requests", leading[1]
    trailing = _TRAILING.fullmatch(name)
    return (trailing[1], trailing[2]) if trailing else ("", "")


def _left(what: str, text: str) -> float | None:
    if what == "status":
        return 0.0 if text == "rejected" else None
    return _number(text) if what == "remaining" else None


def _says_spent(headers: Mapping[str, str]) -> bool:
    """The quick look that answers of every minute get: moments are parsed only where they matter."""
    return any((left := _left(_meaning(name)[1], text)) is not None and left <= 0 for name, text in headers.items())


def _retry_at(headers: Mapping[str, str], now: float) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return now + max(milliseconds, 0.0) / 1000
    return moment_of(headers.get("retry-after", ""), now)


def moment_of(text: str, now: float) -> float | None:
    """`6m0s`, `120ms`, seconds from now, seconds or milliseconds since 1970, or a date of RFC 3339 or HTTP."""
    if _DURATION.fullmatch(text):
        return now + sum(float(value) * _UNITS[unit] for value, unit in _STEP.findall(text))
    number = _number(text)
    if number is not None:
        if number < EPOCH_SECONDS:
            return now + max(number, 0.0)
        return number if number < EPOCH_MILLISECONDS else number / 1000
    for parse in (dt.datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def rests_until(headers: Mapping[str, str], status: int, now: float) -> float:
    """Until when another upstream should rather be asked; `now` where there is no reason to."""
    if status not in REFUSALS and not _says_spent(headers):
        return now
    told = read(headers, now)
    spent = [
        now + LONGEST_SPENT if a.resets_at is None else a.resets_at for a in told.allowances.values() if a.is_spent
    ]
    if status in REFUSALS:
        moments = [told.retry_at] if told.retry_at is not None else spent
        return min(max(moments, default=now), now + LONGEST_REFUSED)
    return min(max(spent, default=now), now + LONGEST_SPENT)


class Answerer(Protocol):
    """What is told apart: the same model has its own allowance at each provider."""

    @property
    def provider_id(self) -> int: ...
    @property
    def model(self) -> str: ...


A = TypeVar("A", bound=Answerer)


class State(msgspec.Struct):
    """What was told last, as it was written; read it to show it."""

    told: Mapping[str, str]
    told_at: float
    rests_until: float = 0.0


class Rests:
    """What was told last by each provider for each of its models, in this process."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._known: OrderedDict[tuple[int, str], State] = OrderedDict()
        self._last_rest = 0.0  # nobody rests longer: mostly that is the past, and there is nothing to order

    def note(self, answerer: Answerer, headers: Mapping[str, str], status: int, now: float) -> None:
        told = telling(headers)
        if not told:
            return
        key = answerer.provider_id, answerer.model
        state = self._known.setdefault(key, State(told, now))
        self._known.move_to_end(key)
        state.told, state.told_at = told, now
        state.rests_until = max(state.rests_until, rests_until(told, status, now))
        self._last_rest = max(self._last_rest, state.rests_until)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def order(self, candidates: Sequence[A], now: float) -> list[A]:
        """The same ones; those that rest come last, and among themselves nothing changes."""
        if self._last_rest <= now or len(candidates) < 2:
            return list(candidates)
        return sorted(candidates, key=lambda candidate: self.rests(candidate, now))

    def rests(self, answerer: Answerer, now: float) -> bool:
        state = self._known.get((answerer.provider_id, answerer.model))
        return state is not None and state.rests_until > now

    def told(self) -> Iterable[tuple[tuple[int, str], State]]:
        """For a page that shows it."""
        return list(self._known.items())
