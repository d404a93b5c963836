"""The ASGI application: the API to the lean handler, everything else to Django. Serves under any ASGI server."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ccproxy_site.settings")

import django

django.setup(set_prefix=False)

# Models can be imported only now.
from ccproxy_site.lean import LeanHandler  # noqa: E402
from ccproxy_site.pages import PagesHandler  # noqa: E402
from gateway import runtime  # noqa: E402
from gateway.live import live_view  # noqa: E402
from providers import identity  # noqa: E402

lean = LeanHandler()
pages = PagesHandler()

OPEN_PAGES = frozenset({"/", "/v1", "/health", "/api/hello", "/metrics", "/providers"})
API_PREFIXES = ("/v1/", "/health/", "/api/hello/", "/metrics/", "/providers/")

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Any, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket" and scope["path"] == "/ws/live":
        await live_view(scope, receive, send)
    elif scope["type"] != "http":
        await send({"type": "websocket.close"})
    elif scope["path"] in OPEN_PAGES or scope["path"].startswith(API_PREFIXES):
        await lean(scope, receive, send)
    else:
        await pages(scope, receive, with_request_id(send))  # type: ignore[arg-type]


def with_request_id(send: Send) -> Send:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            # Django writes names with capitals, against ASGI's rule: the server would not see that a length is told.
            told = [(name.lower(), value) for name, value in message.get("headers", [])]
            message = {**message, "headers": [*told, (b"request-id", identity.request_id().encode())]}
        await send(message)

    return sending


async def lifespan(receive: Any, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await runtime.running().upstreams.close()
    await send({"type": "lifespan.shutdown.complete"})


runtime.running()
