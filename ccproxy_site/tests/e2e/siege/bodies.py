"""Bodies that are too large, too slow, or merely large and slow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable

from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.site import MEGABYTE, MODEL, RECOVERED_MEMORY, Site
from ccproxy_site.tests.e2e.siege.slowness import LEISURE
from ccproxy_site.tests.e2e.siege.visitors import Gate, Gone, Reply, Visitor

TEBIBYTE = 1024**4
MOST_BEYOND = 64 * 1024
# The kernel takes so much from us before the server has read it; what is measured is without it.
SEND_BUFFER = 32 * 1024


def large_bodies(site: Site, effort: Effort) -> list[Figure]:
    return asyncio.run(_large_bodies(site, effort))


async def _large_bodies(site: Site, effort: Effort) -> list[Figure]:
    with Gate(site.port) as gate:
        groups = await asyncio.gather(
            declared(site, gate),
            endless(site, gate),
            bare_chunks(site, gate),
            trickling(site, gate, effort),
            falling_silent(site, gate, effort),
            taken(site, gate, "a body at the limit, 2 MB a second", site.limit("MAX_BODY_BYTES") - 65536, 2 * MEGABYTE),
            taken(site, gate, "a body of 4 KB a second", 4096 * (site.limit("BODY_GRACE_SECONDS") * 3 // 2), 4096),
        )
        kept = await kept_of_large_questions(site, gate, effort)
    return [figure for group in (*groups, kept) for figure in group]


async def declared(site: Site, gate: Gate) -> list[Figure]:
    """A tebibyte, as its head says: nothing of it needs to be read."""
    visitor = await gate.enter(writes=SEND_BUFFER)
    head = site.head(f"content-length: {TEBIBYTE}")
    await visitor.say(head)
    return await refused(visitor, "a body of 1 TiB", len(head), b"x" * 16384, MOST_BEYOND)


async def endless(site: Site, gate: Gate) -> list[Figure]:
    visitor = await gate.enter(writes=SEND_BUFFER)
    head = site.head("transfer-encoding: chunked")
    await visitor.say(head)
    most = site.limit("MAX_BODY_BYTES") + MOST_BEYOND
    return await refused(visitor, "an endless body", len(head), b"4000\r\n" + b"x" * 16384 + b"\r\n", most)


async def bare_chunks(site: Site, gate: Gate) -> list[Figure]:
    """Twenty-six bytes on the line for each one of content: the content comes to the limit late."""
    visitor = await gate.enter(writes=SEND_BUFFER)
    head = site.head("transfer-encoding: chunked")
    await visitor.say(head)
    most = 3 * site.limit("MAX_BODY_BYTES") + 8 * MEGABYTE
    return await refused(
        visitor, "a body of more framing than content", len(head), b"1;" + b"e" * 20 + b"\r\nx\r\n", most
    )


async def refused(visitor: Visitor, name: str, said: int, piece: bytes, most: int) -> list[Figure]:
    """It must be, before more than `most` was read. Said again and again, up to four times as much."""
    many = piece * max(16384 // len(piece), 1)
    said += await visitor.push(many, 4 * most + 4 * MEGABYTE)
    read = visitor.read_by_server(said)
    reply = await reply_or_none(visitor)
    is_refused = reply is not None and reply.refuses(413, "request_too_large")
    return [
        Figure(f"{name}: not refused in the envelope; {described(reply)}", float(not is_refused), 0),
        Figure(f"{name}: read of it", read, most, "bytes"),
    ]


async def trickling(site: Site, gate: Gate, effort: Effort) -> list[Figure]:
    """100 bytes a second keep a connection from being silent, and nothing else."""
    visitor = await gate.enter()
    await visitor.say(site.head("content-length: 100000"))
    allowed = site.limit("BODY_GRACE_SECONDS")
    return await cut(visitor, "a body of 100 bytes a second", trickle(visitor, b" " * 100_000, 100), allowed, effort)


async def falling_silent(site: Site, gate: Gate, effort: Effort) -> list[Figure]:
    """With so much sent at first that its average stays above what a body must keep up."""
    visitor = await gate.enter()
    allowed = site.limit("BODY_SILENCE_SECONDS")
    ahead = site.limit("BODY_BYTES_PER_SECOND") * (allowed + 60)
    await visitor.say(site.head("content-length: 900000"))
    await asyncio.sleep(0.2)
    await visitor.say(b" " * ahead)
    return await cut(visitor, "a body that falls silent", asyncio.sleep(600), allowed, effort)


async def cut(visitor: Visitor, name: str, behaviour: Awaitable[None], allowed: float, effort: Effort) -> list[Figure]:
    """It is, when it has had what it is allowed, and not before."""
    most = allowed + LEISURE * effort.slack
    began = time.monotonic()
    behaving = asyncio.ensure_future(behaviour)
    reply = await reply_or_none(visitor, most + 1)
    lived = time.monotonic() - began
    behaving.cancel()
    await asyncio.gather(behaving, return_exceptions=True)
    return [
        Figure(f"{name}: not refused with 408; {described(reply)}", float(reply is None or not reply.refuses(408)), 0),
        Figure(f"{name}: cut after", round(lived, 1), most, "s"),
        Figure(f"{name}: cut before its {allowed} s", float(lived < allowed - 0.2), 0),
    ]


async def trickle(visitor: Visitor, data: bytes, rate: int) -> None:
    """So many bytes a second, in ten pieces a second at most."""
    began, said = time.monotonic(), 0
    step = max(rate // 10, 10)
    while said < len(data):
        await visitor.say(data[said : said + step])
        said += step
        await asyncio.sleep(max(0.0, began + said / rate - time.monotonic()))


async def taken(site: Site, gate: Gate, name: str, size: int, rate: int) -> list[Figure]:
    """An honest question on a slow line."""
    visitor = await gate.enter()
    head, _, body = a_question_of(site, size).partition(b"\r\n\r\n")
    await visitor.say(head + b"\r\n\r\n")
    with contextlib.suppress(OSError):  # the reply says why
        await trickle(visitor, body, rate)
    reply = await reply_or_none(visitor, 60)
    return [Figure(f"{name}: not answered; {described(reply)}", float(reply is None or reply.status != 200), 0)]


async def kept_of_large_questions(site: Site, gate: Gate, effort: Effort) -> list[Figure]:
    """Once they are answered, nothing of them stays."""
    before = site.memory()
    for _ in range(effort.clients):
        visitor = await gate.enter()
        await visitor.say(a_question_of(site, site.limit("MAX_BODY_BYTES") - 65536))
        await visitor.reply()
        visitor.leave()
    left = round(site.memory() - before, 1)
    return [Figure(f"memory left by {effort.clients} questions at the limit, one by one", left, RECOVERED_MEMORY, "MB")]


def a_question_of(site: Site, size: int) -> bytes:
    body = json.dumps({"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": ""}]}).encode()
    return site.post(body.replace(b'""', b'"' + b"word " * ((size - len(body)) // 5) + b'"'))


async def reply_or_none(visitor: Visitor, seconds: float = 5.0) -> Reply | None:
    try:
        return await visitor.reply(seconds=seconds)
    except (Gone, TimeoutError):
        return None


def described(reply: Reply | None) -> str:
    return "closed without a word" if reply is None else f"{reply.status} {reply.envelope.get('type', '')}".strip()
