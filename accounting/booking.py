"""From the spool into the database: in batches, exactly once, whatever happened in between."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
from django.db import DatabaseError, DataError, IntegrityError, close_old_connections, connection, transaction

from accounting.ledger import ESTIMATED, INTERRUPTED, Attempt, Ledger, Line, Opened, Progress, Row, Settled, decode_line
from accounting.models import DirtyQuarter, UsageAttempt, UsageRecord
from accounting.prices import PriceList, Rates
from accounting.spool import Orphan, orphans
from providers.errors import NoProvider

logger = logging.getLogger("ccproxy.booking")

BATCH = 500
# Seconds between two looks for the journals of the dead: some process of the family may have died after our start.
ADOPTION_PAUSE = 30.0
# Seconds after which a database that has not answered counts as away.
PATIENCE = 5.0
MOST_MILLISECONDS = 2**31 - 1
QUARTER = 15 * 60
QUARANTINE = "quarantine.jsonl"
# What a database says of the row itself; anything else is the database's own trouble and is tried again.
ROW_REFUSED = (DataError, IntegrityError, ValueError, TypeError, OverflowError, UnicodeError, InvalidOperation)


def book(batch: Sequence[Settled], prices: PriceList) -> None:
    """All rows or none. A row that stands already is left as it is: a request id is booked once."""
    records = [record_of(settled, prices) for settled in batch]
    attempts = [attempt for settled in batch for attempt in attempts_of(settled, prices)]
    quarters = sorted({_quarter(settled.row.started_at) for settled in batch})
    with transaction.atomic():
        # Sorted, so that two processes that book the same rows wait for each other in one order.
        UsageRecord.objects.bulk_create(sorted(records, key=lambda r: r.request_id), ignore_conflicts=True)
        _require({record.request_id for record in records})
        UsageAttempt.objects.bulk_create(sorted(attempts, key=lambda a: (a.record_id, a.number)), ignore_conflicts=True)
        DirtyQuarter.objects.bulk_create([DirtyQuarter(starts_at=moment) for moment in quarters], ignore_conflicts=True)


def _require(request_ids: set[str]) -> None:
    """Where conflicts are ignored, SQLite drops in silence whatever breaks any rule of the table."""
    if UsageRecord.objects.filter(request_id__in=request_ids).count() < len(request_ids):
        raise IntegrityError("the database dropped the row without a word")


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
        "the database refused the row of %s, it is kept in %s: %s", settled.row.request_id, quarantine, error
    )


def record_of(settled: Settled, prices: PriceList) -> UsageRecord:
    row, last = settled.row, settled.attempts[-1]
    rates = _rates(last, row, prices)
    return UsageRecord(
        request_id=row.request_id,
        client_request_id=row.client_request_id,
        session_id=row.session_id,
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
        api_key_id=row.key_id,
        key=row.key,
        owner=row.owner,
        cost_centre=row.cost_centre,
        model=row.model,
        streamed=row.streamed,
        status=row.status,
        stop_reason=row.stop_reason,
        reason=row.reason,
        # A clock that is set back makes it negative.
        first_byte_ms=row.first_byte_ms and min(max(row.first_byte_ms, 0), MOST_MILLISECONDS),
        price=_price(rates),
        attempt_count=len(settled.attempts),
        attempts_cost=_together(settled, prices),
        **_call(last, rates),
    )


def attempts_of(settled: Settled, prices: PriceList) -> Iterable[UsageAttempt]:
    for attempt in settled.attempts:
        yield UsageAttempt(
            record_id=settled.row.request_id,
            number=attempt.number,
            started_at=_moment(attempt.started_at),
            finished_at=_moment(attempt.finished_at),
            upstream_id=attempt.upstream_id,
            reached=attempt.reached,
            status=attempt.status,
            reason=attempt.reason,
            **_call(attempt, _rates(attempt, settled.row, prices)),
        )


def _call(attempt: Attempt, rates: Rates | None) -> dict[str, Any]:
    """The columns that rows and attempts share."""
    return {
        "provider_ref_id": attempt.provider_id,
        "provider": attempt.provider,
        "upstream_model": attempt.upstream_model,
        **msgspec.structs.asdict(attempt.usage),
        "source": attempt.source,
        "method": attempt.method,
        "cost": rates.cost(attempt.usage) if rates else None,
        "currency": rates.currency if rates else "",
    }


def _rates(attempt: Attempt, row: Row, prices: PriceList) -> Rates | None:
    return prices.at(_moment(row.started_at), attempt.provider_id, attempt.upstream_model)


def _price(rates: Rates | None) -> dict[str, Any] | None:
    return None if rates is None else {name: str(value) for name, value in msgspec.structs.asdict(rates).items()}


def _together(settled: Settled, prices: PriceList) -> Decimal | None:
    """None as soon as one attempt's price is unknown: a sum with a hole is no sum."""
    total = Decimal(0)
    for attempt in settled.attempts:
        rates = _rates(attempt, settled.row, prices)
        if rates is None:
            return None
        total += rates.cost(attempt.usage)
    return total


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _quarter(seconds: float) -> dt.datetime:
    return _moment(seconds - seconds % QUARTER)


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
            logger.error("the ledger waits in the spool, the database does not take it: %s", str(error).strip())

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.warning("the ledger is being booked again")
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
                    logger.warning("adopted %d rows of a process that ended without booking them", len(rows))
                if orphan.damaged:
                    logger.critical("%d damaged lines in the journal of %s: kept", orphan.damaged, orphan.owner)
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
