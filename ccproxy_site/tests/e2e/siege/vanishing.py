"""Clients that vanish in the middle: what they asked for ends with them, and every row of it stands."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from datetime import datetime
from typing import Any

from ccproxy_site.tests.e2e.reconcile import compare
from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.site import Site, milliseconds, percentile, told
from ccproxy_site.tests.e2e.siege.visitors import SMALL_BUFFER, Gate, Visitor

# What they ask for, none of which ends by itself before they leave.
SCRIPTS: dict[str, dict[str, Any]] = {
    "stream": {"size": 6000, "chunks": 1200, "chunk_delay": 0.1},
    "unbegun": {"first_delay": 120},
    "silent": {"first_chunk_delay": 120},
    "plain": {"first_delay": 120},
    "hasty": {"first_delay": 120},
    "pressed": {"size": 8_000_000, "chunks": 400},
}
AHEAD = 100_000
# Each of these costs the mock its whole answer in memory.
MOST_BACK_PRESSURED = 20


def vanish(site: Site, effort: Effort) -> list[Figure]:
    """The site's ledger is compared as a whole: the flood's calls, which nobody bills, are left out."""
    left = asyncio.run(_vanish(site, effort))
    site.gateway.wait_until_booked()
    rows = {row["client_request_id"]: row for row in site.gateway.ledger() if row["client_request_id"] in left}
    calls = {call["request_id"]: call for call in site.upstream.bill()}
    delays: dict[str, float] = {}
    unended = []
    for name, moment in left.items():
        call = calls.get(rows.get(name, {}).get("request_id", ""), {})
        if not call.get("finished_at"):
            unended.append(name.partition("-")[0])
        elif call["outcome"] == "abandoned":
            delays[name] = seconds(call["finished_at"]) - moment
    at_once = [delay for name, delay in delays.items() if not name.startswith("hasty")]
    statuses = Counter(row["status"] for row in rows.values())
    return [
        Figure(f"clients of {len(left)} without a row", len(left) - len(rows), 0),
        Figure(f"rows not booked as cancelled{told(not_cancelled(rows))}", len(left) - statuses["cancelled"], 0),
        Figure("rows that are wrong" + told(differences := compared(site)), len(differences), 0),
        Figure(f"upstream calls that never ended{told(unended)}", len(unended), 0),
        Figure(
            "p95 from a client's leaving to its upstream's end",
            milliseconds(percentile(at_once, 0.95)),
            50 * effort.slack,
            "ms",
        ),
        Figure("the longest", milliseconds(max(delays.values(), default=math.inf)), 2000 * effort.slack, "ms"),
    ]


async def _vanish(site: Site, effort: Effort) -> dict[str, float]:
    """Everybody's moment of leaving, by the name of the request."""
    chance = random.Random(effort.clients)
    before = len(site.upstream.bill())
    with Gate(site.port) as gate:
        visitors = {name: await ask(site, gate, name) for name in names(effort, chance)}
        await until_called(site, before + len(visitors))
        leaving = [leave(visitor, chance, effort.seconds) for visitor in visitors.values()]
        moments = await asyncio.gather(*leaving)
    return dict(zip(visitors, moments, strict=True))


def names(effort: Effort, chance: random.Random) -> list[str]:
    kinds = ["stream", "stream", *SCRIPTS]
    many = [kinds[number % len(kinds)] for number in range(effort.clients)]
    pressed = [number for number, kind in enumerate(many) if kind == "pressed"]
    for number in pressed[MOST_BACK_PRESSURED:]:
        many[number] = "stream"
    run = chance.randrange(10**9)
    return [f"{kind}-{run}-{number}" for number, kind in enumerate(many)]


async def ask(site: Site, gate: Gate, name: str) -> Visitor:
    kind = name.partition("-")[0]
    visitor = await gate.enter(reads=SMALL_BUFFER if kind == "pressed" else 0)
    await visitor.say(site.question(SCRIPTS[kind], stream=kind != "plain", name=name))
    if kind == "hasty":  # so much that nobody reads on, and yet its leaving must be noticed
        await visitor.say(site.post(b" " * AHEAD))
    return visitor


async def until_called(site: Site, calls: int, patience: float = 60.0) -> None:
    """Until the upstream has them all: who leaves before that was never there."""
    until = time.monotonic() + patience
    while (seen := len(await asyncio.to_thread(site.upstream.bill))) < calls:
        assert time.monotonic() < until, f"only {seen} of {calls} calls came to the upstream"
        await asyncio.sleep(0.2)


async def leave(visitor: Visitor, chance: random.Random, within: float) -> float:
    """Half of them by a reset, half by a plain close, half of these after reading all there is."""
    resets, reads = chance.random() < 0.5, chance.random() < 0.5
    await asyncio.sleep(chance.uniform(0, within))
    if reads and not visitor.is_spoken_to:
        reads = False
    if reads:
        await visitor.hear(1 << 20)
    moment = time.time()
    visitor.vanish() if resets else visitor.leave()
    return moment


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def not_cancelled(rows: dict[str, Any]) -> list[str]:
    return [f"{name.partition('-')[0]}: {row['status']}" for name, row in rows.items() if row["status"] != "cancelled"]


def compared(site: Site) -> list[str]:
    """The mock's bill against the ledger."""
    attempts, records = site.gateway.ledger("--attempts"), site.gateway.ledger()
    flooded = {row["request_id"] for row in attempts if row["provider"] == "flood"}
    return compare(
        site.upstream.bill(),
        [row for row in attempts if row["request_id"] not in flooded],
        [row for row in records if row["request_id"] not in flooded],
    ).differences
