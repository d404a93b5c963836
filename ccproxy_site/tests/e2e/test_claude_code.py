"""The real Claude Code does its work through the gateway, and every call it caused stands in the ledger."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.family import ROOT, Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.reconcile import FIGURES, reconcile
from providers.dialects import DIALECTS

pytestmark = pytest.mark.e2e

CLAUDE = ROOT / ".e2e" / "node_modules" / ".bin" / "claude"
UPSTREAMS = [name for name in ("anthropic", "openai") if name in DIALECTS]
# Claude Code knows these and asks each with the same body.
MODELS = {"anthropic": "claude-opus-5-5", "openai": "claude-sonnet-5-5"}
NAMES_FOR_USAGE = {
    "inputTokens": ("input",),
    "outputTokens": ("output",),
    "cacheReadInputTokens": ("cache_read",),
    "cacheCreationInputTokens": ("cache_write_5m", "cache_write_1h"),
}


@dataclass
class House:
    gateway: Installation
    mock: Mock
    key: str


@dataclass
class Run:
    """One `claude -p`: how it ended, and what it made the mock do."""

    code: int
    answer: dict[str, Any]
    errors: str
    calls: list[dict[str, Any]]
    requests: list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def claude_code() -> None:
    if not CLAUDE.exists():
        reason = "Claude Code is not installed: make setup-e2e"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def house(claude_code: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with mock(folder) as upstream, installation(folder) as gateway:
        gateway.start()
        gateway.apply(configuration(upstream))
        key = gateway.issue_key()
        gateway.wait_until_key_works(key)
        yield House(gateway, upstream, key)


def configuration(upstream: Mock) -> dict[str, Any]:
    """Every provider is the same mock, in one language or the other."""
    providers = [
        {"name": f"{name}{number}", "type": name, "base_url": upstream.url, "auth_value": "sk-upstream"}
        for name in UPSTREAMS
        for number in (1, 2)
    ]
    routes: dict[str, Any] = {model: [{"provider": f"{name}1"}] for name, model in MODELS.items() if name in UPSTREAMS}
    for name in UPSTREAMS:
        other = UPSTREAMS[UPSTREAMS.index(name) - 1]
        routes[f"renamed-{name}"] = [{"provider": f"{name}1", "model": f"vendor/{name}-model"}]
        routes[f"second-{name}"] = [
            {"provider": f"{other}1", "model": "tried-first", "priority": 1},
            {"provider": f"{name}2", "model": "tried-second", "priority": 2},
        ]
    return {"providers": providers, "model_routes": routes}


def run_claude(house: House, folder: Path, model: str, prompt: str) -> Run:
    calls_before = len(house.mock.bill())
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "CLAUDE_CONFIG_DIR": str(folder / "config"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "ANTHROPIC_BASE_URL": house.gateway.url,
        "ANTHROPIC_AUTH_TOKEN": house.key,
        "ANTHROPIC_MODEL": model,
    }
    workplace = folder / "work"
    workplace.mkdir(exist_ok=True)
    command = [str(CLAUDE), "-p", prompt, "--output-format", "json", "--allowedTools", "Read,Edit,Bash"]
    done = subprocess.run(
        command,
        cwd=workplace,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    calls = house.mock.bill()[calls_before:]
    requests = house.mock.requests()[-len(calls) :] if calls else []
    answer = json.loads(done.stdout) if done.stdout.startswith("{") else {"result": done.stdout}
    return Run(done.returncode, answer, done.stderr, calls, requests)


def led_by(*steps: dict[str, Any]) -> str:
    return f"Do the task. [[mock: {json.dumps({'agent': steps})}]]"


def a_small_image() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\0" + bytes((16 * row, 255 - 16 * row, 128)) * 16 for row in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + image


def tool_results(request: dict[str, Any], upstream: str) -> list[dict[str, Any]]:
    """Of all turns, as the upstream's language has them."""
    messages = request["body"]["messages"]
    if upstream == "openai":
        return [message for message in messages if message["role"] == "tool"]
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return [block for block in blocks if block["type"] == "tool_result"]


def usage_told(answer: dict[str, Any]) -> dict[str, int]:
    """What Claude Code added up from the answers it saw."""
    models = answer["modelUsage"].values()
    return {name: sum(model[name] for model in models) for name in NAMES_FOR_USAGE}


def usage_billed(calls: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(call[column] for call in calls for column in own) for name, own in NAMES_FOR_USAGE.items()}


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_claude_code_reads_edits_fails_and_sees(house: House, tmp_path: Path, upstream: str) -> None:
    program, picture = tmp_path / "work" / "greeting.py", tmp_path / "work" / "picture.png"
    program.parent.mkdir()
    program.write_text('print("hello")\n')
    picture.write_bytes(a_small_image())
    edit = {"file_path": str(program), "old_string": "hello", "new_string": "good morning, naïve world"}
    careless = upstream == "openai"  # call_0 in every turn: Claude Code loses the second unless it gets other ids

    run = run_claude(
        house,
        tmp_path,
        MODELS[upstream],
        led_by(
            {
                "thinking": "First I look around.",
                "text": "I look around.",
                "tools": [
                    {"name": "Read", "input": {"file_path": str(program)}},
                    {"name": "Bash", "input": {"command": "echo looked-around"}},
                ],
                "interleave": True,
                "tool_fragment": 3,
            },
            {
                "tools": [
                    {"name": "Edit", "input": edit},
                    {"name": "Read", "input": {"file_path": str(picture)}},
                ],
                "repeat_ids": careless,
            },
            {"tools": [{"name": "Bash", "input": {"command": "echo broken >&2; exit 3"}}], "repeat_ids": careless},
            {"thinking": "That is all.", "text": "All done: naïve ✓"},
        ),
    )

    assert (run.code, run.answer["result"]) == (0, "All done: naïve ✓"), run
    assert run.answer["is_error"] is False
    assert program.read_text() == 'print("good morning, naïve world")\n'
    assert [call["language"] for call in run.calls] == [upstream] * 4
    assert [call["outcome"] for call in run.calls] == ["completed"] * 4
    assert [call["stop_reason"] for call in run.calls] == ["tool_use"] * 3 + ["end_turn"]
    assert base64.b64encode(picture.read_bytes()).decode() in run.requests[2]["text"]

    results = tool_results(run.requests[3], upstream)
    assert len(results) == 5
    assert "hello" in str(results[0])
    assert "looked-around" in str(results[1])
    if upstream == "anthropic":
        assert [result.get("is_error") for result in results] == [None, False, None, None, True]
    else:
        assert results[4]["content"].startswith("Error: ")
    assert "broken" in str(results[4])
    assert "Exit code 3" in str(results[4])
    assert len({result.get("tool_use_id") or result["tool_call_id"] for result in results}) == 5

    assert usage_told(run.answer) == usage_billed(run.calls)
    report = reconcile(house.gateway, house.mock)
    assert report.exact == report.calls == report.attempts


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_model_may_have_another_name_upstream(house: House, tmp_path: Path, upstream: str) -> None:
    run = run_claude(house, tmp_path, f"renamed-{upstream}", led_by({"text": "Renamed."}))

    assert (run.code, run.answer["result"]) == (0, "Renamed."), run
    assert [call["model"] for call in run.calls] == [f"vendor/{upstream}-model"]
    assert list(run.answer["modelUsage"]) == [f"renamed-{upstream}"]
    reconcile(house.gateway, house.mock)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_the_second_provider_serves_when_the_first_is_overloaded(house: House, tmp_path: Path, upstream: str) -> None:
    overloaded = {"status": 529}
    look = {"thinking": "Hm.", "tools": [{"name": "Bash", "input": {"command": "echo looked-around"}}]}
    house.mock.queue(overloaded, look, overloaded, {"text": "The second served."})

    run = run_claude(house, tmp_path, f"second-{upstream}", "Look around.")

    assert (run.code, run.answer["result"]) == (0, "The second served."), run
    assert [(call["model"], call["status"]) for call in run.calls] == [("tried-first", 529), ("tried-second", 200)] * 2
    assert [call["language"] for call in run.calls if call["status"] == 200] == [upstream] * 2
    assert "looked-around" in str(tool_results(run.requests[3], upstream))
    reconcile(house.gateway, house.mock)
    attempts = house.gateway.ledger("--attempts")[-4:]
    assert [attempt["status"] for attempt in attempts] == ["failed", "completed"] * 2
    assert not any(attempt[name] for attempt in attempts if attempt["status"] == "failed" for name in FIGURES)
