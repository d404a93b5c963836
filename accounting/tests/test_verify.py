"""A sound ledger is called sound, and each way of breaking one is found and named."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F

from accounting import verify as proof
from accounting.ledger import CANCELLED, ESTIMATED, FAILED
from accounting.models import (
    DaySum,
    DirtyDay,
    DirtyQuarter,
    Price,
    QuarterSum,
    Status,
    SumsState,
    UsageAttempt,
    UsageRecord,
)
from accounting.rollups import mark_quarters, roll_up
from accounting.tests.requests import NOON, booked, moment, request
from accounting.verify import verify
from providers.usage import MOST_TOKENS, Usage

pytestmark = pytest.mark.django_db

UNIT = Decimal("0.000000000001")


@pytest.fixture
def victim() -> str:
    """A ledger with all that is allowed in one, summed; the id of one of its requests."""
    chosen = request(usage=Usage(input=3, cache_read=5, output=7, web_searches=1), failed_before=Usage(input=2))
    booked(
        chosen,
        request("2026-03-10T23:59:59Z", upstream_model="unknown"),
        request("2026-03-11T00:00:00Z", upstream_model="mistral-large", failed_before=Usage(input=9)),
        request("2026-03-12T08:00:00Z", status=FAILED, usage=Usage(), first_byte_ms=None),
        request("2026-03-12T08:00:00Z", status=CANCELLED, source=ESTIMATED, usage=Usage(output=1)),
        request("2026-03-12T08:00:00Z", Usage(input=123_456_789_012, output=987_654_321)),
    )
    roll_up()
    return chosen.row.request_id


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("verify_ledger", *arguments, stdout=out)
    return out.getvalue()


def test_a_sound_ledger_is_called_sound(victim: str) -> None:
    said = command()
    assert "6 requests looked at" in said
    assert "8 attempts looked at" in said
    assert "4 quarter hours looked at" in said
    assert "3 days looked at" in said
    assert said.endswith("The ledger is sound.\n")


def test_an_empty_ledger_is_sound() -> None:
    assert verify().sound


def test_a_price_that_was_changed_since_does_not_matter(victim: str) -> None:
    Price.objects.create(model="claude-*", input=99)
    assert verify().sound


@pytest.mark.parametrize("last_model", ["mistral-large", "a model without a price"])
def test_an_amount_never_stands_under_the_currency_of_an_attempt_that_was_never_made(last_model: str) -> None:
    """A first attempt was billed in dollars; the last one, priced in euros or not at all, reached nobody."""
    settled = request(usage=Usage(), status=FAILED, failed_before=Usage(input=10), upstream_model=last_model)
    settled.attempts[-1].reached = False
    booked(settled)
    assert UsageRecord.objects.get().attempts_cost is None
    assert verify().sound


def twice(request_id: str) -> None:
    """A table without the constraint that forbids it."""
    table, kept = UsageRecord._meta.db_table, "a_table_with_constraints"
    columns = ", ".join(f'"{field.column}"' for field in UsageRecord._meta.local_concrete_fields)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {kept}")
        cursor.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM {kept}")  # noqa: S608
        cursor.execute(f"INSERT INTO {table} SELECT {columns} FROM {kept} WHERE request_id = %s", [request_id])  # noqa: S608


def change(request_id: str, **fields: Any) -> None:
    assert UsageRecord.objects.filter(request_id=request_id).update(**fields)


def change_attempt(request_id: str, number: int, /, **fields: Any) -> None:
    assert UsageAttempt.objects.filter(record__request_id=request_id, number=number).update(**fields)


def change_cost(request_id: str, **fields: Any) -> None:
    """On the row and on its last attempt alike."""
    change(request_id, **fields)
    change_attempt(request_id, 2, **fields)
    change(request_id, attempts_cost=None)


def lose_a_unit(request_id: str, attempts: int = 2) -> None:
    """Of money, everywhere alike."""
    change(request_id, cost=F("cost") - UNIT, attempts_cost=F("attempts_cost") - UNIT)
    change_attempt(request_id, attempts, cost=F("cost") - UNIT)


def lose_all_attempts(request_id: str) -> None:
    change(request_id, attempt_count=0)
    UsageAttempt.objects.filter(record__request_id=request_id).delete()


def delete_attempt(request_id: str, number: int) -> None:
    UsageAttempt.objects.filter(record__request_id=request_id, number=number).delete()


def copies(lines: Iterable[DaySum]) -> Iterator[DaySum]:
    for line in lines:
        line.pk = None
        yield line


def correct(corrects: str, **fields: Any) -> None:
    at = moment("2026-03-12T09:00:00Z")
    written = {"source": "counted", "attempt_count": 0, "input": -3, "cost": Decimal("-0.000009"), "currency": "USD"}
    UsageRecord.objects.create(
        **{
            **written,
            "request_id": "correction_1",
            "corrects": corrects,
            "started_at": at,
            "finished_at": at,
            "key": "alice",
            "model": "claude-opus",
            "status": Status.CORRECTION,
            **fields,
        }
    )
    mark_quarters([at])
    roll_up()


# How the ledger is broken, what is said of it, and what else follows from that.
BREAKS: dict[str, tuple[Callable[[str], object], set[str]]] = {
    "a request stands twice": (twice, {proof.DUPLICATE, proof.OTHER_QUARTER}),
    "an attempt is missing": (lambda it: delete_attempt(it, 1), {proof.HOLES, proof.OTHER_ATTEMPTS_COST}),
    "the last attempt is missing": (
        lambda it: delete_attempt(it, 2),
        {proof.HOLES, proof.OTHER_FIGURES, proof.OTHER_ATTEMPTS_COST},
    ),
    "an attempt has another number": (lambda it: change_attempt(it, 1, number=3), {proof.HOLES, proof.OTHER_FIGURES}),
    "there is one attempt too many": (lambda it: change(it, attempt_count=1), {proof.HOLES, proof.OTHER_QUARTER}),
    "no attempt is left": (
        lose_all_attempts,
        {proof.HOLES, proof.OTHER_QUARTER},
    ),
    "a request is missing": (
        lambda it: UsageRecord.objects.filter(request_id=it).delete(),
        {proof.ORPHAN, proof.OTHER_QUARTER},
    ),
    "a status is none": (lambda it: change(it, status="open"), {proof.UNKNOWN_WORD, proof.OTHER_QUARTER}),
    "an attempt's status is none": (lambda it: change_attempt(it, 1, status=""), {proof.UNKNOWN_WORD}),
    "a source is none": (lambda it: change_attempt(it, 1, source="guessed"), {proof.UNKNOWN_WORD}),
    "tokens are negative": (lambda it: change_attempt(it, 1, cache_read=-1), {proof.NEGATIVE}),
    "a row has other tokens": (
        lambda it: change(it, output=8),
        {proof.OTHER_FIGURES, proof.OTHER_COST, proof.OTHER_QUARTER},
    ),
    "an attempt has other tokens": (lambda it: change_attempt(it, 2, thinking=1), {proof.OTHER_FIGURES}),
    "an attempt has another source": (lambda it: change_attempt(it, 2, source="counted"), {proof.OTHER_FIGURES}),
    "an attempt was made elsewhere": (lambda it: change_attempt(it, 2, provider="second"), {proof.OTHER_FIGURES}),
    "a failed attempt costs more": (lambda it: change_attempt(it, 1, cost=1), {proof.OTHER_ATTEMPTS_COST}),
    "a failed attempt was never charged": (
        lambda it: change_attempt(it, 1, reached=False),
        {proof.OTHER_ATTEMPTS_COST},
    ),
    "a failed attempt has another currency": (
        lambda it: change_attempt(it, 1, currency="EUR"),
        {proof.OTHER_ATTEMPTS_COST},
    ),
    "the least amount of money is missing": (lose_a_unit, {proof.OTHER_COST, proof.OTHER_QUARTER}),
    "a cost has no price": (lambda it: change(it, price=None), {proof.OTHER_COST}),
    "a price has no cost": (lambda it: change_cost(it, cost=None), {proof.OTHER_COST, proof.OTHER_QUARTER}),
    "a price cannot be read": (lambda it: change(it, price={"input": "much"}), {proof.OTHER_COST}),
    "a price is no object": (lambda it: change(it, price=[1]), {proof.OTHER_COST}),
    "a price is of another currency": (
        lambda it: change_cost(it, currency="EUR"),
        {proof.OTHER_COST, proof.OTHER_QUARTER},
    ),
    "a correction names nothing": (lambda _: correct(""), {proof.LOST_CORRECTION}),
    "a correction names no row": (lambda _: correct("req_none"), {proof.LOST_CORRECTION}),
    "a correction names itself": (lambda _: correct("correction_1"), {proof.LOST_CORRECTION}),
    "a row that is none corrects": (lambda it: change(it, corrects="req_none"), {proof.LOST_CORRECTION}),
    "a sum of a quarter hour is off by one": (
        lambda _: QuarterSum.objects.filter(starts_at=moment(NOON)).update(cost=F("cost") + 1),
        {proof.OTHER_QUARTER, proof.OTHER_DAY},
    ),
    "a quarter hour was never summed": (
        lambda _: QuarterSum.objects.filter(starts_at=moment(NOON)).delete(),
        {proof.OTHER_QUARTER, proof.OTHER_DAY},
    ),
    "a quarter hour has a sum and no rows": (
        lambda _: QuarterSum.objects.filter(starts_at=moment(NOON)).update(starts_at=moment("2026-03-10T12:15:00Z")),
        {proof.OTHER_QUARTER},
    ),
    "a sum stands twice": (
        lambda _: DaySum.objects.bulk_create(copies(DaySum.objects.filter(day="2026-03-11"))),
        {proof.OTHER_DAY},
    ),
    "a sum of a day is off by one": (
        lambda _: DaySum.objects.filter(day="2026-03-12").update(requests=F("requests") + 1),
        {proof.OTHER_DAY},
    ),
    "a day was never summed": (lambda _: DaySum.objects.filter(day="2026-03-11").delete(), {proof.OTHER_DAY}),
    "a sum has another key": (lambda _: DaySum.objects.filter(day="2026-03-11").update(key="bob"), {proof.OTHER_DAY}),
}


@pytest.mark.parametrize("how", BREAKS)
def test_whatever_is_broken_is_found(victim: str, how: str) -> None:
    breaks, kinds = BREAKS[how]
    breaks(victim)
    findings = verify()
    assert set(findings.wrong) == kinds
    of_rows = kinds - {proof.OTHER_QUARTER, proof.OTHER_DAY, proof.LOST_CORRECTION}
    for kind in of_rows:
        assert victim in findings.wrong[kind].names[0]


def test_a_correction_of_a_row_that_stands_is_sound_and_may_take_away(victim: str) -> None:
    correct(victim)
    findings = verify()
    assert findings.sound
    assert findings.checked["corrections"] == 1


def test_a_row_that_was_changed_in_its_last_digit_is_found_where_the_database_keeps_them_all(victim: str) -> None:
    """SQLite keeps 15 digits; PostgreSQL all of them, whatever the tokens."""
    huge = request("2026-03-13T00:00:00Z", Usage(input=MOST_TOKENS))
    booked(huge)
    lose_a_unit(huge.row.request_id, attempts=1)
    assert set(verify().wrong) == ({proof.OTHER_COST} if connection.vendor == "postgresql" else set())


def test_what_waits_to_be_summed_is_no_fault_and_is_told(victim: str) -> None:
    booked(request(), request("2026-04-01T00:00:00Z"))
    DirtyDay.objects.create(day=dt.date(2026, 3, 11))
    DaySum.objects.filter(day="2026-03-11").delete()
    said = command()
    assert "2 quarter hours wait to be summed" in said
    assert "1 days wait to be summed" in said
    assert "The ledger is sound." in said


def test_only_the_chosen_days_are_looked_at(victim: str) -> None:
    for day in ("2026-03-10", "2026-03-12"):
        DaySum.objects.filter(day=day).update(requests=99)
    QuarterSum.objects.filter(starts_at=moment(NOON)).update(requests=99)
    findings = verify(moment("2026-03-11T00:00:00Z"), moment("2026-03-12T00:00:00Z"))
    assert findings.sound
    assert {**findings.checked} == {
        "requests": 1,
        "attempts": 2,
        "corrections": 0,
        "quarter hours": 1,
        "days": 1,
    }
    with pytest.raises(CommandError):
        command("--from", "2026-03-11", "--to", "2026-03-12")


def test_quarter_hours_are_looked_at_whole_and_days_only_when_they_lie_whole_inside(victim: str) -> None:
    findings = verify(moment("2026-03-10T12:07:00Z"), moment("2026-03-12T08:01:00Z"))
    assert findings.sound
    assert (findings.checked["requests"], findings.checked["quarter hours"]) == (6, 4)
    assert findings.checked["days"] == 1


def test_days_are_compared_in_the_time_zone_in_which_they_were_made(victim: str, settings: Any) -> None:
    settings.BOOKS_TIME_ZONE = ZoneInfo("Asia/Tokyo")
    assert SumsState.objects.get().time_zone == "UTC"
    assert verify().sound
    roll_up()
    assert verify().sound
    assert DaySum.objects.filter(day="2026-03-11").count() == 2


def test_twenty_of_each_kind_are_named_and_the_others_counted() -> None:
    booked(*[request(status="open") for _ in range(30)])
    findings = verify()
    assert findings.wrong[proof.UNKNOWN_WORD].count == 30
    assert len(findings.wrong[proof.UNKNOWN_WORD].names) == 20
    out = StringIO()
    with pytest.raises(CommandError, match="not sound") as error:
        call_command("verify_ledger", stdout=out)
    assert error.value.returncode == 1
    assert "30 rows with a status or a source that is none" in out.getvalue()
    assert "and 10 more" in out.getvalue()


def test_the_findings_are_there_for_scripts_too(victim: str) -> None:
    booked(request("2026-04-01T00:00:00Z"))
    found = json.loads(command("--json"))
    assert found["sound"] is True
    assert found["checked"]["requests"] == 7
    assert found["waiting"] == {"quarter hours": 1, "days": 0}
    change(victim, status="open")
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("verify_ledger", "--json", stdout=out)
    assert json.loads(out.getvalue())["wrong"][proof.UNKNOWN_WORD] == {"count": 1, "names": [victim]}


def test_a_name_that_would_command_the_terminal_is_shown_and_not_obeyed(victim: str) -> None:
    booked(request(model="claude\x1b[2J\n0 rows"))
    roll_up()
    QuarterSum.objects.update(requests=F("requests") + 1)
    correct("\x1b[2J")
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("verify_ledger", stdout=out)
    assert "\x1b" not in out.getvalue()
    assert r"claude\x1b[2J\n0 rows" in out.getvalue()


def test_a_date_that_is_none_is_refused_with_a_sentence() -> None:
    with pytest.raises(CommandError, match="is no date"):
        command("--from", "yesterday")


@pytest.mark.django_db(transaction=True)
def test_nothing_stays_open_after_the_look() -> None:
    booked(request())
    assert verify().sound
    booked(request())
    assert verify().checked["requests"] == 2


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_everything_is_read_at_one_moment_while_others_book_and_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is booked and summed between two looks would otherwise be in one of them and not in the other."""
    booked(request())
    roll_up()

    def work() -> None:
        booked(request(), request("2026-03-11T12:00:00Z"))
        roll_up()
        connection.close()

    honest = proof._by_moment
    others: list[threading.Thread] = []

    def overtaken(*arguments: Any) -> Iterator[Any]:
        if len(others) < 2:
            others.append(threading.Thread(target=work))
            others[-1].start()
            others[-1].join()
        return honest(*arguments)

    monkeypatch.setattr(proof, "_by_moment", overtaken)
    findings = verify()
    assert findings.sound
    assert findings.checked["requests"] == 1
    assert not DirtyQuarter.objects.exists()
    assert verify().checked["requests"] == 5
