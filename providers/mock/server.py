"""The mock upstream as an aiohttp application: reads a call, looks up what to answer, writes it, bills it."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from providers.mock import bill, scripts, wire
from providers.mock.bill import Bill, Call, Language, Outcome
from providers.mock.scripts import Answer, Script, ScriptChange, Unusable

OK = 200
MOST_BYTES = 64 * 2**20
MOST_REQUESTS = 50
MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "gpt-5.1", *(f"mock-{w}" for w in scripts.NAMED))
HTML = b"<!doctype html><html><head><title>Sign in</title></head><body><h1>Sign in to continue</h1></body></html>"
PATHS: dict[str, Language] = {"/messages": "anthropic", "/chat/completions": "openai", "/responses": "responses"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Seen(msgspec.Struct, frozen=True):
    """A request as it came: `text` to the byte, `body` the same as JSON. Credentials are not hidden."""

    path: str
    headers: dict[str, str]
    text: str
    body: msgspec.Raw | None


class Mock:
    """What lives longer than a call: the bill, the scripts that were ordered, and the last requests."""

    def __init__(self, bill_file: Path | None = None) -> None:
        self.bill = Bill(bill_file)
        self.queue: deque[Script] = deque()
        self.default = scripts.DEFAULT
        self.requests: deque[tuple[str, dict[str, str], bytes]] = deque(maxlen=MOST_REQUESTS)

    def reset(self) -> None:
        self.bill.reset()
        self.queue.clear()
        self.default = scripts.DEFAULT
        self.requests.clear()

    def change(self, change: ScriptChange) -> None:
        if change.default is not msgspec.UNSET:
            self.default = change.default or scripts.DEFAULT
        if change.queue is not msgspec.UNSET:
            self.queue = deque(change.queue)

    def ordered(self, header: str | None) -> Script | None:
        """The header's script, else the next of the queue."""
        if header is not None:
            return scripts.read_script(header)
        return self.queue.popleft() if self.queue else None

    def remember(self, request: web.Request, body: bytes) -> None:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self.requests.append((request.path_qs, headers, body))


MOCK = web.AppKey("mock", Mock)


def make_app(bill_file: Path | None = None) -> web.Application:
    app = web.Application(client_max_size=MOST_BYTES)
    app[MOCK] = mock = Mock(bill_file)
    for prefix in ("", "/v1"):
        app.router.add_post(f"{prefix}/messages/count_tokens", count_tokens)
        app.router.add_get(f"{prefix}/models", list_models)
        for path, language in PATHS.items():
            app.router.add_post(prefix + path, inference(language))
    app.router.add_get("/__bill", show_bill)
    app.router.add_get("/__requests", show_requests)
    app.router.add_post("/__script", set_script)
    app.router.add_post("/__reset", reset)

    async def close_bill(_: web.Application) -> None:
        mock.bill.close()

    app.on_cleanup.append(close_bill)
    return app


@asynccontextmanager
async def running(host: str = "127.0.0.1", port: int = 0, bill_file: Path | None = None) -> AsyncIterator[str]:
    """Serves while the block runs; gives the base URL. Port 0 takes a free one."""
    # handler_cancellation: a client that leaves while we sleep ends the call at once.
    runner = web.AppRunner(make_app(bill_file), access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        yield f"http://{host}:{bound[1]}"
    finally:
        await runner.cleanup()


def json_response(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")


async def show_bill(request: web.Request) -> web.Response:
    return json_response(request.app[MOCK].bill.document())


async def show_requests(request: web.Request) -> web.Response:
    return json_response([_seen(*seen) for seen in request.app[MOCK].requests])


def _seen(path: str, headers: dict[str, str], body: bytes) -> Seen:
    text = body.decode(errors="replace")
    try:
        parsed = msgspec.json.decode(text, type=msgspec.Raw)
    except scripts.UNREADABLE:
        parsed = None
    return Seen(path, headers, text, parsed)


async def set_script(request: web.Request) -> web.Response:
    try:
        change = msgspec.json.decode(await request.read(), type=list[Script] | ScriptChange)
    except scripts.UNREADABLE as error:
        return json_response({"error": str(error)}, 400)
    request.app[MOCK].change(ScriptChange(queue=change) if isinstance(change, list) else change)
    return json_response({"queue": len(request.app[MOCK].queue)})


async def reset(request: web.Request) -> web.Response:
    request.app[MOCK].reset()
    return json_response({"calls": 0})


async def count_tokens(request: web.Request) -> web.Response:
    body = await request.read()
    request.app[MOCK].remember(request, body)
    try:
        prompt = scripts.read_prompt("anthropic", body)
    except Unusable as error:
        return json_response(wire.error_document("anthropic", 400, str(error)), 400)
    return json_response({"input_tokens": scripts.prompt_tokens(prompt)})


async def list_models(_: web.Request) -> web.Response:
    rows = [
        {
            "id": name,
            "object": "model",
            "created": 1767225600,
            "owned_by": "mock",
            "type": "model",
            "display_name": name,
            "created_at": "2026-01-01T00:00:00Z",
        }
        for name in MODELS
    ]
    return json_response(
        {"object": "list", "data": rows, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    )


class Work(msgspec.Struct):
    """One call on its way: how much of the answer is out, and where to write its price."""

    ledger: Bill
    call: Call
    answer: Answer
    seed: str
    written: int = 0
    planned: int = 1

    def settle(self, outcome: Outcome) -> None:
        figures = self.answer.figures.share(self.written, self.planned)
        stop_reason = self.answer.stop_reason if outcome == "completed" else None
        self.ledger.settle(self.call, outcome, figures, stop_reason)

    def settle_unbilled(self, status: int) -> None:
        self.call.status = status
        self.ledger.settle(self.call, "error", bill.Figures())

    def headers(self) -> dict[str, str]:
        name = "request-id" if self.call.language == "anthropic" else "x-request-id"
        return {name: f"req_{self.seed}"}


def inference(language: Language) -> Handler:
    async def infer(request: web.Request) -> web.StreamResponse:
        mock = request.app[MOCK]
        body = await request.read()
        mock.remember(request, body)
        try:
            prompt = scripts.read_prompt(language, body)
            script = scripts.choose(prompt, mock.ordered(request.headers.get("x-mock-script")), mock.default)
        except Unusable as error:
            return refuse(request, language, str(error))
        seed = secrets.token_hex(12)
        answer = scripts.compose(prompt, script, seed, int(time.time()))
        asked = msgspec.structs.replace(answer.figures, output=0, thinking=0)
        call = mock.bill.open(
            request_id=request.headers.get("x-request-id", ""),
            model=prompt.model,
            language=language,
            stream=prompt.stream,
            prompt=asked,
        )
        return await play(request, Work(mock.bill, call, answer, seed))

    return infer


def refuse(request: web.Request, language: Language, message: str) -> web.Response:
    """A call nobody can read: a row of its own, at no price."""
    ledger = request.app[MOCK].bill
    call = ledger.open(
        request_id=request.headers.get("x-request-id", ""),
        model="",
        language=language,
        stream=False,
        prompt=bill.Figures(),
    )
    call.status = 400
    ledger.settle(call, "error", bill.Figures())
    return json_response(wire.error_document(language, 400, message), 400)


async def play(request: web.Request, work: Work) -> web.StreamResponse:
    """Answers as scripted. A client that leaves shows as a cancellation while we wait, as an error when we write."""
    script = work.answer.script
    try:
        if script.hang:
            await asyncio.Event().wait()
        await pause(script.first_delay)
        unbilled = unbilled_response(work)
        if unbilled is not None:
            work.settle_unbilled(unbilled.status)
            return unbilled
        if streams(work.answer):
            return await write_stream(request, work)
        return await write_document(request, work)
    except ConnectionError:
        work.settle("abandoned")
        return web.Response()  # for nobody; aiohttp wants one
    except asyncio.CancelledError:
        work.settle("abandoned")
        raise


def streams(answer: Answer) -> bool:
    return answer.prompt.stream and not answer.script.json_instead


def unbilled_response(work: Work) -> web.Response | None:
    """What comes in place of a model's answer, if the script wants that."""
    script, language = work.answer.script, work.answer.prompt.language
    if script.context_window is not None and scripts.prompt_tokens(work.answer.prompt) > script.context_window:
        return http_error(work, 400, wire.overflow_document(work.answer))
    fails_later = streams(work.answer) and script.error_in_stream is not None
    if (script.status >= 400 or script.error_in_stream is not None) and not fails_later:
        status = wire.error_status(script)
        return http_error(work, status, wire.error_document(language, status, script.error))
    if script.html:
        response = web.Response(body=HTML, content_type="text/html")
    elif script.empty:
        kind = "text/event-stream" if streams(work.answer) else "application/json"
        response = web.Response(body=b"", content_type=kind)
    else:
        return None
    response.headers.update(work.headers())
    return response


def http_error(work: Work, status: int, document: Any) -> web.Response:
    response = json_response(document, status)
    response.headers.update(work.headers())
    if (wait := work.answer.script.retry_after) is not None:
        response.headers["retry-after"] = f"{wait:g}"
    return response


async def write_stream(request: web.Request, work: Work) -> web.StreamResponse:
    script, stream = work.answer.script, wire.render_stream(work.answer)
    work.planned = stream.planned
    headers = {**work.headers(), "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    work.call.status = OK
    response = await begin(request, headers)
    await prove_life(response, work)
    await write(response, stream.head, script.split)
    await pause(script.first_chunk_delay)
    for piece in stream.pieces:
        if work.written:
            await pause(script.chunk_delay)
        await write(response, piece, script.split)
        work.written += 1
    # The price is final before the ending leaves: a client that hangs up on seeing it changes nothing.
    work.settle(stream.outcome)
    for event in stream.ending:
        await write(response, event, script.split)
    await end(request, response, script)
    return response


async def write_document(request: web.Request, work: Work) -> web.StreamResponse:
    """A plain answer exists as a whole before it leaves, so it is billed as a whole even if it is cut."""
    script, body = work.answer.script, wire.render_document(work.answer)
    await pause(script.first_chunk_delay)
    work.written = work.planned
    work.call.status = OK
    work.settle("completed" if script.cut_after is None else "cut")
    headers = {**work.headers(), "content-type": "application/json"}
    if script.comments:
        body = wire.keep_alive(work.answer, stream=False) + body
    if script.cut_after is not None:
        body = body[: len(body) // 2]
    elif not script.keep_alive:
        headers["content-length"] = str(len(body))
    response = await begin(request, headers)
    await prove_life(response, work)
    await write(response, body, script.split)
    await end(request, response, script)
    return response


async def begin(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(status=OK, headers=headers)
    await response.prepare(request)
    return response


async def prove_life(response: web.StreamResponse, work: Work) -> None:
    """Comments before a stream, blank lines before a document: ten over the time that the script wants."""
    script = work.answer.script
    for _ in range(10 if script.keep_alive else 0):
        await write(response, wire.keep_alive(work.answer, stream=streams(work.answer)), script.split)
        await pause(script.keep_alive / 10)


async def write(response: web.StreamResponse, data: bytes, split: int) -> None:
    """One write, or writes of `split` bytes that may fall inside a character."""
    if not split:
        await response.write(data)
        return
    for start in range(0, len(data), split):
        await response.write(data[start : start + split])
        await asyncio.sleep(0)


async def end(request: web.Request, response: web.StreamResponse, script: Script) -> None:
    if script.cut_after is not None and script.error_in_stream is None and script.cut == "abort":
        reset_connection(request)
    else:
        await response.write_eof()


def reset_connection(request: web.Request) -> None:
    """Ends with a TCP reset in place of a FIN: a linger time of zero drops the connection without a goodbye."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)
