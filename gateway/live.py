"""/ws/live: what runs now, told once a second to those who may see requests, for as long as they may."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from importlib import import_module
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.sessions import CookieMiddleware
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.utils.http import is_same_domain

from gateway import runtime

logger = logging.getLogger("ccproxy.live")

# Seconds between two looks at what runs; of them, so many between two messages where nothing changes, and so many
# between two looks at the session.
TICK = 1.0
BEAT = 10
LOOK_AGAIN = 10
# Seconds after which a database that has not answered counts as away.
PATIENCE = 5.0

SIGNED_OUT, NOT_ALLOWED, NOT_SURE, FAILED = 4401, 4403, 1013, 1011
REASONS = {
    SIGNED_OUT: "you are signed out: sign in again",
    NOT_ALLOWED: "you may not see requests: ask an administrator for the right to view usage records",
    NOT_SURE: "the database does not answer, so nobody can tell who you are: try again in a moment",
    FAILED: "the live view failed: the gateway's log says why",
}
NOT_FROM_HERE = "this page stands at an address that is not the gateway's: CSRF_TRUSTED_ORIGINS must name it"


class LiveView(AsyncWebsocketConsumer):
    """One viewer. It says when it has taken a message; until then it gets no other, and what is old by then never."""

    # What its siblings run comes through the overview.
    channel_layer_alias = "none"

    _telling: asyncio.Task[None] | None = None
    _has_taken = True

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._telling is not None:
                self._telling.cancel()

    async def connect(self) -> None:
        if not is_from_here(self.scope):
            await self.close(NOT_ALLOWED, NOT_FROM_HERE)
        elif code := await self._objection():
            await self._end(code)
        else:
            await self.accept()
            self._telling = asyncio.create_task(self._tell())

    async def dispatch(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.receive":
            self._has_taken = True  # at once: Channels would look after its database connections first
        else:
            await super().dispatch(message)

    async def _tell(self) -> None:
        try:
            await self._end(await self._tell_while_allowed())
        except Exception:
            logger.exception("the live view failed")
            await self._end(FAILED)

    async def _tell_while_allowed(self) -> int:
        """Why it ended."""
        overview = runtime.running().overview
        told, told_at = "", 0
        for tick in itertools.count():
            if tick and tick % LOOK_AGAIN == 0 and (code := await self._objection()):
                return code
            if self._has_taken and ((shown := overview.shown()) != told or tick - told_at >= BEAT):
                self._has_taken = False
                told, told_at = shown, tick
                await self.send(text_data=shown)
            await asyncio.sleep(TICK)
        raise AssertionError  # counting has no end

    async def _objection(self) -> int:
        """Why this person may not look (any more), as the code of a close; 0 when they may."""
        session_key = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME)
        if not session_key:
            return SIGNED_OUT
        session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
        try:
            async with asyncio.timeout(PATIENCE):
                user = await get_user({"session": session})
                code: int = await database_sync_to_async(objection_to)(user)
                return code
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody has said that they may look
            logger.warning("the live view could not ask who is watching: %s", str(error).strip() or "no answer")
            return NOT_SURE

    async def _end(self, code: int) -> None:
        await self.close(code, REASONS[code])


def objection_to(user: AbstractBaseUser | AnonymousUser) -> int:
    if not user.is_authenticated or not user.is_active:
        return SIGNED_OUT
    return 0 if may_watch(user) else NOT_ALLOWED


def may_watch(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Whoever may see the requests that were may see those that run."""
    is_staff = getattr(user, "is_staff", False)
    return bool(is_staff and isinstance(user, PermissionsMixin) and user.has_perm("accounting.view_usagerecord"))


def is_from_here(scope: dict[str, Any]) -> bool:
    """Whether one of our own pages asks: a browser sends its cookies along for anybody's."""
    told = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), "")
    try:
        origin = urlsplit(told)
    except ValueError:
        return False
    if origin.scheme not in {"http", "https"} or not origin.netloc:
        return False
    with contextlib.suppress(DisallowedHost):
        if origin.netloc.lower() == ASGIRequest({**scope, "method": "GET"}, BytesIO()).get_host().lower():
            return True
    return any(is_trusted(origin.scheme, origin.netloc, each) for each in settings.CSRF_TRUSTED_ORIGINS)


def is_trusted(scheme: str, host: str, pattern: str) -> bool:
    trusted = urlsplit(pattern)
    return scheme == trusted.scheme and is_same_domain(host, trusted.netloc.removeprefix("*"))


live_view = CookieMiddleware(LiveView.as_asgi())
