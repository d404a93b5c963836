"""What a ledger meets when everything happens at the wrong moment: each of these once lost a row, or would have."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from django.db import OperationalError, connection

from accounting import booking
from accounting.booking import Booker, Keeper, reconstruct
from accounting.ledger import Ledger, Settled, decode_line
from accounting.models import UsageAttempt, UsageRecord
from accounting.prices import PriceList
from accounting.rows import Values, rows_of
from accounting.spool import Segment, Spool, SpoolFull, orphans, seal
from accounting.tests.conftest import CANDIDATE, begin, finished
from providers.errors import LedgerUnavailable, NoProvider
from providers.usage import Usage

pytestmark = pytest.mark.django_db


def booker(ledger: Ledger) -> Booker:
    return Booker(ledger, lambda: PriceList([]), pause=0.01)


def ledger_in(path: Path, segment_bytes: int = 64 * 1024) -> Ledger:
    return Ledger(Spool(path, segment_bytes=segment_bytes))


def leave_a_journal(path: Path) -> str:
    """A process that died before it had booked; the id of its one finished request."""
    dead = ledger_in(path)
    entry = finished(dead)
    dead.spool.close(remove=False)
    return entry.request_id


def booked_ids() -> set[str]:
    return set(UsageRecord.objects.values_list("request_id", flat=True))


@pytest.fixture
def same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own transaction lives in this connection, which a booker in trouble closes."""
    monkeypatch.setattr(connection, "close", lambda: None)


@pytest.mark.parametrize("trouble", [OperationalError("the database is away"), NoProvider("no prices were read yet")])
def test_the_dead_are_adopted_later_when_the_database_was_away_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_connection: None, trouble: Exception
) -> None:
    left = leave_a_journal(tmp_path)
    ours = booker(ledger_in(tmp_path))

    def away(*_: object) -> None:
        raise trouble

    with monkeypatch.context() as outage:
        outage.setattr(booking, "book", away)
        assert not ours.work()
        assert not ours.work()
    assert ours.work()
    assert booked_ids() == {left}
    assert not list(tmp_path.glob("*.spool"))


def test_own_rows_are_booked_while_a_journal_of_the_dead_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_connection: None
) -> None:
    leave_a_journal(tmp_path)
    honest = os.open

    def forbidden(path: str | Path, *arguments: int, **options: int) -> int:
        if str(path).endswith(".spool"):
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path, *arguments, **options)

    ledger = ledger_in(tmp_path)
    entry = finished(ledger)
    monkeypatch.setattr("accounting.spool.os.open", forbidden)
    booker(ledger).work()
    assert booked_ids() == {entry.request_id}


def test_who_dies_after_our_start_is_adopted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "ADOPTION_PAUSE", 0.0)
    ours = booker(ledger_in(tmp_path))
    ours.work()
    left = leave_a_journal(tmp_path)
    ours.work()
    assert booked_ids() == {left}


def test_two_who_look_at_the_same_moment_book_the_dead_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave_a_journal(tmp_path)
    first, second = booker(ledger_in(tmp_path)), booker(ledger_in(tmp_path))
    batches: list[list[str]] = []
    book = booking.book

    def look_meanwhile(batch: Sequence[Settled], prices: PriceList) -> None:
        second.adopt()
        batches.append([settled.row.request_id for settled in batch])
        book(batch, prices)

    monkeypatch.setattr(booking, "book", look_meanwhile)
    first.adopt()
    second.adopt()

    assert batches == [[left]]
    assert booked_ids() == {left}


def test_a_line_that_was_being_written_when_the_process_died_is_no_damage(tmp_path: Path) -> None:
    """A kill may stop a write between two pages. Nobody has relied on that line yet."""
    left = leave_a_journal(tmp_path)
    [path] = tmp_path.glob("*.spool")
    data = bytearray(path.read_bytes())
    end = len(data.rstrip(b"\0"))
    half = seal(b'{"line":"done","row":{}}')[:20]
    data[end : end + len(half)] = half
    path.write_bytes(data)
    booker(ledger_in(tmp_path)).work()
    assert booked_ids() == {left}
    assert not list(tmp_path.iterdir()) or not list(tmp_path.glob("*.damaged"))


def test_an_intent_is_carried_into_a_segment_that_begins_right_after_it(tmp_path: Path) -> None:
    """The keeper may begin a new segment between the writing of an intent and whatever follows it."""
    ledger = ledger_in(tmp_path)
    honest = ledger.spool.append
    carried: list[str] = []

    def rolled_at_once(payloads: Iterable[bytes], carry: Callable[[], Iterable[bytes]], leave_free: int = 0) -> None:
        honest(payloads, carry, leave_free)
        carried.extend(decode_line(line).row.request_id for line in carry())  # type: ignore[union-attr]

    ledger.spool.append = rolled_at_once  # type: ignore[method-assign]
    entry = begin(ledger)
    entry.open_attempt(CANDIDATE)
    assert carried == [entry.request_id]


def test_a_refused_intent_leaves_nothing_running(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accounting.spool.Segment.create", full)
    with pytest.raises(LedgerUnavailable):
        begin(ledger).open_attempt(CANDIDATE)
    assert ledger.running == 0


def test_a_second_intent_that_is_refused_keeps_the_first_attempt(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = begin(ledger)
    entry.open_attempt(CANDIDATE)
    entry.close_attempt("failed", (Usage(), "upstream", ""), reason="HTTP 500")
    with monkeypatch.context() as broken:
        broken.setattr("accounting.spool.Segment.append", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(LedgerUnavailable):
            entry.open_attempt(CANDIDATE)
    assert ledger.running == 1
    entry.settle("failed")
    assert ledger.running == 0
    booker(ledger).work()
    assert UsageAttempt.objects.count() == 1


def test_a_clock_that_was_set_back_costs_no_row(ledger: Ledger) -> None:
    """SQLite drops a row with a negative "positive" number in silence, where conflicts are to be ignored."""
    entry = begin(ledger)
    entry.open_attempt(CANDIDATE)
    entry.row.first_byte_ms = -3_600_000
    entry.close_attempt("completed", (Usage(input=1), "upstream", ""))
    entry.settle("completed")
    booker(ledger).work()
    assert UsageRecord.objects.get().first_byte_ms == 0


def test_a_row_that_the_database_drops_in_silence_is_set_aside(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = finished(ledger), finished(ledger, model="poison")
    honest = rows_of

    def negative(settled: Settled, prices: PriceList) -> tuple[Values, list[Values]]:
        record, attempts = honest(settled, prices)
        if settled.row.model == "poison":
            record["first_byte_ms"] = -1
        return record, attempts

    monkeypatch.setattr(booking, "rows_of", negative)
    assert booker(ledger).work()
    assert booked_ids() == {good.request_id}
    assert bad.request_id in (ledger.spool.directory / booking.QUARANTINE).read_text()
    assert not UsageAttempt.objects.filter(record__request_id=bad.request_id).exists()


def test_steady_load_does_not_keep_the_booker_from_its_other_duties(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is booked the next requests finish: a booker that waits for silence would never stop or recover."""
    honest = booking.book
    batches = 0

    def busy(batch: list[Settled], prices: PriceList) -> None:
        nonlocal batches
        batches += 1
        assert batches < 10, "the booker never comes to an end"
        honest(batch, prices)
        finished(ledger)

    finished(ledger)
    monkeypatch.setattr(booking, "book", busy)
    assert booker(ledger).work()
    assert batches == 1


def test_a_segment_read_to_its_end_does_not_hide_the_next_one(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path, segment_bytes=4096)
    ours = booker(ledger)
    before = finished(ledger)
    ours.work()
    after = [finished(ledger) for _ in range(20)]
    ours.work()
    assert booked_ids() == {entry.request_id for entry in [before, *after]}


def test_what_runs_finds_room_for_its_settlement_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept in memory alone it would be gone with the process, and the client has had its answer."""
    ledger = ledger_in(tmp_path, segment_bytes=16 * 1024)
    running = [begin(ledger) for _ in range(3)]
    for entry in running:
        entry.open_attempt(CANDIDATE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accounting.spool._reserve", full)
    refused = None
    while refused is None:
        try:
            finished(ledger)
        except LedgerUnavailable as error:
            refused = error
    with pytest.raises(SpoolFull):
        ledger.spool.probe()
    for entry in running:
        entry.close_attempt("completed", (Usage(input=1), "upstream", ""), reason="x" * 300)
        entry.settle("completed", reason="x" * 300)
    assert ledger.unwritten == 0
    monkeypatch.undo()
    ledger.spool.probe()
    ledger.spool.close(remove=False)
    booker(ledger_in(tmp_path)).work()
    assert {entry.request_id for entry in running} <= booked_ids()
    assert not UsageRecord.objects.exclude(status="completed").exists()


def test_a_meter_that_fails_does_not_end_the_keeping(ledger: Ledger) -> None:
    class Broken:
        def so_far(self) -> tuple[Usage, str, str]:
            raise RuntimeError("dictionary changed size during iteration")

        def known(self) -> tuple[int, int]:
            return 0, 0

    entry = begin(ledger)
    entry.open_attempt(CANDIDATE)
    entry.meter = Broken()
    keeper = Keeper(ledger, sync_seconds=0.001, progress_seconds=0.001)
    keeper.start()
    keeper.join(0.1)
    assert keeper.is_alive()
    keeper.stop()


def test_a_strict_line_waits_for_a_write_to_the_disk_that_began_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the line and its sync the keeper may begin one of its own, which is not waited for."""
    spool = Spool(tmp_path, segment_bytes=4096, sync_every_line=True)
    spool.append([b"first"], lambda: [])
    begun, go_on = threading.Event(), threading.Event()
    honest_sync, honest_append = os.fdatasync, Segment.append
    synced: list[str] = []

    def slow_for_the_keeper(descriptor: int) -> None:
        if threading.current_thread() is keeper:
            begun.set()
            go_on.wait(5)
        honest_sync(descriptor)
        synced.append(threading.current_thread().name)

    def overtaken(segment: Segment, line: bytes) -> None:
        honest_append(segment, line)
        keeper.start()
        begun.wait(5)

    keeper = threading.Thread(target=spool._segments[-1].sync, name="keeper")
    monkeypatch.setattr("os.fdatasync", slow_for_the_keeper)
    monkeypatch.setattr(Segment, "append", overtaken)
    spool.append([b"second"], lambda: [])
    assert synced == [threading.main_thread().name]
    go_on.set()
    keeper.join()
    spool.close(remove=True)


def test_a_segment_that_cannot_take_what_it_must_carry_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with monkeypatch.context() as bad_disk:
            bad_disk.setattr(Segment, "append", broken)
            with pytest.raises(SpoolFull):
                spool.append([b"line"], lambda: [b"still running"])
    assert not list(tmp_path.glob("*.spool"))
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_health_notices_a_database_that_swallows_everything(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error ever comes from a connection whose packets vanish."""
    ours = booker(ledger)
    noticed: list[float | None] = []

    def silent(*_: object) -> None:
        noticed.append(ours.failing_since)
        monkeypatch.setattr(booking, "PATIENCE", 0.0)
        noticed.append(ours.failing_since)

    finished(ledger)
    monkeypatch.setattr(booking, "book", silent)
    ours.work()
    assert noticed[0] is None
    assert noticed[1] is not None
    assert ours.failing_since is None


def test_a_settled_request_is_never_reconstructed_as_interrupted(tmp_path: Path) -> None:
    """Its intent may be carried into a new segment while its settlement is on the way into the old one."""
    dead = ledger_in(tmp_path)
    entry = finished(dead)
    dead.spool.append([entry.opened_line()], lambda: [])
    lines = [decode_line(payload) for payload in dead.spool.unread()[0]]
    assert [settled.row.status for settled in reconstruct(lines)] == ["completed"]
    dead.spool.close(remove=False)
    with orphans(tmp_path, "nobody") as found:
        assert len(list(found)) == 1
