"""The processes that are measured and the upstream behind the gateway: started, pinned, read, ended."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import MODEL_PREFIX
from benchmarks.load import Address
from ccproxy_site.tests.e2e.family import ROOT, Installation, descendants, free_port, installation

PATIENCE = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Processors:
    """Which one the measured server runs on, and which one everything else."""

    server: frozenset[int]
    others: frozenset[int]

    @property
    def apart(self) -> bool:
        return not self.server & self.others


@dataclass(frozen=True)
class Target:
    """A server under measurement. `settle` returns once it has done all the work that its replies left behind."""

    name: str
    address: Address
    pid: int
    settle: Callable[[], None]

    def cpu_seconds(self) -> float:
        """Of the process and all its threads, in user and kernel mode, since it was started."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def processors() -> Processors:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return Processors(frozenset(usable), frozenset(usable))
    return Processors(frozenset(usable[:1]), frozenset(usable[1:2]))


@contextlib.contextmanager
def on(processor: frozenset[int]) -> Iterator[None]:
    """Whatever is started in the block runs there for the rest of its life, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processor)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def upstream(language: str, processor: frozenset[int]) -> Iterator[str]:
    """Gives its base URL."""
    port = free_port()
    with module("benchmarks.upstream", port, processor, "--type", language):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def bare(processor: frozenset[int]) -> Iterator[Target]:
    port = free_port()
    with module("benchmarks.bare", port, processor) as pid:
        yield Target("bare", Address(port, "/{scenario}"), pid, settle=lambda: None)


@contextlib.contextmanager
def module(name: str, port: int, processor: frozenset[int], *options: str) -> Iterator[int]:
    command = [sys.executable, "-m", name, "--port", str(port), *options]
    with on(processor):
        process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until_listening(name, port, process)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_listening(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{name} does not listen after {PATIENCE:.0f} s")


@contextlib.contextmanager
def gateway(folder: Path, upstream_url: str, language: str, processor: frozenset[int]) -> Iterator[Target]:
    """The real one, with everything on that an answer needs in the end: key, route, price, ledger."""
    with installation(folder, LOG_LEVEL="WARNING") as house:
        house.manage("migrate", "--verbosity", "0")
        house.apply(configuration(upstream_url, language))
        key = house.issue_key("bench")
        with on(processor):
            house.start()
        address = Address(house.port, "/v1/messages", (f"authorization: Bearer {key}",))
        yield Target("gateway", address, web_process(house), house.wait_until_booked)
        house.stop()


def configuration(upstream_url: str, language: str) -> dict[str, Any]:
    return {
        "providers": [{"name": "upstream", "type": language, "base_url": upstream_url, "auth_value": "sk-upstream"}],
        "model_routes": {MODEL_PREFIX + "*": [{"provider": "upstream"}]},
        "prices": [{"model": MODEL_PREFIX + "*", "valid_from": "2026-01-01", "input": 3, "output": 15}],
    }


def web_process(house: Installation) -> int:
    """The one that answers requests, among the children of `serve`."""
    assert house.process is not None
    for pid in descendants(house.process.pid):
        if b"ccproxy_site.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise RuntimeError("the gateway has no web process")


def booked_rows(folder: Path) -> int:
    """Of the ledger, in the embedded database."""
    database = folder / "var" / "ccproxy.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM accounting_usagerecord").fetchone()[0])
