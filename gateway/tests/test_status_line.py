"""The status line for Claude Code: the script as a developer runs it, against servers good and bad."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounting import keys
from gateway import me

SCRIPT = Path(me.__file__).parent / "static" / "gateway" / "statusline.sh"
TOKEN = keys.mint()
INPUT = json.dumps({"session_id": "s", "model": {"id": "claude-opus-5-5"}, "cost": {"total_cost_usd": 1.5}})
GOOD = '{"key":{"name":"x"},"summary":"12.34 USD this month, 0.5600 USD today","budget":null}'


class Server(http.server.ThreadingHTTPServer):
    """Says one thing to everybody, and remembers who asked how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.body, self.pause = 200, GOOD.encode(), 0.0
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["x-api-key"]))
        time.sleep(self.server.pause)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(self.server.status)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def line(home: Path, url: str, **environment: str) -> str:
    known = {"PATH": os.environ["PATH"], "HOME": str(home), "ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": TOKEN}
    done = subprocess.run(
        ["sh", str(SCRIPT)], input=INPUT, env={**known, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def cached(home: Path) -> Path:
    [path] = (home / ".cache" / "ccproxy").iterdir()
    return path


def grow_old(home: Path, seconds: int) -> None:
    asked, answered, told = cached(home).read_text().split(" ", 2)
    cached(home).write_text(f"{int(asked) - seconds} {int(answered) - seconds} {told}")


def test_the_cost_is_shown_and_the_gateway_asked_with_the_key(home: Path, server: Server) -> None:
    assert line(home, server.url + "/") == "ccproxy: 12.34 USD this month, 0.5600 USD today\n"
    assert server.asked == [("/v1/usage", TOKEN)]


def test_within_half_a_minute_the_file_answers(home: Path, server: Server) -> None:
    first = line(home, server.url)
    server.body = GOOD.replace("12.34", "99.99").encode()
    assert line(home, server.url) == first
    assert len(server.asked) == 1
    grow_old(home, 31)
    assert "99.99" in line(home, server.url)


def test_the_file_is_private_and_holds_no_key(home: Path, server: Server) -> None:
    line(home, server.url)
    assert cached(home).stat().st_mode & 0o777 == 0o600
    assert cached(home).parent.stat().st_mode & 0o777 == 0o700
    assert TOKEN not in cached(home).read_text() + cached(home).name


def test_every_gateway_and_key_has_a_file_of_its_own(home: Path, server: Server) -> None:
    line(home, server.url)
    server.body = GOOD.replace("12.34", "77").encode()
    assert "77 USD" in line(home, server.url, ANTHROPIC_AUTH_TOKEN=keys.mint())


def test_while_the_gateway_is_away_the_last_figures_are_marked(home: Path, server: Server) -> None:
    line(home, server.url)
    server.status = 503
    grow_old(home, 31)
    assert line(home, server.url) == "ccproxy: 12.34 USD this month, 0.5600 USD today\n"
    grow_old(home, 300)
    assert (
        line(home, server.url)
        == "ccproxy: 12.34 USD this month, 0.5600 USD today (5 min ago: the gateway does not answer)\n"
    )
    asked = len(server.asked)
    assert "5 min ago" in line(home, server.url)
    assert len(server.asked) == asked, "a gateway that is away is not asked at every keystroke either"


def test_without_any_figure_it_says_so(home: Path) -> None:
    assert line(home, "http://127.0.0.1:9") == "ccproxy: the gateway tells no figures\n"


def test_a_gateway_that_hangs_costs_two_seconds(home: Path, server: Server) -> None:
    server.pause = 4.0
    began = time.monotonic()
    assert "tells no figures" in line(home, server.url)
    assert time.monotonic() - began < 3.5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>proxy login</html>",
        b"null",
        b"[]",
        b'{"summary":',
        b'{"summary":17}',
        b'{"summary":null}',
        b'{"summary":"',
        b"\0\xff\xfe" * 100,
        json.dumps({"models": [{"model": '"summary":"forged"'}]}, separators=(",", ":")).encode(),
        b"x" * 2_000_000,
    ],
)
def test_broken_answers_show_nothing(home: Path, server: Server, body: bytes) -> None:
    server.body = body
    assert line(home, server.url) == "ccproxy: the gateway tells no figures\n"


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500])
def test_refusals_show_nothing(home: Path, server: Server, status: int) -> None:
    server.status = status
    server.body = GOOD.encode()
    assert "forged" not in line(home, server.url)
    assert [path for path, _ in server.asked] == ["/v1/usage"]


@pytest.mark.parametrize(
    "currency",
    [
        "\x1b]0;owned\x07",
        "\x1b[2J",
        "$(touch owned)",
        "`touch owned`",
        "'; touch owned; '",
        "%s%n%d",
        "-n",
        "🙂",
        "*",
        "\r\n",
    ],
)
def test_a_hostile_currency_stays_letters(home: Path, server: Server, currency: str) -> None:
    for raw in (True, False):
        text = currency if raw else json.dumps(currency)[1:-1]
        server.body = GOOD.replace("USD", text).encode()
        token = keys.mint()
        for _ in ("from the server", "from the file"):
            shown = line(home, server.url, ANTHROPIC_AUTH_TOKEN=token)
            assert re.fullmatch(r"ccproxy: [ -~]*\n", shown)
            assert not (home / "owned").exists()
            assert not Path("owned").exists()


@pytest.mark.parametrize(
    "content", ["", "x", "\n", "a b c", "99999999999999999999999 1 x", "1 2", "08 09 x", "-5 -5 \x1b[2J", "$(id) 1 x"]
)
def test_a_damaged_file_is_written_anew(home: Path, server: Server, content: str) -> None:
    line(home, server.url)
    cached(home).write_text(content)
    assert line(home, server.url) == "ccproxy: 12.34 USD this month, 0.5600 USD today\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"ANTHROPIC_AUTH_TOKEN": "sk-ant-of-somebody-else"},
        {"ANTHROPIC_AUTH_TOKEN": ""},
        {"ANTHROPIC_AUTH_TOKEN": 'ccp_"\nurl = "http://127.0.0.1:9/'},
        {"ANTHROPIC_BASE_URL": ""},
    ],
)
def test_without_a_key_of_ours_nobody_is_asked(home: Path, server: Server, environment: dict[str, str]) -> None:
    assert line(home, server.url, **environment) == ""
    assert server.asked == []


def test_the_key_of_ours_is_taken_whichever_variable_holds_it(home: Path, server: Server) -> None:
    line(home, server.url, ANTHROPIC_API_KEY=TOKEN, ANTHROPIC_AUTH_TOKEN="sk-ant-my-own")
    assert server.asked == [("/v1/usage", TOKEN)]


def test_a_curlrc_changes_nothing(home: Path, server: Server) -> None:
    (home / ".curlrc").write_text('url = "http://127.0.0.1:9/"\nverbose\nproxy = "http://127.0.0.1:9"\n')
    assert "12.34" in line(home, server.url)


def test_it_runs_where_nothing_can_be_written(home: Path, server: Server) -> None:
    for folder in ("/proc/none", ""):
        assert "12.34" in line(home, server.url, HOME=folder)
