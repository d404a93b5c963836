"""State of foreign providers that travels through the client: sealed into the signature of a thinking block.

Clients replay such blocks as they got them, so what a provider wants back next turn needs no memory here.
"""

from __future__ import annotations

import binascii
import hmac
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec

# By this an Anthropic upstream's pass-through knows our blocks, which it must not forward.
MARK = b"ccp1."
# A signature longer than this is not made; one that unpacks to more than that is not read.
LONGEST_SIGNATURE = 256 * 1024
LONGEST_STATE = 4 * 1024 * 1024
VERSION = 1
_PREFIX = MARK.decode()
_DIGEST = 16


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one run of reasoning leaves behind, and whom it may be given back to."""

    dialect: str = msgspec.field(name="d", default="")
    family: str = msgspec.field(name="p", default="")
    model: str = msgspec.field(name="m", default="")
    reasoning: str = msgspec.field(name="r", default="")
    items: list[Any] = []
    tool_signatures: dict[str, str] = msgspec.field(name="ts", default_factory=dict)
    version: int = msgspec.field(name="v", default=0)


def seal(state: State, secret: bytes) -> str:
    """The signature that carries it. State that is too long is left out: the block is still marked as ours."""
    packed = _packed(state)
    if len(packed) > LONGEST_SIGNATURE:
        packed = _packed(State(state.dialect, state.family, state.model))
    return f"{_PREFIX}{packed.decode()}.{_digest(packed, secret)}"


def unseal(signature: object, secret: bytes) -> State | None:
    """None for whatever this gateway did not sign."""
    if not isinstance(signature, str) or not signature.startswith(_PREFIX) or not signature.isascii():
        return None
    packed, _, digest = signature[len(_PREFIX) :].encode().rpartition(b".")
    if len(packed) > LONGEST_SIGNATURE or not hmac.compare_digest(digest, _digest(packed, secret).encode()):
        return None
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(urlsafe_b64decode(packed), LONGEST_STATE)
        state = msgspec.json.decode(unpacked, type=State) if unpacker.eof else None
    except (binascii.Error, zlib.error, msgspec.DecodeError):
        return None
    return state if state is not None and state.version == VERSION else None


def _packed(state: State) -> bytes:
    plain = msgspec.json.encode(msgspec.structs.replace(state, version=VERSION))
    return urlsafe_b64encode(zlib.compress(plain, 6))


def _digest(packed: bytes, secret: bytes) -> str:
    return urlsafe_b64encode(hmac.digest(secret, MARK + packed, "sha256")).decode()[:_DIGEST]
