"""Compressed answers come out whole, and none becomes more than it may."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import BrokenStream
from providers.inflating import FREE, PIECE, Inflater, inflater_for

EVENTS = b"".join(b'event: ping\ndata: {"type":"ping","n":%d}\n\n' % number for number in range(2000))


def unpacked(inflater: Inflater, data: bytes, size: int) -> bytes:
    plain = b""
    for start in range(0, len(data), size):
        plain += inflater.feed(data[start : start + size])
        while inflater.has_more:
            plain += inflater.more()
    return plain


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("size", [1, 7, 1000, 1_000_000])
def test_pieces_of_every_size(pack: type[bytes], size: int) -> None:
    inflater = Inflater()
    assert unpacked(inflater, pack(EVENTS), size) == EVENTS
    assert inflater.is_complete


@given(text=st.binary(max_size=3 * PIECE), size=st.integers(1, 5000))
def test_whatever_was_packed_comes_out(text: bytes, size: int) -> None:
    assert unpacked(Inflater(), gzip.compress(text), size) == text


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 257])
def test_nothing_is_left_inside_at_the_edge_of_a_piece(length: int) -> None:
    text = (json.dumps(list(range(200))).encode() * (length // 100))[:length]
    assert unpacked(Inflater(), gzip.compress(text), 1_000_000) == text


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    inflater = Inflater()
    tracemalloc.start()
    with pytest.raises(BrokenStream, match="more than 100 times"):
        unpacked(inflater, bomb, len(bomb))
    assert tracemalloc.get_traced_memory()[1] < 8 * FREE
    tracemalloc.stop()


def test_a_small_answer_may_be_as_dense_as_it_likes() -> None:
    text = b" " * (FREE - 1)
    assert unpacked(Inflater(), gzip.compress(text), 100) == text


def test_damage_is_told() -> None:
    with pytest.raises(BrokenStream, match="damaged"):
        Inflater().feed(b"no gzip at all")


def test_a_cut_one_is_not_complete() -> None:
    inflater = Inflater()
    inflater.feed(gzip.compress(EVENTS)[:-9])
    assert not inflater.is_complete


@pytest.mark.parametrize(
    ("encoding", "first"), [("gzip", b"\x1f"), ("GZIP", b"\x1f"), ("deflate", b"x"), ("", b"\x1f")]
)
def test_what_is_unpacked(encoding: str, first: bytes) -> None:
    assert isinstance(inflater_for(encoding, first), Inflater)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_what_is_plain(encoding: str) -> None:
    assert inflater_for(encoding, b"{") is None


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
def test_what_cannot_be_read_is_refused_in_a_sentence(encoding: str) -> None:
    with pytest.raises(BrokenStream, match=f"compresses its answer as '{encoding}'.*uncompressed or with gzip"):
        inflater_for(encoding, b"\x1f")
