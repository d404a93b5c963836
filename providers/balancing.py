"""In which order the candidates of a route are tried: one function per strategy, one line in the table."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar


class Choice(Protocol):
    """What a strategy looks at."""

    @property
    def priority(self) -> int: ...
    @property
    def weight(self) -> int: ...


C = TypeVar("C", bound=Choice)


# `turn` counts the requests of the route, so that a strategy needs no state of its own.


def by_priority(candidates: Sequence[C], turn: int) -> list[C]:
    """The lowest number first; among equals the order of the route."""
    return sorted(candidates, key=lambda candidate: candidate.priority)


def round_robin(candidates: Sequence[C], turn: int) -> list[C]:
    start = turn % len(candidates)
    return [*candidates[start:], *candidates[:start]]


def by_weight(candidates: Sequence[C], turn: int) -> list[C]:
    """A random order in which a weight of two comes first twice as often as a weight of one."""
    return sorted(candidates, key=lambda candidate: random.random() ** (1 / candidate.weight), reverse=True)


STRATEGIES: Mapping[str, Callable[[Sequence[Any], int], list[Any]]] = {
    "priority": by_priority,
    "round_robin": round_robin,
    "random": by_weight,
}
