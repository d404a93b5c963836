"""Habits of upstreams as scripts of the mock: what an answer may look like and still be one."""

from __future__ import annotations

import pytest

from ccproxy_site.tests.e2e.claude_code import LANGUAGES, Script

WHOLE = {"tool_fragment": 100_000}

# How every answer of an errand comes. Habits that do not touch one another share a run.
HABITS: dict[str, Script] = {
    "CRLF, writes of 1 byte, ids of 1300 characters": {"crlf": True, "split": 1, "id_length": 1300},
    "comments, writes of 2 bytes, interleaved calls in single characters": {
        "comments": True,
        "split": 2,
        "interleave": True,
        "tool_fragment": 1,
    },
    "comments before the answer, CRLF, writes of 3 bytes, usage everywhere": {
        "keep_alive": 0.2,
        "crlf": True,
        "split": 3,
        "usage_everywhere": True,
    },
    "no index, arguments whole": {"index": "none", **WHOLE},
    "index 0 for all, no role, the finish of an ending": {"index": "zero", "no_role": True, "stop_reason": "end_turn"},
    "indexes from 5, two heads, no ids": {"first_index": 5, "two_heads": True, "ids": "none"},
    "the same ids in every answer, no usage at the start": {"repeat_ids": True, "no_start_usage": True},
    "one id for all calls of an answer": {"ids": "same"},
    "empty ids, index 0, arguments whole": {"ids": "empty", "index": "zero", **WHOLE},
    "arguments as an object": {"arguments_object": True},
    "JSON in place of a stream, blank lines before it": {"json_instead": True, "comments": True, "keep_alive": 0.2},
}
OF_LANGUAGE: dict[str, dict[str, Script]] = {
    "anthropic": {
        "no event names": {"no_event_names": True},
        "no message_stop": {"no_done": True},
    },
    "openai": {
        "message in place of delta, filter results first, no [DONE]": {
            "message_instead": True,
            "filter_first": True,
            "no_done": True,
        },
        "thinking as reasoning": {"thinking_as": "reasoning"},
        "thinking as reasoning_details": {"thinking_as": "reasoning_details", "interleave": True},
    },
    # Without response.completed nobody knows how an answer ended: that is a cut, and no habit.
    "responses": {
        "no event names": {"no_event_names": True},
    },
}
CASES = [
    pytest.param(language, habit, id=f"{language}, {name}")
    for language in LANGUAGES
    for name, habit in {**HABITS, **OF_LANGUAGE[language]}.items()
]
