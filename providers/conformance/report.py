"""What came of a run: by theme, each failure with its sentences, and the score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import msgspec

from providers.conformance.cases import Case, Setup
from providers.conformance.remote import Remote
from providers.conformance.running import run

Verdict = Literal["passed", "failed", "not applicable"]


class Result(msgspec.Struct, frozen=True):
    case: Case
    verdict: Verdict
    complaints: list[str] = []

    def document(self) -> dict[str, Any]:
        return {
            "id": self.case.id,
            "theme": self.case.theme,
            "kind": self.case.kind,
            "core": self.case.core,
            "result": self.verdict,
            "complaints": self.complaints,
        }


def judged(cases: Iterable[Case], player: Remote, *, has_all: bool) -> Iterator[Result]:
    """Runs the cases one after another. `has_all`: the gateway has every provider that they need."""
    for case in cases:
        fitting = case if has_all else _fitting(case, player)
        if fitting is None:
            yield Result(case, "not applicable")
            continue
        try:
            complaints = run(fitting, player)
        except Exception as error:  # noqa: BLE001 - a gateway may answer anything at all
            complaints = [f"the answer cannot be read: {type(error).__name__} {error}"]
        # A gateway may send half a character, and a page of its own cannot show it.
        shown = [each.encode("utf-8", "backslashreplace").decode() for each in complaints]
        yield Result(case, "failed" if complaints else "passed", shown)


def _fitting(case: Case, player: Remote) -> Case | None:
    """The case as this gateway can be asked it: with a provider of its own, or one that others use too; else None."""
    teaches = any(turn.first for turn in case.turns)  # and what is learned would show in the cases after it
    variants: list[Case] = [case] if teaches else [case, msgspec.structs.replace(case, alone=False)]
    for variant in variants:
        needed: list[Setup] = [variant.setup(turn.language) for turn in case.turns]
        if all(map(player.serves, needed)):
            return variant
    return None


def lines(results: list[Result]) -> Iterator[str]:
    themes = dict.fromkeys(result.case.theme for result in results)
    width = max(map(len, themes), default=0)
    for theme in themes:
        yield f"{theme:{width}}  {_counted([result for result in results if result.case.theme == theme])}"
    failed = [result for result in results if result.verdict == "failed"]
    for result in failed:
        yield ""
        yield f"{result.case.theme}: {result.case.id}{'' if result.case.core else ' (not core)'}"
        yield f"  {result.case.says}"
        yield from (f"  - {complaint}" for complaint in result.complaints)
    yield ""
    yield score(results)


def score(results: list[Result]) -> str:
    return f"all: {_counted(results)}; core: {_counted(_core(results))}"


def document(results: list[Result]) -> dict[str, Any]:
    """For programs."""
    return {
        "all": counts(results),
        "core": counts(_core(results)),
        "cases": [result.document() for result in results],
    }


def counts(results: list[Result]) -> dict[str, int]:
    verdicts = [result.verdict for result in results]
    return {verdict: verdicts.count(verdict) for verdict in get_args(Verdict)}


def _core(results: list[Result]) -> list[Result]:
    return [result for result in results if result.case.core]


def _counted(results: list[Result]) -> str:
    told = counts(results)
    absent = told.pop("not applicable")
    text = ", ".join(f"{number} {verdict}" for verdict, number in told.items())
    return f"{text}, {absent} not applicable" if absent else text
