"""Clients that take their time: to read, to ask, or to leave."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.flood import Flood
from ccproxy_site.tests.e2e.siege.site import (
    FLOOD_MODEL,
    MEGABYTE,
    Probes,
    Site,
    Watch,
    percentile,
)
from ccproxy_site.tests.e2e.siege.visitors import SMALL_BUFFER, Gate, Visitor

# Of which a client that reads a kilobyte a second takes nothing worth speaking of.
LONG_ANSWER = 200 * MEGABYTE
LARGE_ANSWER = 16 * MEGABYTE
# What the kernel keeps between two processes, on both hops, and a little for us.
MOST_HELD = 16.0
SHORT = {"size": 200, "chunks": 4}
# Milliseconds for a probe while hundreds of answers fill their buffers at the same moment.
WHILE_FLOODED = 3000
# Beyond its deadline a connection may live until somebody looks and its client has heard why.
LEISURE = 4.0


def slow_stream(site: Site, effort: Effort) -> list[Figure]:
    """One client sips a kilobyte a second of a long answer, while others work."""
    return asyncio.run(_slow_stream(site, effort))


async def _slow_stream(site: Site, effort: Effort) -> list[Figure]:
    with Gate(site.port) as gate:
        async with Flood(site.flood, LONG_ANSWER) as flood, Watch(site) as watch:
            quiet = await delays_of_others(site, gate, effort)
            sipper = await gate.enter(reads=SMALL_BUFFER)
            await sipper.say(site.question(model=FLOOD_MODEL))
            async with meanwhile(lambda: sip(sipper)):
                busy = await delays_of_others(site, gate, effort)
            written = flood.written
            sipper.vanish()
            quiet += await delays_of_others(site, gate, effort)
    ratio = percentile(busy, 0.95) / percentile(quiet, 0.95)
    return [
        Figure("memory grown by one slow stream", watch.grown, 32, "MB"),
        Figure("written by its upstream", round(written / MEGABYTE, 1), MOST_HELD, "MB"),
        Figure("missing for a stream to have run at all", float(written < MEGABYTE), 0),
        Figure(f"p95 of {len(busy)} others, with the slow one beside without", round(ratio, 2), 2, "times"),
    ]


async def sip(sipper: Visitor) -> None:
    while True:
        await sipper.hear(1024)
        await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def meanwhile(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def delays_of_others(site: Site, gate: Gate, effort: Effort, clients: int = 4) -> list[float]:
    """Of short streams, for a third of the time there is."""
    until = time.monotonic() + effort.seconds / 3
    delays: list[float] = []

    async def ask() -> None:
        visitor = await gate.enter()
        while (began := time.monotonic()) < until:
            await visitor.say(site.question(SHORT))
            assert (await visitor.reply()).body.endswith(b"\n\n")
            delays.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        visitor.leave()

    await asyncio.gather(*(ask() for _ in range(clients)))
    return delays


def slow_readers(site: Site, effort: Effort) -> list[Figure]:
    """Many ask for large answers and read nothing."""
    return asyncio.run(_slow_readers(site, effort))


async def _slow_readers(site: Site, effort: Effort) -> list[Figure]:
    with Gate(site.port) as gate, Probes(site.gateway.url) as probes:
        async with Flood(site.flood, LARGE_ANSWER) as flood, Watch(site) as watch:
            for _ in range(effort.clients):
                reader = await gate.enter(reads=SMALL_BUFFER)
                await reader.say(site.question(model=FLOOD_MODEL))
            rested = await flood.has_come_to_rest(effort.seconds)
            gate.__exit__()
    written = flood.written / MEGABYTE
    return [
        Figure(
            f"memory for each of {effort.clients} who do not read", round(watch.grown / effort.clients, 2), 1.5, "MB"
        ),
        Figure("written for each by its upstream", round(written / effort.clients, 2), MOST_HELD, "MB"),
        Figure("streams that did not begin", effort.clients - flood.calls, 0),
        Figure("upstreams still writing", float(not rested), 0),
        *probes.figures(effort, most=WHILE_FLOODED),
    ]


def slow_heads(site: Site, effort: Effort) -> list[Figure]:
    """A third says nothing, a third trickles a head, a third has its answer and stays."""
    return asyncio.run(_slow_heads(site, effort))


async def _slow_heads(site: Site, effort: Effort) -> list[Figure]:
    kinds = {
        "silent connections": (silence, site.limit("SILENT_SECONDS")),
        "heads that trickle": (trickle, site.limit("HEADER_SECONDS")),
        "idle connections": (idleness, site.limit("KEEP_ALIVE_SECONDS")),
    }
    figures = []
    with Gate(site.port) as gate, Probes(site.gateway.url) as probes:
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: [
                    group.create_task(behave(await gate.enter(), deadline + LEISURE * effort.slack))
                    for _ in range(effort.clients // 3)
                ]
                for name, (behave, deadline) in kinds.items()
            }
    for name, (_, deadline) in kinds.items():
        lives = [task.result() for task in tasks[name]]
        early = sum(life < deadline - 0.5 for life in lives)
        figures += [
            Figure(
                f"{name}: the longest life of {len(lives)}", round(max(lives), 1), deadline + LEISURE * effort.slack
            ),
            Figure(f"{name}: closed before their {deadline} s", early, 0),
        ]
    return [*figures, *probes.figures(effort)]


async def silence(visitor: Visitor, most: float) -> float:
    return await life(visitor, most)


async def trickle(visitor: Visitor, most: float) -> float:
    """A byte a second of a head that is never whole. Its end must come with a reason."""
    trickling = asyncio.create_task(
        one_by_one(visitor, b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow: " + b"x" * 1000)
    )
    lived = await life(visitor, most)
    trickling.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError):
        await trickling
    return lived


async def one_by_one(visitor: Visitor, data: bytes, pause: float = 1.0) -> None:
    for byte in data:
        await visitor.say(bytes([byte]))
        await asyncio.sleep(pause)


async def idleness(visitor: Visitor, most: float) -> float:
    await visitor.say(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    await visitor.reply()
    return await life(visitor, most)


async def life(visitor: Visitor, most: float) -> float:
    """Seconds until the server closed; far too many if it never did."""
    lived = await visitor.until_closed(most + 1)
    return math.inf if lived is None else lived
