"""Whoever tries to sign in too often waits. Counted in Django's cache, so over all processes where Redis is."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import ipaddress
import time

from django.core.cache import cache
from django.utils import timezone

# So many attempts for one name from one address, and for whatever names from one address, within the time.
ATTEMPTS = 5
ATTEMPTS_FROM_ADDRESS = 30
SECONDS = 15 * 60


def seconds_to_wait(door: str, address: str, name: str) -> int:
    """Counts an attempt before it is made, so that of many at once no more pass; 0 where it may be made."""
    from_address, of_name = _counters(door, address, name)
    return _counted(from_address, ATTEMPTS_FROM_ADDRESS) or _counted(of_name, ATTEMPTS)


def succeeded(door: str, address: str, name: str) -> None:
    """The attempt that was counted was no failure."""
    from_address, of_name = _counters(door, address, name)
    cache.delete(of_name)
    with contextlib.suppress(ValueError):  # its time ended meanwhile
        cache.decr(from_address)


def refusal(seconds: int) -> str:
    until = timezone.localtime() + dt.timedelta(seconds=seconds)
    return f"Too many attempts to sign in. Wait until {until:%H:%M:%S} ({until:%Z}), then try again."


def _counters(door: str, address: str, name: str) -> tuple[str, str]:
    network = _network(address)
    return _counter(door, network), _counter(door, network, name.casefold())


def _counter(*parts: str) -> str:
    return f"sign-in:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def _network(address: str) -> str:
    """Who has one address of IPv6 has all of its /64."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((known, 64), strict=False)) if known.version == 6 else str(known)


def _counted(counter: str, most: int) -> int:
    cache.add(counter, 0, SECONDS)
    try:
        number = cache.incr(counter)
    except ValueError:  # its time ended in between
        return 0
    if number <= most:
        return 0
    until = f"{counter}:until"
    if cache.add(until, time.time() + SECONDS, SECONDS):
        cache.touch(counter, SECONDS - 1)  # it ends before the pause does, or would begin another
        return SECONDS
    return max(1, round(float(cache.get(until, 0)) - time.time()))
