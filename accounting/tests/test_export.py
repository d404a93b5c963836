"""The ledger as lines: which rows, in which order, and every figure as it was booked."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from accounting import dates, export
from accounting.models import UsageAttempt, UsageRecord

pytestmark = pytest.mark.django_db

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
PROMISED = (
    "request_id,started_at,finished_at,key,provider,model,upstream_model,status,stop_reason,"
    "input,cache_read,cache_write_5m,cache_write_1h,output,source,cost,currency"
)


def record(request_id: str, **fields: Any) -> UsageRecord:
    values = {"started_at": NOON, "finished_at": NOON, "model": "m", "status": "completed", "source": "upstream"}
    return UsageRecord.objects.create(**{"request_id": request_id, "key": "alice", **values, **fields})


def attempt(row: UsageRecord, number: int, **fields: Any) -> None:
    values = {"started_at": NOON, "finished_at": NOON, "provider": "p", "upstream_model": "m", "source": "upstream"}
    UsageAttempt.objects.create(**{"record": row, "number": number, "status": "completed", **values, **fields})


def exported(*arguments: str) -> str:
    out = io.StringIO()
    call_command("export_usage", *arguments, stdout=out)
    return out.getvalue()


def rows(*arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(*arguments))))


def ids(*arguments: str) -> list[str]:
    return [row["request_id"] for row in rows(*arguments)]


def test_the_promised_columns_come_first() -> None:
    assert exported().splitlines()[0].startswith(PROMISED + ",")


def test_a_row_in_both_formats() -> None:
    record(
        "req_1",
        started_at=dt.datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=dt.UTC),
        input=1,
        cache_read=2**53,
        cost=Decimal("0.0000001"),
        currency="USD",
        streamed=True,
    )
    [line] = rows()
    [loaded] = [json.loads(line) for line in exported("--format", "jsonl").splitlines()]
    assert (line["started_at"], line["finished_at"]) == ("2026-01-31T12:00:00.250000Z", "2026-01-31T12:00:00.000000Z")
    assert (line["input"], line["cache_read"], line["streamed"]) == ("1", str(2**53), "true")
    assert (line["cost"], line["attempts_cost"], line["currency"]) == ("0.000000100000", "", "USD")
    assert (loaded["input"], loaded["cache_read"], loaded["streamed"]) == (1, 2**53, True)
    assert (loaded["cost"], loaded["attempts_cost"]) == ("0.000000100000", None)
    assert list(loaded) == list(line)


def test_rows_are_ordered_by_their_start_and_then_as_they_were_booked() -> None:
    record("late", started_at=NOON + dt.timedelta(hours=1))
    record("first")
    record("second")
    record("early", started_at=NOON - dt.timedelta(hours=1))
    assert ids() == ["early", "first", "second", "late"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "abcd"),
        (["--from", "2026-01-31"], "bcd"),
        (["--to", "2026-01-31"], "abc"),  # a day is included whole
        (["--from", "2026-01-31", "--to", "2026-01-31"], "bc"),
        (["--to", "2026-01-31T23:59:59"], "ab"),  # a moment is left out
        (["--from", "2026-01-31T23:59:59", "--to", "2026-02-01T00:00:00Z"], "c"),
        (["--from", "2026-01-31T01:00:00+01:00"], "bcd"),
        (["--from", "2026-03-01"], ""),
    ],
)
def test_dates_are_days_or_moments(arguments: list[str], expected: str) -> None:
    midnight = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    for name, moment in {
        "a": midnight - dt.timedelta(microseconds=1),
        "b": midnight,
        "c": dt.datetime(2026, 1, 31, 23, 59, 59, tzinfo=dt.UTC),
        "d": midnight + dt.timedelta(days=1),
    }.items():
        record(name, started_at=moment)
    assert "".join(ids(*arguments)) == expected


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "31.01.2026", "", "2026"])
def test_what_is_no_date_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is no date"):
        dates.beginning(text)


def test_a_command_says_so_too() -> None:
    with pytest.raises(CommandError, match="'yesterday' is no date: say 2026-01-31"):
        exported("--from", "yesterday")
    with pytest.raises(CommandError, match="too far away"):
        exported("--to", "9999-12-31")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\r=x"])
def test_a_spreadsheet_runs_nothing_of_a_clients_making(text: str) -> None:
    record("req_1", session_id=text)
    [line] = list(csv.DictReader(io.StringIO(exported(), newline="")))
    assert line["session_id"] == "'" + text
    assert json.loads(exported("--format", "jsonl"))["session_id"] == text


def test_a_figure_below_zero_stays_a_figure() -> None:
    record("req_1", status="correction", corrects="req_0", input=-5, cost=Decimal("-0.5"))
    [line] = rows()
    assert (line["input"], line["cost"]) == ("-5", "-0.500000000000")


def test_a_cell_may_hold_anything() -> None:
    record("req_1", key='a,"b"\nc', owner="Jürgen 没有")
    [line] = rows()
    assert (line["key"], line["owner"]) == ('a,"b"\nc', "Jürgen 没有")
    assert json.loads(exported("--format", "jsonl"))["owner"] == "Jürgen 没有"


def test_exported_costs_add_up_exactly() -> None:
    costs = [Decimal(number) / 1_000_000_007 for number in range(1, 200)]
    booked = [cost.quantize(Decimal("1e-12")) for cost in costs]
    for number, cost in enumerate(booked):
        record(f"req_{number}", cost=cost)
    assert sum(Decimal(row["cost"]) for row in rows()) == sum(booked)


def test_attempts_are_those_of_the_rows_of_the_same_dates() -> None:
    first, second = record("req_1"), record("req_2", started_at=NOON + dt.timedelta(days=1))
    attempt(first, 2, input=5, cost=Decimal("0.1"))
    attempt(first, 1, status="failed", reached=False)
    # A day later by its own clock, but of a row of the day before.
    attempt(first, 3, started_at=NOON + dt.timedelta(days=1))
    attempt(second, 1)
    lines = rows("--attempts", "--to", "2026-01-31")
    assert [(line["request_id"], line["number"]) for line in lines] == [("req_1", "1"), ("req_1", "2"), ("req_1", "3")]
    assert [line["reached"] for line in lines] == ["false", "true", "true"]
    assert (lines[1]["key"], lines[1]["input"], lines[1]["cost"]) == ("alice", "5", "0.100000000000")


def test_one_query_however_many_rows(django_assert_num_queries: Any) -> None:
    for number in range(20):
        attempt(record(f"req_{number}"), 1)
    for arguments in ([], ["--attempts"]):
        with django_assert_num_queries(1):
            assert len(rows(*arguments)) == 20


def test_rows_are_written_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHUNK", 2)
    for number in range(5):
        record(f"req_{number}")
    taken = export.records(None, None)
    assert next(iter(taken))[0] == "req_0"
    assert len(list(taken)) == 4


@pytest.mark.django_db(transaction=True)
def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path: Any) -> None:
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
    subprocess.run([*manage, "migrate", "--verbosity", "0"], env=environment, check=True, capture_output=True)
    fill = (
        "from accounting.tests.test_export import NOON, UsageRecord as R\n"
        "R.objects.bulk_create(R(request_id=f'req_{n}', key='k' * 90, model='m', status='completed', source='upstream',"
        " started_at=NOON, finished_at=NOON) for n in range(5000))"
    )
    subprocess.run([*manage, "shell", "-c", fill], env=environment, check=True, capture_output=True)
    with subprocess.Popen(
        [*manage, "export_usage"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline().startswith(b"request_id,")
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 0
