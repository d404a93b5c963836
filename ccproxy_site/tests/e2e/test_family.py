"""`serve`: what the first start makes and tells, who belongs to the family, and that nobody outlives it."""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import pty
import re
import select
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.family import (
    MANAGE,
    Installation,
    database,
    environment,
    free_port,
    get_json,
    installation,
    lives,
    mock,
)
from gateway.first_run import VARIABLES

pytestmark = pytest.mark.e2e

PATIENCE = 30.0
# What a member's command line says of it.
MEMBERS = {
    "serve": " serve ",
    "gateway": "ccproxy_site.server",
    "worker": " worker ",
    "beat": " beat ",
    "demo provider": "mock_upstream",
}
# Whoever runs the tests may have a key of their own: a first start would make a provider of it.
NOTHING = dict.fromkeys(VARIABLES, "")
A_QUESTION = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Who is there?"}]}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("house")
    with installation(folder, worker=True, PROBE_SECONDS="1", **NOTHING) as held:
        yield held


@pytest.fixture
def family(house: Installation) -> Installation:
    """Running, after however many deaths."""
    if house.process is None:
        house.start()
    return house


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def members(house: Installation) -> dict[str, int]:
    """Who is there, by name."""
    found = {}
    for pid in house.family():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found.update({name: pid for name, mark in MEMBERS.items() if mark in command})
    return found


def ask(house: Installation, key: str) -> tuple[int, dict[str, Any]]:
    headers = {"x-api-key": key, "content-type": "application/json"}
    request = urllib.request.Request(house.url + "/v1/messages", json.dumps(A_QUESTION).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_first_start_tells_where_it_is_and_keeps_its_secrets_to_itself(family: Installation) -> None:
    secrets = family.first_login()
    path = family.folder / "var" / "first-login.txt"
    told = family.log.read_text()

    assert f"admin           {family.url}/admin/" in told
    assert f"  export ANTHROPIC_BASE_URL={family.url}\n  export ANTHROPIC_AUTH_TOKEN=<a key" in told
    assert told.count(f"first login     in {path}, ") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((path.parent / "secrets.env").stat().st_mode) == 0o600
    assert not any(secret in told for secret in secrets.values())


def test_a_first_start_that_is_stopped_at_once_has_kept_its_secrets(tmp_path: Path) -> None:
    """They are made once: if they were told only in the end, nobody would ever know them."""
    with installation(tmp_path, worker=False, **NOTHING) as house:
        house.spawn()
        wait_until(lambda: "gateway" in members(house), "the gateway is being started")
        assert house.stop() == 0
    assert "administrator" in (tmp_path / "var" / "first-login.txt").read_text()


def test_the_password_of_the_first_start_opens_the_admin(family: Installation) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    with browser.open(family.url + "/admin/login/?next=/admin/", timeout=10) as page:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
    assert token
    form = {
        "username": "admin",
        "password": family.first_login()["password"],
        "csrfmiddlewaretoken": token[1],
        "next": "/admin/",
    }

    with browser.open(family.url + "/admin/login/", urllib.parse.urlencode(form).encode(), timeout=10) as page:
        assert (page.status, page.url) == (200, family.url + "/admin/")
        assert "/admin/logout/" in page.read().decode()


def test_the_demo_answers_until_there_is_a_provider(tmp_path: Path) -> None:
    with installation(tmp_path, worker=False, **NOTHING) as house, mock(tmp_path) as upstream:
        house.start()
        key = house.first_login()["key"]
        wait_until(lambda: ask(house, key)[0] == 200, "the demo answers")
        assert "mock upstream" in ask(house, key)[1]["content"][0]["text"]
        upstream.default({"text": "A real one."})

        provider = {"name": "real", "type": "anthropic", "base_url": upstream.url, "auth_value": "sk-upstream"}
        house.apply({"providers": [provider], "model_routes": {"*opus*": [{"provider": "real"}]}})

        wait_until(lambda: ask(house, key)[1].get("content", [{}])[0].get("text") == "A real one.", "the demo left", 8)
        house.apply({"providers": [{"name": "real", "enabled": False}]})
        wait_until(lambda: ask(house, key)[0] == 503, "a disabled provider leaves nobody to ask", 8)


def test_a_worker_answers_and_its_probe_is_written_down(family: Installation) -> None:
    worker = f"celery@{socket.gethostname()}"
    inspect = [sys.executable, "-m", "celery", "-A", "ccproxy_site", "inspect", "ping", "-t", "20", "-d", worker]
    done = subprocess.run(
        [*inspect, "--json"],
        env=family.environment,
        cwd=Path(MANAGE[1]).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {worker: {"ok": "pong"}}
    path = family.folder / "var" / "ccproxy.sqlite3"

    def is_probed() -> bool:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute("SELECT ok, detail FROM providers_providerhealth").fetchall() == [(1, "HTTP 200")]

    wait_until(is_probed, "the demo is probed and found well")


def test_whoever_dies_in_the_family_is_replaced(family: Installation) -> None:
    wait_until(lambda: len(members(family)) == len(MEMBERS), f"all are there: {members(family)}")
    before = members(family)
    for name in before.keys() - {"serve"}:
        os.kill(before[name], signal.SIGKILL)

    def is_replaced() -> bool:
        now = members(family)
        return now.keys() == before.keys() and all(now[name] != before[name] for name in now if name != "serve")

    wait_until(is_replaced, "everyone is there again")
    family.wait_until_ready()
    assert "gateway ended with code -9" in family.log.read_text()


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT"])
def test_who_is_asked_to_end_ends_with_everyone(family: Installation, ending: str) -> None:
    assert family.process is not None
    pids = family.family()
    family.process.send_signal(signal.Signals[ending])

    code = family.process.wait(PATIENCE)
    family.process = None

    assert code == 0
    assert [pid for pid in pids if lives(pid)] == []
    assert "Traceback" not in family.log.read_text()


def test_nobody_outlives_a_supervisor_that_is_killed(family: Installation) -> None:
    wait_until(lambda: len(members(family)) == len(MEMBERS), f"all are there: {members(family)}")
    pids = family.family()
    assert family.process is not None
    family.process.kill()
    family.process.wait(5)
    family.process = None

    wait_until(lambda: not any(map(lives, pids)), "all are gone", 5)


def test_at_a_terminal_the_secrets_are_shown_and_ctrl_c_ends_everyone(tmp_path: Path) -> None:
    port, variables = free_port(), environment(tmp_path, **NOTHING)
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [*MANAGE, "serve", "--port", str(port), "--no-worker"],
        env=variables,
        cwd=tmp_path,  # from wherever one is
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        close_fds=True,
        preexec_fn=lambda: os.login_tty(its_end),  # noqa: PLW1509 - no thread of ours holds a lock
    )
    os.close(its_end)
    try:
        shown = read_until(terminal, "\n  claude")
        password = re.search(r"administrator   admin / (\S+)", shown)
        key = re.search(r"key             (\S+)", shown)
        assert password, shown
        assert key, shown
        assert f"ANTHROPIC_AUTH_TOKEN={key[1]}\n" in shown
        assert not (tmp_path / "var" / "first-login.txt").exists()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"x-api-key": key[1]})
        assert get_json(request)["data"]  # type: ignore[arg-type]

        os.write(terminal, b"\x03")
        assert process.wait(PATIENCE) == 0
        with pytest.raises(urllib.error.URLError):
            get_json(f"http://127.0.0.1:{port}/health/live")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def read_until(terminal: int, mark: str) -> str:
    shown, until = "", time.monotonic() + 60
    while mark not in shown:
        readable, _, _ = select.select([terminal], [], [], max(0, until - time.monotonic()))
        assert readable, f"{mark!r} was not shown: {shown}"
        shown += os.read(terminal, 65536).decode().replace("\r\n", "\n")
    return shown


def refused_start(folder: Path, port: int, **variables: str) -> str:
    """The one sentence with which a start ends."""
    done = subprocess.run(
        [*MANAGE, "serve", "--port", str(port), "--no-worker"],
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_taken_port_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be listened on" in refused_start(tmp_path, port)
    assert not (tmp_path / "var" / "ccproxy.sqlite3").exists()


def test_missing_secrets_stop_the_start_on_a_shared_database(tmp_path: Path) -> None:
    said = refused_start(tmp_path, free_port(), DATABASE_URL="postgres://127.0.0.1:9/absent", STATE_SECRET="there")

    assert "SECRET_KEY, CREDENTIAL_KEYS, KEY_DIGEST_SECRET must be set" in said


def test_pending_migrations_stop_the_start_on_a_shared_database(tmp_path: Path) -> None:
    with database("postgres") as shared:
        said = refused_start(tmp_path, free_port(), **shared)

    assert "pending migrations: run `python manage.py migrate` once" in said
