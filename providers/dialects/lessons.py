"""What refusals teach about a provider's parameters: each lesson changes the next request and is kept for an hour.

A provider that refuses a parameter nobody needs is asked again without it; the client never hears of it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]

# The three names of one parameter.
OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# No parameters, but what history carries for the provider itself.
STATE_REFUSED = "reasoning state refused"
REASONING_DEMANDED = "reasoning_content demanded"
# No single parameter either: all that asks for thinking; and an effort, said or not, where there are tools.
THINKING_REFUSED = "whatever asks for thinking"
EFFORT_WITH_TOOLS = "the effort beside tools"
ASKING_FOR_THINKING = ("reasoning_effort", "reasoning", "thinking", "enable_thinking", "thinking_budget")


class Lesson(msgspec.Struct, frozen=True):
    """A parameter to leave out; or, with `instead`, to call so; or, with `most` and `least`, to keep between them.

    `lasts` is False for what holds for one request only.
    """

    field: str
    instead: str = ""
    most: int | None = None
    least: int | None = None
    lasts: bool = True

    @property
    def concerns(self) -> tuple[str, str]:
        """Of two lessons about the same thing the later one counts; a name and a limit are two things."""
        kind = "name" if self.instead else "value" if self.most is None and self.least is None else "limit"
        return self.field, kind

    def __str__(self) -> str:
        if self.instead:
            return f"{self.field} is called {self.instead}"
        if self.least is not None:
            return f"{self.field} is at least {self.least}"
        return f"{self.field} is left out" if self.most is None else f"{self.field} is at most {self.most}"


def apply(body: Json, lessons: Iterable[Lesson]) -> Json:
    """The request as the lessons want it; `a.b` names a field inside a field, `tools.strict` one of every tool."""
    for lesson in lessons:
        if lesson.field == "tools.strict":
            _unbend(body)
        elif lesson.field == THINKING_REFUSED:
            for name in ASKING_FOR_THINKING:
                body.pop(name, None)
        elif lesson.field == EFFORT_WITH_TOOLS:
            body.update({"reasoning_effort": "none"} if "tools" in body else {})
        elif lesson.most is not None:
            for name in (name for name in OUTPUT_LIMITS if name in body):
                body[name] = min(body[name], lesson.most)
        elif lesson.least is not None:
            for name in (name for name in OUTPUT_LIMITS if name in body):
                body[name] = max(body[name], lesson.least)
        elif lesson.instead and lesson.field in body:
            body[lesson.instead] = body.pop(lesson.field)
        else:
            _remove(body, lesson.field)
    return body


def _remove(body: Json, path: str) -> None:
    outer, _, inner = path.partition(".")
    if inner and isinstance(body.get(outer), dict):
        body[outer].pop(inner, None)
        if body[outer]:
            return
    body.pop(outer, None)


def _unbend(body: Json) -> None:
    for tool in body.get("tools", ()):
        if "function" in tool:
            tool["function"].pop("strict", None)
        elif "strict" in tool:
            tool["strict"] = False


class Lessons:
    """The lessons of this process, by provider and model."""

    def __init__(self, keep: float = 3600.0, most: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep = keep
        self._most = most
        self._clock = clock
        self._learnt: OrderedDict[tuple[int, str], dict[Lesson, float]] = OrderedDict()

    def learn(self, provider: int, model: str, lesson: Lesson) -> None:
        if not lesson.lasts:
            return
        known = self._learnt.setdefault((provider, model), {})
        for other in [other for other in known if other.concerns == lesson.concerns]:
            del known[other]
        known[lesson] = self._clock() + self._keep
        if len(self._learnt) > self._most:
            self._learnt.popitem(last=False)

    def of(self, provider: int, model: str) -> tuple[Lesson, ...]:
        if not self._learnt:
            return ()
        known = self._learnt.get((provider, model))
        if known is None:
            return ()
        now = self._clock()
        for lesson in [lesson for lesson, until in known.items() if until <= now]:
            del known[lesson]
        if not known:
            del self._learnt[(provider, model)]
        return tuple(known)

    def forget(self) -> None:
        self._learnt.clear()

    def of_provider(self, provider: int) -> dict[str, tuple[Lesson, ...]]:
        """By model, for the one who asks what was learnt."""
        # Lists of its own, and nothing is changed: the admin asks from another thread.
        now, learnt = self._clock(), list(self._learnt.items())
        alive = {
            model: tuple(lesson for lesson, until in list(lessons.items()) if until > now)
            for (known, model), lessons in learnt
            if known == provider
        }
        return {model: lessons for model, lessons in alive.items() if lessons}


LEARNT = Lessons()
