"""Refusals of a parameter that nobody needs, read as a lesson for the next try."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from providers.dialects.lessons import EFFORT_WITH_TOOLS, OUTPUT_LIMITS, THINKING_REFUSED, Lesson

# Parameters without which a request still means the same, or that have another name elsewhere. A dot is a way inside.
OPTIONAL = (
    *OUTPUT_LIMITS,
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "stream_options",
    "parallel_tool_calls",
    "reasoning_effort",
    "reasoning.summary",
    "reasoning.effort",
    "reasoning",
    "thinking",
    "thinking_budget",
    "enable_thinking",
    "chat_template_kwargs",
    "response_format",
    "tool_choice",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "include",
    "store",
    "plugins",
    "user",
    "strict",
)
RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
COMPLAINING_CODES = frozenset(
    {"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden", "unrecognized_parameter"}
)
_COMPLAINT = re.compile(
    r"unsupported|not supported|n[o']t support|unknown|unrecogni[sz]ed|unexpected|\bextra\b|not permitted|not allowed"
    r"|not compatible|incompatible|invalid|out of range|should be|must be|too large|too high|at most|only the default"
    r"|not available|not implemented|deprecated|not verified|must be verified|no longer|not valid|cannot both|exceed"
    r"|must have|maximum allowed|supported range|非法|不支持|无效",
    re.IGNORECASE,
)
# The same parameter in the words of a vendor whom a proxy asked.
_MAX_TOKENS = re.compile(r"\bmaxOutputTokens\b|\bmaximum tokens(?= you requested)", re.IGNORECASE)
_NO_THINKING = re.compile(r"does not support (?:thinking|reasoning|parameter reasoningEffort)\b", re.IGNORECASE)
# Clients try a model by asking for one token; models that think cannot answer with it, and OpenAI says so as a refusal.
_TOO_SMALL = re.compile(r"could not finish the message because max_tokens", re.IGNORECASE)
ROOM_TO_THINK = 2048
_NO_EFFORT_WITH_TOOLS = re.compile(r"tools with reasoning_effort are not supported", re.IGNORECASE)
_MOST = re.compile(
    r"(?:at most|<=?|>(?= ?[1-9])|less than or equal to|maximum(?: [a-z]+)*(?: is|:| of)?|cannot exceed|limit of|up to"
    r"|\[ ?\d+, ?) ?`?(\d[\d,_]{0,14})",
    re.IGNORECASE,
)
_BELOW = re.compile(r"\bto (\d{1,15}) \(exclusive\)")
_STATUS = re.compile(r"<\d{3}>")  # DashScope begins its sentences so, and means no limit
# These are ordinary words as well: they name a parameter only in quotes.
_WORDS = frozenset({"stop", "reasoning", "thinking", "include", "store", "plugins", "user", "strict"})


def _alternatives(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_NAMES = re.compile(
    rf"(?<![\w.])(?:({_alternatives(set(OPTIONAL) - _WORDS)})|(?<=['\"`])({_alternatives(_WORDS)})(?=['\"`]))(?!\w)",
    re.ASCII,  # Chinese follows without a space
)


def lesson_of(message: str, code: str, fields: Mapping[str, Any]) -> Lesson | None:
    """What to change before asking the same provider again; None where nothing would help."""
    if _NO_EFFORT_WITH_TOOLS.search(message):
        return Lesson(EFFORT_WITH_TOOLS)
    if _NO_THINKING.search(message):
        return Lesson(THINKING_REFUSED)
    if _TOO_SMALL.search(message):
        return Lesson("max_tokens", least=ROOM_TO_THINK, lasts=False)
    message = _MAX_TOKENS.sub("max_tokens", message)
    name = next(_named(message, fields), None)
    if name is None or not (code.lower() in COMPLAINING_CODES or _COMPLAINT.search(message)):
        return None
    if name in OUTPUT_LIMITS and "budget" in message:  # of thinking, which must be below
        return Lesson(THINKING_REFUSED, lasts=False)
    if name in OUTPUT_LIMITS:
        return _about_the_limit(name, message)
    return Lesson("tools.strict" if name == "strict" else name)


def _named(message: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """The parameters spoken of, the one that is named apart first."""
    param = fields.get("param")
    if isinstance(param, str) and param:
        yield from (name for name in OPTIONAL if param == name)
        yield from (name for name in OPTIONAL if param.startswith(f"{name}."))
        if param.endswith(".strict"):
            yield "strict"
    detail = fields.get("detail")
    for item in detail if isinstance(detail, list) else ():
        place = item.get("loc") if isinstance(item, dict) else None
        yield from (name for name in (place if isinstance(place, list) else ()) if name in OPTIONAL)
    yield from (found[1] or found[2] for found in _NAMES.finditer(message))


def _about_the_limit(name: str, message: str) -> Lesson | None:
    other = RENAMED.get(name)
    if other and other in message.replace(name, "", 1) and "instead" in message.lower():
        return Lesson(name, instead=other)
    below, most = _BELOW.search(message), _MOST.search(_STATUS.sub("", message))
    if below:
        return Lesson(name, most=int(below[1]) - 1)
    if most:
        # Some take fewer only of a request without a stream.
        return Lesson(name, most=int(re.sub(r"\D", "", most[1])), lasts="stream=true" not in message)
    return Lesson(name, instead=other) if other else None
