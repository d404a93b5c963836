from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import sse
from providers.errors import BrokenStream
from providers.sse import Reader


def read(*pieces: bytes) -> list[tuple[str, bytes]]:
    reader = Reader()
    frames = [frame for piece in pieces for frame in reader.feed(piece)] + reader.flush()
    return [(frame.event, frame.data) for frame in frames]


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data\ndata: b\n\n", [("", b"\nb")]),
        (b"event: ping\ndata: {}\n\n", [("ping", b"{}")]),
        (b"event: lost\n\ndata: a\n\n", [("", b"a")]),
        (b": OPENROUTER PROCESSING\n\n: again\ndata: a\n\n", [("", b"a")]),
        (b"id: 1\nretry: 3\nunknown: x\ndata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
        (b"data: a", [("", b"a")]),
        (b"data: a\n", [("", b"a")]),
        (b"data: a\r", [("", b"a")]),
        (b"", []),
        (b": only a comment\n\n", []),
        ("data: é✓\n\n".encode(), [("", "é✓".encode())]),
        (b"data: \xff\xfe!\n\n", [("", "\ufffd\ufffd!".encode())]),
    ],
)
def test_events_are_read_whatever_their_form(stream: bytes, frames: list[tuple[str, bytes]]) -> None:
    assert read(stream) == frames


def test_an_event_is_told_as_soon_as_it_is_whole() -> None:
    reader = Reader()
    assert reader.feed(b"data: a\n") == []
    assert [frame.data for frame in reader.feed(b"\ndata: b")] == [b"a"]


def test_a_return_at_the_end_of_a_read_ends_the_line_at_once() -> None:
    reader = Reader()
    assert reader.feed(b"data: a\r\n\r") != []
    assert reader.feed(b"\ndata: b\r\n\r\n")[0].data == b"b"


PIECES = st.sampled_from(
    [b"data: ", b"data:", b"event: x", b"\n", b"\r\n", b"\r", b"\n\n", b": c", b"abc", "é🙂".encode(), b"\xff", b" "]
)


@given(st.lists(PIECES, max_size=30), st.lists(st.integers(0, 120), max_size=8), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_events(parts: list[bytes], cuts: list[int], bom: bool) -> None:
    stream = b"".join([b"\xef\xbb\xbf"] * bom + parts)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert read(*[stream[start:end] for start, end in pairwise(edges)]) == read(stream)
    assert read(*[stream[at : at + 1] for at in range(len(stream))]) == read(stream)


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST", 1000)
    reader = Reader()
    reader.feed(b"data: " + b"x" * 900)
    with pytest.raises(BrokenStream):
        reader.feed(b"x" * 200)


def test_an_event_of_too_many_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST", 1000)
    with pytest.raises(BrokenStream):
        read(*[b"data: xxxxx\n"] * 200)


def test_many_events_longer_than_the_limit_together_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST", 1000)
    assert len(read(*[b"data: " + b"x" * 500 + b"\n\n"] * 10)) == 10
