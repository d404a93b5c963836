"""Clients that hurry ahead, that are old, or that want another protocol."""

from __future__ import annotations

import asyncio
import json

from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.bodies import described, reply_or_none
from ccproxy_site.tests.e2e.siege.site import Probes, Site, Watch, told
from ccproxy_site.tests.e2e.siege.visitors import Gate, Gone, Visitor

LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
PIPELINED_BODY = 16 * 1024
SLOW = {"size": 20, "first_delay": 1.0}
UPGRADE = (
    b"GET /socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\norigin: http://x\r\n\r\n"
)


def pipelining(site: Site, effort: Effort) -> list[Figure]:
    return asyncio.run(_pipelining(site, effort))


async def _pipelining(site: Site, effort: Effort) -> list[Figure]:
    with Gate(site.port) as gate:
        checks = (three_at_once, waits_for_100, is_not_told_to_go_on, old_client, head_and_on)
        groups = [await check(site, gate) for check in checks]
        groups.append(await many_at_once(site, gate, effort.clients))
    groups += [await hurrying(site, effort, reads=reads) for reads in (True, False)]
    return [figure for group in groups for figure in group]


async def three_at_once(site: Site, gate: Gate) -> list[Figure]:
    """Whose answers take the longer, the earlier they were asked for."""
    texts = ("first", "second", "third")
    scripts = [{"text": text, "first_delay": delay} for text, delay in zip(texts, (0.6, 0.3, 0), strict=True)]
    visitor = await gate.enter()
    await visitor.say(b"".join(site.question(script, stream=False) for script in scripts))
    answers = [json.loads((await visitor.reply()).body)["content"][0]["text"] for _ in texts]
    return [Figure("answers out of order", sum(a != b for a, b in zip(answers, texts, strict=True)), 0)]


async def many_at_once(site: Site, gate: Gate, many: int) -> list[Figure]:
    """Each with sixteen kilobytes, behind one that takes a second; nothing is read long before its turn."""
    visitor = await gate.enter()
    filled = site.post(b" " * PIPELINED_BODY)
    async with Watch(site) as watch:
        saying = asyncio.create_task(visitor.say(site.question(SLOW, stream=False) + filled * many))
        statuses = [(await visitor.reply()).status for _ in range(1 + many)]
        await saying
    return [
        Figure(f"of {many} at once, not answered as they should be", sum(s != 400 for s in statuses[1:]), 0),
        Figure("the first of them not answered", float(statuses[0] != 200), 0),
        Figure("memory grown by that", watch.grown, 8, "MB"),
    ]


async def hurrying(site: Site, effort: Effort, *, reads: bool) -> list[Figure]:
    """A client that asks and asks, as much as the line takes, and reads its answers or does not."""
    name = "one client that never stops asking" + ("" if reads else " and never reads")
    with Gate(site.port) as gate, Probes(site.gateway.url) as probes:
        visitor = await gate.enter()
        questions = site.post(b" " * 1000) * 20
        loop = asyncio.get_running_loop()
        until = loop.time() + effort.seconds / 2

        async def ask() -> None:
            while loop.time() < until:
                await visitor.say(questions)

        async def read() -> None:
            while reads and loop.time() < until:
                await visitor.hear(1 << 20)

        async with Watch(site) as watch:
            for task in (tasks := [asyncio.create_task(ask()), asyncio.create_task(read())]):
                await asyncio.wait([task], timeout=until + 0.5 - loop.time())
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return [Figure(f"memory grown by {name}", watch.grown, 8, "MB"), *probes.figures(effort)]


async def waits_for_100(site: Site, gate: Gate) -> list[Figure]:
    """As curl does with a large body."""
    visitor = await gate.enter()
    head, _, body = site.question(stream=False).partition(b"\r\n\r\n")
    await visitor.say(head + b"\r\nexpect: 100-continue\r\n\r\n")
    first = await reply_or_none(visitor)
    await visitor.say(body)
    reply = await reply_or_none(visitor)
    is_right = first is not None and first.status == 100 and reply is not None and reply.status == 200
    return [
        Figure(f"not told to go on, or not answered; {described(first)}, {described(reply)}", float(not is_right), 0)
    ]


async def is_not_told_to_go_on(site: Site, gate: Gate) -> list[Figure]:
    visitor = await gate.enter()
    size = site.limit("MAX_BODY_BYTES") + 1
    await visitor.say(site.head(f"content-length: {size}", "expect: 100-continue"))
    reply = await reply_or_none(visitor)
    is_refused = reply is not None and reply.refuses(413)
    return [Figure(f"told to go on with what is too large; {described(reply)}", float(not is_refused), 0)]


async def old_client(site: Site, gate: Gate) -> list[Figure]:
    """HTTP/1.0 without a host, which knows no chunks and takes the end of the connection for the end."""
    visitor = await gate.enter()
    await visitor.say(site.question({"text": "for the old"}).replace(b"HTTP/1.1\r\nhost: localhost", b"HTTP/1.0"))
    reply = await reply_or_none(visitor)
    is_right = (
        reply is not None
        and reply.status == 200
        and "transfer-encoding" not in reply.headers
        and reply.body.endswith(b"\n\n")
        and b"message_stop" in reply.body
    )
    return [Figure(f"HTTP/1.0 not served; {described(reply)}", float(not is_right), 0)]


async def head_and_on(site: Site, gate: Gate) -> list[Figure]:
    """HEAD has no body, and what follows on its connection is read from its beginning."""
    visitor = await gate.enter()
    await visitor.say(LIVE.replace(b"GET", b"HEAD") + b"HEAD /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n" + LIVE)
    try:
        replies = [await visitor.reply(to=method) for method in ("HEAD", "HEAD", "GET")]
    except (Gone, ValueError, TimeoutError) as error:
        return [Figure(f"HEAD not served; {error}", 1, 0)]
    statuses = [reply.status for reply in replies]
    is_right = statuses == [200, 404, 200] and json.loads(replies[2].body) == {"status": "alive"}
    return [Figure(f"HEAD not served; {statuses}", float(not is_right), 0)]


def websockets(site: Site, effort: Effort) -> list[Figure]:
    """Upgrades where nothing is to be upgraded to: whole ones, halves of them, and some that leave at once."""
    return asyncio.run(_websockets(site, effort))


async def _websockets(site: Site, effort: Effort) -> list[Figure]:
    with Gate(site.port) as gate, Probes(site.gateway.url) as probes:
        outcomes = await asyncio.gather(*[upgrade(await gate.enter(), number) for number in range(effort.clients)])
        wrong = [outcome for outcome in outcomes if outcome]
    return [Figure(f"upgrades not refused{told(wrong)}", len(wrong), 0), *probes.figures(effort)]


async def upgrade(visitor: Visitor, number: int) -> str:
    kind = number % 4
    if kind == 1:
        await visitor.say(UPGRADE[:-2])  # the rest never comes; the end of the block is its end
        return ""
    if kind == 2:
        await visitor.say(UPGRADE)
        visitor.vanish()
        return ""
    await visitor.say(UPGRADE.replace(b"/socket", b"/v1/messages") if kind == 3 else UPGRADE)
    reply = await reply_or_none(visitor, 30)
    return "" if reply is not None and 400 <= reply.status < 500 else described(reply)
