"""The real Claude Code does its work through the gateway, and every call it caused stands in the ledger."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.claude_code import (
    LANGUAGES,
    MODELS,
    Errand,
    House,
    Run,
    furnished,
    led_by,
    run_claude,
    tool_results,
    usage_billed,
    usage_told,
)
from ccproxy_site.tests.e2e.family import Mock
from ccproxy_site.tests.e2e.reconcile import FIGURES, reconcile

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with furnished(tmp_path_factory.mktemp("house"), configuration) as house:
        yield house


def configuration(upstream: Mock) -> dict[str, Any]:
    """Every provider is the same mock, in one language or another."""
    providers = [
        {"name": f"{name}{number}", "type": name, "base_url": upstream.url, "auth_value": "sk-upstream"}
        for name in LANGUAGES
        for number in (1, 2)
    ]
    routes: dict[str, Any] = {MODELS[name]: [{"provider": f"{name}1"}] for name in LANGUAGES}
    for name in LANGUAGES:
        other = LANGUAGES[LANGUAGES.index(name) - 1]
        routes[f"renamed-{name}"] = [{"provider": f"{name}1", "model": f"vendor/{name}-model"}]
        routes[f"second-{name}"] = [
            {"provider": f"{other}1", "model": "tried-first", "priority": 1},
            {"provider": f"{name}2", "model": "tried-second", "priority": 2},
        ]
    return {"providers": providers, "model_routes": routes}


@pytest.mark.parametrize("language", LANGUAGES)
def test_claude_code_reads_edits_fails_and_sees(house: House, tmp_path: Path, language: str) -> None:
    errand = Errand(tmp_path)

    run = run_claude(house, tmp_path, MODELS[language], led_by(*errand.steps()))

    errand.check(run, language)
    assert [call["language"] for call in run.calls] == [language] * 4
    assert [call["outcome"] for call in run.calls] == ["completed"] * 4
    assert [call["stop_reason"] for call in run.calls] == ["tool_use"] * 3 + ["end_turn"]
    assert usage_told(run.answer) == usage_billed(run.calls)
    each_begins_as_the_one_before(run, language)
    report = reconcile(house.gateway, house.mock)
    assert report.exact == report.calls == report.attempts


def each_begins_as_the_one_before(run: Run, language: str) -> None:
    """Byte for byte, up to the first new message: the upstream's cache lives on that. Marks of Anthropic's own move."""
    if language == "anthropic":
        return
    field = "messages" if language == "openai" else "input"
    for before, after in itertools.pairwise(run.requests):
        end = before["text"].index(f'"{field}":') + len(f'"{field}":')
        conversation = json.dumps(before["body"][field], ensure_ascii=False, separators=(",", ":"))
        beginning = before["text"][:end] + conversation.removesuffix("]")
        assert before["text"].startswith(beginning)
        assert after["text"].startswith(beginning + ",")
        assert after["body"]["tools"] == before["body"]["tools"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_model_may_have_another_name_upstream(house: House, tmp_path: Path, language: str) -> None:
    run = run_claude(house, tmp_path, f"renamed-{language}", led_by({"text": "Renamed."}))

    assert (run.code, run.answer["result"]) == (0, "Renamed."), run
    assert [call["model"] for call in run.calls] == [f"vendor/{language}-model"]
    assert list(run.answer["modelUsage"]) == [f"renamed-{language}"]
    reconcile(house.gateway, house.mock)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_second_provider_serves_when_the_first_is_overloaded(house: House, tmp_path: Path, language: str) -> None:
    overloaded = {"status": 529}
    look = {"thinking": "Hm.", "tools": [{"name": "Bash", "input": {"command": "echo looked-around"}}]}
    house.mock.queue(overloaded, look, overloaded, {"text": "The second served."})

    run = run_claude(house, tmp_path, f"second-{language}", "Look around.")

    assert (run.code, run.answer["result"]) == (0, "The second served."), run
    assert [(call["model"], call["status"]) for call in run.calls] == [("tried-first", 529), ("tried-second", 200)] * 2
    assert [call["language"] for call in run.calls if call["status"] == 200] == [language] * 2
    assert "looked-around" in str(tool_results(run.requests[3], language))
    reconcile(house.gateway, house.mock)
    attempts = house.gateway.ledger("--attempts")[-4:]
    assert [attempt["status"] for attempt in attempts] == ["failed", "completed"] * 2
    assert not any(attempt[name] for attempt in attempts if attempt["status"] == "failed" for name in FIGURES)


def test_every_language_is_there() -> None:
    assert set(LANGUAGES) == {"anthropic", "openai", "responses"}


def test_a_thought_in_the_text_hides_none_of_it(house: House, tmp_path: Path) -> None:
    """Left where it came, it would leave Claude Code the last piece of the text, or none."""
    thought = {"thinking": "Hm."}
    between = run_claude(
        house, tmp_path, MODELS["openai"], led_by({"parts": [{"text": "One, "}, thought, {"text": "two."}]})
    )
    behind = run_claude(house, tmp_path, MODELS["openai"], led_by({"parts": [{"text": "One."}, thought]}))

    assert (between.answer["result"], behind.answer["result"]) == ("One, two.", "One.")
    reconcile(house.gateway, house.mock)
