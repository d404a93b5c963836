"""Stop sequences are kept by the gateway, whether or not the upstream knows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.dialects.stops import LONGEST, Stops
from providers.tests.exchanges import DONE, answered, blocks, call, chunk, stop

LETTERS = st.text(alphabet="ab", max_size=30)


def passed(stops: Stops, pieces: list[str]) -> tuple[str, str | None]:
    """All that leaves, with what is given up at the end, and the sequence that was met."""
    text = ""
    for piece in pieces:
        leaving, met = stops.passed(piece)
        text += leaving
        if met is not None:
            return text, met
    return text + stops.held(), None


@pytest.mark.parametrize(
    ("pieces", "text", "met"),
    [
        (["Hello END and more"], "Hello ", "END"),
        (["Hello E", "N", "D and more"], "Hello ", "END"),
        (["Hello E", "N", "TER"], "Hello ENTER", None),
        (["END"], "", "END"),
        (["Hello E"], "Hello E", None),
        (["EEN", "END"], "EEN", "END"),
        (["STOP END"], "", "STOP"),
    ],
)
def test_text_passes_up_to_a_stop_sequence(pieces: list[str], text: str, met: str | None) -> None:
    assert passed(Stops(["END", "STOP"]), pieces) == (text, met)


@given(LETTERS, st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3), st.integers(1, 7))
def test_however_the_text_is_cut_it_ends_at_the_first_sequence(text: str, sequences: list[str], size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    at = min((found for sequence in sequences if (found := text.find(sequence)) >= 0), default=None)
    said, met = passed(Stops(sequences), pieces)
    if at is None:
        assert (said, met) == (text, None)
    else:
        assert met in sequences
        assert text.startswith(said + met)
        # One that ends before a longer one has come to its end is met first.
        assert len(said) + len(met) <= min(text.find(each) + len(each) for each in sequences if each in text) + size


def test_a_sequence_no_model_would_say_by_chance_is_not_looked_for() -> None:
    assert passed(Stops(["a" * (LONGEST + 1)]), ["a"] * 5) == ("aaaaa", None)


def test_an_answer_ends_at_the_sequence_and_says_so() -> None:
    stream = chunk({"content": "one, E"}) + chunk({"content": "ND, two"}) + chunk({"content": " three"}, "stop") + DONE
    events, answer = answered(stream, stop_sequences=["END"])

    assert (blocks(events), stop(events)) == (["one, "], "stop_sequence")
    assert events[-2]["delta"]["stop_sequence"] == "END"
    assert answer.complete


def test_what_only_began_like_one_is_said_before_anything_else() -> None:
    stream = chunk({"content": "look: E"}) + chunk(call(0, "{}", "Read", "c1")) + chunk(finish="tool_calls") + DONE
    events, _ = answered(stream, stop_sequences=["END"], tools=[{"name": "Read", "input_schema": {}}])

    assert (blocks(events), stop(events)) == (["look: E", ("Read", "{}")], "tool_use")


def test_an_answer_that_is_only_a_sequence_is_finished_all_the_same() -> None:
    events, answer = answered(chunk({"content": "END"}, "stop") + DONE, stop_sequences=["END"])

    assert (blocks(events), stop(events), answer.error) == ([""], "stop_sequence", None)


def test_white_space_stops_nothing() -> None:
    events, _ = answered(chunk({"content": "a\n\nb"}, "stop") + DONE, stop_sequences=["\n\n", ""])

    assert (blocks(events), stop(events)) == (["a\n\nb"], "end_turn")
