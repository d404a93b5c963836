"""More clients than there is room for: who is in is served, who is not is told at once."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.site import Probes, Site, milliseconds, percentile, told
from ccproxy_site.tests.e2e.siege.visitors import Gate, Gone, Reply, Visitor

# Long enough that the room there is, and not the processor, decides how many end in a second.
ANSWER = {"size": 200, "chunks": 5, "chunk_delay": 0.25}
# Of the room there is: for the probes, and for answers whose client has read them before they are done with.
SPARE = 5
HEALTH = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass
class Crowd:
    """What its clients met."""

    whole: list[float] = field(default_factory=list)  # when each answer ended
    cut: list[str] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # how long each refusal took
    refused_otherwise: list[str] = field(default_factory=list)  # than by a 529 that says when to come again

    def goodput(self, since: float, until: float) -> float:
        return sum(since <= moment < until for moment in self.whole) / (until - since)


def overload(site: Site, effort: Effort) -> list[Figure]:
    """As many clients as there is room for, then three times as many, then as many that hammer."""
    return asyncio.run(_overload(site, effort))


async def _overload(site: Site, effort: Effort) -> list[Figure]:
    room = site.limit("MAX_CONCURRENT_REQUESTS")
    rows_before = len(await asyncio.to_thread(booked, site))
    with Probes(site.gateway.url, ("/health", "/admin/login/")) as probes:
        peak, at_peak = await press(site, effort, room - SPARE)
        polite, goodput = await press(site, effort, 3 * room)
    hammers, under_hammers = await press(site, effort, 3 * room, politely=False)
    crowds = (peak, polite, hammers)
    rows = len(await asyncio.to_thread(booked, site)) - rows_before
    cut = [reason for crowd in crowds for reason in crowd.cut]
    otherwise = [reason for crowd in crowds for reason in crowd.refused_otherwise]
    return [
        Figure(f"goodput lost of {at_peak:.1f} a second with three times the clients", lost(goodput, at_peak), 10, "%"),
        Figure("the same with clients that hammer", lost(under_hammers, at_peak), math.inf, "%"),
        Figure(
            f"p99 of {len(polite.refused)} refusals",
            milliseconds(percentile(polite.refused, 0.99)),
            50 * effort.slack,
            "ms",
        ),
        Figure("refused though there was room, beside answers", share(peak.refused, peak.whole), 2, "%"),
        Figure(f"refused in other words{told(otherwise)}", len(otherwise), 0),
        Figure(f"running answers that were cut{told(cut)}", len(cut), 0),
        Figure("rows more or fewer than answers", abs(rows - sum(len(crowd.whole) for crowd in crowds)), 0),
        *probes.figures(effort),
    ]


async def press(site: Site, effort: Effort, clients: int, *, politely: bool = True) -> tuple[Crowd, float]:
    """Lets them ask for a third of the time; their answers per second, once they all have come, one by one."""
    crowd = Crowd()
    everybody = time.monotonic() + effort.seconds / 15
    until = everybody + effort.seconds / 3

    async def come(gate: Gate) -> None:
        await asyncio.sleep(random.uniform(0, effort.seconds / 15))
        await ask(site, gate, crowd, until, politely=politely)

    with Gate(site.port) as gate:
        await asyncio.gather(*(come(gate) for _ in range(clients)))
    return crowd, crowd.goodput(everybody, until)


async def ask(site: Site, gate: Gate, crowd: Crowd, until: float, *, politely: bool) -> None:
    """One client, on one kept connection; a polite one waits as long as it is told, and a little longer."""
    visitor = await gate.enter()
    while (asked := time.monotonic()) < until:
        try:
            await visitor.say(site.question(ANSWER))
            reply = await visitor.reply()
        except (Gone, OSError, TimeoutError) as error:
            crowd.cut.append(f"{type(error).__name__}: {error}"[:80])
            visitor = await gate.enter()
            continue
        if reply.status != 200:
            crowd.refused.append(time.monotonic() - asked)
            await obey(reply, crowd, politely=politely)
        elif b"event: message_stop" in reply.body:
            crowd.whole.append(time.monotonic())
        else:
            crowd.cut.append(reply.body[-80:].decode(errors="replace"))
    visitor.leave()


async def obey(reply: Reply, crowd: Crowd, *, politely: bool) -> None:
    told_to_wait = reply.headers.get("retry-after", "")
    if not told_to_wait.isdigit() or not reply.refuses(529, "overloaded_error"):
        crowd.refused_otherwise.append(f"{reply.status} retry-after {told_to_wait!r}")
    if politely:
        await asyncio.sleep(int(told_to_wait or 1) + random.uniform(0, 0.5))


def lost(goodput: float, peak: float) -> float:
    return round(100 * (1 - goodput / peak), 1) if peak else math.inf


def share(part: list[float], whole: list[float]) -> float:
    return round(100 * len(part) / len(whole), 1) if whole else math.inf


def booked(site: Site) -> list[Any]:
    site.gateway.wait_until_booked()
    return site.gateway.ledger()


def connection_caps(site: Site, effort: Effort) -> list[Figure]:
    """First as many from one address as it may have, then as many from others as there is room for."""
    return asyncio.run(_connection_caps(site, effort))


async def _connection_caps(site: Site, effort: Effort) -> list[Figure]:
    per_address, of_all = site.limit("MAX_CONNECTIONS_PER_ADDRESS"), site.limit("MAX_CONNECTIONS")
    with Gate(site.port) as gate:
        mine = [await greeted(gate) for _ in range(per_address)]
        beyond_mine = await until_turned_away(gate)
        others = [await greeted(gate, "127.0.0.2") for _ in range(of_all - per_address)]
        beyond_all = await until_turned_away(gate, "127.0.0.3")
        admitted = [visitor for visitor in (*mine, *others) if visitor is not None]
        served = sum([await is_served(visitor) for visitor in admitted])
        for visitor in admitted[:2]:
            visitor.leave()
        await asyncio.sleep(0.2 * effort.slack)
        again = [await greeted(gate) for _ in range(2)]
        full_again = await until_turned_away(gate)
    return [
        Figure(f"of {of_all} connections, not admitted", of_all - len(admitted), 0),
        Figure("of those, not served while others were turned away", len(admitted) - served, 0),
        Figure("seconds until one too many of an address was closed", beyond_mine, effort.slack, "s"),
        Figure("seconds until one too many of all was closed", beyond_all, effort.slack, "s"),
        Figure("not admitted though two had left", again.count(None), 0),
        Figure("seconds until one too many was closed after that", full_again, effort.slack, "s"),
    ]


async def greeted(gate: Gate, source: str = "127.0.0.1") -> Visitor | None:
    visitor = await gate.enter(source=source)
    return visitor if await is_served(visitor) else None


async def is_served(visitor: Visitor) -> bool:
    try:
        await visitor.say(HEALTH)
        return (await visitor.reply(seconds=10)).status == 200
    except (Gone, OSError, TimeoutError):
        return False


async def until_turned_away(gate: Gate, source: str = "127.0.0.1") -> float:
    closed = await (await gate.enter(source=source)).until_closed(3)
    return math.inf if closed is None else round(closed, 2)
