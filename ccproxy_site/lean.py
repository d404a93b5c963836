"""Django's resolver and views for the API, without its middleware, signals and thread hops.

The stock handler costs more than a millisecond a request before a view runs. Nothing of what it does is needed here:
no sessions, no cookies, no templates, no database. The same urls work under it all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, cast

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.urls import Resolver404, get_resolver

from ccproxy_site.limits import too_large
from gateway import api
from gateway.intake import request_id_of
from providers import identity
from providers.errors import ProxyError, TooLarge

logger = logging.getLogger("ccproxy.lean")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


# Seconds before anybody listens whether the client is still there.
UNWATCHED = 0.03


class ClientLeft(Exception):
    """Before its request was complete."""


class LeanHandler:
    """An ASGI application for the API's paths."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        request = LeanRequest(scope)
        try:
            request._body = await read_body(scope, receive, settings.MAX_BODY_BYTES)
        except ClientLeft:
            return
        except TooLarge as error:
            await send_response(api.error_reply(request, error), scope, send)
            return
        with WhileClientStays(receive):
            response = await respond(request)
            response.headers.setdefault("request-id", request_id_of(request))
            await send_response(response, scope, send)


class LeanRequest(ASGIRequest):
    """Django's request. Most of it is made when somebody asks: the views that are asked all day never do."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.method = scope["method"]
        self.path = scope["path"]
        self.ccproxy_id = identity.request_id()

    def __getattr__(self, name: str) -> Any:
        if "META" in self.__dict__:
            raise AttributeError(name)
        super().__init__(self.scope, BytesIO())
        return getattr(self, name)


class WhileClientStays:
    """Cancels the block, and leaves it quietly, when the client is gone.

    Listening takes a task, and most plain answers are gone sooner than anybody could leave: it begins a little later.
    A client that has left by then is noticed at once, since the server keeps its message.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._has_left = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(UNWATCHED, self._start)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        return self._has_left and kind is asyncio.CancelledError

    def _start(self) -> None:
        self._watch = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        if self._task is not None:
            self._task.cancel()


async def read_body(scope: dict[str, Any], receive: Receive, most: int) -> bytes:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > most:
        raise too_large(most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > most:
            raise too_large(most)
        if not message.get("more_body", False):
            return b"".join(parts)


# What clients ask all day goes to its view without Django's resolver and ninja's operation.
STRAIGHT: dict[tuple[str | None, str], Callable[[HttpRequest], Awaitable[HttpResponseBase]]] = {
    ("POST", "/v1/messages"): api.create_message,
    ("POST", "/v1/messages/count_tokens"): api.count_message_tokens,
}


async def respond(request: ASGIRequest) -> HttpResponseBase:
    view = STRAIGHT.get((request.method, request.path))
    try:
        return await (resolved(request) if view is None else view(request))
    except ProxyError as error:
        return api.error_reply(request, error)
    except Exception as error:  # noqa: BLE001 - the outermost edge: nothing may leave as a traceback
        return api.failure_reply(request, error)


async def resolved(request: ASGIRequest) -> HttpResponseBase:
    try:
        match = get_resolver().resolve(request.path_info)
    except Resolver404:
        return api.not_found(request)
    request.resolver_match = match
    response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
    if isinstance(response, HttpResponseNotAllowed):
        return api.not_allowed(request, response["allow"])
    return response


async def send_response(response: HttpResponseBase, scope: dict[str, Any], send: Send) -> None:
    """Each piece of a stream is one send."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    if isinstance(response, api.EventStream):
        async with contextlib.aclosing(response.rest) as rest:
            await send(start)
            await send(body_of(response, response.first))
            async for piece in rest:
                await send(body_of(response, piece))
        if not response.is_over():
            await send({"type": "http.response.body"})
        return
    content = cast(HttpResponse, response).content
    body = b"" if scope["method"] == "HEAD" else content
    headers.append((b"content-length", str(len(content)).encode()))
    await send(start)
    await send({"type": "http.response.body", "body": body})


def body_of(response: api.EventStream, piece: bytes) -> dict[str, Any]:
    """The last piece says that it is the last: an empty one after it would cost another write."""
    return {"type": "http.response.body", "body": piece, "more_body": not response.is_over()}
