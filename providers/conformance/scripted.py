"""The upstream of a run against a server: answers each call with the script of the current case, and remembers it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence

from aiohttp import web

from providers.conformance.cases import Language
from providers.conformance.running import Received
from providers.conformance.scripts import Reply

MOST_BYTES = 64 * 2**20
PATIENCE = 10.0
# A connection that is cut takes with it what the other side has not read yet.
BEFORE_THE_CUT = 0.03
PATHS: dict[Language, tuple[str, ...]] = {
    "openai": ("/chat/completions",),
    "responses": ("/responses",),
    "anthropic": ("/messages", "/messages/count_tokens"),
}
MODELS = {"object": "list", "data": []}


class ScriptedUpstream:
    """A server in a thread of its own; the rest of the run waits for one answer at a time."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self.port = port
        self._replies: Sequence[Reply] = ()
        self._served: tuple[str, ...] = ()
        self._received: list[Received] = []
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-upstream", daemon=True)

    def __enter__(self) -> ScriptedUpstream:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def prepare(self, replies: Sequence[Reply], language: Language) -> None:
        """What to answer from now on, to those who ask in this language; what came before is forgotten."""
        self._replies, self._served, self._received = replies, PATHS[language], []

    def received(self) -> list[Received]:
        return list(self._received)

    async def _start(self) -> None:
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.json_response(MODELS)
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self._received.append(Received(request.path_qs, headers, body))
        if not request.path.endswith(self._served):
            return web.json_response({"error": {"message": f"{request.path} is not served here"}}, status=404)
        reply = self._replies[min(len(self._received), len(self._replies)) - 1]
        return await _write(request, reply, streamed=_asks_for_a_stream(body))


def _asks_for_a_stream(body: bytes) -> bool:
    try:
        asked = json.loads(body)
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


async def _write(request: web.Request, reply: Reply, *, streamed: bool) -> web.StreamResponse:
    body, content_type = reply.body(streamed=streamed)
    headers = {**reply.headers, "content-type": content_type}
    if body is not reply.stream:
        return web.Response(status=reply.status, body=body, headers=headers)
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    size = reply.split or max(len(body), 1)
    for at in range(0, len(body), size):
        await response.write(body[at : at + size])
        await asyncio.sleep(0)
    if reply.ends == "abort":
        await asyncio.sleep(BEFORE_THE_CUT)
        if request.transport is not None:
            request.transport.abort()
    else:
        await response.write_eof()
    return response
