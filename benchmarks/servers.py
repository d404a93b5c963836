"""The processes that are measured and the upstream behind the gateway: started, pinned, read, ended."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import MODEL_PREFIX
from benchmarks.load import Address
from ccproxy_site.tests.e2e.family import ROOT, Installation, descendants, free_port, installation

PATIENCE = 60.0
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGESIZE")


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
    """A server under measurement."""

    name: str
    address: Address
    pid: int

    def cpu_seconds(self) -> float:
        """Of the process and all below it, in user and kernel mode, since they were started."""
        ticks = 0
        for pid in (self.pid, *descendants(self.pid)):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own, and of its children that have ended
        return ticks / TICKS

    def resident_bytes(self) -> int:
        family = (self.pid, *descendants(self.pid))
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family) * PAGE

    def settle(self) -> None:
        """Returns once all the work is done that its replies left behind: when it does nothing any more."""
        spent, until = -1.0, time.monotonic() + PATIENCE
        while time.monotonic() < until and self.cpu_seconds() > spent + 0.01:
            spent = self.cpu_seconds()
            time.sleep(0.25)


def processors() -> Processors:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return Processors(frozenset(usable), frozenset(usable))
    return Processors(frozenset(usable[:1]), frozenset(usable[1:2]))


def processor_times(processors: frozenset[int]) -> tuple[int, int]:
    """Ticks in which they were busy, and all ticks, since the machine was started; with whatever else runs there."""
    busy = every = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.removeprefix("cpu").isdecimal() and int(name.removeprefix("cpu")) in processors:
            ticks = [int(field) for field in fields[:8]]
            every += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4]  # idle, and idle while the disk works
    return busy, every


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
def upstream(processor: frozenset[int]) -> Iterator[Target]:
    """Also a target: what is asked straight from it is the floor of every delay."""
    port = free_port()
    with module("benchmarks.upstream", port, processor) as pid:
        yield Target("upstream", Address(port, "/v1/messages"), pid)


@contextlib.contextmanager
def bare(processor: frozenset[int]) -> Iterator[Target]:
    port = free_port()
    with module("benchmarks.bare", port, processor) as pid:
        yield Target("bare", Address(port, "/{scenario}"), pid)


@contextlib.contextmanager
def module(name: str, port: int, processor: frozenset[int]) -> Iterator[int]:
    with program(name, [sys.executable, "-m", name, "--port", str(port)], port, processor, cwd=ROOT) as pid:
        yield pid


@contextlib.contextmanager
def program(name: str, command: list[str], port: int, processor: frozenset[int], **options: Any) -> Iterator[int]:
    """Runs until the block ends; gives its process id once it listens."""
    with on(processor):
        process = subprocess.Popen(command, **options)
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


@dataclass(frozen=True)
class Gateway(Target):
    """One of ours: it says itself when everything is booked."""

    house: Installation

    def settle(self) -> None:
        self.house.wait_until_booked()

    def booked_rows(self) -> int:
        """Of its ledger, in the embedded database."""
        database = self.house.folder / "var" / "ccproxy.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM accounting_usagerecord").fetchone()[0])


@contextlib.contextmanager
def gateway(name: str, folder: Path, upstream_port: int, language: str, processor: frozenset[int]) -> Iterator[Gateway]:
    """The real one, with everything on that an answer needs in the end: key, route, price, ledger."""
    folder.mkdir()
    with installation(folder, LOG_LEVEL="WARNING") as house:
        house.manage("migrate", "--verbosity", "0")
        house.apply(configuration(upstream_port, language))
        key = house.issue_key("bench")
        with on(processor):
            house.start()
        assert house.process is not None
        address = Address(house.port, "/v1/messages", (f"authorization: Bearer {key}",))
        yield Gateway(name, address, house.process.pid, house)
        house.stop()


def configuration(upstream_port: int, language: str) -> dict[str, Any]:
    provider = {"name": "upstream", "type": language, "auth_value": "sk-upstream"}
    return {
        "providers": [{**provider, "base_url": f"http://127.0.0.1:{upstream_port}"}],
        "model_routes": {MODEL_PREFIX + "*": [{"provider": "upstream"}]},
        "prices": [{"model": MODEL_PREFIX + "*", "valid_from": "2026-01-01", "input": 3, "output": 15}],
    }
