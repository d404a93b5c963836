"""What was measured, and as JSON for comparisons."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import Scenario
from benchmarks.load import Tally
from benchmarks.machine import commit, machine, versions

MICROSECONDS, MILLISECONDS, KILOBYTE = 1e6, 1e3, 1024
PERCENTS = (50, 95, 99)
# With whose CPU a peer's is compared: with the gateway's in front of an upstream of the same type.
BESIDE = {"litellm": "gateway", "claude-code-router": "gateway openai"}


@dataclass
class Round:
    """One stretch of load on one server."""

    tally: Tally
    cpu_seconds: float

    @property
    def cpu_per_reply(self) -> float:
        """In microseconds."""
        return self.cpu_seconds / max(self.tally.replies, 1) * MICROSECONDS


@dataclass(frozen=True)
class Sight:
    """A look at the machine while all slow streams are open: a server's memory, and what the processors have done."""

    resident: int
    server: tuple[int, int]  # busy ticks, and all
    others: tuple[int, int]


@dataclass(frozen=True)
class Busy:
    """How much of their processor the server, and load and upstream, had no rest; with whatever else ran there."""

    server: float
    load: float


def busy(first: Sight, last: Sight) -> Busy:
    def share(before: tuple[int, int], after: tuple[int, int]) -> float:
        return (after[0] - before[0]) / max(after[1] - before[1], 1)

    return Busy(share(first.server, last.server), share(first.others, last.others))


@dataclass
class Series:
    """All rounds of one scenario on one server."""

    rounds: list[Round] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # seconds: of whole replies one at a time, or of slow chunks
    busy: list[Busy] = field(default_factory=list)
    stream_bytes: list[float] = field(default_factory=list)

    @property
    def replies(self) -> int:
        return sum(one.tally.replies for one in self.rounds)

    @property
    def cpu_per_reply(self) -> float:
        return statistics.median(one.cpu_per_reply for one in self.rounds)

    @property
    def replies_per_second(self) -> float:
        return statistics.median(one.tally.replies / one.tally.seconds for one in self.rounds)

    @property
    def sends(self) -> float:
        """Per reply."""
        return sum(one.tally.sends for one in self.rounds) / max(self.replies, 1)

    @property
    def kilobytes_per_stream(self) -> float | None:
        return max(self.stream_bytes) / KILOBYTE if self.stream_bytes else None

    def latency(self, percent: int) -> float:
        """Under the whole load, in milliseconds."""
        return percentile((latency for one in self.rounds for latency in one.tally.latencies), percent) * MILLISECONDS

    def delay(self, percent: int) -> float:
        """In milliseconds."""
        return percentile(self.delays, percent) * MILLISECONDS

    def figures(self, scenario: Scenario) -> dict[str, Any]:
        per_chunk = self.cpu_per_reply / scenario.chunks if scenario.streams else None
        return {
            "requests": self.replies,
            "cpu_us_per_request": round(self.cpu_per_reply, 1),
            "cpu_us_per_chunk": rounded(per_chunk),
            "requests_per_second": round(self.replies_per_second, 1),
            "latency_ms": {f"p{percent}": round(self.latency(percent), 2) for percent in (50, 99)},
            "sends_per_request": round(self.sends, 1),
            "kb_per_stream": rounded(self.kilobytes_per_stream),
            "processors_busy": [asdict(one) for one in self.busy],
            "cpu_us_per_request_by_round": [round(one.cpu_per_reply, 1) for one in self.rounds],
        }


@dataclass
class Result:
    """One scenario on all servers, and straight from the upstream."""

    scenario: Scenario
    series: dict[str, Series] = field(default_factory=dict)

    def of(self, name: str) -> Series:
        return self.series.setdefault(name, Series())

    @property
    def servers(self) -> list[str]:
        return [name for name in self.series if name != "upstream"]

    @property
    def ratio(self) -> float:
        """The gateway's processor time per request, in that of the bare server."""
        return self.times_bare("gateway")

    def times_bare(self, name: str) -> float:
        return quotient(self.of(name), self.of("bare"))

    def times_gateway(self, peer: str) -> float:
        return quotient(self.of(peer), self.of(BESIDE[peer]))

    def added(self, name: str, percent: int) -> float:
        """How much later than straight from the upstream, in milliseconds: the difference of the percentiles."""
        return self.of(name).delay(percent) - self.of("upstream").delay(percent)

    def document(self) -> dict[str, Any]:
        servers = {name: self.of(name).figures(self.scenario) for name in self.servers}
        for name in self.servers:
            servers[name]["added_ms"] = {f"p{percent}": rounded(self.added(name, percent)) for percent in PERCENTS}
            servers[name]["times_gateway"] = rounded(self.times_gateway(name)) if name in BESIDE else None
        floor = {f"p{percent}": round(self.of("upstream").delay(percent), 3) for percent in PERCENTS}
        return {"about": self.scenario.about, "ratio": round(self.ratio, 3), "upstream_ms": floor, **servers}


def quotient(one: Series, other: Series) -> float:
    """Of rounds that stood next to each other, the median: a neighbour who disturbs one disturbs the other too."""
    pairs = zip(one.rounds, other.rounds, strict=True)
    return statistics.median(mine.cpu_per_reply / theirs.cpu_per_reply for mine, theirs in pairs)


def percentile(values: Iterable[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0.0


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


@dataclass
class Report:
    """A whole run."""

    upstream: str
    pinned: bool
    peers: dict[str, str]  # their versions
    forgiven: dict[str, list[str]]  # what is not compared in the replies of each server
    results: list[Result] = field(default_factory=list)
    bad: int = 0
    complaints: list[str] = field(default_factory=list)
    heard: Counter[str] = field(default_factory=Counter)  # replies of each server, warm-up included
    booked: dict[str, int] = field(default_factory=dict)  # rows in the ledger of each gateway

    def hear(self, server: str, tally: Tally) -> None:
        """Every reply counts here, those of the warm-up too."""
        self.bad += tally.bad
        self.complaints += [f"{server}: {complaint}" for complaint in tally.complaints]
        self.heard[server] += tally.replies

    @property
    def asked(self) -> int:
        return sum(self.heard[gateway] for gateway in self.booked)

    @property
    def sound(self) -> bool:
        return not self.bad and all(rows == self.heard[gateway] for gateway, rows in self.booked.items())

    def document(self) -> dict[str, Any]:
        return {
            "scenarios": {result.scenario.name: result.document() for result in self.results},
            "upstream": self.upstream,
            "bad_replies": self.bad,
            "complaints": self.complaints[:10],
            "not_compared": {server: what for server, what in self.forgiven.items() if what},
            "answered_by_gateway": self.asked,
            "booked": sum(self.booked.values()),
            "pinned": self.pinned,
            "machine": asdict(machine()),
            "versions": {**versions(), **self.peers},
            "commit": commit(),
        }
