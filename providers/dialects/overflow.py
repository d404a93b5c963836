"""The figures in a sentence about a prompt that is too long: providers agree on none of the wordings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec


class Figures(msgspec.Struct, frozen=True):
    limit: int | None = None
    requested: int | None = None  # prompt, or prompt and completion: the sentence did not say
    prompt: int | None = None  # of which we know that it is the prompt alone
    completion: int | None = None


# What a number is, by the words after it, else by the last such words before it.
_AFTER: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "completion",
        re.compile(
            r"\s*(?:tokens? )?(?:in|of|for|from) the (?:completion|output)|\s*`?max_(?:new_)?tokens"
            r"|\s*(?:output|completion) tokens"
        ),
    ),
    (
        "prompt",
        re.compile(
            r"\s*(?:tokens? )?(?:in|of|for|from) (?:the )?(?:input |your )?(?:messages|prompt|(?:text |tool )?input)"
            r"|\s*(?:`inputs`|input|prompt) tokens"
        ),
    ),
    ("limit", re.compile(r"\s*(?:tokens? )?(?:maximum|limit\b|max\b)")),
)
_BEFORE = re.compile(
    r"(?P<limit>maximum(?: [a-z]+)* length|context (?:length|size|window|tokens)|maximum|limit\b|window"
    r"|must be|cannot exceed|<=)"
    r"|(?P<completion>max_(?:completion_)?tokens\W+is too large)"
    r"|(?P<requested>requested|resulted in|received|contains|request\b|input|prompt|total)"
)
_NUMBER = re.compile(r"\d[\d,_]*")
_FORMULA = re.compile(r"\(\d+ > \d+ - \d+\)")
_RANGE = re.compile(r"range of input length should be \[\d+, ?(\d+)\]")
LONGEST = 1000


def figures_of(message: str, fields: Mapping[str, Any]) -> Figures:
    """From fields where there are any, else from the text."""
    named = (fields.get("n_prompt_tokens"), fields.get("n_ctx"))
    if all(isinstance(value, int) and value > 0 for value in named):
        return Figures(prompt=named[0], limit=named[1])
    return _in_text(message[:LONGEST].lower())


def _in_text(text: str) -> Figures:
    text = _RANGE.sub(r"limit \1", _FORMULA.sub("", text))
    found: dict[str, list[int]] = {}
    numbers = list(_NUMBER.finditer(text))
    for position, number in enumerate(numbers):
        start = numbers[position - 1].end() if position else 0
        end = numbers[position + 1].start() if position + 1 < len(numbers) else len(text)
        role = _role(text[start : number.start()], text[number.end() : end])
        digits = number[0].replace(",", "").replace("_", "")
        if len(digits) < 16:
            found.setdefault(role or "unnamed", []).append(int(digits))
    if "limit" in found and not {"requested", "prompt"} & found.keys():
        found["requested"] = [number for number in found.get("unnamed", ()) if number > found["limit"][0]]
    return Figures(
        limit=found["limit"][0] if "limit" in found else None,
        requested=max(found["requested"]) if found.get("requested") else None,
        prompt=sum(found["prompt"]) if "prompt" in found else None,
        completion=found["completion"][0] if "completion" in found else None,
    )


def _role(before: str, after: str) -> str | None:
    for role, words in _AFTER:
        if words.match(after):
            return role
    last = None
    for match in _BEFORE.finditer(before):
        last = match.lastgroup
    return last
