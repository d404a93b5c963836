from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import state
from providers.state import MARK, State, seal, unseal

SECRET = b"one"
FULL = State("openai", "deepseek", "deepseek-reasoner", "I thought: é🙂", [{"type": "reasoning"}], {"toolu_1": "sig"})


@pytest.mark.parametrize("sealed", [State(), FULL, State("openai", "kimi", "k2", "")])
def test_what_was_sealed_comes_back(sealed: State) -> None:
    opened = unseal(seal(sealed, SECRET), SECRET)
    assert opened is not None
    assert (opened.dialect, opened.family, opened.model) == (sealed.dialect, sealed.family, sealed.model)
    assert (opened.reasoning, opened.items) == (sealed.reasoning, sealed.items)
    assert opened.tool_signatures == sealed.tool_signatures


def test_the_mark_is_visible_and_the_same_state_gives_the_same_signature() -> None:
    assert seal(FULL, SECRET).encode().startswith(MARK)
    assert seal(FULL, SECRET) == seal(FULL, SECRET)


def test_another_gateway_cannot_read_it() -> None:
    assert unseal(seal(FULL, SECRET), b"two") is None


def test_a_changed_signature_is_none() -> None:
    signature = seal(FULL, SECRET)
    for at in range(len(signature)):
        other = "A" if signature[at] != "A" else "B"
        assert unseal(signature[:at] + other + signature[at + 1 :], SECRET) is None


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary().map(lambda junk: f"ccp1.{junk!r}.x")))
def test_garbage_is_none(garbage: object) -> None:
    assert unseal(garbage, SECRET) is None


def test_even_a_signed_bomb_does_not_go_off() -> None:
    packed = urlsafe_b64encode(zlib.compress(b'{"r":"' + b"a" * (64 << 20) + b'","v":1}', 9))
    assert len(packed) < state.LONGEST_SIGNATURE
    bomb = f"ccp1.{packed.decode()}.{state._digest(packed, SECRET)}"
    assert unseal(bomb, SECRET) is None


def test_state_of_another_version_is_none() -> None:
    packed = urlsafe_b64encode(zlib.compress(b'{"v":2}'))
    assert unseal(f"ccp1.{packed.decode()}.{state._digest(packed, SECRET)}", SECRET) is None


def test_state_that_is_too_long_is_left_out_and_the_block_still_ours() -> None:
    noise = "".join(chr(33 + (at * at * 31 + at // 7) % 5000) for at in range(400_000))
    signature = seal(State("openai", "kimi", "k2", noise), SECRET)
    assert len(signature) < 1000
    opened = unseal(signature, SECRET)
    assert opened is not None
    assert opened.family == "kimi"
    assert opened.reasoning == ""
