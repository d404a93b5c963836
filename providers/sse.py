"""Server-sent events from bytes as they arrive: cut into lines before anything is decoded, whatever the reads cut."""

from __future__ import annotations

import msgspec

from providers import hot
from providers.errors import BrokenStream

# One line, and one event of many lines, may be this long.
LONGEST = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event; `data` is valid UTF-8, its lines joined with LF."""

    event: str
    data: bytes


class Reader:
    """`feed` what was read, `flush` at the end: a last event without its blank line counts too."""

    def __init__(self) -> None:
        self._held = bytearray()  # the beginning of a line
        self._data: list[bytes] = []  # the lines of an event whose end has not come
        self._data_length = 0
        self._event = ""
        self._after_cr = False
        self._at_start = True

    def feed(self, read: bytes) -> list[Frame]:
        if b"\r" in read or self._after_cr:
            read = self._with_plain_ends(read)
        if b"\n" not in read:
            self._keep(read)
            return []
        if self._held:
            read = bytes(self._held) + read
            self._held.clear()
        lines = read.split(b"\n")
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        rest = lines.pop()
        frames = self._frames(lines)
        self._keep(rest)
        return frames

    def flush(self) -> list[Frame]:
        return self.feed(b"\n\n")

    def _with_plain_ends(self, read: bytes) -> bytes:
        """LF alone. A CR at the end of a read ends its line at once; the LF that may follow belongs to it."""
        if self._after_cr and read:
            read = read.removeprefix(b"\n")
            self._after_cr = False
        if read:
            self._after_cr = read.endswith(b"\r")
        return read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._held += piece
        if len(self._held) + self._data_length > LONGEST:
            raise BrokenStream(f"the provider sent an event of more than {LONGEST} bytes")

    def _frames(self, lines: list[bytes]) -> list[Frame]:
        frames, self._event, self._data_length = hot.frames(lines, self._data, self._event, self._data_length, Frame)
        return frames
