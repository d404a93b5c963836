"""Ids the gateway mints: its own, never derived from a request and never an upstream's."""

from __future__ import annotations

import os
import random

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Two symbols at a time: half the divisions.
_PAIRS = [a + b for a in BASE62 for b in BASE62]


def base62(number: int, length: int) -> str:
    """The last `length` base62 digits of a number; `length` is even."""
    pairs = []
    for _ in range(length // 2):
        number, pair = divmod(number, 3844)
        pairs.append(_PAIRS[pair])
    return "".join(pairs)


def secret_base62(length: int) -> str:
    """For keys: not to be guessed."""
    return base62(int.from_bytes(os.urandom(length)), length)


# For ids, which must be unique and need not be secret: the system's own generator costs a system call each time.
_generator = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _generator.seed(os.urandom(32)))


def unique_base62(length: int) -> str:
    return base62(_generator.getrandbits(6 * length), length)


def request_id() -> str:
    return "req_" + unique_base62(24)


def message_id() -> str:
    return "msg_" + unique_base62(24)


def tool_use_id() -> str:
    return "toolu_" + unique_base62(22)


def server_tool_use_id() -> str:
    return "srvtoolu_" + unique_base62(22)
