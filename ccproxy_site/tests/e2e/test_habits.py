"""The real Claude Code does its errand whatever an upstream does to the answers, and the ledger equals the bill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.claude_code import (
    LANGUAGES,
    LAST_WORD,
    MODELS,
    Errand,
    House,
    Run,
    Script,
    furnished,
    led_by,
    run_claude,
    usage_billed,
    usage_told,
)
from ccproxy_site.tests.e2e.family import ROOT, Mock
from ccproxy_site.tests.e2e.habits import CASES
from ccproxy_site.tests.e2e.reconcile import Report, compare, reconcile

pytestmark = pytest.mark.e2e

# Before the first content another provider can answer: what the first one does at each of the four turns.
BEFORE_CONTENT: dict[str, tuple[Script, Script, Script, Script]] = {
    "HTML, empty body, 529, 429": (
        {"html": True},
        {"empty": True},
        {"status": 529},
        {"status": 429, "retry_after": 30},
    ),
    "error as the first event, error after the head, empty answer, drop before content": (
        {"error_in_stream": 0, "no_head": True},
        {"error_in_stream": 0, "status": 500},
        {"text": ""},
        {"cut_after": 0, "cut": "abort"},
    ),
}
# Afterwards nobody else can: Claude Code itself asks again.
IN_THE_MIDDLE: dict[str, Script] = {
    "overloaded in the text": {"error_in_stream": 6},
    "a clean end in a tool call": {"cut_after": 3},
    "a server error in a tool call": {"error_in_stream": 1, "status": 500},
    "a TCP reset in the text": {"cut_after": 6, "cut": "abort"},
}

# The command itself, with its options as JSON on each line, and an empty line after what it has written.
READER = """
import json, sys
import django
django.setup()
from django.core.management import call_command
for line in sys.stdin:
    call_command("export_usage", *json.loads(line), format="jsonl")
    print(flush=True)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """At the end, whatever the runs have asked must stand in the ledger as it stands on the bill."""
    with furnished(tmp_path_factory.mktemp("house"), configuration) as house:
        yield house
        assert reconcile(house.gateway, house.mock).calls


@pytest.fixture(autouse=True)
def no_script_is_left(house: House) -> Iterator[None]:
    yield
    house.mock.queue()


def configuration(upstream: Mock) -> dict[str, Any]:
    """What fails has providers of its own, so that no other test meets one that has a bad name."""
    providers: list[dict[str, Any]] = []
    routes: dict[str, Any] = {}

    def add(model: str, language: str, names: list[str], **options: Any) -> None:
        for name in names:
            provider = {"name": name, "type": language, "base_url": upstream.url, "auth_value": "sk-upstream"}
            providers.append({**provider, **options})
        routes[model] = [{"provider": name, "priority": place} for place, name in enumerate(names, 1)]

    for language in LANGUAGES:
        add(MODELS[language], language, [language])
        add(f"retried-{language}", language, [f"{language}-retried"])
        add(f"small-{language}", language, [f"{language}-small"])
        for number in range(len(BEFORE_CONTENT)):
            add(f"spare-{language}-{number}", language, [f"{language}-{number}-first", f"{language}-{number}-spare"])
        add(f"thoughtful-{language}", language, [f"{language}-thoughtful"], reasoning_history="reasoning_content")
    add("tagged", "openai", ["openai-tagged"], think_tags="tags")
    return {"providers": providers, "model_routes": routes}


class Books:
    """The ledger of a house against the bill, run by run. One process reads it for all: to start one takes a second."""

    def __init__(self, house: House) -> None:
        self._house = house
        environment = {**house.gateway.environment, "DJANGO_SETTINGS_MODULE": "ccproxy_site.settings"}
        self._reader = subprocess.Popen(
            [sys.executable, "-c", READER],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._reader.communicate(timeout=10)

    def check(self, run: Run) -> Report:
        """Fails where the two differ on what a run has caused."""
        self._house.gateway.wait_until_booked()
        asked = {call["request_id"] for call in run.calls}
        report = compare(run.calls, self._rows(asked, "--attempts"), self._rows(asked))
        assert not report.differences, "\n".join(report.differences)
        return report

    def _rows(self, asked: set[str], *options: str) -> list[dict[str, Any]]:
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write(json.dumps(options) + "\n")
        self._reader.stdin.flush()
        rows = [json.loads(line) for line in iter(self._reader.stdout.readline, "\n")]
        return [row for row in rows if row["request_id"] in asked]


@pytest.fixture(scope="module")
def books(house: House) -> Iterator[Books]:
    books = Books(house)
    yield books
    books.close()


@pytest.mark.parametrize(("language", "habit"), CASES)
def test_the_errand_is_done_under_a_habit(
    house: House, books: Books, tmp_path: Path, language: str, habit: Script
) -> None:
    errand = Errand(tmp_path)

    run = run_claude(house, tmp_path, MODELS[language], led_by(*({**step, **habit} for step in errand.steps())))

    errand.check(run, language)
    check_told_and_booked(books, run, language)


def check_told_and_booked(books: Books, run: Run, language: str) -> None:
    """Four calls, no more, and each to the token as billed: with the client and in the ledger."""
    assert [(call["language"], call["outcome"]) for call in run.calls] == [(language, "completed")] * 4
    assert usage_told(run.answer) == usage_billed(run.calls)
    report = books.check(run)
    assert report.exact == report.calls == report.attempts == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_thinking_before_and_between_tools_comes_back(
    house: House, books: Books, tmp_path: Path, language: str
) -> None:
    errand = Errand(tmp_path)

    steps = [*map(with_thinking_between, errand.steps())]
    run = run_claude(house, tmp_path, f"thoughtful-{language}", led_by(*steps))

    errand.check(run, language)
    thought = "".join(part["thinking"] for step in steps[:-1] for part in step["parts"])
    assert thoughts(run.requests[-1], language).split() == thought.split()
    check_told_and_booked(books, run, language)


def with_thinking_between(step: Script) -> Script:
    """The same step with a thought in front of every call, and of the text."""
    parts: list[Script] = [{"thinking": f"{step.get('thinking', 'Now then.')} ", "text": step.get("text", "")}]
    for number, tool in enumerate(step.get("tools", ()), 1):
        parts.append({"thinking": f"Call {number} is {tool['name']}. ", "tool": tool})
    return {"parts": parts}


def thoughts(request: dict[str, Any], language: str) -> str:
    """What the model is told of its own earlier thinking."""
    if language == "responses":
        items = [item for item in request["body"]["input"] if item["type"] == "reasoning"]
        return "".join(part["text"] for item in items for part in item["summary"])
    messages = [message for message in request["body"]["messages"] if message["role"] == "assistant"]
    if language == "openai":
        return "".join(message["reasoning_content"] for message in messages)
    return "".join(block["thinking"] for message in messages for block in message["content"] if "thinking" in block)


def test_thinking_in_tags_is_thinking(house: House, books: Books, tmp_path: Path) -> None:
    errand = Errand(tmp_path)

    steps = ({**step, "thinking_as": "think_tags"} for step in errand.steps())
    run = run_claude(house, tmp_path, "tagged", led_by(*steps))

    errand.check(run, "openai")
    told = [message["content"] for message in run.requests[-1]["body"]["messages"] if message["role"] == "assistant"]
    assert told == ["I look around.", None, None]
    check_told_and_booked(books, run, "openai")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_not_told_is_counted(house: House, books: Books, tmp_path: Path, language: str) -> None:
    errand = Errand(tmp_path)

    steps = ({**step, "usage": "none"} for step in errand.steps())
    run = run_claude(house, tmp_path, MODELS[language], led_by(*steps))

    errand.check(run, language)
    report = books.check(run)
    assert report.counted == report.calls == report.attempts == 4


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("faults", BEFORE_CONTENT)
def test_another_provider_answers_before_the_first_content(
    house: House, books: Books, tmp_path: Path, language: str, faults: str
) -> None:
    errand = Errand(tmp_path)
    number = [*BEFORE_CONTENT].index(faults)
    pairs = zip(BEFORE_CONTENT[faults], errand.steps(), strict=True)
    house.mock.queue(*(script for pair in pairs for script in pair))

    run = run_claude(house, tmp_path, f"spare-{language}-{number}", "Do the task.")

    assert [call["outcome"] for call in run.calls[1::2]] == ["completed"] * 4, run
    errand.check(run, language)
    report = books.check(run)
    assert report.calls == report.attempts == 8
    assert report.exact >= 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_claude_code_repeats_what_broke_in_the_middle(
    house: House, books: Books, tmp_path: Path, language: str
) -> None:
    errand = Errand(tmp_path)
    steps = errand.steps()
    broken = [{**step, **fault} for step, fault in zip(steps, IN_THE_MIDDLE.values(), strict=True)]
    house.mock.queue(*(script for pair in zip(broken, steps, strict=True) for script in pair))

    run = run_claude(house, tmp_path, f"retried-{language}", "Do the task.")

    assert [call["outcome"] for call in run.calls] == ["error", "completed", "cut", "completed"] * 2
    errand.check(run, language)
    report = books.check(run)
    assert report.calls == report.attempts == 8
    assert report.exact >= 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_claude_code_waits_as_it_is_told(house: House, books: Books, tmp_path: Path, language: str) -> None:
    house.mock.queue({"status": 429, "retry_after": 1}, {"status": 529})

    began = time.monotonic()
    run = run_claude(house, tmp_path, f"retried-{language}", led_by({"text": LAST_WORD}))

    assert (run.code, run.answer["result"]) == (0, LAST_WORD), run
    assert time.monotonic() - began > 1
    assert [call["status"] for call in run.calls] == [429, 529, 200]
    report = books.check(run)
    assert report.calls == report.attempts == 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_prompt_that_is_too_long_is_said_once(house: House, books: Books, tmp_path: Path, language: str) -> None:
    run = run_claude(house, tmp_path, f"small-{language}", led_by({"context_window": 1000}))

    assert (run.code, run.answer["result"][:18]) == (1, "Prompt is too long"), run
    if language != "responses":  # its vendor's refusal names no figures
        assert "(limit 1000)" in run.answer["result"]
    assert [call["status"] for call in run.calls] == [400]
    assert books.check(run).calls == 1
