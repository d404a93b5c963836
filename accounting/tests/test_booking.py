"""From spool to database: every row once, whatever the process or the database does in between."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pytest
from django.db import DataError, OperationalError, connection

from accounting import booking
from accounting.booking import Booker, book, reconstruct, settled_only
from accounting.ledger import CANCELLED, Ledger, Settled, decode_line
from accounting.models import DirtyQuarter, UsageAttempt, UsageRecord
from accounting.prices import PriceList, Rates
from accounting.rows import Values, rows_of
from accounting.spool import Spool, SpoolFull
from accounting.tests.conftest import CANDIDATE, begin, finished
from providers.errors import LedgerUnavailable
from providers.usage import Usage

pytestmark = pytest.mark.django_db

PRICES = PriceList(
    [
        Rates(
            id=1,
            model="claude-*",
            provider_id=None,
            valid_from=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
            currency="USD",
            input=Decimal("3"),
            cache_read=Decimal("0.3"),
            cache_write_5m=Decimal("3.75"),
            cache_write_1h=Decimal(6),
            output=Decimal(15),
            web_search=Decimal(10),
        )
    ]
)
NO_PRICES = PriceList([])


def booker(ledger: Ledger, prices: PriceList = NO_PRICES) -> Booker:
    return Booker(ledger, lambda: prices, pause=0.01)


def test_a_finished_request_is_one_row_with_its_attempt(ledger: Ledger) -> None:
    entry = finished(ledger, Usage(input=10, cache_read=3, output=5))
    assert booker(ledger, PRICES).work()
    row = UsageRecord.objects.get()
    assert (row.request_id, row.status, row.input, row.cache_read, row.output) == (
        entry.request_id,
        "completed",
        10,
        3,
        5,
    )
    assert row.cost == Decimal("0.0001059")
    assert row.price is not None
    assert row.price["output"] == "15"
    assert (row.key, row.owner, row.cost_centre, row.provider) == ("owner", "Olga", "R&D", "first")
    assert UsageAttempt.objects.get().record_id == entry.request_id


def test_booking_twice_changes_nothing(ledger: Ledger) -> None:
    finished(ledger)
    payloads, _ = ledger.spool.unread()
    book(settled_only(payloads), NO_PRICES)
    book(settled_only(payloads), NO_PRICES)
    assert UsageRecord.objects.count() == UsageAttempt.objects.count() == 1


def test_an_unknown_price_marks_the_row_and_fails_nothing(ledger: Ledger) -> None:
    finished(ledger)
    booker(ledger).work()
    row = UsageRecord.objects.get()
    assert row.cost is None
    assert row.attempts_cost is None
    assert row.price is None


def test_rows_mark_their_quarter_hour(ledger: Ledger) -> None:
    finished(ledger)
    finished(ledger)
    booker(ledger).work()
    quarter = DirtyQuarter.objects.get().starts_at
    assert (quarter.minute % 15, quarter.second) == (0, 0)


def test_a_running_request_is_not_in_the_database(ledger: Ledger) -> None:
    begin(ledger).open_attempt(CANDIDATE)
    booker(ledger).work()
    assert not UsageRecord.objects.exists()


def test_what_the_dead_left_running_is_interrupted_with_its_last_progress(tmp_path: Path) -> None:
    dead = Ledger(Spool(tmp_path, segment_bytes=64 * 1024))
    finished(dead)
    entry = begin(dead)
    entry.open_attempt(CANDIDATE)

    class Halfway:
        def so_far(self) -> tuple[Usage, str, str]:
            return Usage(input=100, output=42), "estimated", "characters"

        def known(self) -> tuple[int, int]:
            return 0, 0

    entry.meter = Halfway()
    dead.leave_progress()
    dead.spool.close(remove=False)

    living = Ledger(Spool(tmp_path, segment_bytes=64 * 1024))
    booker(living).work()
    row = UsageRecord.objects.get(request_id=entry.request_id)
    assert (row.status, row.input, row.output, row.source) == ("interrupted", 100, 42, "estimated")
    assert UsageRecord.objects.filter(status="completed").count() == 1
    assert list(tmp_path.glob("*.spool")) == []


def test_a_failed_attempt_before_the_crash_keeps_its_outcome(ledger: Ledger) -> None:
    entry = begin(ledger)
    entry.open_attempt(CANDIDATE)
    entry.close_attempt("failed", (Usage(), "upstream", ""), reason="HTTP 500")
    entry.open_attempt(CANDIDATE)
    [settled] = reconstruct(decode_line(payload) for payload in ledger.spool.unread()[0])
    assert [attempt.status for attempt in settled.attempts] == ["failed", "interrupted"]
    assert settled.attempts[0].reason == "HTTP 500"


def test_settling_twice_books_once(ledger: Ledger) -> None:
    entry = finished(ledger)
    entry.settle(CANCELLED)
    settled = [line for payload in ledger.spool.unread()[0] if isinstance(line := decode_line(payload), Settled)]
    assert [line.row.status for line in settled] == ["completed"]


def test_an_absent_database_loses_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(ledger)
    ours = booker(ledger)

    def away(*_: object) -> None:
        raise OperationalError("server closed the connection")

    # The test's own transaction lives in this connection.
    monkeypatch.setattr(connection, "close", lambda: None)
    with monkeypatch.context() as outage:
        outage.setattr(booking, "book", away)
        assert not ours.work()
        noted = ours.failing_since
        assert noted is not None
    booked = ours.work()
    assert booked
    assert ours.failing_since is None
    assert UsageRecord.objects.count() == 1


def test_a_row_the_database_refuses_is_set_aside_and_the_others_are_booked(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [finished(ledger) for _ in range(6)]
    bad = finished(ledger, model="poison")
    honest = rows_of

    def strict(settled: Settled, prices: PriceList) -> tuple[Values, list[Values]]:
        if settled.row.model == "poison":
            raise DataError("value out of range")
        return honest(settled, prices)

    monkeypatch.setattr(booking, "rows_of", strict)
    assert booker(ledger).work()
    assert set(UsageRecord.objects.values_list("request_id", flat=True)) == {entry.request_id for entry in good}
    [line] = (ledger.spool.directory / booking.QUARANTINE).read_text().splitlines()
    assert json.loads(line)["row"]["row"]["request_id"] == bad.request_id


def test_hostile_names_are_cleaned_at_the_door(ledger: Ledger) -> None:
    finished(ledger, model="nul \0 half \ud800 long " + "x" * 1000)
    booker(ledger).work()
    row = UsageRecord.objects.get()
    assert "\0" not in row.model
    assert len(row.model) == 200


def test_absurd_figures_are_cleaned_at_the_door(ledger: Ledger) -> None:
    from providers.usage import MOST_TOKENS, tokens

    finished(ledger, Usage(input=tokens(10**30), output=tokens(-5)))
    booker(ledger).work()
    row = UsageRecord.objects.get()
    assert (row.input, row.output) == (MOST_TOKENS, 0)


def test_no_intent_no_call(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SpoolFull("No space left on device")

    monkeypatch.setattr(ledger.spool, "append", full)
    entry = begin(ledger)
    with pytest.raises(LedgerUnavailable):
        entry.open_attempt(CANDIDATE)
    assert not entry.attempts
    entry.settle(CANCELLED)
    assert not entry.settled


def test_a_settlement_that_cannot_be_written_waits_and_closes_the_door(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = begin(ledger)
    entry.open_attempt(CANDIDATE)

    def full(*_: object) -> None:
        raise SpoolFull("No space left on device")

    monkeypatch.setattr(ledger.spool, "append", full)
    entry.close_attempt("completed", (Usage(input=1), "upstream", ""))
    entry.settle("completed")
    assert ledger.unwritten == 1
    with pytest.raises(LedgerUnavailable):
        begin(ledger).open_attempt(CANDIDATE)
    monkeypatch.undo()
    ledger.retry_unwritten()
    assert ledger.unwritten == 0
    booker(ledger).work()
    assert UsageRecord.objects.get().input == 1


def test_a_journal_longer_than_a_segment_is_booked_whole(ledger: Ledger) -> None:
    entries = [finished(ledger) for _ in range(600)]
    booker(ledger).work()
    assert set(UsageRecord.objects.values_list("request_id", flat=True)) == {entry.request_id for entry in entries}


def test_an_empty_ledger_leaves_no_file_and_a_full_one_does(ledger: Ledger) -> None:
    finished(ledger)
    booker(ledger).work()
    ledger.close()
    assert list(ledger.spool.directory.glob("*.spool")) == []


def test_no_column_of_the_ledger_is_forgotten(ledger: Ledger) -> None:
    """Rows are written by statement: a new column must be written too."""
    finished(ledger)
    [settled] = settled_only(ledger.spool.unread()[0])
    record, [attempt] = rows_of(settled, PRICES)
    for model, row in ((UsageRecord, record), (UsageAttempt, attempt)):
        assert set(row) == {field.column for field in model._meta.local_concrete_fields} - {"id"}
