"""In which order candidates are tried."""

from __future__ import annotations

from collections import Counter

import msgspec

from providers.balancing import STRATEGIES


class Candidate(msgspec.Struct, frozen=True):
    name: str
    priority: int = 1
    weight: int = 1


def names(strategy: str, candidates: list[Candidate], turn: int = 0) -> str:
    return "".join(candidate.name for candidate in STRATEGIES[strategy](candidates, turn))


def test_the_lowest_priority_number_comes_first_and_equals_keep_their_order() -> None:
    assert names("priority", [Candidate("c", 2), Candidate("a", 1), Candidate("d", 2), Candidate("b", 1)]) == "abcd"


def test_round_robin_moves_on_with_every_request() -> None:
    candidates = [Candidate("a"), Candidate("b"), Candidate("c")]
    assert [names("round_robin", candidates, turn) for turn in range(4)] == ["abc", "bca", "cab", "abc"]


def test_a_weight_of_three_comes_first_three_times_as_often() -> None:
    candidates = [Candidate("a", weight=3), Candidate("b", weight=1)]
    first = Counter(names("random", candidates)[0] for _ in range(4000))
    assert 2.3 < first["a"] / first["b"] < 3.9


def test_every_strategy_tries_every_candidate_once() -> None:
    candidates = [Candidate(name) for name in "abcde"]
    for strategy in STRATEGIES:
        assert sorted(names(strategy, candidates, 3)) == list("abcde")
