"""A whole installation in a folder of its own: `serve` and all its children, a mock upstream, and the bill."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from ccproxy_site import keyring

ROOT = Path(__file__).resolve().parents[3]
MANAGE = [sys.executable, str(ROOT / "manage.py")]
PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get_json(url: str, timeout: float = 5.0) -> Any:
    with urllib.request.urlopen(url, timeout=timeout) as reply:
        return json.load(reply)


def post_json(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5):
        pass


class Mock:
    """The mock upstream as a process; its bill survives it in a file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.bill_file = folder / "bill.jsonl"
        command = [*MANAGE, "mock_upstream", "--port", str(self.port), "--bill", str(self.bill_file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(folder))
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def default(self, script: dict[str, Any] | None) -> None:
        post_json(self.url + "/__script", {"default": script})

    def queue(self, *scripts: dict[str, Any]) -> None:
        """For the next calls, in the order in which they come."""
        post_json(self.url + "/__script", scripts)

    def requests(self) -> list[dict[str, Any]]:
        """The last 50, as they came."""
        return list(get_json(self.url + "/__requests", timeout=30.0))

    def bill(self) -> list[dict[str, Any]]:
        return list(get_json(self.url + "/__bill", timeout=30.0)["calls"])

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """The machine's, without anything that names another installation."""
    others = {"DATABASE_URL", "REDIS_URL", *keyring.MAKERS}
    inherited = {name: value for name, value in os.environ.items() if name not in others}
    return {**inherited, "CCPROXY_DATA_DIR": str(folder / "var"), "PROBE_SECONDS": "3600", **extra}


class Installation:
    """`serve` in a folder of its own. Start it, configure it, kill it, start it again."""

    def __init__(self, folder: Path, *, worker: bool = False, **extra: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = environment(folder, **extra)
        self.log = folder / "serve.log"
        self.worker = worker
        self.processes = 1
        self.process: subprocess.Popen[bytes] | None = None

    def manage(self, *arguments: str) -> str:
        """A management command's stdout; its stderr is shown when it fails."""
        done = subprocess.run([*MANAGE, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def apply(self, configuration: dict[str, Any]) -> str:
        """JSON is YAML."""
        path = self.folder / "configuration.yaml"
        path.write_text(json.dumps(configuration))
        return self.manage("apply", str(path))

    def issue_key(self, name: str = "tester", *options: str) -> str:
        return self.manage("issue_key", name, *options).splitlines()[-1]

    def first_login(self) -> dict[str, str]:
        """The password and the key that only the first start has told, once it has."""
        until = time.monotonic() + PATIENCE
        while "\n  claude\n" not in self.log.read_text():
            assert time.monotonic() < until, "the first start has not told where it is"
            time.sleep(0.05)
        lines = (self.folder / "var" / "first-login.txt").read_text().splitlines()
        told = dict(line.split(maxsplit=1) for line in lines)
        return {"password": told["administrator"].removeprefix("admin / "), "key": told["key"]}

    def ledger(self, *options: str) -> list[dict[str, Any]]:
        text = self.manage("export_usage", "--format", "jsonl", *options)
        return [json.loads(line) for line in text.splitlines()]

    def start(self) -> None:
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        command = [*MANAGE, "serve", "--port", str(self.port), "--workers", str(self.processes)]
        command += [] if self.worker else ["--no-worker"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def health(self) -> dict[str, Any]:
        """What /health says, whatever its status is, which is added as `http`."""
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as reply:
                return {**json.load(reply), "http": reply.status}
        except urllib.error.HTTPError as refusal:
            with refusal:
                return {**json.load(refusal), "http": refusal.code}

    @property
    def spool(self) -> Path:
        return self.folder / "var" / "spool"

    def wait_until_ready(self, seconds: float = PATIENCE) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process is None or self.process.poll() is None, self.log.read_text()[-4000:]
            with contextlib.suppress(urllib.error.URLError, OSError):
                if get_json(self.url + "/health/ready", timeout=2)["status"] != "unhealthy":
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s: {self.log.read_text()[-4000:]}")

    def wait_until_key_works(self, key: str, seconds: float = PATIENCE) -> None:
        """Until the running gateway knows what was configured last."""
        request = urllib.request.Request(self.url + "/v1/models", headers={"x-api-key": key})
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=5):
                return
            time.sleep(0.05)
        raise AssertionError(f"the key was not known after {seconds} s: {self.log.read_text()[-4000:]}")

    def family(self) -> list[int]:
        """The supervisor and every process below it."""
        assert self.process is not None
        return [self.process.pid, *descendants(self.process.pid)]

    def web_processes(self) -> set[int]:
        """Also those that only finish what they answer."""
        found = set()
        for pid in self.family():
            with contextlib.suppress(OSError):
                if b"ccproxy_site.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
        return found

    def kill(self) -> None:
        """-9 for everyone, the supervisor first; nobody is left when it returns."""
        family = self.family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)
        self.process = None
        until = time.monotonic() + 10
        while any(lives(pid) for pid in family):
            assert time.monotonic() < until, f"some of {family} outlived -9"
            time.sleep(0.005)

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(30)
        self.process = None
        return code

    def wait_until_booked(self, seconds: float = PATIENCE) -> None:
        """Until the spools, also those of dead processes, hold nothing that is not in the database."""
        # Each question goes to any of the processes: so many reach all of them.
        questions = 1 if self.processes == 1 else 8 * self.processes
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            owners = {path.stem.rpartition("-")[0] for path in self.spool.glob("*.spool")}
            if self.process is None:
                if not owners:
                    return
            elif len(owners) <= self.processes and all(
                self.health()["spool_backlog_bytes"] == 0 for _ in range(questions)
            ):
                return
            time.sleep(0.05)
        raise AssertionError("the spool was not booked in time")


def descendants(pid: int) -> list[int]:
    found = []
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if children.exists():
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def lives(pid: int) -> bool:
    """A zombie does not: it waits for somebody to ask how it ended, and holds nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def database(kind: str) -> Iterator[dict[str, str]]:
    """The environment of an installation on "sqlite", or on "postgres" with a database that leaves with the block."""
    if kind == "sqlite":
        yield {}
        return
    server = os.environ.get("DATABASE_URL", "")
    if not server.startswith("postgres"):
        reason = "DATABASE_URL names no PostgreSQL"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    name = f"ccproxy_e2e_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            url = urlsplit(server)._replace(path=f"/{name}").geturl()
            yield {"DATABASE_URL": url, **{secret: make() for secret, make in keyring.MAKERS.items()}}
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextlib.contextmanager
def installation(folder: Path, *, worker: bool = False, **extra: str) -> Iterator[Installation]:
    held = Installation(folder, worker=worker, **extra)
    try:
        yield held
    finally:
        if held.process is not None:
            held.kill()


@contextlib.contextmanager
def mock(folder: Path) -> Iterator[Mock]:
    held = Mock(folder)
    try:
        yield held
    finally:
        held.stop()
