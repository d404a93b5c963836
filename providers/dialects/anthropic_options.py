"""The options of a provider that speaks Anthropic Messages: what each is called, what it may hold, what it does."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from providers.routing import Endpoint

VENDOR = "api.anthropic.com"


class Option(NamedTuple):
    type: Any
    default: Any
    help: str


OPTIONS: Mapping[str, Option] = {
    "normalise": Option(
        bool | None,
        None,
        f"Repair answers that break the rules of the format; unset, it is on for every host except {VENDOR}.",
    ),
    "remove_fields": Option(list[str], [], "Top-level fields of the request that this provider does not take."),
    "remove_betas": Option(
        list[str],
        [],
        "Values taken out of anthropic-beta, together with the request fields that need them.",
    ),
    "oauth": Option(bool, False, "The credential is an OAuth token: say so in anthropic-beta."),
    "strip_unsigned_thinking": Option(
        bool, False, "Leave out thinking blocks without a signature, which Anthropic itself refuses."
    ),
    "effort_without_thinking": Option(
        bool | None,
        None,
        "Send an effort beside thinking that is switched off; unset, everybody but DeepSeek gets it, who refuses that.",
    ),
    "forward_user_agent": Option(bool, True, "Send on the client's user-agent; some providers look at it."),
    "forward_claude_code_headers": Option(bool, True, "Send on the client's x-claude-code-* headers."),
    "refusal_as_answer": Option(bool, False, "What moderation stopped is a turn that ends in a refusal, and no error."),
    "hide_errors": Option(
        bool, False, f"Put the provider's error messages into our words; {VENDOR} is always heard in its own."
    ),
    "empty_answer_text": Option(
        str, "(The model returned no text.)", "What stands in place of the text where a model only thought."
    ),
}


def option(endpoint: Endpoint, name: str) -> Any:
    """Its value; the default where it has none, or one of a type it cannot have."""
    known = OPTIONS[name]
    if name not in endpoint.options:
        return known.default
    try:
        return msgspec.convert(endpoint.options[name], known.type, strict=False)
    except msgspec.ValidationError:
        return known.default


@functools.lru_cache(maxsize=1024)
def _host(base_url: str) -> str:
    return urlsplit(base_url).hostname or ""


def is_vendor(endpoint: Endpoint) -> bool:
    return _host(endpoint.base_url) == VENDOR


def takes_effort_without_thinking(endpoint: Endpoint) -> bool:
    wanted = option(endpoint, "effort_without_thinking")
    return "deepseek" not in _host(endpoint.base_url) if wanted is None else bool(wanted)


def normalises(endpoint: Endpoint) -> bool:
    wanted = option(endpoint, "normalise")
    return not is_vendor(endpoint) if wanted is None else bool(wanted)
