"""What upstreams write in their heads about what remains, and how it changes whom we ask first."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from providers.rate_headers import LONGEST_REFUSED, LONGEST_SPENT, Allowance, Rests, Told, moment_of, read, telling

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


class Candidate(NamedTuple):
    provider_id: int
    model: str = "m"


FIRST, SECOND, THIRD = map(Candidate, (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6m0s", NOW + 360),
        ("120ms", NOW + 0.12),
        ("1h2m3.5s", NOW + 3723.5),
        ("8.64s", NOW + 8.64),
        ("1d", NOW + 86400),
        ("500us", NOW + 0.0005),
        ("17", NOW + 17),
        ("1.5", NOW + 1.5),
        ("-4", NOW),
        ("1790000060", NOW + 60),
        ("1790000060000", NOW + 60),
        ("2026-09-21T14:14:20Z", NOW + 60),
        ("2026-09-21T16:14:20+02:00", NOW + 60),
        ("2026-09-21T14:14:20", NOW + 60),
        ("Mon, 21 Sep 2026 14:14:20 GMT", NOW + 60),
        ("", None),
        ("soon", None),
        ("6m then", None),
        ("nan", None),
        ("inf", None),
        ("9999-99-99T00:00:00Z", None),
    ],
)
def test_moments_come_in_many_forms(text: str, expected: float | None) -> None:
    moment = moment_of(text, NOW)
    assert moment == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("headers", "kind", "expected"),
    [
        (
            {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s"},
            "requests",
            Allowance(59, NOW + 1),
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, "tokens", Allowance(0, NOW + 360)),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "1790000060000"}, "requests", Allowance(3, NOW + 60)),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "30"}, "requests", Allowance(3, NOW + 30)),
        ({"x-ratelimit-remaining-req-minute": "2"}, "req-minute", Allowance(2, None)),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "1000",
                "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:14:20Z",
            },
            "input-tokens",
            Allowance(1000, NOW + 60),
        ),
        (
            {"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": "1790000060"},
            "unified",
            Allowance(0, NOW + 60),
        ),
        (
            {"x-ratelimit-remaining-tokens": "many", "x-ratelimit-reset-tokens": "2s"},
            "tokens",
            Allowance(None, NOW + 2),
        ),
    ],
)
def test_allowances_are_read(headers: dict[str, str], kind: str, expected: Allowance) -> None:
    assert read(headers, NOW).allowances == {kind: expected}


@pytest.mark.parametrize(
    ("headers", "retry_at"),
    [
        ({"retry-after": "20"}, NOW + 20),
        ({"retry-after": "Mon, 21 Sep 2026 14:14:20 GMT"}, NOW + 60),
        ({"retry-after-ms": "250"}, NOW + 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, NOW + 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, NOW + 1),
        ({"retry-after": "later"}, None),
    ],
)
def test_when_to_come_back_is_read(headers: dict[str, str], retry_at: float | None) -> None:
    assert read(headers, NOW).retry_at == retry_at


def test_heads_that_say_nothing_cost_and_leave_nothing() -> None:
    assert telling({"content-type": "text/event-stream", "x-request-id": "1"}) == {}
    assert telling({"retry-after": "1" * 65, "x-ratelimit-remaining-" + "x" * 65: "0"}) == {}
    assert read({"x-ratelimit": "?", "x-ratelimit-limit-tokens": "5"}, NOW) == Told()
    rests = Rests()
    rests.note(FIRST, {"content-type": "text/html"}, 429, NOW)
    assert list(rests.told()) == []


def test_what_was_told_last_can_be_shown() -> None:
    rests = Rests()
    rests.note(FIRST, {"x-ratelimit-remaining-tokens": "9", "date": "today"}, 200, NOW)
    rests.note(FIRST, {"x-ratelimit-remaining-tokens": "7", "date": "today"}, 200, NOW + 1)
    [(key, state)] = rests.told()
    assert (key, state.told, state.told_at) == ((1, "m"), {"x-ratelimit-remaining-tokens": "7"}, NOW + 1)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (200, {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9s"}, 0),
        (200, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}, 9),
        (200, {"x-ratelimit-remaining-requests": "0"}, LONGEST_SPENT),
        (200, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "24h"}, LONGEST_SPENT),
        (
            200,
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "9s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12s",
            },
            12,
        ),
        (200, {"retry-after": "20"}, 0),
        (400, {"retry-after": "20"}, 0),
        (429, {"retry-after": "20"}, 20),
        (529, {"retry-after-ms": "500"}, 0.5),
        (503, {"retry-after": "20"}, 20),
        (429, {"retry-after": "99999999"}, LONGEST_REFUSED),
        (429, {"retry-after": "2", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "24h"}, 2),
        (429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "5m"}, 300),
        (429, {"x-ratelimit-remaining-tokens": "7"}, 0),
        (429, {"retry-after": "later"}, 0),
    ],
)
def test_an_upstream_rests_when_it_is_spent_or_says_when_to_come_back(
    status: int, headers: dict[str, str], seconds: float
) -> None:
    rests = Rests()
    rests.note(FIRST, headers, status, NOW)
    if seconds:
        assert rests.rests(FIRST, NOW + seconds - 0.01)
    assert not rests.rests(FIRST, NOW + seconds)


def test_who_rests_comes_last_and_the_rest_stay_in_their_order() -> None:
    rests = Rests()
    rests.note(FIRST, {"retry-after": "20"}, 429, NOW)
    assert rests.order([FIRST, SECOND, THIRD], NOW) == [SECOND, THIRD, FIRST]
    rests.note(SECOND, {"retry-after": "10"}, 429, NOW)
    assert rests.order([FIRST, SECOND, THIRD], NOW) == [THIRD, FIRST, SECOND]
    assert rests.order([FIRST, SECOND, THIRD], NOW + 15) == [SECOND, THIRD, FIRST]
    assert rests.order([FIRST, SECOND, THIRD], NOW + 21) == [FIRST, SECOND, THIRD]


def test_the_last_one_left_is_asked_all_the_same() -> None:
    rests = Rests()
    rests.note(FIRST, {"retry-after": "20"}, 429, NOW)
    assert rests.order([FIRST], NOW) == [FIRST]
    assert rests.order([], NOW) == []


def test_another_model_of_the_same_provider_does_not_rest() -> None:
    rests = Rests()
    rests.note(FIRST, {"retry-after": "20"}, 429, NOW)
    assert not rests.rests(Candidate(1, "other"), NOW)


def test_a_later_answer_does_not_wake_who_was_told_to_rest() -> None:
    rests = Rests()
    rests.note(FIRST, {"retry-after": "20"}, 429, NOW)
    rests.note(FIRST, {"x-ratelimit-remaining-requests": "5"}, 200, NOW)
    assert rests.rests(FIRST, NOW + 19)


def test_memory_is_bounded_and_keeps_whom_it_heard_of_last() -> None:
    rests = Rests(most=2)
    for candidate in (FIRST, SECOND, FIRST, THIRD):
        rests.note(candidate, {"retry-after": "20"}, 429, NOW)
    assert [key for key, _ in rests.told()] == [(1, "m"), (3, "m")]
