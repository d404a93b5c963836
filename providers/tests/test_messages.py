"""Decoding a request once: what is mended, what is too deep, and what a deep-looking string is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import BadMessage
from providers.messages import DEEPEST, Limits, read_request, text_of, too_deep


def body(content: Any = "hi", **fields: Any) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "m", "max_tokens": 1, "messages": [message], **fields}).encode()


@pytest.mark.parametrize("half", ["\ud83d", "a\udc00b", "\ud83d\ud83d\ude00"])
def test_half_an_emoji_becomes_a_replacement_character(half: str) -> None:
    content = read_request(body(half), Limits())[0].messages[0].content
    assert isinstance(content, str)
    content.encode()
    assert "\ufffd" in content


def test_whole_emojis_stay() -> None:
    assert read_request(body("😀 Grüße"), Limits())[0].messages[0].content == "😀 Grüße"


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return b'{"x":' + opening.encode() * (depth - 1) + b"1" + closing.encode() * (depth - 1) + b"}"


@pytest.mark.parametrize(("depth", "deep"), [(2, False), (DEEPEST, False), (DEEPEST + 1, True), (5000, True)])
def test_depth_is_counted_to_the_level(depth: int, deep: bool) -> None:
    assert too_deep(nested(depth)) is deep
    assert too_deep(nested(depth, '{"a":', "}")) is deep


def test_siblings_are_not_depth_and_hide_none() -> None:
    assert not too_deep(b"[" + b",".join([b"[[]]"] * 500) + b"]")
    level = b'{"flat":[1,2],"deep":'
    assert too_deep(level * 150 + b"1" + b"}" * 150)


@given(st.text(alphabet='[]{}"\\a', max_size=400))
def test_brackets_in_strings_are_text(text: str) -> None:
    assert not too_deep(json.dumps([text, [text] * 60, {"k": text}]).encode())


def test_a_long_flat_body_is_decoded() -> None:
    assert len(read_request(body([{"type": "text", "text": "[{" * 2000}]), Limits())[0].messages) == 1


def test_counting_needs_no_max_tokens() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    assert read_request(raw, Limits(), counting=True)[0].max_tokens is None
    with pytest.raises(BadMessage, match="max_tokens: Field required"):
        read_request(raw, Limits())[0]


def test_of_two_models_the_last_counts() -> None:
    raw = b'{"model":"a","model":"b","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}'
    assert read_request(raw, Limits())[0].model == "b"


def test_every_readable_text_is_found() -> None:
    content = [
        {"type": "text", "text": "a"},
        {"type": "tool_result", "content": [{"type": "text", "text": "b"}]},
        "c",
        5,
    ]
    assert list(text_of(content)) == ["a", "b", "c"]
