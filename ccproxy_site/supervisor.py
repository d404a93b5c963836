"""The family of processes behind `serve`: started together, replaced one by one, gone together however it ends."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

logger = logging.getLogger("ccproxy.supervisor")

PR_SET_PDEATHSIG = 1
# Seconds: how long a child may take to end by itself, and the longest pause before a dead one is replaced.
GRACE = 10.0
LONGEST_PAUSE = 30.0
# A child that lived so long has recovered: its next death is a first one again.
RECOVERED = 60.0


class Child:
    """One process of the family and the memory of how often it has died."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self._start_at = 0.0

    def start(self) -> None:
        parent = os.getpid()
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command, preexec_fn=lambda: die_with(parent))  # noqa: PLW1509, S603

    def keep_alive(self) -> None:
        """Replaces a dead process, after a pause that grows with each death in a row."""
        if self._process is not None and self._process.poll() is None:
            return
        now = time.monotonic()
        if self._process is not None:
            self._deaths = 0 if now - self._started > RECOVERED else self._deaths + 1
            pause = min(2.0**self._deaths / 2, LONGEST_PAUSE) if self._deaths else 0.0
            logger.error(
                "%s ended with code %s and is started again in %.0f s", self.name, self._process.returncode, pause
            )
            self._process, self._start_at = None, now + pause
        if now >= self._start_at:
            self.start()

    def ask_to_end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, until: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Family:
    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._ending = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then every child is ended, politely first."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            while not self._ending:
                for child in self._children:
                    child.keep_alive()
                # A signal ends the sleep of the process, not of this call: short naps keep the end prompt.
                time.sleep(0.2)
        finally:
            for child in self._children:
                child.ask_to_end()
            until = time.monotonic() + GRACE
            for child in self._children:
                child.end(until)

    def _end(self, *_: object) -> None:
        self._ending = True


def die_with(parent: int) -> None:
    """In the child, before it becomes what it will be: the kernel ends it when its parent is gone.

    SIGKILL and nothing gentler: the ledger survives it, and a lingering child would hold the port.
    """
    os.setpgid(0, 0)  # a Ctrl-C in the terminal reaches the supervisor alone, which ends the others in order
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
