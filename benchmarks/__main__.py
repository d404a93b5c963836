"""`python -m benchmarks`: the gateway and bare Daphne side by side, in alternating rounds of the same load."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import SCENARIOS, Scenario, servers
from benchmarks.load import Address, Tally, drive
from benchmarks.report import Report, Result, Round, Series
from benchmarks.servers import Target
from benchmarks.upstream import LANGUAGES

Drive = Callable[[Address, Scenario, float], Tally]


@dataclass(frozen=True)
class Effort:
    """How many rounds on each server, and how long each takes, in seconds."""

    rounds: int
    seconds: float
    warm_up: float


FULL = Effort(rounds=7, seconds=2.0, warm_up=1.0)
QUICK = Effort(rounds=3, seconds=0.5, warm_up=0.2)


def main() -> int:
    options = arguments()
    scenarios = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
    report = run(scenarios, options.type, QUICK if options.quick else FULL)
    print(report.text())
    if options.json:
        options.json.write_text(json.dumps(report.document(), indent=2) + "\n")
    return 0 if report.sound else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds; the figures are rougher")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, metavar="NAME", help=" ".join(SCENARIOS))
    parser.add_argument("--type", choices=LANGUAGES, default="anthropic", help="of the upstream behind the gateway")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


def run(scenarios: list[Scenario], language: str, effort: Effort) -> Report:
    processors = servers.processors()
    report = Report(language, processors.apart, [Result(scenario) for scenario in scenarios])
    with (
        tempfile.TemporaryDirectory(prefix="ccproxy-bench-") as folder,
        servers.upstream(language, processors.others) as upstream_url,
        servers.bare(processors.server) as bare,
        servers.gateway(Path(folder), upstream_url, language, processors.server) as gateway,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        os.sched_setaffinity(0, processors.others)

        def load(address: Address, scenario: Scenario, seconds: float) -> Tally:
            return runner.run(drive(address, scenario, seconds))

        for result in report.results:
            measure(result, gateway, bare, load, effort, report)
        report.booked = servers.booked_rows(Path(folder))
    return report


def measure(result: Result, gateway: Target, bare: Target, load: Drive, effort: Effort, report: Report) -> None:
    """The servers take turns, so that a slow minute of the machine is a slow minute for both."""
    pairs: list[tuple[Target, Series]] = [(gateway, result.gateway), (bare, result.bare)]
    for target, _ in pairs:
        report.hear(target.name, load(target.address, result.scenario, effort.warm_up))
        target.settle()
    for _ in range(effort.rounds):
        for target, series in pairs:
            before = target.cpu_seconds()
            tally = load(target.address, result.scenario, effort.seconds)
            target.settle()
            series.rounds.append(Round(tally, target.cpu_seconds() - before))
            report.hear(target.name, tally)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
