"""The journal of requests: what was meant, what was tried, what it came to. Only appends; the booker does the rest.

An entry is one client request. Before each upstream call an `Opened` line stands in the spool; before the ending of
the answer leaves, the `Settled` line does. A line says everything about itself, so that a reader needs no other file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from accounting.snapshot import KeyCard
from accounting.spool import Spool, SpoolFull
from providers.errors import LedgerUnavailable
from providers.log_events import LogEvent, about
from providers.routing import Candidate
from providers.usage import Usage

logger = logging.getLogger("ccproxy.ledger")

# Bytes that stay free for the settlement of every running request: a disk that fills up meanwhile cannot refuse it.
SETTLEMENT_ROOM = 2048

COMPLETED, CUT, CANCELLED, FAILED, INTERRUPTED = "completed", "cut", "cancelled", "failed", "interrupted"
UPSTREAM, COUNTED, ESTIMATED = "upstream", "counted", "estimated"


def clean(text: str, most: int) -> str:
    """What every database takes: no NUL, no half of a surrogate pair, not too long."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:most]


class Row(msgspec.Struct, omit_defaults=True):
    """Who asked for what. Names are copied: the row must be readable when key and provider are gone."""

    request_id: str
    started_at: float
    key_id: int
    key: str
    owner: str = ""
    cost_centre: str = ""
    model: str = ""
    streamed: bool = False
    client_request_id: str = ""
    session_id: str = ""
    finished_at: float = 0.0
    status: str = ""
    stop_reason: str = ""
    reason: str = ""
    first_byte_ms: int | None = None


class Attempt(msgspec.Struct, omit_defaults=True):
    """One call to one upstream. `status` is empty while it runs."""

    number: int
    started_at: float
    provider_id: int
    provider: str
    upstream_model: str
    finished_at: float = 0.0
    upstream_id: str = ""
    reached: bool = True
    status: str = ""
    reason: str = ""
    usage: Usage = Usage()
    source: str = ESTIMATED
    method: str = ""


class Opened(msgspec.Struct, tag="open", tag_field="line"):
    """An attempt is about to be made; `attempts` holds the ones before it, with their outcome, and itself last."""

    row: Row
    attempts: list[Attempt]


class Progress(msgspec.Struct, tag="going", tag_field="line"):
    """A running answer so far, so that a killed one is not booked at nothing."""

    request_id: str
    attempt: Attempt


class Settled(msgspec.Struct, tag="done", tag_field="line"):
    row: Row
    attempts: list[Attempt]


Line = Opened | Progress | Settled
_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def decode_line(payload: bytes) -> Line:
    return _decoder.decode(payload)


# Usage, where it comes from, and by which method.
Bill = tuple[Usage, str, str]
NOTHING_BILLED: Bill = (Usage(), UPSTREAM, "")
NEVER_LEFT: Bill = (Usage(), COUNTED, "never left")


class Meter(Protocol):
    """What knows the bill of a running attempt; asked from another thread, so it only reads."""

    def so_far(self) -> Bill: ...

    def known(self) -> tuple[int, int]:
        """Tokens read and written, without reckoning: of what nobody has estimated yet, none."""
        ...


class Entry:
    """One client request, from its first attempt to its settlement."""

    def __init__(self, ledger: Ledger, row: Row) -> None:
        self._ledger = ledger
        self.row = row
        self.attempts: list[Attempt] = []
        self.meter: Meter | None = None
        self.settled = False

    @property
    def request_id(self) -> str:
        return self.row.request_id

    @property
    def has_open_attempt(self) -> bool:
        return bool(self.attempts) and not self.attempts[-1].status

    def open_attempt(self, candidate: Candidate) -> Attempt:
        """The intent, on the spool before the call. Raises LedgerUnavailable; then nothing may be called."""
        attempt = Attempt(
            number=len(self.attempts) + 1,
            started_at=time.time(),
            provider_id=candidate.endpoint.id,
            provider=candidate.endpoint.name,
            upstream_model=clean(candidate.model, 200),
        )
        self.attempts.append(attempt)
        try:
            self._ledger.write_intent(self)
        except LedgerUnavailable:
            self.attempts.pop()
            raise
        return attempt

    def close_attempt(
        self, status: str, bill: Bill, *, reason: str = "", reached: bool = True, upstream_id: str = ""
    ) -> None:
        """The outcome of the running attempt; it is written with the next line."""
        attempt = self.attempts[-1]
        attempt.finished_at = time.time()
        attempt.status = status
        attempt.usage, attempt.source, attempt.method = bill
        attempt.reason = clean(reason, 300)
        attempt.reached = reached
        attempt.upstream_id = clean(upstream_id, 200)
        self.meter = None

    def settle(self, status: str, *, stop_reason: str = "", reason: str = "") -> None:
        """Exactly once; later calls change nothing. Only appends: it may run while the request is being cancelled."""
        if self.settled or not self.attempts:
            return
        self.settled = True
        self.row.finished_at = time.time()
        self.row.status = status
        self.row.stop_reason = clean(stop_reason, 40)
        self.row.reason = clean(reason, 300)
        self._ledger.write_settlement(self)

    def opened_line(self) -> bytes:
        return _encode(Opened(self.row, self.attempts))

    def settled_line(self) -> bytes:
        return _encode(Settled(self.row, self.attempts))

    def progress_line(self) -> bytes | None:
        meter = self.meter
        if meter is None or not self.attempts:
            return None
        usage, source, method = meter.so_far()
        attempt = msgspec.structs.replace(self.attempts[-1], usage=usage, source=source, method=method)
        if self.meter is not meter:
            return None  # the next attempt has begun meanwhile: these figures are not its own
        return _encode(Progress(self.request_id, attempt))


class Ledger:
    """All running entries of this process and the spool they are written to."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._open: dict[str, Entry] = {}
        # Settlements that a broken disk refused: kept here and tried again.
        self._unwritten: list[Entry] = []
        self._alarmed = False
        self._lock = threading.Lock()

    def begin(
        self, request_id: str, key: KeyCard, *, model: str, streamed: bool, client_request_id: str, session_id: str
    ) -> Entry:
        row = Row(
            request_id=request_id,
            started_at=time.time(),
            key_id=key.id,
            key=key.name,
            owner=key.owner,
            cost_centre=key.cost_centre,
            model=clean(model, 200),
            streamed=streamed,
            client_request_id=clean(client_request_id, 100),
            session_id=clean(session_id, 100),
        )
        return Entry(self, row)

    @property
    def running(self) -> int:
        return len(self._open)

    def entries(self) -> list[Entry]:
        """Everything that runs, in the order in which it began. From any thread."""
        return [*self._open.values()]

    @property
    def unwritten(self) -> int:
        return len(self._unwritten)

    @property
    def _promised(self) -> int:
        return SETTLEMENT_ROOM * len(self._open)

    def write_intent(self, entry: Entry) -> None:
        if self._unwritten:
            raise LedgerUnavailable(
                "the gateway cannot write its ledger now and answers nothing it could not book: try again in a moment",
                retry_after=5,
            )
        # Before it is written: whoever begins a new segment right after that must find it here and carry it over.
        known = entry.request_id in self._open
        self._open[entry.request_id] = entry
        try:
            self.spool.append([entry.opened_line()], self._carried, self._promised)
        except SpoolFull as error:
            if not known:
                del self._open[entry.request_id]
            if not self._alarmed:  # once per outage: a line per refused request would fill what is left of the disk
                self._alarmed = True
                logger.critical("no request is let through: %s", error, extra=about(LogEvent.SPOOL_FULL))
            raise LedgerUnavailable(
                "the gateway's disk is full or gone, and it answers nothing it could not book:"
                " tell its administrator, then try again",
                retry_after=5,
            ) from error
        if self._alarmed:
            self._alarmed = False
            logger.warning(
                "requests are let through again: the spool can be written", extra=about(LogEvent.SPOOL_WRITABLE)
            )

    def write_settlement(self, entry: Entry) -> None:
        try:
            self.spool.append([entry.settled_line()], self._carried)
        except SpoolFull as error:
            logger.critical(
                "a settlement waits in memory (%s): %s",
                entry.request_id,
                error,
                extra=about(LogEvent.SETTLEMENT_WAITING, request_id=entry.request_id),
            )
            with self._lock:
                self._unwritten.append(entry)
            return
        self._open.pop(entry.request_id, None)

    def retry_unwritten(self) -> None:
        with self._lock:
            waiting = [*self._unwritten]
        for entry in waiting:
            try:
                self.spool.append([entry.settled_line()], self._carried)
            except SpoolFull:
                return
            self._open.pop(entry.request_id, None)
            with self._lock:
                self._unwritten.remove(entry)
            logger.warning(
                "a settlement that waited in memory is written: %s",
                entry.request_id,
                extra=about(LogEvent.SETTLEMENT_WRITTEN, request_id=entry.request_id),
            )

    def leave_progress(self) -> None:
        """One line per running answer, in one write."""
        lines = [line for entry in self.entries() if (line := entry.progress_line())]
        if lines:
            try:
                self.spool.append(lines, self._carried, self._promised)
            except SpoolFull as error:
                logger.error("no progress could be noted: %s", error)

    def close(self) -> None:
        """Leaves nothing behind when everything is booked; else the next process adopts what there is."""
        self.spool.close(remove=not (self._open or self._unwritten or self.spool.backlog))

    def _carried(self) -> Iterable[bytes]:
        """What a new segment begins with: everything that still runs."""
        for entry in self.entries():
            yield entry.opened_line()
            progress = entry.progress_line()
            if progress:
                yield progress
