"""Compressed answers that nobody asked for, unpacked piece by piece: a few bytes may not become a full memory."""

from __future__ import annotations

import zlib

from providers.errors import BrokenStream

GZIP_MARK = 0x1F  # begins neither JSON nor an event stream
# What is unpacked at once, and from which size on the ratio counts.
PIECE = 256 * 1024
FREE = 1024 * 1024
MOST_RATIO = 100

READABLE = frozenset({"gzip", "x-gzip", "deflate"})
PLAIN = frozenset({"", "identity"})


class Inflater:
    """`feed` what was read, then `more` until it is empty."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
        self._packed = self._unpacked = 0
        self._rest = b""

    @property
    def has_more(self) -> bool:
        return bool(self._rest)

    @property
    def is_complete(self) -> bool:
        return self._zlib.eof

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        return self.more()

    def more(self) -> bytes:
        if self._zlib.eof:
            self._rest = b""  # after the end nothing counts
            return b""
        try:
            plain = self._zlib.decompress(self._rest, PIECE)
        except zlib.error as error:
            raise BrokenStream("the provider's compressed answer is damaged: have it answer uncompressed") from error
        self._packed += len(self._rest) - len(self._zlib.unconsumed_tail)
        self._rest = self._zlib.unconsumed_tail
        self._unpacked += len(plain)
        if self._unpacked > max(FREE, MOST_RATIO * self._packed):
            raise BrokenStream(
                f"the provider's compressed answer unpacks to more than {MOST_RATIO} times its size: "
                "have it answer uncompressed"
            )
        return plain


def inflater_for(encoding: str, first: bytes) -> Inflater | None:
    """By the header, or by the first byte: some proxies compress and do not say so. None where nothing is packed."""
    named = encoding.strip().lower()
    if named in READABLE or (named in PLAIN and first[0] == GZIP_MARK):
        return Inflater()
    if named in PLAIN:
        return None
    raise BrokenStream(
        f"the provider compresses its answer as {encoding[:40]!r}, which was not asked for and cannot be read here: "
        "have it answer uncompressed or with gzip"
    )
