"""The figures of all web processes, in Prometheus' text and as JSON."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from accounting.ledger import COMPLETED, CUT, FAILED
from gateway.metrics import BOUNDS, SLOT_SECONDS, SLOTS, Figures, Tally, Times, Totals
from gateway.watch import Seen
from providers.routing import Endpoint

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Of the bounds that times are sorted by, those that Prometheus gets.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BAD = {FAILED, CUT}
# No kinds of tokens beside the others.
APART = {"thinking", "web_searches"}


class Standing(msgspec.Struct, frozen=True):
    """Everything the figures are made of."""

    figures: Figures
    seen: Seen
    endpoints: list[Endpoint]


class Fixed(Collector):
    """Metrics that are made already, for the library that writes them down."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def prometheus(standing: Standing) -> bytes:
    registry = CollectorRegistry()
    registry.register(Fixed(itertools.chain(counters(standing.figures), histograms(standing), gauges(standing))))
    return generate_latest(registry)


def counters(figures: Figures) -> Iterator[Metric]:
    totals = figures.totals
    requests = {key: tally.requests for key, tally in totals.requests.items()}
    kinds = {key: number for key, number in totals.tokens.items() if key[2] not in APART}
    tables: list[tuple[str, str, tuple[str, ...], dict[Any, float]]] = [
        ("requests", "Settled requests.", ("provider", "route", "language", "status"), {**requests}),
        ("attempts", "Calls to providers.", ("provider", "status"), {**totals.attempts}),
        ("provider_failures", "Failures that are the provider's fault.", ("provider", "type"), {**totals.failures}),
        ("failovers", "Requests that went on from this provider to another.", ("provider",), {**totals.failovers}),
        ("tokens", "Tokens of settled requests; no kind is part of another.", ("provider", "route", "kind"), {**kinds}),
        ("thinking_tokens", "Tokens of output that are thinking.", ("provider", "route"), of_kind("thinking", totals)),
        ("web_searches", "Searches by providers.", ("provider", "route"), of_kind("web_searches", totals)),
        ("cost", "Cost of settled requests at known prices.", ("provider", "route", "currency"), {**totals.cost}),
        ("refusals", "Errors told in place of an answer.", ("type", "status"), {**totals.refusals}),
    ]
    for name, text, labels, values in tables:
        family = CounterMetricFamily(f"ccproxy_{name}", text, labels=labels)
        for key, value in sorted(values.items()):
            family.add_metric([str(part) for part in (key if isinstance(key, tuple) else (key,))], value)
        yield family
    yield CounterMetricFamily("ccproxy_cpu_seconds", "Processor time of the web processes.", value=figures.cpu_seconds)


def of_kind(kind: str, totals: Totals) -> dict[Any, float]:
    return {key[:2]: number for key, number in totals.tokens.items() if key[2] == kind}


def histograms(standing: Standing) -> Iterator[Metric]:
    labels = ("provider", "route")
    duration = HistogramMetricFamily("ccproxy_request_duration_seconds", "From the request to its end.", labels=labels)
    first = HistogramMetricFamily(
        "ccproxy_first_byte_seconds", "From the request to the first byte of its answer.", labels=labels
    )
    for (provider, route), tally in sorted(by_route(standing.figures.totals).items()):
        duration.add_metric([provider, route], buckets(tally.duration), tally.duration.seconds)
        first.add_metric([provider, route], buckets(tally.first_byte), tally.first_byte.seconds)
    yield from (duration, first)


def gauges(standing: Standing) -> Iterator[Metric]:
    now, seen = standing.figures.now, standing.seen
    single: dict[str, tuple[str, float]] = {
        "running_requests": ("Requests that run now.", now.running),
        "spool_backlog_bytes": ("What is settled and not in the database yet.", now.spool_backlog),
        "settlements_waiting": ("Settlements in memory, since the spool cannot be written.", now.waiting),
        "memory_bytes": ("Memory of the web processes.", now.memory),
        "web_processes": ("Web processes that live.", now.processes),
        "configuration_version": ("The newest configuration in force.", now.version),
    }
    if seen.is_known:
        single["rollup_lag_seconds"] = ("By how much reports are behind the ledger.", seen.rollup_lag or 0.0)
    for name, (text, value) in single.items():
        yield GaugeMetricFamily(f"ccproxy_{name}", text, value=value)
    up = GaugeMetricFamily("ccproxy_provider_up", "Whether the last probe found it well.", labels=("provider",))
    latency = GaugeMetricFamily("ccproxy_probe_seconds", "How long the last probe took.", labels=("provider",))
    for endpoint in standing.endpoints:
        probe = seen.probes.get(endpoint.id)
        if probe is not None:
            up.add_metric([endpoint.name], float(probe.ok))
            latency.add_metric([endpoint.name], (probe.latency_ms or 0) / 1000)
    yield from (up, latency)


def buckets(times: Times) -> list[tuple[str, float]]:
    """How many were not longer than each bound."""
    found, seen, places = [], 0, dict(times.counts)
    for place, bound in enumerate(BOUNDS):
        seen += places.pop(place, 0)
        if bound in BUCKETS:
            found.append((str(bound), float(seen)))
    return [*found, ("+Inf", float(seen + sum(places.values())))]


def by_route(totals: Totals) -> dict[tuple[str, str], Tally]:
    found: dict[tuple[str, str], Tally] = {}
    for (provider, route, _, _), tally in totals.requests.items():
        found.setdefault((provider, route), Tally()).add(tally)
    return found


def as_json(standing: Standing) -> dict[str, Any]:
    """Since the counting began, and of the last hour."""
    figures, moment = standing.figures, time.time()
    hour = figures.last_hour(moment)
    return {
        "processes": figures.now.processes,
        "running": figures.now.running,
        "spool_backlog_bytes": figures.now.spool_backlog,
        "settlements_waiting": figures.now.waiting,
        "rollup_lag_seconds": standing.seen.rollup_lag if standing.seen.is_known else None,
        "memory_bytes": figures.now.memory,
        "cpu_seconds": round(figures.cpu_seconds, 3),
        "configuration_version": figures.now.version,
        "total": summary(figures.totals),
        "last_hour": {
            "since": stamp((moment // SLOT_SECONDS - SLOTS + 1) * SLOT_SECONDS),
            "percentiles": "from buckets: true to a tenth, at most to a quarter",
            **summary(hour),
            "routes": [of_route(*key, hour) for key in sorted(by_route(hour))],
            "providers": [of_provider(name, hour) for name in sorted({name for name, _ in hour.attempts})],
        },
    }


def summary(totals: Totals) -> dict[str, Any]:
    statuses: dict[str, int] = {}
    for (_, _, _, status), tally in totals.requests.items():
        statuses[status] = statuses.get(status, 0) + tally.requests
    return {
        "requests": sum(statuses.values()),
        "by_status": statuses,
        "error_share": share(sum(statuses.get(status, 0) for status in BAD), sum(statuses.values())),
        "attempts": sum(totals.attempts.values()),
        "failovers": sum(totals.failovers.values()),
        "refusals": [
            {"type": kind, "status": status, "number": number} for (kind, status), number in totals.refusals.items()
        ],
        "tokens": summed(totals.tokens, 2),
        "cost": {currency: round(cost, 9) for currency, cost in summed(totals.cost, 2).items()},
    }


def of_route(provider: str, route: str, totals: Totals) -> dict[str, Any]:
    whole, bad = Tally(), 0
    for (its_provider, its_route, _, status), tally in totals.requests.items():
        if (its_provider, its_route) == (provider, route):
            whole.add(tally)
            bad += tally.requests if status in BAD else 0
    return {
        "provider": provider,
        "route": route,
        "requests": whole.requests,
        "failed": bad,
        "error_share": share(bad, whole.requests),
        "duration_seconds": percentiles(whole.duration),
        "first_byte_seconds": percentiles(whole.first_byte),
    }


def of_provider(name: str, totals: Totals) -> dict[str, Any]:
    """The score is the share of attempts that the provider did not spoil."""
    attempts = sum(number for (provider, _), number in totals.attempts.items() if provider == name)
    failures = {kind: number for (provider, kind), number in totals.failures.items() if provider == name}
    completed = totals.attempts.get((name, COMPLETED), 0)
    spoiled = share(sum(failures.values()), attempts)
    return {
        "provider": name,
        "attempts": attempts,
        "completed": completed,
        "failures": failures,
        "health_score": None if spoiled is None else max(round(1 - spoiled, 4), 0.0),
    }


def percentiles(times: Times) -> dict[str, float | None]:
    found = {name: times.percentile(part) for name, part in SHARES.items()}
    return {name: None if value is None else round(value, 6) for name, value in found.items()}


def summed(values: dict[Any, Any], place: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found[key[place]] = found.get(key[place], 0) + value
    return found


def stamp(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
