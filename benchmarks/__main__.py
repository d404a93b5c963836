"""`python -m benchmarks`: the gateway and bare Daphne side by side, in alternating rounds of the same load."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import SCENARIOS, Scenario, loops, peers, ratios, servers, tables
from benchmarks.load import Look, Tally, drive
from benchmarks.report import Report, Result, Round, Sight, busy
from benchmarks.servers import Gateway, Processors, Target
from benchmarks.upstream import LANGUAGES

QUICK_SCENARIOS, PEER_SCENARIOS = ("S1", "S2", "S5"), ("S1", "S2", "S4")


@dataclass(frozen=True)
class Effort:
    """How many rounds on each server, and how long each takes, in seconds."""

    rounds: int
    seconds: float
    warm_up: float
    alone: float  # with a single connection, for the delay
    # Slow streams: so many rounds with so many at once. They join over a whole number of pauses, the time of a stream
    # if there is enough, so that chunks, beginnings and endings come evenly; each asks again until its time has passed.
    crowd_rounds: int
    crowd: int
    crowd_joins: float
    crowd_seconds: float


FULL = Effort(7, 2.0, warm_up=1.0, alone=0.5, crowd_rounds=2, crowd=1000, crowd_joins=5.0, crowd_seconds=10.0)
QUICK = Effort(3, 0.5, warm_up=0.2, alone=0.1, crowd_rounds=1, crowd=400, crowd_joins=2.0, crowd_seconds=1.0)


@dataclass(frozen=True)
class Stage:
    """All that runs: the servers, the upstream, and the load in this process."""

    targets: list[Target]
    upstream: Target
    processors: Processors
    load: asyncio.Runner

    def ask(
        self,
        target: Target,
        scenario: Scenario,
        connections: int,
        seconds: float,
        look: Look = None,
        joining: float = 0.0,
    ) -> Tally:
        gc.collect()  # now, since it is switched off while the load runs: it would look like a slow server
        return self.load.run(drive(target.address, scenario, connections, seconds, look, joining))


def main() -> int:
    options = arguments()
    chosen = options.scenario or choice(options)
    effort = QUICK if options.quick else FULL
    report = run([SCENARIOS[name] for name in chosen], options.type, effort, with_peers=options.peers)
    print(tables.text(report, full=effort is FULL))
    print(f"\n{loops.text()}")
    if options.json:
        options.json.write_text(json.dumps(report.document(), indent=2) + "\n")
    if options.store and report.sound:
        ratios.store(report)
    return 0 if report.sound else 1


def choice(options: argparse.Namespace) -> Iterable[str]:
    if options.peers:
        return PEER_SCENARIOS
    return QUICK_SCENARIOS if options.quick else SCENARIOS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="S1, S2 and a small S5 in seconds; rougher figures")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, metavar="NAME", help=" ".join(SCENARIOS))
    parser.add_argument("--type", choices=LANGUAGES, default="anthropic", help="of the upstream behind the gateway")
    parser.add_argument("--peers", action="store_true", help="LiteLLM and claude-code-router in the same run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--store", action="store_true", help="keep the ratios, for CI to compare with")
    options = parser.parse_args()
    if options.store and (options.quick or options.scenario or options.peers or options.type != "anthropic"):
        parser.error("--store keeps the ratios of a whole run: leave the other options out")
    if options.peers and options.type != "anthropic":
        parser.error("--peers measures both types")
    if options.peers and peers.missing():
        parser.error(f"not installed: {', '.join(map(str, peers.missing()))}; `make bench-peers` does it")
    return options


def run(scenarios: list[Scenario], language: str, effort: Effort, *, with_peers: bool) -> Report:
    with stage(language, with_peers=with_peers) as here:
        gateways = [target for target in here.targets if isinstance(target, Gateway)]
        forgiven = {target.name: sorted(target.address.forgiven) for target in here.targets}
        report = Report(language, here.processors.apart, peers.versions() if with_peers else {}, forgiven)
        report.results = [Result(scenario) for scenario in scenarios]
        # The crowd first: memory that others have used and left would hide what it takes.
        for result in sorted(report.results, key=lambda result: not result.scenario.stamped):
            if result.scenario.stamped:
                warm_up(SCENARIOS["S2"], 1, here, effort, report)
                all_at_once(result, here, effort, report)
            else:
                warm_up(result.scenario, result.scenario.connections, here, effort, report)
                at_full_speed(result, here, effort, report)
                one_at_a_time(result, here, effort, report)
        for gateway in gateways:
            gateway.settle()
            report.booked[gateway.name] = gateway.booked_rows()
    return report


@contextlib.contextmanager
def stage(language: str, *, with_peers: bool) -> Iterator[Stage]:
    processors = servers.processors()
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="ccproxy-bench-")))
        upstream = running.enter_context(servers.upstream(processors.others))
        port, on = upstream.address.port, processors.server
        starting = [servers.gateway("gateway", folder / "gateway", port, language, on), servers.bare(on)]
        if with_peers:
            starting.append(servers.gateway("gateway openai", folder / "gateway-openai", port, "openai", on))
            starting += [peers.litellm(folder, port, on), peers.claude_code_router(folder, port, on)]
        targets = [running.enter_context(server) for server in starting]
        load = running.enter_context(asyncio.Runner(loop_factory=loop_factory()))
        os.sched_setaffinity(0, processors.others)
        gc.disable()
        yield Stage(targets, upstream, processors, load)


def warm_up(scenario: Scenario, connections: int, here: Stage, effort: Effort, report: Report) -> None:
    for target in here.targets:
        report.hear(target.name, here.ask(target, scenario, connections, effort.warm_up))
        target.settle()


def at_full_speed(result: Result, here: Stage, effort: Effort, report: Report) -> None:
    """The servers take turns, so that a slow minute of the machine is a slow minute for all."""
    for _ in range(effort.rounds):
        for target in here.targets:
            before = target.cpu_seconds()
            tally = here.ask(target, result.scenario, result.scenario.connections, effort.seconds)
            target.settle()
            result.of(target.name).rounds.append(Round(tally, target.cpu_seconds() - before))
            report.hear(target.name, tally)


def one_at_a_time(result: Result, here: Stage, effort: Effort, report: Report) -> None:
    """How long a whole reply takes when nothing else is asked; straight from the upstream, too."""
    for _ in range(effort.rounds):
        for target in (here.upstream, *here.targets):
            tally = here.ask(target, result.scenario, 1, effort.alone)
            result.of(target.name).delays += tally.latencies
            report.hear(target.name, tally)


def all_at_once(result: Result, here: Stage, effort: Effort, report: Report) -> None:
    """How late each chunk comes, and what a stream takes of the memory, while so many are open."""
    at_rest = {target.name: target.resident_bytes() for target in here.targets}
    for _ in range(effort.crowd_rounds):
        for target in (here.upstream, *here.targets):
            sights: list[Sight] = []
            before = target.cpu_seconds()
            look = functools.partial(see, target, here.processors, sights)
            tally = here.ask(target, result.scenario, effort.crowd, effort.crowd_seconds, look, effort.crowd_joins)
            target.settle()
            series = result.of(target.name)
            series.rounds.append(Round(tally, target.cpu_seconds() - before))
            series.delays += tally.delays_of_all()
            series.busy.append(busy(*sights))
            if target.name in at_rest:
                series.stream_bytes.append((sights[-1].resident - at_rest[target.name]) / effort.crowd)
            report.hear(target.name, tally)


def see(target: Target, processors: Processors, sights: list[Sight]) -> None:
    server, others = map(servers.processor_times, (processors.server, processors.others))
    sights.append(Sight(target.resident_bytes(), server, others))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
