"""What an image costs in tokens: its size, read from its first bytes, and the rule of the model that sees it."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import TypeAlias

Rule: TypeAlias = Callable[[int, int], int]  # width and height to tokens

# Of base64: sizes stand at the very beginning, but a JPEG may have a preview before its own.
HEADER_CHARACTERS = (1_024, 65_536)
UNREAD = 1_600  # an image whose size is not to be known, whoever sees it


def by_area(width: int, height: int, *, longest: int = 1568, pixels: int = 750, most: int = 1_600) -> int:
    """So many pixels are a token, once the image fits into a square."""
    width, height = _fitted(width, height, min(1.0, longest / max(width, height)))
    return min(most, math.ceil(width * height / pixels))


def by_tiles(base: int, tile: int, width: int, height: int) -> int:
    """Squares of 512 pixels, once the image fits into 2048 and its short side into 768."""
    width, height = _fitted(width, height, min(1.0, 2048 / max(width, height)))
    width, height = _fitted(width, height, min(1.0, 768 / min(width, height)))
    return base + tile * math.ceil(width / 512) * math.ceil(height / 512)


def by_patches(factor: float, width: int, height: int) -> int:
    """Squares of 32 pixels, of which a model sees 1,536 at most; small models count each for more."""
    return math.ceil(factor * min(1_536, math.ceil(width / 32) * math.ceil(height / 32)))


# The first row that fits the name of the model, without what stands before its last slash. Figures of the vendors'
# documentation; by_area is Anthropic's, and a fair guess for whoever publishes none.
RULES: Sequence[tuple[tuple[str, ...], Rule]] = (
    (("gpt-4o-mini*",), partial(by_tiles, 2833, 5667)),
    (("gpt-4.1-mini*", "gpt-5*-mini*"), partial(by_patches, 1.62)),
    (("gpt-4.1-nano*", "gpt-5*-nano*"), partial(by_patches, 2.46)),
    (("o4-mini*",), partial(by_patches, 1.72)),
    (("o1*", "o3*"), partial(by_tiles, 75, 150)),
    (("gpt-5*",), partial(by_tiles, 70, 140)),
    (("gpt-4*", "chatgpt-*"), partial(by_tiles, 85, 170)),
    (("*",), by_area),
)


@lru_cache(maxsize=1024)
def rule_of(model: str) -> Rule:
    name = model.lower().rpartition("/")[2]
    return next(rule for patterns, rule in RULES if any(fnmatchcase(name, pattern) for pattern in patterns))


def image_tokens(source: object, rule: Rule) -> int:
    """Of the source of an image block, whatever stands in it."""
    data = source.get("data") if isinstance(source, dict) else None
    if isinstance(data, str):
        for characters in HEADER_CHARACTERS:
            size = image_size(decoded(data[:characters]))
            if size is not None:
                return rule(*size) if all(size) else UNREAD
    return UNREAD


def _fitted(width: int, height: int, scale: float) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


def image_size(header: bytes) -> tuple[int, int] | None:
    """Width and height from the first bytes of a PNG, JPEG, GIF or WebP; None for anything else."""
    if header.startswith(b"\x89PNG\r\n\x1a\n") and len(header) >= 24:
        return _big(header[16:20]), _big(header[20:24])
    if header.startswith((b"GIF87a", b"GIF89a")) and len(header) >= 10:
        return _little(header[6:8]), _little(header[8:10])
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP" and len(header) >= 30:
        return _webp_size(header)
    if header.startswith(b"\xff\xd8"):
        return _jpeg_size(header)
    return None


def _webp_size(header: bytes) -> tuple[int, int] | None:
    match header[12:16]:
        case b"VP8 ":
            return _little(header[26:28]) & 0x3FFF, _little(header[28:30]) & 0x3FFF
        case b"VP8L":
            bits = _little(header[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return _little(header[24:27]) + 1, _little(header[27:30]) + 1
    return None


def _jpeg_size(header: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(header):
        if header[at] != 0xFF:
            return None
        marker = header[at + 1]
        if marker == 0xFF:  # filler before a marker
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:  # a frame, and no table that looks like one
            return _big(header[at + 7 : at + 9]), _big(header[at + 5 : at + 7])
        else:
            at += 2 + max(2, _big(header[at + 2 : at + 4]))
    return None


def decoded(data: str) -> bytes:
    """The bytes of base64 that may be cut anywhere; empty when it is none."""
    try:
        letters = b"".join(data.encode("ascii").split())
        return b64decode(letters[: len(letters) // 4 * 4])
    except (UnicodeEncodeError, binascii.Error):
        return b""


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
