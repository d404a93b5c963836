"""Counts that are known from elsewhere, the rules for everything that is not text, and input nobody would send."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import re
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st

from providers import tokens
from providers.messages import Message, MessagesRequest
from providers.tokens import View

PUBLIC_SUMS = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
EMPTY = tokens.PER_REPLY + tokens.PER_MESSAGE


def count(content: Any, **fields: Any) -> int:
    """Tokens of one user message, beyond those that an empty one has."""
    request = MessagesRequest(model="any", messages=[Message(role="user", content=content)], **fields)
    return tokens.count_request(request) - EMPTY


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(header: bytes) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded(header)}}


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"


# Text


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [
        ("", 0, 0),
        ("hello world", 2, 2),
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 8, 9),
        ("def f(x):\n    return x * 2\n", 11, 11),
        ("Grüße aus Zürich 🎉", 7, 10),
    ],
)
def test_known_counts(text: str, o200k: int, cl100k: int) -> None:
    assert tokens.count_text(text) == o200k
    assert tokens.count_text(text, "cl100k_base") == cl100k


def test_an_encoding_that_is_not_shipped_is_named() -> None:
    with pytest.raises(ValueError, match=r"p50k_base.*o200k_base"):
        tokens.count_text("hello", "p50k_base")


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|endofprompt|>", "a<|endoftext|>b"])
def test_special_tokens_in_text_are_ordinary_text(text: str) -> None:
    assert tokens.count_text(text) >= 6


@pytest.mark.parametrize("encoding", PUBLIC_SUMS)
def test_vocabularies_are_the_published_ones(encoding: str) -> None:
    with gzip.open(tokens.VOCABULARY / f"{encoding}.tiktoken.gz") as file:
        assert hashlib.sha256(file.read()).hexdigest() == PUBLIC_SUMS[encoding]


@pytest.mark.parametrize("encoding", PUBLIC_SUMS)
def test_patterns_and_sums_are_those_of_the_installed_tiktoken(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    def no_download(_address: str, expected_hash: str) -> dict[bytes, int]:
        asked["sum"] = expected_hash
        return {}

    public = importlib.import_module("tiktoken_ext.openai_public")
    monkeypatch.setattr(public, "load_tiktoken_bpe", no_download)

    assert public.ENCODING_CONSTRUCTORS[encoding]()["pat_str"] == tokens.PATTERNS[encoding]
    assert asked["sum"] == PUBLIC_SUMS[encoding]


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(tiktoken.load, "read_file", refused)
    monkeypatch.setattr(tokens, "_encodings", {})

    assert tokens.count_text("hello world") == 2
    assert tokens.count_text("hello world", "cl100k_base") == 2


@pytest.mark.parametrize("unit", ["a", " ", "\n", "=", "😀", "\u3000", "\u200b", "\ud800"])
@pytest.mark.parametrize("encoding", PUBLIC_SUMS)
def test_a_megabyte_of_the_same_takes_linear_time(unit: str, encoding: str) -> None:
    text = unit * 1_000_000
    tokens.count_text("", encoding)

    began = time.perf_counter()
    counted = tokens.count_text(text, encoding)

    assert counted >= 1_000_000 / 150
    assert time.perf_counter() - began < 10  # 0.6 s at worst where it was written; quadratic would be minutes


def test_pieces_of_a_long_text_add_up_to_the_whole() -> None:
    text = Path(tokens.__file__).read_text() * 20
    assert len(text) > 5 * tokens.PIECE
    assert tokens.count_text(text) == len(tokens._encoding("o200k_base").encode_ordinary(text))


@pytest.mark.parametrize(("characters", "expected"), [(-5, 0), (0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_estimates_round_up(characters: int, expected: int) -> None:
    assert tokens.estimate(characters) == expected


# Requests


def test_messages_system_and_reply_have_their_overhead() -> None:
    request = MessagesRequest(
        model="any",
        system="hello world",
        messages=[
            Message(role="user", content="hello world"),
            Message(role="assistant", content=[{"type": "text", "text": "hello world"}]),
            Message(role="system", content=None),
        ],
    )
    assert tokens.count_request(request) == 3 + (4 + 2) + (4 + 2) + (4 + 2) + 4


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "text", "text": "hello world"}, 2),
        ({"type": "text", "text": "hello world", "citations": [{"cited_text": "not read again"}]}, 2),
        ({"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}, 8 + 2 + 1),
        ({"type": "server_tool_use", "id": "srvtoolu_1", "name": "Bash", "input": {}}, 8 + 2 + 1),
        ({"type": "tool_result", "tool_use_id": "toolu_1", "content": "hello world"}, 8 + 2),
        ({"type": "tool_result", "tool_use_id": "toolu_1"}, 8),
        (
            {
                "type": "tool_result",
                "tool_use_id": "toolu_1",
                "content": [{"type": "text", "text": "hello world"}, image(png(750, 100))],
            },
            8 + 2 + 100,
        ),
        (
            {
                "type": "web_search_tool_result",
                "content": [{"type": "web_search_result", "title": "hello world", "encrypted_content": "A" * 9000}],
            },
            8 + 2,
        ),
        ({"type": "thinking", "thinking": "hello world", "signature": "A" * 9000}, 2),
        ({"type": "redacted_thinking", "data": "A" * 9000}, 0),
        ({"type": "search_result", "title": "hello", "content": [{"type": "text", "text": "hello world"}]}, 1 + 2),
        ({"type": "invented_last_week", "text": "hello world", "data": "A" * 9000}, 2),
    ],
)
def test_blocks(block: dict[str, Any], expected: int) -> None:
    assert count([block]) == expected


def test_thinking_that_is_not_sent_is_not_counted() -> None:
    said = [{"type": "thinking", "thinking": "hello world"}, {"type": "text", "text": "hello world"}]
    request = MessagesRequest(model="any", messages=[Message(role="assistant", content=said)])
    assert tokens.count_request(request, View(shows_thinking=lambda _: False)) == EMPTY + 2


def test_an_estimate_walks_the_same_way_and_encodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("text was encoded or a PDF decoded")

    monkeypatch.setattr(tokens, "count_text", refused)
    monkeypatch.setattr(tokens, "_pages", refused)
    pdf = {"type": "base64", "media_type": "application/pdf", "data": encoded(bytes(120_000))}
    content = [{"type": "text", "text": "x" * 4_000}, image(png(750, 100)), {"type": "document", "source": pdf}]
    request = MessagesRequest(
        model="any",
        system="x" * 400,
        messages=[Message(role="user", content=content)],
        tools=[{"name": "Bash", "input_schema": {}}],
    )

    assert tokens.estimate_request(request) == EMPTY + 1_000 + 100 + 3 * 2_000 + (4 + 100) + (16 + 12 + 1 + 1)


def test_tools_count_name_description_and_compact_schema() -> None:
    tool = {"name": "Bash", "description": "hello world", "input_schema": {"type": "object"}}
    one = tokens.PER_TOOL + 2 + 2 + tokens.count_text('{"type":"object"}')

    assert count("", tools=[]) == 0
    assert count("", tools=[tool]) == tokens.PER_TOOL_LIST + one
    assert count("", tools=[tool, tool, {**tool, "defer_loading": True}]) == tokens.PER_TOOL_LIST + 2 * one


# Documents


@pytest.mark.parametrize(
    ("pdf", "pages"),
    [
        (b"%PDF-1.4 /Type /Pages /Kids [] /Type /Page /Type/Page\n/Type\n/Page>>", 3),
        (b"%PDF-1.7 everything in compressed object streams", 1),
        (b"%PDF-1.7" + bytes(120_000), 3),
    ],
)
def test_pdfs_cost_by_the_page(pdf: bytes, pages: int) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": encoded(pdf)}
    assert count([{"type": "document", "source": source}]) == 2_000 * pages


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"source": {"type": "text", "media_type": "text/plain", "data": "hello world"}}, 2),
        ({"source": {"type": "content", "content": [{"type": "text", "text": "hello world"}]}}, 2),
        ({"source": {"type": "content", "content": "hello world"}, "title": "hello", "context": "hello world"}, 5),
        ({"source": {"type": "url", "url": "https://example.com/a.pdf"}}, 2_000),
        ({"source": None}, 0),
    ],
)
def test_other_documents(document: dict[str, Any], expected: int) -> None:
    assert count([{"type": "document", **document}]) == expected


# Robustness


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TYPES = ["text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "other"]
FIELDS = ["text", "title", "context", "content", "source", "data", "thinking", "name", "input", "type", "description"]
BLOCKS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(TYPES) | JSON,
    st.dictionaries(st.sampled_from([*FIELDS, "input_schema", "defer_loading"]), JSON, max_size=6),
)


@settings(deadline=None)  # the first call may load a vocabulary
@given(
    content=JSON | st.lists(BLOCKS | JSON), system=JSON | st.lists(BLOCKS), tools=st.none() | st.lists(BLOCKS | JSON)
)
def test_any_json_anywhere_is_counted_without_complaint(content: Any, system: Any, tools: Any) -> None:
    request = MessagesRequest(model="any", messages=[Message("user", content)], system=system, tools=tools)
    assert tokens.count_request(request) >= EMPTY
    assert tokens.estimate_request(request) >= EMPTY


def test_nesting_beyond_reason_ends_quietly() -> None:
    block: dict[str, Any] = {"type": "text", "text": "hello"}
    for _ in range(5_000):
        block = {"type": "tool_result", "content": [block]}
    assert count([block]) < 400
    assert count([{"type": "tool_use", "name": "Bash", "input": block}]) >= 9
    assert count("", tools=[{"name": "Bash", "input_schema": block}]) >= 1


# Memory


def test_a_text_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A conversation repeats itself in every request. " * 50
    first = tokens.count_text(text)

    def again(_text: str, _encoding: str) -> int:
        raise AssertionError("counted again")

    monkeypatch.setattr(tokens, "_count_pieces", again)
    assert tokens.count_text(text) == first
    with pytest.raises(AssertionError, match="counted again"):
        tokens.count_text(text, "cl100k_base")


def test_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    counts = tokens._Counts(most=2)
    for key in ("a", "b", "a", "c"):
        counts.get(key, lambda: 1)

    assert len(counts) == 2
    assert counts.get("a", lambda: 2) == 1
    assert counts.get("b", lambda: 2) == 2


def test_several_threads_may_count_at_once() -> None:
    counts = tokens._Counts(most=3)
    wrong: list[int] = []

    def work() -> None:
        for number in range(2_000):
            key = number % 7
            wrong.extend({counts.get(key, partial(int, key))} - {key})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(counts) <= 3


def test_no_text_is_kept() -> None:
    tokens.count_text("a secret that must not stay in memory " * 20)
    assert not re.search("secret", repr(tokens._counts._known))
