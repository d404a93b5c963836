"""Bare Daphne: the cheapest application that gives the same answers. What a gateway costs is measured against it."""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import SCENARIOS
from benchmarks.upstream import messages, stamped

ANSWERS = {f"/{name}": messages(scenario) for name, scenario in SCENARIOS.items()}
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

Message = dict[str, Any]


async def application(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Reads the body, then sends the answer that the path names: whole, or chunk by chunk, one send each.

    Between two sends the event loop gets its turn, or Daphne would write all of them to the socket as one.
    """
    while (await receive()).get("more_body"):
        pass
    pieces = ANSWERS[scope["path"]]
    scenario = SCENARIOS[scope["path"][1:]]
    final = len(pieces) - 1
    await send({"type": "http.response.start", "status": 200, "headers": headers(pieces)})
    for number, piece in enumerate(pieces):
        if number:
            await asyncio.sleep(scenario.pause)
        body = stamped(piece) if scenario.stamped else piece
        await send({"type": "http.response.body", "body": body, "more_body": number < final})


def headers(pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(pieces) > 1:
        return STREAM
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(pieces[0]))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Daphne with nothing behind it, for the benchmarks.")
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port)


def serve(port: int) -> None:
    """On the same event loop as the gateway; Daphne makes it when it is imported."""
    try:
        import uvloop
    except ImportError:
        pass
    else:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    from daphne.server import Server

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Server(application, endpoints=[f"tcp:port={port}:interface=127.0.0.1"], verbosity=0).run()


if __name__ == "__main__":
    main()
