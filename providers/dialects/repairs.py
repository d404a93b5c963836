"""Refusals of a parameter that nobody needs, read as a lesson for the next try."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from providers.dialects.lessons import OUTPUT_LIMITS, Lesson

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
    r"|not available|not implemented|deprecated|not verified|must be verified|no longer",
    re.IGNORECASE,
)
_MOST = re.compile(
    r"(?:at most|<=?|less than or equal to|maximum(?: [a-z]+)*(?: is|:| of)?|cannot exceed|up to|\[ ?\d+, ?)"
    r" ?`?(\d[\d,_]*)",
    re.IGNORECASE,
)
# These are ordinary words as well: they name a parameter only in quotes.
_WORDS = frozenset({"stop", "reasoning", "thinking", "include", "store", "plugins", "user", "strict"})


def _alternatives(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_NAMES = re.compile(
    rf"(?<![\w.])(?:({_alternatives(set(OPTIONAL) - _WORDS)})|(?<=['\"`])({_alternatives(_WORDS)})(?=['\"`]))(?!\w)"
)


def lesson_of(message: str, code: str, fields: Mapping[str, Any]) -> Lesson | None:
    """What to change before asking the same provider again; None where nothing would help."""
    name = next(_named(message, fields), None)
    if name is None or not (code.lower() in COMPLAINING_CODES or _COMPLAINT.search(message)):
        return None
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
        yield from (name for name in place or () if name in OPTIONAL)
    yield from (found[1] or found[2] for found in _NAMES.finditer(message))


def _about_the_limit(name: str, message: str) -> Lesson | None:
    other = RENAMED.get(name)
    if other and other in message.replace(name, "", 1) and "instead" in message.lower():
        return Lesson(name, instead=other)
    most = _MOST.search(message)
    if most:
        return Lesson(name, most=int(re.sub(r"\D", "", most[1])))
    return Lesson(name, instead=other) if other else None
