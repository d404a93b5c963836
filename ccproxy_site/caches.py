"""Django's cache in Redis, which does without Redis while it is away: then each process has its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

logger = logging.getLogger("ccproxy.cache")


def _steady(name: str) -> Callable[..., Any]:
    def call(cache: RedisOrMemory, *args: Any, **options: Any) -> Any:
        try:
            return getattr(RedisCache, name)(cache, *args, **options)
        except RedisError as error:
            logger.warning("Redis is away, this process counts for itself: %s", type(error).__name__)
            return getattr(cache.own, name)(*args, **options)

    return call


class RedisOrMemory(RedisCache):
    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self.own = LocMemCache("while Redis is away", {"OPTIONS": {"MAX_ENTRIES": 10_000}})

    add = _steady("add")
    get = _steady("get")
    set = _steady("set")
    touch = _steady("touch")
    delete = _steady("delete")
    incr = _steady("incr")
    has_key = _steady("has_key")
