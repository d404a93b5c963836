"""Django's own handler, which serves the admin and its pages."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections


class PagesHandler(ASGIHandler):
    """Each request has a thread of its own: a connection to the database that stayed open there would serve nobody."""

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            await super().handle(scope, receive, send)
        finally:
            await sync_to_async(connections.close_all)()
