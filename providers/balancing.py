"""In which order the candidates of a route are tried: one function per strategy, one line in the table."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from providers.routing import Candidate

# `turn` counts the requests of the route, so that a strategy needs no state of its own.
Strategy: TypeAlias = "Callable[[Sequence[Candidate], int], list[Candidate]]"


def by_priority(candidates: Sequence[Candidate], turn: int) -> list[Candidate]:
    """The lowest number first; among equals the order of the route."""
    return sorted(candidates, key=lambda candidate: candidate.priority)


def round_robin(candidates: Sequence[Candidate], turn: int) -> list[Candidate]:
    start = turn % len(candidates)
    return [*candidates[start:], *candidates[:start]]


def by_weight(candidates: Sequence[Candidate], turn: int) -> list[Candidate]:
    """A random order in which a weight of two comes first twice as often as a weight of one."""
    return sorted(candidates, key=lambda candidate: random.random() ** (1 / candidate.weight), reverse=True)


STRATEGIES: dict[str, Strategy] = {
    "priority": by_priority,
    "round_robin": round_robin,
    "random": by_weight,
}
