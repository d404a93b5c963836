"""What an issued key looks like, and what is kept of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounting import keys

# One that will do, the same in every run.
TOKEN = "ccp_0123456789ABCDEFGHIJKLMNOPQRST7wcI7b"


def test_a_key_is_forty_characters_that_need_no_quoting() -> None:
    assert len(TOKEN) == 40
    assert TOKEN.startswith("ccp_")
    assert TOKEN.removeprefix("ccp_").isalnum()


def test_no_two_keys_are_alike() -> None:
    assert len({keys.mint() for _ in range(1000)}) == 1000


def test_a_minted_key_is_well_formed() -> None:
    assert all(keys.is_well_formed(keys.mint()) for _ in range(1000))


@pytest.mark.parametrize("position", range(40))
def test_one_wrong_character_is_noticed(position: int) -> None:
    wrong = "a" if TOKEN[position] != "a" else "b"
    assert not keys.is_well_formed(TOKEN[:position] + wrong + TOKEN[position + 1 :])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "ccp_",
        TOKEN[:-1],
        TOKEN + "a",
        TOKEN.upper(),
        f" {TOKEN}",
        "sk-ant-api03-abc",
        "ccp_" + "é" * 36,
        "\x00" * 40,
    ],
)
def test_what_is_no_key_is_refused_unread(token: str) -> None:
    assert not keys.is_well_formed(token)


@given(st.text(max_size=60))
def test_any_text_may_be_asked_about(text: str) -> None:
    assert keys.is_well_formed(text) is False or len(text) == 40


def test_a_digest_is_keyed(settings: Settings) -> None:
    here = keys.digest(TOKEN)
    assert here == keys.digest(TOKEN)
    assert len(here) == 64
    assert TOKEN not in here
    settings.KEY_DIGEST_SECRET = "another"
    assert keys.digest(TOKEN) != here


def test_the_prefix_is_enough_to_recognise_a_key_and_too_little_to_use_it() -> None:
    assert keys.prefix(TOKEN) == TOKEN[:10]
