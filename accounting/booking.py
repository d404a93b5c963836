"""From the spool into the database: in batches, exactly once, whatever happened in between."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import InvalidOperation
from operator import itemgetter
from pathlib import Path

import msgspec
from django.db import DatabaseError, DataError, IntegrityError, close_old_connections, connection, transaction

from accounting.ledger import ESTIMATED, INTERRUPTED, Attempt, Ledger, Line, Opened, Progress, Settled, decode_line
from accounting.models import UsageAttempt, UsageRecord
from accounting.prices import PriceList
from accounting.rollups import mark_quarters
from accounting.rows import insert, moment_of, rows_of
from accounting.spool import Orphan, orphans
from providers.errors import NoProvider
from providers.log_events import LogEvent, about

logger = logging.getLogger("ccproxy.booking")

BATCH = 500
# Seconds between two looks for the journals of the dead: a sibling may die at any time. A look takes 0.1 ms.
ADOPTION_PAUSE = 2.0
# Seconds after which a database that has not answered counts as away.
PATIENCE = 5.0
QUARANTINE = "quarantine.jsonl"
# What a database says of the row itself; anything else is the database's own trouble and is tried again.
ROW_REFUSED = (DataError, IntegrityError, ValueError, TypeError, OverflowError, UnicodeError, InvalidOperation)


def book(batch: Sequence[Settled], prices: PriceList) -> None:
    """All rows or none. A row that stands already is left as it is: a request id is booked once."""
    rows = [rows_of(settled, prices) for settled in batch]
    records = [record for record, _ in rows]
    attempts = [attempt for _, its_attempts in rows for attempt in its_attempts]
    with transaction.atomic():
        # Sorted, so that two processes that book the same rows wait for each other in one order.
        insert(UsageRecord, sorted(records, key=itemgetter("request_id")), unique=["request_id"])
        insert(UsageAttempt, sorted(attempts, key=itemgetter("record_id", "number")), unique=["record_id", "number"])
        # Last: until our commit nobody else can mark these quarter hours.
        mark_quarters(moment_of(settled.row.started_at) for settled in batch)


def book_or_set_aside(batch: Sequence[Settled], prices: PriceList, quarantine: Path) -> None:
    """A row the database refuses is set aside with an alarm; the others are booked all the same."""
    try:
        book(batch, prices)
    except ROW_REFUSED as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            book_or_set_aside(batch[:middle], prices, quarantine)
            book_or_set_aside(batch[middle:], prices, quarantine)
            return
        _set_aside(batch[0], error, quarantine)


def _set_aside(settled: Settled, error: Exception, quarantine: Path) -> None:
    line = json.dumps({"error": str(error), "row": msgspec.to_builtins(settled)}) + "\n"
    descriptor = os.open(quarantine, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    logger.critical(
        "the database refused the row of %s, it is kept in %s: %s",
        settled.row.request_id,
        quarantine,
        error,
        extra=about(LogEvent.ROW_SET_ASIDE, request_id=settled.row.request_id),
    )


def settled_only(payloads: Iterable[bytes]) -> list[Settled]:
    """The finished rows of a living journal; what still runs is settled by its own request."""
    return [line for payload in payloads if isinstance(line := decode_line(payload), Settled)]


def reconstruct(lines: Iterable[Line]) -> list[Settled]:
    """Every row of a dead process's journal: the settled as they are, the running ones as interrupted."""
    opened: dict[str, Opened] = {}
    progress: dict[tuple[str, int], Attempt] = {}
    settled: dict[str, Settled] = {}
    last_seen = 0.0
    for line in lines:
        if isinstance(line, Settled):
            settled[line.row.request_id] = line
            last_seen = max(last_seen, line.row.finished_at)
        elif isinstance(line, Opened):
            known = opened.get(line.row.request_id)
            if known is None or len(known.attempts) <= len(line.attempts):
                opened[line.row.request_id] = line
            last_seen = max(last_seen, line.attempts[-1].started_at)
        elif isinstance(line, Progress):
            progress[line.request_id, line.attempt.number] = line.attempt
    interrupted = [
        _interrupted(line, progress.get((request_id, len(line.attempts))), last_seen)
        for request_id, line in opened.items()
        if request_id not in settled
    ]
    return [*settled.values(), *interrupted]


def _interrupted(line: Opened, progress: Attempt | None, last_seen: float) -> Settled:
    """The process died while this ran: what it had noted last is what is booked."""
    last = line.attempts[-1]
    if not last.status:
        last = progress or last
        last.status, last.reason = INTERRUPTED, "the gateway process ended before the answer did"
        last.source = ESTIMATED
        last.method = last.method or "intent"
    last.finished_at = last.finished_at or max(last_seen, last.started_at)
    line.row.status = INTERRUPTED
    line.row.reason = "the gateway process ended before the answer did"
    line.row.finished_at = last.finished_at
    return Settled(line.row, [*line.attempts[:-1], last])


class Keeper(threading.Thread):
    """Every tenth of a second: the spool to the disk, refused settlements once more, progress of what runs."""

    def __init__(self, ledger: Ledger, *, sync_seconds: float, progress_seconds: float) -> None:
        super().__init__(name="ledger-keeper", daemon=True)
        self._ledger = ledger
        self._sync_seconds = sync_seconds
        self._progress_seconds = progress_seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        next_progress = time.monotonic() + self._progress_seconds
        while not self._stop_asked.wait(self._sync_seconds):
            try:
                if self._ledger.unwritten:
                    self._ledger.retry_unwritten()
                if time.monotonic() >= next_progress:
                    next_progress = time.monotonic() + self._progress_seconds
                    self._ledger.leave_progress()
                self._ledger.spool.sync()
            except OSError as error:
                logger.critical("the spool could not be written to the disk: %s", error)
            except Exception:
                logger.exception("keeping the spool failed in a way nobody thought of; it is tried again")

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


class Booker(threading.Thread):
    """Books what the spool holds, and what the dead have left."""

    def __init__(self, ledger: Ledger, prices: Callable[[], PriceList], *, pause: float) -> None:
        super().__init__(name="ledger-booker", daemon=True)
        self._ledger = ledger
        self._prices = prices
        self._pause = pause
        self._stop_asked = threading.Event()
        self._directory = ledger.spool.directory
        self._adopt_at = 0.0
        self._failing_since: float | None = None
        self._waiting_since: float | None = None  # for the database to take a batch

    @property
    def failing_since(self) -> float | None:
        """Since when the database takes nothing; where its packets vanish, silence is all that ever shows."""
        waiting = self._waiting_since
        if self._failing_since is None and waiting is not None and time.time() - waiting > PATIENCE:
            return waiting
        return self._failing_since

    def run(self) -> None:
        failures = 0
        while not self._stop_asked.wait(min(self._pause * 2**failures, 5.0)):
            try:
                failures = 0 if self.work() else failures + 1
            except Exception:
                logger.exception("booking failed in a way nobody thought of; it is tried again")
                failures += 1
        self.work()
        connection.close()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(timeout=10)

    def work(self) -> bool:
        """Books all there is; False when the database is away, and nothing is lost by that."""
        try:
            self.book_own()
            if time.monotonic() >= self._adopt_at:
                self.adopt()
                self._adopt_at = time.monotonic() + ADOPTION_PAUSE
        except (DatabaseError, OSError, NoProvider) as error:
            self._note_failure(error)
            close_old_connections()
            connection.close()
            return False
        return True

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.time()
            logger.error(
                "the ledger waits in the spool, the database does not take it: %s",
                str(error).strip(),
                extra=about(LogEvent.LEDGER_WAITING),
            )

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.warning("the ledger is being booked again", extra=about(LogEvent.LEDGER_BOOKING_AGAIN))
            self._failing_since = None

    def book_own(self) -> None:
        """Up to now: what comes meanwhile waits for the next time, or a busy gateway would book for ever."""
        another_follows = True
        while another_follows:
            payloads, booked = self._ledger.spool.unread()
            self._book(settled_only(payloads))
            another_follows = booked()

    def adopt(self) -> None:
        """The journals of processes that are gone. Only gateway processes do this."""
        with orphans(self._directory, self._ledger.spool.owner) as found:
            for orphan in found:
                rows = reconstruct(self._readable(orphan))
                self._book(rows)
                if rows:
                    logger.warning(
                        "adopted %d rows of a process that ended without booking them",
                        len(rows),
                        extra=about(LogEvent.ROWS_ADOPTED, rows=len(rows)),
                    )
                if orphan.damaged:
                    logger.critical(
                        "%d damaged lines in the journal of %s: kept",
                        orphan.damaged,
                        orphan.owner,
                        extra=about(LogEvent.JOURNAL_DAMAGED, lines=orphan.damaged),
                    )
                    orphan.keep_as_evidence()
                else:
                    orphan.release(remove=True)

    def _readable(self, orphan: Orphan) -> Iterable[Line]:
        for payload in orphan.payloads():
            try:
                yield decode_line(payload)
            except msgspec.DecodeError:  # written by a version we do not know
                orphan.damaged += 1

    def _book(self, rows: Sequence[Settled]) -> None:
        for start in range(0, len(rows), BATCH):
            self._waiting_since = time.time()
            try:
                book_or_set_aside(rows[start : start + BATCH], self._prices(), self._directory / QUARANTINE)
            finally:
                self._waiting_since = None
            self._note_success()
