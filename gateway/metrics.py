"""What this gateway has done, counted: by the event loop in plain numbers, kept for the sibling processes in a file.

A request is counted once, when it is settled. Every second a thread adds what is fresh to the totals and writes them
down. A process that comes after one that is gone counts on from its figures, so that the sum over all never falls.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import logging
import os
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from accounting.ledger import COMPLETED, Attempt, Row
from accounting.prices import PriceList
from providers.errors import KeyRefused, ProxyError
from providers.log_events import LogEvent, about
from providers.usage import Usage

logger = logging.getLogger("ccproxy.metrics")

# Seconds: the upper ends of what times are sorted into, fourteen to a decade. A figure read back from them is true to a
# tenth, at most to a quarter.
STEPS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
BOUNDS = tuple(round(step * 10.0**decade, 6) for decade in range(-3, 3) for step in STEPS)
# The last hour is twelve of these, the running one included.
SLOT_SECONDS, SLOTS = 300, 12
# Seconds between two writes, and after which the file is written though nothing has happened.
PAUSE, LONGEST_PAUSE = 1.0, 15.0
# Refused keys are a line in the log once in so many seconds, however many there are.
TELLING_PAUSE = 60.0
# More in a second is a provider's mistake; sums of such figures would fit into no file.
MOST_TOKENS_AT_ONCE = 10**12
MOST_PROCESSES = 1000
LOCK, FIGURES = ".lock", ".figures"

K = TypeVar("K")
N = TypeVar("N", int, float)


class Times(msgspec.Struct, omit_defaults=True):
    """How long something took: how often each bound was the first that is not less."""

    seconds: float = 0.0
    counts: dict[int, int] = {}

    def note(self, seconds: float) -> None:
        if seconds < 0:  # a clock was set back
            seconds = 0.0
        self.seconds += seconds
        place, counts = bisect_left(BOUNDS, seconds), self.counts
        counts[place] = counts.get(place, 0) + 1

    def add(self, other: Times) -> None:
        self.seconds += other.seconds
        add_up(self.counts, other.counts)

    @property
    def number(self) -> int:
        return sum(self.counts.values())

    def percentile(self, share: float) -> float | None:
        """In seconds, as if the times between two bounds were spread evenly."""
        wanted, seen = share * self.number, 0.0
        for place, count in sorted(self.counts.items()):
            if seen + count >= wanted:
                low = BOUNDS[place - 1] if place else 0.0
                high = BOUNDS[place] if place < len(BOUNDS) else BOUNDS[-1]
                return low + (max(high, low) - low) * (wanted - seen) / count
            seen += count
        return None


class Tally(msgspec.Struct, omit_defaults=True):
    """Of the requests that are alike."""

    requests: int = 0
    duration: Times = msgspec.field(default_factory=Times)
    first_byte: Times = msgspec.field(default_factory=Times)

    def add(self, other: Tally) -> None:
        self.requests += other.requests
        self.duration.add(other.duration)
        self.first_byte.add(other.first_byte)


class Totals(msgspec.Struct, omit_defaults=True):
    """Figures that only grow. Names in the keys are those of the configuration, never a client's."""

    requests: dict[tuple[str, str, str, str], Tally] = {}  # provider, route, language, status
    attempts: dict[tuple[str, str], int] = {}  # provider, status
    failures: dict[tuple[str, str], int] = {}  # provider, error type: what it is to blame for
    failovers: dict[str, int] = {}  # from this provider to another
    tokens: dict[tuple[str, str, str], int] = {}  # provider, route, kind
    cost: dict[tuple[str, str, str], float] = {}  # provider, route, currency
    refusals: dict[tuple[str, int], int] = {}  # error type, HTTP status

    def add(self, other: Totals) -> None:
        for key, tally in other.requests.items():
            known = self.requests.get(key)
            if known is None:
                known = self.requests[key] = Tally()
            known.add(tally)
        add_up(self.attempts, other.attempts)
        add_up(self.failures, other.failures)
        add_up(self.failovers, other.failovers)
        add_up(self.tokens, other.tokens)
        add_up(self.cost, other.cost)
        add_up(self.refusals, other.refusals)


class Now(msgspec.Struct, omit_defaults=True):
    """How one process stands at this moment; gone with it."""

    processes: int = 0
    running: int = 0
    spool_backlog: int = 0
    waiting: int = 0  # settlements that the disk refused
    memory: int = 0
    version: int = 0  # of the configuration
    failing: dict[str, int] = {}  # failures of a provider since its last answer
    resting: list[tuple[str, str, float]] = []  # provider, its model, until when others are asked first


class Figures(msgspec.Struct, omit_defaults=True):
    """Of one process, or of several together."""

    totals: Totals = msgspec.field(default_factory=Totals)
    hour: dict[int, Totals] = {}  # by the number of the slot
    answered_at: dict[str, float] = {}  # when a provider last completed an answer
    cpu_seconds: float = 0.0
    now: Now = msgspec.field(default_factory=Now)

    def add(self, other: Figures, *, lives: bool) -> None:
        self.totals.add(other.totals)
        for number, totals in other.hour.items():
            self.slot(number).add(totals)
        for provider, moment in other.answered_at.items():
            self.answered_at[provider] = max(moment, self.answered_at.get(provider, 0.0))
        self.cpu_seconds += other.cpu_seconds
        if lives:
            self.now = together(self.now, other.now)

    def slot(self, number: int) -> Totals:
        totals = self.hour.get(number)
        if totals is None:
            totals = self.hour[number] = Totals()
        return totals

    def last_hour(self, moment: float) -> Totals:
        found, newest = Totals(), int(moment // SLOT_SECONDS)
        for number, totals in self.hour.items():
            if newest - SLOTS < number <= newest:
                found.add(totals)
        return found


def together(one: Now, other: Now) -> Now:
    """Sums over processes; of a provider's failures the most that one process has seen, since one answer ends a row."""
    return Now(
        processes=one.processes + other.processes,
        running=one.running + other.running,
        spool_backlog=one.spool_backlog + other.spool_backlog,
        waiting=one.waiting + other.waiting,
        memory=one.memory + other.memory,
        version=max(one.version, other.version),
        failing={
            name: max(one.failing.get(name, 0), other.failing.get(name, 0)) for name in {**one.failing, **other.failing}
        },
        resting=[*one.resting, *other.resting],
    )


def add_up(into: dict[K, N], more: dict[K, N]) -> None:
    for key, number in more.items():
        into[key] = into.get(key, 0) + number


class Bill:
    """Tokens of what one provider answered for one route by one of its models: the price goes by that."""

    __slots__ = ("cache_read", "cache_write_1h", "cache_write_5m", "input", "output", "thinking", "web_searches")

    def __init__(self) -> None:
        self.input = self.cache_read = self.cache_write_5m = self.cache_write_1h = 0
        self.output = self.thinking = self.web_searches = 0

    def note(self, usage: Usage) -> None:
        self.input += usage.input
        self.output += usage.output
        if usage.cache_read or usage.cache_write_5m or usage.cache_write_1h:
            self.cache_read += usage.cache_read
            self.cache_write_5m += usage.cache_write_5m
            self.cache_write_1h += usage.cache_write_1h
        if usage.thinking or usage.web_searches:
            self.thinking += usage.thinking
            self.web_searches += usage.web_searches

    def usage(self) -> Usage:
        return Usage(**{name: getattr(self, name) for name in self.__slots__})


class Metrics:
    """The counting of one process. The lock is held for moments: the event loop never waits for a thread's work."""

    def __init__(self, prices: Callable[[], PriceList], now: Callable[[], Now]) -> None:
        self._prices = prices
        self._now = now
        self._lock = threading.Lock()
        self._fresh = Totals()
        self._bills: dict[tuple[int, str, str, str], Bill] = {}  # provider and its name, route, model
        self._answered_at: dict[str, float] = {}
        self._failing: dict[str, int] = {}
        self._folding = threading.Lock()
        self._figures = Figures()
        self._cpu_before = 0.0
        self._keys_refused = 0  # and not told yet
        self._tell_at = 0.0
        self.changes = 0

    def settled(self, row: Row, attempts: Sequence[Attempt], route: str, language: str) -> None:
        """On the event loop, once for each request."""
        last = attempts[-1]
        provider, status = last.provider, row.status
        with self._lock:
            fresh = self._fresh
            key = provider, route, language, status
            tally = fresh.requests.get(key)
            if tally is None:
                tally = fresh.requests[key] = Tally()
            tally.requests += 1
            tally.duration.note(row.finished_at - row.started_at)
            if row.first_byte_ms is not None:
                tally.first_byte.note(row.first_byte_ms / 1000)
            bill_key = last.provider_id, provider, route, last.upstream_model
            bill = self._bills.get(bill_key)
            if bill is None:
                bill = self._bills[bill_key] = Bill()
            bill.note(last.usage)
            counts = fresh.attempts
            for attempt in attempts:
                tried = attempt.provider, attempt.status
                counts[tried] = counts.get(tried, 0) + 1
            if status == COMPLETED:
                self._answered_at[provider] = row.finished_at
                if self._failing:
                    self._failing.pop(provider, None)

    def failed(self, provider: str, error: ProxyError) -> None:
        """A provider gave no answer, or half of one, and was to blame for it."""
        with self._lock:
            add_up(self._fresh.failures, {(provider, error.kind): 1})
            add_up(self._failing, {provider: 1})

    def failures_since_answer(self, provider: str) -> int:
        return self._failing.get(provider, 0)

    def failed_over(self, provider: str) -> None:
        with self._lock:
            add_up(self._fresh.failovers, {provider: 1})

    def refused(self, kind: str, status: int) -> None:
        """A client got an error in place of an answer."""
        with self._lock:
            add_up(self._fresh.refusals, {(kind, status): 1})

    def encoded(self) -> bytes:
        """All figures up to now."""
        with self._folding:
            self._fold(time.time())
            return msgspec.msgpack.encode(self._figures)

    def go_on_from(self, before: Figures) -> None:
        """What a process that is gone had counted in the same place."""
        with self._folding:
            self._cpu_before += before.cpu_seconds
            self._figures.add(before, lives=False)

    def _fold(self, moment: float) -> None:
        """What is fresh, into the totals and the running slot of the hour."""
        with self._lock:
            fresh, self._fresh = self._fresh, Totals()
            bills, self._bills = self._bills, {}
            answered_at, self._answered_at = self._answered_at, {}
            failing = {**self._failing}
        self._price(bills, fresh, moment)
        figures, number = self._figures, int(moment // SLOT_SECONDS)
        figures.totals.add(fresh)
        figures.slot(number).add(fresh)
        for old in [slot for slot in figures.hour if slot <= number - SLOTS]:
            del figures.hour[old]
        figures.answered_at.update(answered_at)
        now = msgspec.structs.replace(self._now(), failing=failing)
        if fresh != Totals() or now != msgspec.structs.replace(figures.now, memory=0):
            self.changes += 1
        figures.now = msgspec.structs.replace(now, memory=resident())
        figures.cpu_seconds = self._cpu_before + cpu_seconds()
        self._tell_of_keys(fresh)

    def _price(self, bills: dict[tuple[int, str, str, str], Bill], fresh: Totals, moment: float) -> None:
        at = dt.datetime.fromtimestamp(moment, dt.UTC)
        for (provider_id, provider, route, model), bill in bills.items():
            usage = bill.usage()
            for kind, number in msgspec.structs.asdict(usage).items():
                if number:
                    add_up(fresh.tokens, {(provider, route, kind): min(number, MOST_TOKENS_AT_ONCE)})
            rates = self._prices().at(at, provider_id, model)
            if rates is not None:
                add_up(fresh.cost, {(provider, route, rates.currency): float(rates.cost(usage))})

    def _tell_of_keys(self, fresh: Totals) -> None:
        """Now and then, and not of each: whoever tries keys would fill the disk."""
        self._keys_refused += fresh.refusals.get((KeyRefused.kind, KeyRefused.status), 0)
        if self._keys_refused and time.monotonic() >= self._tell_at:
            logger.warning(
                "%d requests were refused for their key",
                self._keys_refused,
                extra=about(LogEvent.KEY_REFUSED, requests=self._keys_refused),
            )
            self._keys_refused, self._tell_at = 0, time.monotonic() + TELLING_PAUSE


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> int:
    """Bytes of memory in use; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Place:
    """The file of one process among those of its siblings, locked for as long as the process lives."""

    def __init__(self, directory: Path, number: int, descriptor: int) -> None:
        self.figures = directory / f"{number}{FIGURES}"
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> Place:
        """The first that nobody has. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, MOST_PROCESSES):
            descriptor = locked(directory / f"{number}{LOCK}")
            if descriptor is not None:
                return cls(directory, number, descriptor)
        raise OSError(f"{directory} has no place left")

    def write(self, payload: bytes) -> None:
        """Whole or not at all, also for a reader and for a process that is killed here. Raises OSError."""
        draft = self.figures.with_suffix(".draft")
        draft.write_bytes(payload)
        draft.rename(self.figures)

    def release(self) -> None:
        os.close(self._descriptor)


def locked(path: Path) -> int | None:
    """The descriptor that holds the lock; None where a living process does."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lives(figures: Path) -> bool:
    """Whether the process whose figures these are is there."""
    try:
        descriptor = os.open(figures.with_suffix(LOCK), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared: two who look at once do not take each other for the process.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def decoded(payload: bytes) -> Figures:
    return msgspec.msgpack.decode(payload, type=Figures)


def read(path: Path) -> Figures:
    """Nothing where there is nothing, or what another version wrote."""
    try:
        return decoded(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return Figures()


def begin_anew(directory: Path) -> None:
    """Forgets what processes that are gone have counted; for the start of an installation, not of a process."""
    for figures in directory.glob(f"*{FIGURES}"):
        descriptor = locked(figures.with_suffix(LOCK))
        if descriptor is not None:
            figures.unlink(missing_ok=True)
            os.close(descriptor)


class Publisher(threading.Thread):
    """Writes this process's figures down every second, and reads those of the siblings when somebody asks."""

    def __init__(self, metrics: Metrics, directory: Path) -> None:
        super().__init__(name="metrics", daemon=True)
        self._metrics = metrics
        self._directory = directory
        self._place: Place | None = None
        self._stop_asked = threading.Event()
        self._publishing = threading.Lock()
        self._write_at = 0.0
        self._changes = -1
        self._is_failing = False

    def take_place(self) -> None:
        try:
            self._place = Place.take(self._directory)
        except OSError as error:
            logger.error("the figures of this process are not kept, only told by it: %s", error)
            return
        self._metrics.go_on_from(read(self._place.figures))

    def run(self) -> None:
        while not self._stop_asked.wait(PAUSE):
            try:
                self._publish()
            except Exception:
                logger.exception("counting failed in a way nobody thought of; it is tried again")

    def stop(self) -> None:
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout=10)
        self._publish(at_once=True)
        if self._place is not None:
            self._place.release()
            self._place = None

    def all_figures(self) -> Figures:
        """Of all processes. What is told is written first: nothing that was told once is lost with a process."""
        whole = decoded(self._publish(at_once=True))
        for path in sorted(self._directory.glob(f"*{FIGURES}")):
            if self._place is None or path != self._place.figures:
                whole.add(read(path), lives=lives(path))
        return whole

    def _publish(self, *, at_once: bool = False) -> bytes:
        """One after the other: older figures would else take the place of newer ones that somebody was told."""
        with self._publishing:
            payload = self._metrics.encoded()
            self._write(payload, at_once=at_once)
            return payload

    def _write(self, payload: bytes, *, at_once: bool) -> None:
        changes, now = self._metrics.changes, time.monotonic()
        if self._place is None or not (at_once or changes != self._changes or now >= self._write_at):
            return
        try:
            self._place.write(payload)
        except OSError as error:
            if not self._is_failing:
                logger.error("the figures of this process cannot be written, they are only told by it: %s", error)
            self._is_failing = True
            return
        self._is_failing = False
        self._changes, self._write_at = changes, now + LONGEST_PAUSE
