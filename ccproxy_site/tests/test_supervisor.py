"""The family with children that only pretend: who is started, who is asked to end, in which order, and who is left."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccproxy_site import supervisor
from ccproxy_site.supervisor import listeners
from ccproxy_site.tests.e2e.family import ROOT, descendants, free_port, lives

PATIENCE = 20.0
# A web process as the supervisor sees it. What it does is written in the folder and read as it starts.
PRETENDER = """
import os, pathlib, signal, socket, sys, threading, time

folder, name, *options = sys.argv[1:]
options = dict(zip(options[::2], map(int, options[1::2])))
behaviour = (pathlib.Path(folder) / "behaviour").read_text().split()
ended = threading.Event()
heard = []

def note(what):
    with open(pathlib.Path(folder) / "journal", "a") as journal:
        journal.write(f"{name}:{os.getpid()}:{what}\\n")

def hear(number, frame):
    heard.append(number)
    note(signal.Signals(number).name)

def work(listener):
    while signal.SIGHUP not in heard:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            time.sleep(0.01)
            continue
        connection.send(str(os.getpid()).encode())
        connection.close()

signal.signal(signal.SIGTERM, hear)
signal.signal(signal.SIGHUP, hear)
note("started")
if name == "rehearsal":
    sys.exit("refused" in behaviour)
if "dies" in behaviour and name == "web":
    sys.exit(3)
if "--fd" in options and "mute" not in behaviour:
    threading.Thread(target=work, args=(socket.socket(fileno=options["--fd"]),), daemon=True).start()
    note("accepts")
    os.write(options["--ready-fd"], b"1")
    os.close(options["--ready-fd"])
while not heard or ("deaf" in behaviour and name == "web"):
    time.sleep(0.01)
until = time.monotonic() + (30 if "lingers" in behaviour and name == "web" else 0.1)
while time.monotonic() < until and len(heard) < 2:
    time.sleep(0.01)
note("ended")
"""
FAMILY = """
import logging, os, sys
from ccproxy_site import supervisor
from ccproxy_site.supervisor import Child, Family, Slot, listeners

logging.basicConfig(level=logging.INFO)
folder, port, number, supervisor.PATIENCE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
supervisor.LATE_AT_THE_END, supervisor.LATE_AFTER_A_RESTART = 0.5, 1.0
pretender = [sys.executable, folder + "/pretender.py", folder]
slots = [Slot("web", [*pretender, "web"], os.environ, held) for held in listeners("127.0.0.1", port, number)]
worker, demo, rehearsal = (Child(name, [*pretender, name], os.environ) for name in ("worker", "demo", "rehearsal"))
sys.exit(not Family(slots, [worker], [demo], rehearsal=rehearsal, drain_seconds=0.5).run())
"""


class House:
    """A family in a process of its own, and the journal that its children write."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "pretender.py").write_text(PRETENDER)

    def start(
        self, number: int = 2, *, behaviour: str = "", patience: float = 30.0, terminal: int | None = None
    ) -> None:
        self.behave(behaviour)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", FAMILY, str(self._folder), str(self.port), str(number), str(patience)],
                cwd=ROOT,
                stdin=terminal if terminal is not None else subprocess.DEVNULL,
                stderr=log,
                preexec_fn=(lambda: os.login_tty(terminal)) if terminal is not None else None,  # noqa: PLW1509
            )
        self.wait_until(lambda: self.count("web", "accepts") == number and self.count("demo", "started") == 1)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def behave(self, how: str) -> None:
        """From here on; who runs already is as it was."""
        (self._folder / "behaviour").write_text(how)

    def journal(self) -> list[tuple[str, int, str]]:
        path = self._folder / "journal"
        lines = [line.split(":") for line in path.read_text().splitlines()] if path.exists() else []
        return [(name, int(pid), what) for name, pid, what in lines]

    def count(self, name: str, what: str) -> int:
        return len(self.pids(name, what))

    def pids(self, name: str, what: str) -> list[int]:
        return [pid for who, pid, told in self.journal() if (who, told) == (name, what)]

    def ask(self) -> int:
        """The process that answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            return int(connection.recv(100))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < until, f"{self.journal()}\n{self.log.read_text()}"
            time.sleep(0.01)

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    held = House(tmp_path)
    yield held
    held.close()


class Visitors:
    """While the block runs somebody connects again and again, and must always be answered."""

    def __init__(self, house: House) -> None:
        self.answers: list[int] = []
        self.failures: list[OSError | ValueError] = []
        self._house = house
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._is_over.is_set():
            try:
                self.answers.append(self._house.ask())
            except (OSError, ValueError) as failure:
                self.failures.append(failure)
            time.sleep(0.002)


def test_a_restart_replaces_one_after_the_other_and_refuses_nobody(house: House) -> None:
    house.start()
    old = house.pids("web", "started")
    with Visitors(house) as visitors:
        house.process.send_signal(signal.SIGHUP)
        house.wait_until(lambda: house.count("worker", "started") == 2 and house.count("web", "ended") == 2)
        time.sleep(0.1)

    assert visitors.failures == []
    new = house.pids("web", "started")[2:]
    assert set(visitors.answers) == {*old, *new}
    assert house.count("demo", "started") == 1
    order = [(pid, what) for name, pid, what in house.journal() if name == "web" and what in {"accepts", "SIGHUP"}][2:]
    first, second = house.pids("web", "SIGHUP")
    assert {first, second} == set(old)
    assert order == [(new[0], "accepts"), (first, "SIGHUP"), (new[1], "accepts"), (second, "SIGHUP")]
    assert house.end() == 0


@pytest.mark.parametrize(
    ("fault", "reason"), [("dies", "ended with code 3 before it accepted"), ("mute", "did not accept connections")]
)
def test_a_successor_that_does_not_come_up_leaves_the_old_ones_serving(house: House, fault: str, reason: str) -> None:
    house.start(patience=1.0)
    old = set(house.pids("web", "started"))
    house.behave(fault)
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: "the restart was given up" in house.log.read_text())

    assert re.search(f"the restart was given up and what runs goes on: .*{reason}", house.log.read_text())
    [failed] = set(house.pids("web", "started")) - old
    house.wait_until(lambda: not lives(failed))
    assert house.count("web", "SIGHUP") == 0
    assert house.count("worker", "started") == 1
    assert {house.ask() for _ in range(50)} == old

    house.behave("")  # and another restart is not held up by the one that failed
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: house.count("web", "ended") == 2)
    assert house.end() == 0


def test_where_a_start_would_fail_nobody_is_replaced(house: House) -> None:
    house.start()
    house.behave("refused")
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: "what runs goes on: a start would fail now" in house.log.read_text())
    assert (house.count("web", "started"), house.count("rehearsal", "started")) == (2, 1)
    assert house.end() == 0


def test_who_asks_during_a_restart_gets_another_one_and_only_one(house: House) -> None:
    house.start()
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: house.count("web", "started") == 3)
    for _ in range(2):
        house.process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    house.wait_until(lambda: house.count("web", "ended") == 4 and house.count("worker", "started") == 3)
    time.sleep(0.5)

    assert house.count("web", "started") == 6
    assert house.end() == 0


def test_the_others_end_after_the_web_processes(house: House) -> None:
    house.start()
    assert house.end() == 0

    ends = [(name, what) for name, _, what in house.journal() if what in {"SIGTERM", "ended"}]
    assert ends[:2] == [("web", "SIGTERM")] * 2
    assert ends[2:4] == [("web", "ended")] * 2
    assert sorted(ends[4:]) == sorted((name, what) for name in ("worker", "demo") for what in ("SIGTERM", "ended"))


def test_a_second_signal_is_passed_on(house: House) -> None:
    house.start(behaviour="lingers")
    house.process.send_signal(signal.SIGINT)
    house.wait_until(lambda: house.count("web", "SIGTERM") == 2)
    assert house.count("web", "ended") == 0
    assert house.end(signal.SIGINT) == 0
    assert house.count("web", "SIGTERM") == 4
    assert house.count("web", "ended") == 2


def test_who_does_not_end_in_time_is_killed_and_the_exit_code_says_so(house: House) -> None:
    house.start(behaviour="deaf")
    family = descendants(house.process.pid)
    assert house.end() == 1
    assert house.log.read_text().count("has not ended in time and was killed") == 2
    assert not any(map(lives, family))


def test_a_predecessor_that_hangs_is_killed_and_the_family_goes_on(house: House) -> None:
    house.start(number=1, behaviour="deaf")
    [old] = house.pids("web", "started")
    house.behave("")
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: not lives(old))
    assert house.count("web", "SIGHUP") == 1
    assert house.ask() != old
    assert house.end() == 0


def test_an_end_in_the_middle_of_a_restart_leaves_nobody(house: House) -> None:
    house.start()
    house.behave("mute")
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: house.count("web", "started") == 3)
    family = descendants(house.process.pid)
    assert house.end() == 0
    assert house.count("web", "ended") == 3
    assert not any(map(lives, family))


def test_a_queue_outlives_its_process(house: House) -> None:
    house.start(number=1)
    [first] = house.pids("web", "started")
    os.kill(first, signal.SIGKILL)
    assert house.ask() != first
    assert "web ended with code -9 and is started again in 1 s" in house.log.read_text()
    assert house.end() == 0


def test_nobody_outlives_a_supervisor_that_is_killed(house: House) -> None:
    house.start(behaviour="lingers")
    house.process.send_signal(signal.SIGHUP)
    house.wait_until(lambda: house.count("web", "SIGHUP") == 1)
    family = descendants(house.process.pid)
    assert len(family) >= 5
    house.end(signal.SIGKILL)

    house.wait_until(lambda: not any(map(lives, family)))


def test_a_closed_terminal_takes_the_family_along(house: House) -> None:
    ours, its_end = pty.openpty()
    house.start(terminal=its_end)
    os.close(its_end)
    house.process.send_signal(signal.SIGHUP)  # while the terminal is there it is a restart
    house.wait_until(lambda: house.count("web", "ended") == 2 and house.count("worker", "started") == 2)
    family = descendants(house.process.pid)
    os.close(ours)

    assert house.process.wait(PATIENCE) == 0
    assert not any(map(lives, family))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("taker", [1, 2])
def test_a_taken_port_is_refused_however_many_want_it(number: int, taker: int) -> None:
    held = listeners("127.0.0.1", 0, taker)
    with pytest.raises(OSError, match="in use"):
        listeners("127.0.0.1", held[0].getsockname()[1], number)
    for each in held:
        each.close()


def test_two_that_start_at_the_same_moment_do_not_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst moment: one has found the port free and has not taken it yet."""
    honest, port = supervisor.listener, free_port()
    refused: list[str] = []

    def another_starts(host: str, port: int, *, shared: bool = False) -> socket.socket:
        if shared and not refused:
            refused.append("")
            try:
                listeners(host, port, 2)
            except OSError as error:
                refused[0] = str(error)
        return honest(host, port, shared=shared)

    monkeypatch.setattr(supervisor, "listener", another_starts)
    held = listeners("127.0.0.1", port, 2)
    assert "in use" in refused[0]
    for each in held:
        each.close()


@pytest.mark.parametrize("number", [1, 3])
def test_every_listener_is_on_the_one_port_also_on_ipv6(number: int) -> None:
    held = listeners("::1", 0, number)
    [(host, port)] = {each.getsockname()[:2] for each in held}
    assert (host, len(held)) == ("::1", number)
    with socket.create_connection(("::1", port), timeout=5):
        pass
    for each in held:
        each.close()
