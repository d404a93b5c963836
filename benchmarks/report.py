"""What was measured, as a table for people and as JSON for comparisons."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import Scenario
from benchmarks.load import Tally

PACKAGES = ("aiohttp", "daphne", "Django", "django-ninja", "httpx", "httpx-aiohttp", "msgspec", "Twisted", "uvloop")
MICROSECONDS, MILLISECONDS = 1e6, 1e3


@dataclass
class Round:
    """One stretch of load on one server."""

    tally: Tally
    cpu_seconds: float

    @property
    def cpu_per_reply(self) -> float:
        """In microseconds."""
        return self.cpu_seconds / max(self.tally.replies, 1) * MICROSECONDS


@dataclass
class Series:
    """All rounds of one scenario on one server."""

    rounds: list[Round] = field(default_factory=list)

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

    def latency(self, percent: int) -> float:
        """In milliseconds."""
        seconds = sorted(latency for one in self.rounds for latency in one.tally.latencies)
        return seconds[min(len(seconds) * percent // 100, len(seconds) - 1)] * MILLISECONDS if seconds else 0.0

    def figures(self, scenario: Scenario) -> dict[str, Any]:
        return {
            "requests": self.replies,
            "cpu_us_per_request": round(self.cpu_per_reply, 1),
            "cpu_us_per_chunk": round(self.cpu_per_reply / scenario.chunks, 2) if scenario.streams else None,
            "requests_per_second": round(self.replies_per_second, 1),
            "latency_ms": {"p50": round(self.latency(50), 2), "p99": round(self.latency(99), 2)},
            "sends_per_request": round(self.sends, 1),
            "cpu_us_per_request_by_round": [round(one.cpu_per_reply, 1) for one in self.rounds],
        }


@dataclass
class Result:
    """One scenario on the gateway and on the bare server, side by side."""

    scenario: Scenario
    gateway: Series = field(default_factory=Series)
    bare: Series = field(default_factory=Series)

    @property
    def ratio(self) -> float:
        """The gateway's processor time per request, in that of the bare server."""
        return self.gateway.cpu_per_reply / self.bare.cpu_per_reply if self.bare.cpu_per_reply else float("inf")

    def document(self) -> dict[str, Any]:
        return {
            "about": self.scenario.about,
            "ratio": round(self.ratio, 3),
            "gateway": self.gateway.figures(self.scenario),
            "bare": self.bare.figures(self.scenario),
        }


@dataclass
class Report:
    """A whole run."""

    upstream: str
    pinned: bool
    results: list[Result]
    bad: int = 0
    complaints: list[str] = field(default_factory=list)
    asked: int = 0  # of the gateway, warm-up included
    booked: int = 0

    def hear(self, server: str, tally: Tally) -> None:
        """Every reply counts here, those of the warm-up too."""
        self.bad += tally.bad
        self.complaints += [f"{server}: {complaint}" for complaint in tally.complaints]
        if server == "gateway":
            self.asked += tally.replies

    @property
    def sound(self) -> bool:
        return not self.bad and self.booked == self.asked

    def document(self) -> dict[str, Any]:
        return {
            "scenarios": {result.scenario.name: result.document() for result in self.results},
            "upstream": self.upstream,
            "bad_replies": self.bad,
            "complaints": self.complaints[:10],
            "answered_by_gateway": self.asked,
            "booked": self.booked,
            "pinned": self.pinned,
            "machine": asdict(machine()),
            "versions": versions(),
            "commit": commit(),
        }

    def text(self) -> str:
        return "\n".join([self._about(), "", *table(self.results), "", *self._verdict()])

    def _about(self) -> str:
        here = machine()
        python = f"Python {platform.python_version()}, Daphne {metadata.version('daphne')}"
        return f"{here.processor}, {here.cores} cores; {python}; commit {commit()}; upstream type {self.upstream}"

    def _verdict(self) -> list[str]:
        lines = [f"bad replies: {self.bad}", *(f"  {complaint}" for complaint in self.complaints[:10])]
        lines.append(f"answered by the gateway: {self.asked}, booked in its ledger: {self.booked}")
        if not self.pinned:
            lines.append("only one processor: load and server could not be kept apart, these figures mean little")
        return lines


@dataclass(frozen=True)
class Machine:
    processor: str
    cores: int
    system: str


def machine() -> Machine:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return Machine(model, os.cpu_count() or 1, f"{platform.system()} {platform.release()}")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


def commit() -> str:
    """With a plus sign where the tree has changes of its own; empty outside a repository."""
    folder = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return told.stdout.strip()


COLUMNS = ("", "requests", "CPU µs/request", "µs/chunk", "ratio", "sends", "requests/s", "p50 ms", "p99 ms")


def table(results: Sequence[Result]) -> list[str]:
    rows: list[tuple[str, ...]] = [COLUMNS]
    for result in results:
        scenario = result.scenario
        rows.append((f"{scenario.name} {scenario.about}", *[""] * (len(COLUMNS) - 1)))
        rows.append(("  gateway", *cells(result.gateway, scenario, f"{result.ratio:.2f}")))
        rows.append(("  bare Daphne", *cells(result.bare, scenario, "1")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return [
        "  ".join(align(cell, width, n) for n, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def align(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def cells(series: Series, scenario: Scenario, ratio: str) -> list[str]:
    return [
        str(series.replies),
        f"{series.cpu_per_reply:.0f}",
        f"{series.cpu_per_reply / scenario.chunks:.1f}" if scenario.streams else "",
        ratio,
        f"{series.sends:.1f}",
        f"{series.replies_per_second:.0f}",
        f"{series.latency(50):.1f}",
        f"{series.latency(99):.1f}",
    ]
