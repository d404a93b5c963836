"""What the gateway is meant to cost at most. A miss is shown, it fails nothing: the machine may be a slow one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.report import Report, Result


@dataclass(frozen=True)
class Aim:
    scenario: str
    about: str
    figure: Callable[[Result], float]
    most: float


def cpu_per_chunk(result: Result) -> float:
    return result.of("gateway").cpu_per_reply / result.scenario.chunks


def late(result: Result) -> float:
    return result.added("gateway", 99)


def memory(result: Result) -> float:
    return result.of("gateway").kilobytes_per_stream or 0.0


def ratio(result: Result) -> float:
    return result.ratio


def share_of_litellm(result: Result) -> float:
    return 1 / result.times_gateway("litellm") if "litellm" in result.series else 0.0


AIMS = (
    Aim("S1", "ratio to bare Daphne", ratio, 2.5),
    Aim("S2", "ratio to bare Daphne", ratio, 1.0),
    Aim("S3", "CPU µs/chunk", cpu_per_chunk, 11.0),
    Aim("S4", "ratio to bare Daphne", ratio, 1.55),
    Aim("S5", "added delay, p99, ms", late, 17.0),
    Aim("S5", "KB/stream", memory, 60.0),
)
BESIDE_LITELLM = (
    Aim("S1", "CPU, share of LiteLLM's", share_of_litellm, 1 / 8),
    Aim("S2", "CPU, share of LiteLLM's", share_of_litellm, 1 / 15),
    Aim("S4", "CPU, share of LiteLLM's", share_of_litellm, 1 / 15),
)


def lines(report: Report) -> list[str]:
    results = {result.scenario.name: result for result in report.results}
    told = []
    for aim in (*AIMS, *(BESIDE_LITELLM if report.peers else ())):
        if aim.scenario in results:
            figure = aim.figure(results[aim.scenario])
            verdict = "holds" if figure <= aim.most else "MISSED"
            told.append(f"  {aim.scenario} {aim.about}: {figure:.3g}, aim at most {aim.most:.3g}: {verdict}")
    return told
