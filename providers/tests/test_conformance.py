"""Every case of the conformance suite against the pure functions; and the checks, which must be able to fail.

The command that runs the same cases against a server has an end-to-end test of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from providers.conformance import answers, checks, configurations, scripts
from providers.conformance.cases import FASTEST, FOLDER, Case, Turn, load, make
from providers.conformance.pure import Pure
from providers.conformance.running import MODEL, run
from providers.dialects import DIALECTS

CASES = load()
PURE = [case for case in CASES if not case.end_to_end]
# Nothing at all is known of where a read ends: every stream comes as the case says, byte by byte, and in odd pieces.
SIZES = (None, 1, 7)
LEAST = 300
WRONG = "what nobody answers"


def streams(case: Case) -> bool:
    return any(turn.chunks is not None or turn.frames is not None for turn in case.turns)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in PURE])
def test_case(case: Case) -> None:
    for size in SIZES if streams(case) else SIZES[:1]:
        wrong = run(case, Pure(size))
        assert not wrong, "\n".join([case.says, f"(in pieces of {size} bytes)" if size else "", *wrong])


def test_there_are_enough_cases_each_with_its_own_id_and_a_reason() -> None:
    ids = Counter(case.id for case in CASES)
    assert [name for name, times in ids.items() if times > 1] == []
    assert [case.id for case in CASES if len(case.says) < 15 or not case.says.endswith(".")] == []
    assert len(CASES) >= LEAST
    assert {case.language for case in CASES} == set(scripts.LANGUAGES)


def spoiled(turn: Turn) -> Iterator[tuple[str, Turn]]:
    """The turn with one of its expectations made wrong, for each of them."""
    for field in ("sent", "sent_headers", "reply", "received_headers"):
        for path in getattr(turn, field):
            yield f"{field} {path}", msgspec.structs.replace(turn, **{field: {path: {"equals": WRONG}}})
    for field in ("stop", "stop_sequence", "sent_path"):
        if getattr(turn, field) is not None:
            yield field, msgspec.structs.replace(turn, **{field: WRONG})
    if turn.refused is not None:
        yield "refused", msgspec.structs.replace(turn, refused={"message": WRONG})
    if turn.error is not None:
        yield "error", msgspec.structs.replace(turn, error={**turn.error, "type": WRONG})
        yield "no error", msgspec.structs.replace(turn, error=None)
    if turn.content is not None:
        yield "content", msgspec.structs.replace(turn, content=[*turn.content, WRONG])
    if turn.usage is not None:
        yield "usage", msgspec.structs.replace(turn, usage=[*turn.usage[:3], turn.usage[3] + 1])
    if turn.received is not None:
        yield "received", msgspec.structs.replace(turn, received={"contains": WRONG})


def test_every_expectation_of_every_case_can_fail() -> None:
    """A case that passes whatever its expectation says checks nothing."""
    blind = []
    for case in PURE:
        variants = [(at, what, turn) for at, each in enumerate(case.turns) for what, turn in spoiled(each)]
        assert variants, f"{case.id} expects nothing"
        if run(case, Pure()):
            continue  # it fails as it is, and says so above
        for at, what, turn in variants:
            turns = (*case.turns[:at], turn, *case.turns[at + 1 :])
            if not run(msgspec.structs.replace(case, turns=turns), Pure()):
                blind.append(f"{case.id}: {what}")
    assert blind == []


def test_every_case_for_a_whole_gateway_expects_something() -> None:
    silent = [case.id for case in CASES if case.end_to_end and not any(received_or_sent(turn) for turn in case.turns)]
    assert silent == []


def received_or_sent(turn: Turn) -> bool:
    return turn.received_status is not None or turn.content is not None or bool(turn.sent)


@pytest.mark.parametrize(
    ("found", "wanted", "holds"),
    [
        ("a", "a", True),
        (1, 1.0, True),
        (True, 1, False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1, "b": 2}, {"has": {"a": 1}}, True),
        ({"a": {"b": [1, 2]}}, {"has": {"a": {"b": [2]}}}, True),
        ({"a": {"b": [1, 2]}}, {"has": {"a": {"b": [3]}}}, False),
        ([{"a": 1, "b": 2}], {"contains": {"a": 1}}, True),
        ([{"a": 1, "b": 2}], {"contains": [{"a": 2}]}, False),
        ({"a": ["some text"]}, {"contains": "text"}, True),
        ({"text": 1}, {"lacks": "text"}, False),
        (checks.ABSENT, {"lacks": "text"}, True),
        (checks.ABSENT, {"absent": True}, True),
        (None, {"absent": True}, False),
        (None, {"empty": True}, True),
        ("x", {"empty": True}, False),
        ("abc", {"matches": "^a.c$"}, True),
        ("abc", {"matches": "^b"}, False),
        ([1, 2], {"length": 2}, True),
        ([1, 2], {"length": 3}, False),
        ('{"a": 1}', {"json": {"a": 1}}, True),
        ({"a": 1}, {"json": {"a": 1}}, False),
        ([{"type": "text", "text": "a"}], {"text": "a"}, True),
        ([{"type": "image"}], {"text": "a"}, False),
        ("b", {"one_of": ["a", "b"]}, True),
        ("c", {"one_of": ["a", "b"]}, False),
        (5, {"at_least": 5, "at_most": 5}, True),
        (5, {"at_least": 5, "at_most": 4}, False),
        ("5", {"at_least": 5}, False),
    ],
)
def test_a_comparison(found: Any, wanted: Any, holds: bool) -> None:
    assert (checks.mismatch(found, wanted) is None) is holds


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", 1),
        ("list.0.n", 1),
        ("list.-1.n", 2),
        ("list.n=2.0.kind", "second"),
        ("list.n=3", []),
        ("list.7", checks.ABSENT),
        ("a.b.c", checks.ABSENT),
        ("a.x", checks.ABSENT),
        ("list.n", checks.ABSENT),
    ],
)
def test_a_path(path: str, found: Any) -> None:
    document = {"a": {"b": 1}, "list": [{"n": 1, "kind": "first"}, {"n": 2, "kind": "second"}]}
    assert checks.find(document, path) == found


START: dict[str, Any] = {"start": {}}
TEXT: dict[str, Any] = {"block": {"type": "text", "text": ""}}
SAID: list[Any] = [TEXT, {"text": "Hi"}, {"stop": 0}]


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ([START, *SAID, "END"], None),
        ([START, "ping", *SAID, "END"], None),
        ([*SAID, "END"], "begin with message_start"),
        ([START, *SAID], "end with message_delta and message_stop"),
        ([START, *SAID, "END", "message_stop"], "end with message_delta and message_stop"),
        ([START, START, *SAID, "END"], "message_start"),
        ([{"start": {"usage": {"input_tokens": 1}}}, *SAID, "END"], "a usage with input_tokens and output_tokens"),
        ([{"start": {"content": None}}, *SAID, "END"], "empty content"),
        ([{"start": {"id": ""}}, *SAID, "END"], "an id"),
        ([START, {"at": 1, **TEXT}, {"at": 1, "text": "Hi"}, {"stop": 1}, "END"], "index 1, expected 0"),
        ([START, TEXT, {"text": "Hi"}, "END"], "never closed"),
        ([START, TEXT, TEXT, {"text": "Hi"}, {"stop": 0}, "END"], "while another is open"),
        ([START, {"text": "Hi"}, "END"], "while no block is open"),
        ([START, TEXT, {"args": "{}"}, {"stop": 0}, "END"], "input_json_delta in a block of type text"),
        (
            [START, {"block": {"type": "tool_use", "id": "a", "name": "b", "input": {"c": 1}}}, {"stop": 0}, "END"],
            "where clients lose it",
        ),
        (
            [START, {"block": {"type": "tool_use", "id": "", "name": "b", "input": {}}}, {"stop": 0}, "END"],
            "without id or name",
        ),
    ],
)
def test_the_rules_of_a_stream(items: list[Any], complaint: str | None) -> None:
    body = "".join(scripts.LANGUAGES["anthropic"].chunks(items)).encode()
    events, wrong = answers.read_events(body)
    wrong += answers.grammar(events, broken_off=False)
    assert [each for each in wrong if complaint and complaint in each] or wrong == [], wrong
    assert bool(wrong) is (complaint is not None)


def test_a_cut_answer_that_looks_finished_is_found() -> None:
    body = "".join(scripts.LANGUAGES["anthropic"].chunks([START, *SAID, "END", {"json": {"type": "error"}}])).encode()
    assert "looks like a finished one" in " ".join(answers.grammar(answers.read_events(body)[0], broken_off=True))


def test_events_without_their_names_are_found() -> None:
    assert answers.read_events(b'data: {"type":"ping"}\n\n')[1]


def test_an_id_that_comes_twice_is_found() -> None:
    case = next(case for case in PURE if case.id == "stream-text")
    player = Pure()
    assert run(case, player) == []
    player.ids.add(next(iter(player.ids)))
    player.ids = Everything()
    assert "used before" in run(case, player)[0]


class Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


def test_a_slip_in_a_file_is_told_with_its_case(tmp_path: Path) -> None:
    slip = tmp_path / "slip.yaml"
    slip.write_text("defaults: {kind: stream}\ncases:\n  - {id: a-slip, says: It is misspelt., contents: [Hi]}\n")
    with pytest.raises(ValueError, match=r"slip\.yaml, case a-slip"):
        load(tmp_path)


def test_the_files_mean_the_same_where_yaml_has_no_c() -> None:
    """The reader in Python is stricter about plain texts in braces."""
    for path in sorted(FOLDER.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert yaml.load(text, yaml.SafeLoader) == yaml.load(text, FASTEST), path.name  # noqa: S506


def test_every_case_has_a_provider_and_a_route_of_its_name() -> None:
    written = configurations.ours(CASES, "http://127.0.0.1:1", "conformance-")
    names = [provider["name"] for provider in written["providers"]]
    assert len(names) == len(set(names))
    assert set(names) == set(written["model_routes"])
    spoken = {"conformance-" + case.setup().name for case in CASES if case.language in DIALECTS}
    assert spoken <= set(names)


@pytest.mark.parametrize("name", configurations.CONFIGURATIONS)
def test_a_configuration_names_the_upstream_and_the_model(name: str) -> None:
    text = configurations.written(configurations.CONFIGURATIONS[name](CASES, "http://127.0.0.1:8790", "check-"))
    assert json.loads(text)
    assert "http://127.0.0.1:8790" in text
    assert "check-openai" in text


def test_a_conversation_replays_what_was_answered() -> None:
    entry = {
        "id": "x",
        "says": "A conversation.",
        "kind": "turns",
        "request": {"model": MODEL},
        "turns": [
            {"chunks": [{"call": {"at": 0, "id": "up", "name": "Read", "args": "{}"}}, "CALLS"]},
            {
                "then": [{"type": "tool_result", "tool_use_id": "$call0", "content": "done"}],
                "chunks": [{"text": "Hi"}, "END"],
                "sent": {"messages.2.content": "done"},
            },
        ],
    }
    assert run(make("made", entry), Pure()) == []
    turned = json.loads(json.dumps(entry).replace("$call0", "toolu_of_nobody"))
    assert run(make("made", turned), Pure())
