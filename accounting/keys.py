"""Issued keys: what they look like, and the digest that stands for them in the database."""

from __future__ import annotations

import functools
import hashlib

from django.conf import settings

from providers.identity import BASE62, base62, secret_base62

MARK = "ccp_"
BODY, CHECK = 30, 6
LENGTH = len(MARK) + BODY + CHECK


def mint() -> str:
    body = secret_base62(BODY)
    return MARK + body + _checksum(body)


def is_well_formed(token: str) -> bool:
    """Typos and guesses fail here, before anything is looked up."""
    body, check = token[len(MARK) : -CHECK], token[-CHECK:]
    return len(token) == LENGTH and token.startswith(MARK) and set(body) <= set(BASE62) and check == _checksum(body)


def digest(token: str) -> str:
    return hashlib.blake2b(token.encode(), key=_digest_key(settings.KEY_DIGEST_SECRET), digest_size=32).hexdigest()


@functools.cache
def _digest_key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def prefix(token: str) -> str:
    return token[: len(MARK) + 6]


def _checksum(body: str) -> str:
    return base62(int.from_bytes(hashlib.sha256(body.encode()).digest()[:8]), CHECK)
