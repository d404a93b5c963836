"""The real Claude Code as a test drives it: where it runs, and one errand that needs all an agent does."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.family import ROOT, Installation, Mock, installation, mock
from providers.dialects import DIALECTS

CLAUDE = ROOT / ".e2e" / "node_modules" / ".bin" / "claude"
LANGUAGES = tuple(DIALECTS)
# Claude Code knows these.
MODELS = {"anthropic": "claude-opus-5-5", "openai": "claude-sonnet-5-5", "responses": "claude-haiku-5-5"}
NAMES_FOR_USAGE = {
    "inputTokens": ("input",),
    "outputTokens": ("output",),
    "cacheReadInputTokens": ("cache_read",),
    "cacheCreationInputTokens": ("cache_write_5m", "cache_write_1h"),
}
LAST_WORD = "All done: naïve ✓"

Script = dict[str, Any]


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


def demand(program: Path) -> None:
    """A developer may leave the end-to-end tests out, a build may not."""
    if not program.exists():
        reason = f"{program.name} is not installed: make setup-e2e"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@contextmanager
def furnished(folder: Path, configuration: Callable[[Mock], dict[str, Any]]) -> Iterator[House]:
    demand(CLAUDE)
    with mock(folder) as upstream, installation(folder) as gateway:
        gateway.start()
        gateway.apply(configuration(upstream))
        key = gateway.issue_key()
        gateway.wait_until_key_works(key)
        yield House(gateway, upstream, key)


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


def led_by(*steps: Script) -> str:
    return f"Do the task. [[mock: {json.dumps({'agent': steps})}]]"


class Errand:
    """Reads and looks around at once, edits and sees a picture, fails, and says so: four turns, five tool calls."""

    def __init__(self, folder: Path) -> None:
        workplace = folder / "work"
        workplace.mkdir()
        self.program, self.picture = workplace / "greeting.py", workplace / "picture.png"
        self.program.write_text('print("hello")\n')
        self.picture.write_bytes(a_small_image())

    def steps(self) -> list[Script]:
        edit = {"file_path": str(self.program), "old_string": "hello", "new_string": "good morning, naïve world"}
        return [
            {
                "thinking": "First I look around: naïve ✓",
                "text": "I look around.",
                "tools": [
                    {"name": "Read", "input": {"file_path": str(self.program)}},
                    {"name": "Bash", "input": {"command": "echo looked-around"}},
                ],
            },
            {
                "tools": [
                    {"name": "Edit", "input": edit},
                    {"name": "Read", "input": {"file_path": str(self.picture)}},
                ],
            },
            {"tools": [{"name": "Bash", "input": {"command": "echo broken >&2; exit 3"}}]},
            {"thinking": "That is all.", "text": LAST_WORD},
        ]

    def check(self, run: Run, language: str) -> None:
        """All of it was done, and the upstream heard of all of it."""
        assert (run.code, run.answer["result"]) == (0, LAST_WORD), run
        assert run.answer["is_error"] is False
        assert self.program.read_text() == 'print("good morning, naïve world")\n'
        last = run.requests[-1]
        assert base64.b64encode(self.picture.read_bytes()).decode() in last["text"]
        results = tool_results(last, language)
        assert len(results) == 5
        assert "hello" in str(results[0])
        assert "looked-around" in str(results[1])
        assert "broken" in str(results[4])
        assert "Exit code 3" in str(results[4])
        if language == "anthropic":
            assert [result.get("is_error") for result in results] == [None, False, None, None, True]
        else:
            assert str(results[4].get("content") or results[4].get("output")).startswith("Error: ")
        assert len({id_answered(result) for result in results}) == 5


def id_answered(result: dict[str, Any]) -> str:
    """Of the tool call that a result belongs to, in any language."""
    [name] = {"tool_use_id", "tool_call_id", "call_id"} & result.keys()
    return str(result[name])


def tool_results(request: dict[str, Any], language: str) -> list[dict[str, Any]]:
    """Of all turns, as the upstream's language has them."""
    if language == "responses":
        return [item for item in request["body"]["input"] if item["type"] == "function_call_output"]
    messages = request["body"]["messages"]
    if language == "openai":
        return [message for message in messages if message["role"] == "tool"]
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return [block for block in blocks if block["type"] == "tool_result"]


def usage_told(answer: dict[str, Any]) -> dict[str, int]:
    """What Claude Code added up from the answers it saw."""
    models = answer["modelUsage"].values()
    return {name: sum(model[name] for model in models) for name in NAMES_FOR_USAGE}


def usage_billed(calls: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(call[column] for call in calls for column in own) for name, own in NAMES_FOR_USAGE.items()}


def a_small_image() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\0" + bytes((16 * row, 255 - 16 * row, 128)) * 16 for row in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + image
