"""An event that does not end costs memory up to a bound, and time in proportion to its bytes."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest

from providers.dialects import Answer
from providers.dialects.anthropic import PassThrough
from providers.dialects.chat import ChatAnswer
from providers.errors import BrokenStream
from providers.tests.exchanges import exchange

MEGABYTE = 1024 * 1024
PIECE = 1024
DIALECTS = [PassThrough, ChatAnswer]
BEGINNINGS = {
    "line": b"data: {",
    "data lines": b"data: x\n",
    "empty data lines": b"data\n",
    "document": b"{",
    "blanks": b" ",
}
Make = Callable[..., Answer]


def endless(make: Make, kind: str, most: int) -> tuple[Answer, int]:
    """The answer that was fed so many bytes of an event without end, and how many it took before it refused."""
    answer = make(exchange(), "text/event-stream")
    start = BEGINNINGS[kind]
    piece = (start * PIECE)[:PIECE] if start[-1:] == b"\n" or kind == "blanks" else b"x" * PIECE
    answer.feed(start)
    for fed in range(0, most, PIECE):
        answer.feed(piece)
        if answer.error is not None:
            return answer, fed
    return answer, most


@pytest.mark.parametrize("make", DIALECTS)
@pytest.mark.parametrize("kind", [kind for kind in BEGINNINGS if kind != "blanks"])
def test_an_event_without_end_is_refused(make: Make, kind: str) -> None:
    tracemalloc.start()
    answer, fed = endless(make, kind, 32 * MEGABYTE)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(answer.error, BrokenStream)
    assert fed <= 17 * MEGABYTE
    assert most < 100 * MEGABYTE


@pytest.mark.parametrize("make", DIALECTS)
@pytest.mark.parametrize("kind", BEGINNINGS)
def test_time_grows_with_the_bytes_and_no_faster(make: Make, kind: str) -> None:
    def seconds(size: int) -> float:
        started = time.process_time()
        endless(make, kind, size)
        return time.process_time() - started

    seconds(MEGABYTE // 4)
    small = max(min(seconds(MEGABYTE // 4) for _ in range(3)), 0.0005)
    # 48 times the bytes: a quadratic reader would take 2,300 times as long.
    assert seconds(12 * MEGABYTE) < 5 * 48 * small


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("make", DIALECTS)
def test_an_event_leaves_as_soon_as_its_end_is_here(make: Make, end: bytes) -> None:
    events = {
        PassThrough: b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}',
        ChatAnswer: b'{"id":"c1","choices":[{"index":0,"delta":{"content":"hello"}}]}',
    }
    whole = b"data: " + events[make] + end + end  # type: ignore[index]
    for cut in range(1, len(end) * 2):
        answer = make(exchange(), "text/event-stream")
        assert b"hello" in answer.feed(whole[:-cut]) + answer.feed(whole[-cut:])
