"""The family of processes behind `serve`: started together, replaced one by one, gone together however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence

from ccproxy_site.server import BACKLOG
from providers.log_events import LogEvent, about

logger = logging.getLogger("ccproxy.supervisor")

PR_SET_PDEATHSIG = 1
# Loaded before anything forks: a child that is not yet what it will be must not wait for a lock of the loader.
PRCTL = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
# Seconds: how long a child may take to end by itself, and the longest pause before a dead one is replaced.
GRACE = 10.0
LONGEST_PAUSE = 30.0
# A child that lived so long has recovered: its next death is a first one again.
RECOVERED = 60.0
# Seconds beyond its own limit for draining that a web process may take: when all end, and when it was replaced.
LATE_AT_THE_END = 10.0
LATE_AFTER_A_RESTART = 15.0
# Seconds until a successor must accept connections, or the restart is given up.
PATIENCE = 60.0
# A signal ends the sleep of the process, not of a call in Python: short naps keep us prompt.
NAP = 0.1


class Process:
    """A running child. With a listener it inherits that, and says through a pipe when it accepts connections."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], listener: socket.socket | None = None
    ) -> None:
        self.name = name
        self.started = time.monotonic()
        self.was_killed = False
        self._end_by = math.inf
        self._accepts = False
        self._ready_end: int | None = None
        if listener is None:
            self._popen = born(command, environment)
            return
        self._ready_end, told_by = os.pipe()
        os.set_blocking(self._ready_end, False)
        inherited = (listener.fileno(), told_by)
        try:
            command = [*command, "--fd", str(inherited[0]), "--ready-fd", str(told_by)]
            self._popen = born(command, environment, inherited)
        except (OSError, subprocess.SubprocessError):
            self._close_pipe()
            raise
        finally:
            os.close(told_by)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def code(self) -> int | None:
        return self._popen.returncode

    @property
    def was_asked_to_end(self) -> bool:
        return self._end_by < math.inf

    def lives(self) -> bool:
        """Who was asked to end and has had its time is killed here."""
        if self._popen.poll() is None and time.monotonic() >= self._end_by:
            logger.error(
                "%s (process %d) has not ended in time and was killed",
                self.name,
                self.pid,
                extra=about(LogEvent.CHILD_KILLED, child=self.name, process=self.pid),
            )
            self.was_killed = True
            self.kill()
        if self._popen.returncode is None:
            return True
        self._close_pipe()
        return False

    def accepts(self) -> bool:
        """Whether it has said that it accepts connections."""
        if self._ready_end is not None:
            with contextlib.suppress(BlockingIOError):
                self._accepts = os.read(self._ready_end, 1) != b""
                self._close_pipe()
        return self._accepts

    def ask_to_end(self, patience: float, by: signal.Signals = signal.SIGTERM) -> None:
        self._end_by = min(self._end_by, time.monotonic() + patience)
        self._popen.send_signal(by)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def _close_pipe(self) -> None:
        if self._ready_end is not None:
            os.close(self._ready_end)
            self._ready_end = None


class Child:
    """A place in the family: the process that has it now, and the memory of how often its processes have died."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.process: Process | None = None
        self._command = command
        self._environment = environment
        self._deaths = 0
        self._start_at = 0.0

    def spawn(self) -> Process:
        return Process(self.name, self._command, self._environment)

    def keep_alive(self) -> None:
        """Replaces a process that has ended: at once if it was asked to, else after a pause that grows each time."""
        if self.process is not None:
            if self.process.lives():
                return
            ended, self.process = self.process, None
            if not ended.was_asked_to_end:
                has_recovered = time.monotonic() - ended.started > RECOVERED
                self._deaths = 0 if has_recovered else self._deaths + 1
                self._pause_after(f"{self.name} ended with code {ended.code}")
        if time.monotonic() >= self._start_at:
            try:
                self.process = self.spawn()
            except (OSError, subprocess.SubprocessError) as error:
                self._deaths += 1
                self._pause_after(f"{self.name} cannot be started ({error})")

    def _pause_after(self, what: str) -> None:
        pause = min(2.0**self._deaths / 2, LONGEST_PAUSE) if self._deaths else 0.0
        self._start_at = time.monotonic() + pause
        logger.error(
            "%s and is started again in %.0f s",
            what,
            pause,
            extra=about(LogEvent.CHILD_RESTARTED, child=self.name, seconds=pause),
        )


class Slot(Child):
    """The place of a web process, with a listener that outlives it: who waits in its queue is answered by the next."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], listener: socket.socket
    ) -> None:
        super().__init__(name, command, environment)
        self._listener = listener

    def spawn(self) -> Process:
        return Process(self.name, self._command, self._environment, self._listener)

    def is_starting(self) -> bool:
        return self.process is not None and self.process.lives() and not self.process.accepts()

    def let_go(self) -> None:
        """Nobody comes after the process that has it now: the port goes when that does."""
        self._listener.close()

    def hand_over(self, successor: Process) -> Process | None:
        """Returns the predecessor, if there is one."""
        predecessor, self.process = self.process, successor
        self._deaths, self._start_at = 0, 0.0
        return predecessor


class Family:
    """The web processes, those that are renewed after them, and who answers them and therefore outlives them."""

    def __init__(
        self,
        slots: Sequence[Slot],
        renewed: Sequence[Child],
        demo: Sequence[Child],
        *,
        rehearsal: Child,
        drain_seconds: float,
    ) -> None:
        self._slots = slots
        self._rehearsal = rehearsal
        self._renewed = renewed
        self._children = [*slots, *renewed, *demo]
        self._drain_seconds = drain_seconds
        self._candidate: Process | None = None
        self._leaving: list[Process] = []
        self._restart: Iterator[None] | None = None
        self._restart_asked = False
        self._ends_asked = 0
        self._at_terminal = os.isatty(0)

    def run(self) -> bool:
        """Until SIGTERM or SIGINT. Returns whether everybody ended without being killed."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGHUP, self._hang_up)
        try:
            while not self._ends_asked:
                for child in self._children:
                    child.keep_alive()
                self._go_on_restarting()
                self._leaving = [process for process in self._leaving if process.lives()]
                time.sleep(NAP)
        finally:
            in_order = self._end_in_order()
        return in_order

    def _end(self, *_: object) -> None:
        self._ends_asked += 1

    def _hang_up(self, *_: object) -> None:
        """A restart is asked for; but what was started at a terminal ends when that is closed."""
        if self._at_terminal and not os.isatty(0):
            self._ends_asked += 1
        else:
            self._restart_asked = True

    def _go_on_restarting(self) -> None:
        """One step. Whoever asks during a restart gets another one after it."""
        if self._restart is None and self._restart_asked:
            self._restart_asked = False
            self._restart = self._replace_everyone()
        if self._restart is not None:
            try:
                next(self._restart)
            except StopIteration:
                self._restart = None

    def _replace_everyone(self) -> Iterator[None]:
        """Yields while it waits, so that the family is looked after meanwhile."""
        logger.info("restart: the web processes are replaced one after the other", extra=about(LogEvent.RESTART_BEGUN))
        for step in (self._rehearse(), *map(self._replace, self._slots)):
            refusal = yield from step
            if refusal:
                logger.error(
                    "the restart was given up and what runs goes on: %s",
                    refusal,
                    extra=about(LogEvent.RESTART_GIVEN_UP, reason=refusal),
                )
                return
        for child in self._renewed:
            if child.process is not None:
                child.process.ask_to_end(GRACE)
        logger.info(
            "restart: done, the processes before it finish what they are answering", extra=about(LogEvent.RESTART_DONE)
        )

    def _rehearse(self) -> Generator[None, None, str]:
        """Whether a start would succeed now: a web process without a database comes up, but answers nobody."""
        try:
            rehearsal = self._candidate = self._rehearsal.spawn()
        except (OSError, subprocess.SubprocessError) as error:
            return f"it cannot be tried whether a start would succeed ({error})"
        while rehearsal.lives() and time.monotonic() - rehearsal.started < PATIENCE:
            yield
        self._candidate = None
        if rehearsal.lives():
            rehearsal.kill()
            return f"it was not known within {PATIENCE:.0f} s whether a start would succeed"
        return "" if rehearsal.code == 0 else "a start would fail now, the message above says why"

    def _replace(self, slot: Slot) -> Generator[None, None, str]:
        """Returns why it could not be done; "" when it is done."""
        until = time.monotonic() + PATIENCE
        while slot.is_starting() and time.monotonic() < until:  # too young to know the signal
            yield
        try:
            successor = self._candidate = slot.spawn()
        except (OSError, subprocess.SubprocessError) as error:
            return f"a new {slot.name} cannot be started ({error})"
        refusal = yield from wait_until_it_accepts(successor)
        self._candidate = None
        if refusal:
            successor.kill()
            return f"{refusal}, its own messages stand above"
        predecessor = slot.hand_over(successor)
        if predecessor is not None and predecessor.lives():
            predecessor.ask_to_end(self._drain_seconds + LATE_AFTER_A_RESTART, by=signal.SIGHUP)
            self._leaving.append(predecessor)
        return ""

    def _end_in_order(self) -> bool:
        """The web processes first: what they still answer may need the others."""
        holders = [child.process for child in self._slots]
        web = [process for process in [*holders, self._candidate, *self._leaving] if process is not None]
        for process in web:
            if not process.was_asked_to_end:
                process.ask_to_end(self._drain_seconds + LATE_AT_THE_END)
        for slot in self._slots:
            slot.let_go()
        self._wait_for(web)
        others = [child.process for child in self._children if child.process and child.process not in web]
        for process in others:
            process.ask_to_end(GRACE)
        self._wait_for(others)
        return not any(process.was_killed for process in [*web, *others])

    def _wait_for(self, processes: Sequence[Process]) -> None:
        """Who is asked a second time to end passes that on."""
        heard = 1
        while any([process.lives() for process in processes]):  # noqa: C419 - everybody is looked at
            if self._ends_asked > heard:
                heard = self._ends_asked
                for process in processes:
                    process.ask_to_end(GRACE)
            time.sleep(NAP)


def wait_until_it_accepts(successor: Process) -> Generator[None, None, str]:
    """Returns why it does not; "" when it does."""
    while not successor.accepts():
        if not successor.lives():
            return f"the new {successor.name} ended with code {successor.code} before it accepted connections"
        if time.monotonic() - successor.started > PATIENCE:
            return f"the new {successor.name} did not accept connections within {PATIENCE:.0f} s"
        yield
    return ""


def listeners(host: str, port: int, number: int) -> list[socket.socket]:
    """One for each web process, so that the kernel spreads connections over them.

    Raises OSError where somebody else listens; port 0 is any that is free.
    """
    if number == 1:
        return [listener(host, port)]
    with alone_on(port):
        with listener(host, port) as probe:  # the shared ones below would join whoever shares already
            port = probe.getsockname()[1]
        with contextlib.ExitStack() as unless_all_listen:
            made = [unless_all_listen.enter_context(listener(host, port, shared=True)) for _ in range(number)]
            unless_all_listen.pop_all()
    return made


def listener(host: str, port: int, *, shared: bool = False) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
        made.setblocking(False)  # of all who inherit it: two processes may see the same connection come
    except OSError:
        made.close()
        raise
    return made


@contextlib.contextmanager
def alone_on(port: int) -> Iterator[None]:
    """Raises OSError where another start takes the same port at this moment: both would find it free, and share it.

    The name is Linux's own kind: it is as far known as the port is, and gone with its process.
    """
    with socket.socket(socket.AF_UNIX) as claim:
        claim.bind(f"\0ccproxy-takes-port-{port}")
        yield


def born(
    command: Sequence[str], environment: Mapping[str, str], inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """From the main thread only: the kernel ends a child when the thread that made it is gone."""
    parent = os.getpid()
    return subprocess.Popen(  # noqa: S603
        command,
        env=environment,
        pass_fds=inherited,
        preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - takes no lock
    )


def die_with(parent: int) -> None:
    """In the child, before it becomes what it will be: the kernel ends it when its parent is gone.

    SIGKILL and nothing gentler: the ledger survives it, and a lingering child would hold the port.
    """
    os.setpgid(0, 0)  # a Ctrl-C in the terminal reaches the supervisor alone, which ends the others in order
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
