"""How far our figures are from what models bill: a table to begin with, then what their answers have taught.

Answers are compared with an estimate by characters, which is made anyway; nothing is tokenized to learn. What such an
estimate is worth in tokens counted is learned apart, where somebody has asked for a count.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from fnmatch import fnmatchcase

# By the model's name: its tokens for each that we count. Anthropic publishes no vocabulary; theirs is finer than ours.
DEFAULTS: Sequence[tuple[str, float]] = (("*claude*", 1.2), ("*", 1.0))
LEAST, MOST = 0.8, 2.0

REMEMBERED_ANSWERS = 200
# Fewer prove nothing, and neither does a request so small that its wrapping outweighs it.
ENOUGH_ANSWERS = 20
WORTH_COMPARING = 500
MOST_MODELS = 512


def default_factor(model: str) -> float:
    name = model.lower()
    return next(factor for pattern, factor in DEFAULTS if fnmatchcase(name, pattern))


class Ratio:
    """Of two sums over what was seen last."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()
        self._ours = self._theirs = 0

    def add(self, ours: int, theirs: int) -> None:
        self._seen.append((ours, theirs))
        self._ours += ours
        self._theirs += theirs
        if len(self._seen) > REMEMBERED_ANSWERS:
            ours, theirs = self._seen.popleft()
            self._ours -= ours
            self._theirs -= theirs

    @property
    def value(self) -> float | None:
        """Theirs for each of ours; None while too little was seen."""
        return self._theirs / self._ours if len(self._seen) >= ENOUGH_ANSWERS else None


class Factors:
    """By the upstream's name of a model. Asked on the event loop and in the threads that count."""

    def __init__(self, most: int = MOST_MODELS) -> None:
        self._most = most
        self._answers: OrderedDict[str, Ratio] = OrderedDict()
        self._counts = Ratio()
        self._lock = threading.Lock()

    def learn(self, model: str, estimated: int, real: int) -> None:
        """What a model has billed for a request that was estimated by its characters."""
        if estimated < WORTH_COMPARING or real <= 0:
            return
        with self._lock:
            self._answers.setdefault(model, Ratio()).add(estimated, real)
            self._answers.move_to_end(model)
            if len(self._answers) > self._most:
                self._answers.popitem(last=False)

    def compare(self, estimated: int, counted: int) -> None:
        """What a request that was estimated by its characters is when its tokens are counted."""
        if estimated >= WORTH_COMPARING:
            with self._lock:
                self._counts.add(estimated, counted)

    def of_estimates(self, model: str) -> float:
        """What to multiply an estimate by."""
        answers = self._answered(model)
        return default_factor(model) if answers is None else _bounded(answers)

    def of_counts(self, model: str) -> float:
        """What to multiply a count by."""
        answers, counts = self._answered(model), self._counts.value
        return default_factor(model) if answers is None or not counts else _bounded(answers / counts)

    def _answered(self, model: str) -> float | None:
        known = self._answers.get(model)
        return None if known is None else known.value


def _bounded(factor: float) -> float:
    return min(max(factor, LEAST), MOST)
