"""What was measured, for people."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from benchmarks import aims
from benchmarks.machine import commit, machine
from benchmarks.report import BESIDE, PERCENTS, Report, Result

# Above this share of its processor the load is late itself, and what it says about delays means little.
SATURATED = 0.7

COST = ("", "requests", "CPU µs/request", "µs/chunk", "ratio", "sends", "requests/s", "p50 ms", "p99 ms")
DELAY = ("added delay", *(f"p{percent} ms" for percent in PERCENTS), "KB/stream")

Row = tuple[str, ...]


def text(report: Report, *, full: bool) -> str:
    """A short run is too rough to be held against the aims."""
    lines = [about(report), "", *aligned(cost(report.results)), "", *aligned(delay(report.results)), ""]
    if report.peers:
        lines += [*peers(report), ""]
    if full:
        lines += ["aims:", *aims.lines(report), ""]
    return "\n".join([*lines, *verdict(report)])


def about(report: Report) -> str:
    here = machine()
    software = f"Python {platform.python_version()}, Daphne {metadata.version('daphne')}"
    return f"{here.processor}, {here.cores} cores; {software}; commit {commit()}; upstream type {report.upstream}"


def cost(results: Sequence[Result]) -> list[Row]:
    rows: list[Row] = [COST]
    for result in results:
        scenario = result.scenario
        rows.append(title(result, COST))
        for name in result.servers:
            series = result.of(name)
            per_chunk = f"{series.cpu_per_reply / scenario.chunks:.1f}" if scenario.streams else ""
            rows.append(
                (
                    f"  {name}",
                    str(series.replies),
                    f"{series.cpu_per_reply:.0f}",
                    per_chunk,
                    f"{result.times_bare(name):.2f}",
                    f"{series.sends:.1f}",
                    f"{series.replies_per_second:.0f}",
                    f"{series.latency(50):.1f}",
                    f"{series.latency(99):.1f}",
                )
            )
    return rows


def delay(results: Sequence[Result]) -> list[Row]:
    rows: list[Row] = [DELAY]
    for result in results:
        rows.append(title(result, DELAY))
        floor = result.of("upstream")
        rows.append(("  (upstream itself)", *(f"{floor.delay(percent):.2f}" for percent in PERCENTS), ""))
        for name in result.servers:
            memory = result.of(name).kilobytes_per_stream
            added = (f"{result.added(name, percent):+.2f}" for percent in PERCENTS)
            rows.append((f"  {name}", *added, "" if memory is None else f"{memory:.0f}"))
    return rows


def title(result: Result, columns: Row) -> Row:
    return (f"{result.scenario.name} {result.scenario.about}", *[""] * (len(columns) - 1))


def aligned(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(align, row, widths, range(len(row)))).rstrip() for row in rows]


def align(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def peers(report: Report) -> list[str]:
    lines = ["CPU per request, times the gateway's:"]
    lines += [f"  {name} {version}" for name, version in report.peers.items()]
    for name, gateway in BESIDE.items():
        times = (f"{result.scenario.name} {result.times_gateway(name):.1f}" for result in report.results)
        unchecked = report.forgiven[name]
        unlike = f" (not compared in its replies: {', '.join(unchecked)})" if unchecked else ""
        lines.append(f"  {name} / {gateway}: {', '.join(times)}{unlike}")
    return lines


def verdict(report: Report) -> list[str]:
    lines = [f"bad replies: {report.bad}", *(f"  {complaint}" for complaint in report.complaints[:10])]
    lines.append(f"answered by the gateway: {report.asked}, booked in its ledger: {sum(report.booked.values())}")
    for result in report.results:
        lines += busyness(result)
    if not report.pinned:
        lines.append("only one processor: load and server could not be kept apart, these figures mean little")
    return lines


def busyness(result: Result) -> list[str]:
    lines = []
    for name, series in result.series.items():
        if series.busy:
            load, server = (max(getattr(one, who) for one in series.busy) for who in ("load", "server"))
            shares = f"processor of load and upstream {load:.0%} busy, the server's {server:.0%}"
            lines.append(f"{result.scenario.name} {name}: {shares}")
            if load > SATURATED:
                lines.append("  WARNING: the load was short of processor time itself, its delays mean little")
    return lines
