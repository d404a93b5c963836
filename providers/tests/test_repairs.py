"""Refusals of a parameter, in the words of those who refuse it, and what is done about them."""

from __future__ import annotations

from typing import Any

import pytest

from providers.dialects.lessons import EFFORT_WITH_TOOLS, THINKING_REFUSED, Lesson, Lessons, apply
from providers.dialects.repairs import ROOM_TO_THINK, lesson_of

UNSUPPORTED = "unsupported_parameter"


@pytest.mark.parametrize(
    ("message", "code", "fields", "lesson"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model."
            " Use 'max_completion_tokens' instead.",
            UNSUPPORTED,
            {"param": "max_tokens"},
            Lesson("max_tokens", instead="max_completion_tokens"),
        ),
        (
            "max_tokens is too large: 128000. This model supports at most 16384 completion tokens, whereas you"
            " provided 128000.",
            "invalid_value",
            {"param": "max_tokens"},
            Lesson("max_tokens", most=16384),
        ),
        (
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
            "",
            {},
            Lesson("max_tokens", most=8192),
        ),
        ("Range of max_tokens should be [1, 8192]", "", {}, Lesson("max_tokens", most=8192)),
        (
            "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 32768]",
            "",
            {},
            Lesson("max_tokens", most=32768),
        ),
        (
            "`max_tokens` must be less than or equal to `32768`, the maximum value for `max_tokens`",
            "",
            {},
            Lesson("max_tokens", most=32768),
        ),
        (
            "Unrecognized request argument supplied: max_completion_tokens",
            "",
            {},
            Lesson("max_completion_tokens", instead="max_tokens"),
        ),
        (
            "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is"
            " supported.",
            "unsupported_value",
            {"param": "temperature"},
            Lesson("temperature"),
        ),
        ("Unrecognized request argument supplied: reasoning_effort", "", {}, Lesson("reasoning_effort")),
        ("Unknown parameter: 'prompt_cache_key'.", "unknown_parameter", {}, Lesson("prompt_cache_key")),
        ("property 'service_tier' is unsupported", "", {}, Lesson("service_tier")),
        ("'stop' is not supported with this model", UNSUPPORTED, {"param": "stop"}, Lesson("stop")),
        (
            "Extra inputs are not permitted",
            "",
            {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
            Lesson("stream_options"),
        ),
        ("'stop' is not supported", "", {"detail": [{"loc": 3}, {"loc": "temperature"}, {}, 3]}, Lesson("stop")),
        (
            "Your organization must be verified to generate reasoning summaries.",
            "unsupported_value",
            {"param": "reasoning.summary"},
            Lesson("reasoning.summary"),
        ),
        ("tool_choice 'required' is not supported in thinking mode", "", {}, Lesson("tool_choice")),
        (
            "Invalid schema for function 'f': 'strict' is not supported",
            "",
            {"param": "tools[0].function.strict"},
            Lesson("tools.strict"),
        ),
        (
            "The parameter `max_tokens` specified in the request are not valid: integer above maximum value, expected a"
            " value <= 12288, but got 64000 instead.",
            "InvalidParameter",
            {"param": "max_tokens"},
            Lesson("max_tokens", most=12288),
        ),
        (
            "max_tokens: 128000 > 64000, which is the maximum allowed number of output tokens for claude-opus-4-5",
            "",
            {},
            Lesson("max_tokens", most=64000),
        ),
        (
            "The maximum tokens you requested exceeds the model limit of 8192. Try again with a maximum tokens value"
            " that is lower than 8192.",
            "",
            {},
            Lesson("max_tokens", most=8192),
        ),
        (
            "Unable to submit request because it has a maxOutputTokens value of 128000 but the supported range is from"
            " 1 (inclusive) to 65537 (exclusive).",
            "400",
            {},
            Lesson("max_tokens", most=65536),
        ),
        ("max_tokens参数非法：限制数值范围[1,98304]", "1214", {}, Lesson("max_tokens", most=98304)),
        ("Requests with max_tokens > 4096 must have stream=true", "", {}, Lesson("max_tokens", most=4096, lasts=False)),
        ("`temperature` and `top_p` cannot both be specified", "", {}, Lesson("temperature")),
        ('"llama3.1:8b" does not support thinking', "", {}, Lesson(THINKING_REFUSED)),
        ("Model grok-build does not support parameter reasoningEffort.", "", {}, Lesson(THINKING_REFUSED)),
        ("the model claude-haiku-4.5 does not support reasoning effort", "", {}, Lesson(THINKING_REFUSED)),
        ("`reasoning_effort` must be one of `none` or `default`", "", {}, Lesson("reasoning_effort")),
        (
            "Could not finish the message because max_tokens or model output limit was reached. Please try again with"
            " higher max_tokens.",
            "invalid_value",
            {},
            Lesson("max_tokens", least=ROOM_TO_THINK, lasts=False),
        ),
        (
            "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our documentation",
            "",
            {},
            Lesson(THINKING_REFUSED, lasts=False),
        ),
        (
            "Function tools with reasoning_effort are not supported for gpt-5.4 in /v1/chat/completions.",
            "",
            {"param": "reasoning_effort"},
            Lesson(EFFORT_WITH_TOOLS),
        ),
        ("Your request exceeds the maximum tokens of the plan", "", {}, None),
        ("max_tokens must be at most " + "9" * 5000, "", {}, Lesson("max_tokens", most=10**15 - 1)),
        ("Invalid value for 'model': no such model", "", {"param": "model"}, None),
        ("messages with role user must be followed by the assistant, to stop thinking is not allowed", "", {}, None),
        ("temperature is a lovely thing", "", {}, None),
        ("Invalid 'messages[2].content'", "invalid_value", {"param": "messages[2].content"}, None),
    ],
)
def test_a_refusal_is_read_as_a_lesson(message: str, code: str, fields: dict[str, Any], lesson: Lesson | None) -> None:
    assert lesson_of(message, code, fields) == lesson


@pytest.mark.parametrize(
    ("lesson", "before", "after"),
    [
        (Lesson("temperature"), {"temperature": 1, "top_p": 1}, {"top_p": 1}),
        (Lesson("temperature"), {}, {}),
        (Lesson("max_tokens", instead="max_completion_tokens"), {"max_tokens": 5}, {"max_completion_tokens": 5}),
        (Lesson("max_tokens", most=9), {"max_completion_tokens": 50}, {"max_completion_tokens": 9}),
        (Lesson("max_tokens", most=9), {"max_output_tokens": 5}, {"max_output_tokens": 5}),
        (Lesson("max_tokens", least=9), {"max_completion_tokens": 1}, {"max_completion_tokens": 9}),
        (Lesson("max_tokens", least=9), {"max_tokens": 50}, {"max_tokens": 50}),
        (
            Lesson("reasoning.summary"),
            {"reasoning": {"effort": "low", "summary": "auto"}},
            {"reasoning": {"effort": "low"}},
        ),
        (Lesson("reasoning.summary"), {"reasoning": {"summary": "auto"}}, {}),
        (
            Lesson(THINKING_REFUSED),
            {"reasoning_effort": "low", "thinking": {}, "reasoning": {}, "enable_thinking": True, "stream": True},
            {"stream": True},
        ),
        (
            Lesson(EFFORT_WITH_TOOLS),
            {"tools": [{"name": "f"}], "reasoning_effort": "high"},
            {"tools": [{"name": "f"}], "reasoning_effort": "none"},
        ),
        (Lesson(EFFORT_WITH_TOOLS), {"tools": [{"name": "f"}]}, {"tools": [{"name": "f"}], "reasoning_effort": "none"}),
        (Lesson(EFFORT_WITH_TOOLS), {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (
            Lesson("tools.strict"),
            {"tools": [{"function": {"name": "f", "strict": True}}, {"name": "g", "strict": True}]},
            {"tools": [{"function": {"name": "f"}}, {"name": "g", "strict": False}]},
        ),
    ],
)
def test_a_lesson_changes_the_request(lesson: Lesson, before: dict[str, Any], after: dict[str, Any]) -> None:
    assert apply(before, [lesson]) == after


def test_lessons_are_kept_for_an_hour_and_the_last_word_on_a_parameter_counts() -> None:
    now = [0.0]
    lessons = Lessons(clock=lambda: now[0])
    lessons.learn(1, "m", Lesson("temperature"))
    lessons.learn(1, "m", Lesson("max_tokens", most=9000))
    lessons.learn(1, "m", Lesson("max_tokens", most=4000))
    lessons.learn(1, "m", Lesson("max_tokens", most=1, lasts=False))
    now[0] = 3599.0
    assert lessons.of(1, "m") == (Lesson("temperature"), Lesson("max_tokens", most=4000))
    assert lessons.of(2, "m") == lessons.of(1, "n") == ()
    assert lessons.of_provider(1) == {"m": (Lesson("temperature"), Lesson("max_tokens", most=4000))}
    now[0] = 3600.0
    assert lessons.of(1, "m") == ()
    assert lessons.of_provider(1) == {}


def test_only_so_many_lessons_are_kept() -> None:
    lessons = Lessons(most=2)
    for provider in (1, 2, 3):
        lessons.learn(provider, "m", Lesson("top_p"))
    assert [bool(lessons.of(provider, "m")) for provider in (1, 2, 3)] == [False, True, True]


def test_a_name_and_a_limit_of_one_parameter_are_two_lessons() -> None:
    """Otherwise each would undo the other, with a refused call every time."""
    lessons = Lessons()
    renamed, limited = Lesson("max_tokens", instead="max_completion_tokens"), Lesson("max_tokens", most=4096)
    lessons.learn(1, "m", renamed)
    lessons.learn(1, "m", limited)
    assert lessons.of(1, "m") == (renamed, limited)
    assert apply({"max_tokens": 9000}, lessons.of(1, "m")) == {"max_completion_tokens": 4096}


def test_whoever_asks_what_was_learnt_changes_nothing() -> None:
    now = [0.0]
    lessons = Lessons(clock=lambda: now[0])
    lessons.learn(1, "m", Lesson("top_p"))
    now[0] = 4000.0
    assert lessons.of_provider(1) == {}
    now[0] = 0.0
    assert lessons.of(1, "m") == (Lesson("top_p"),)
