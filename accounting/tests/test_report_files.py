"""Reports as files: every digit in CSV, numbers in XLSX, and no text that a spreadsheet would run."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import zipfile
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from django.test import Client
from django.urls import reverse

from accounting import report_files, reports, rollups
from accounting.models import UsageRecord
from accounting.report_files import File, Sheet, as_csv, as_xlsx, holds, readable, sheet
from accounting.report_lines import Line
from accounting.report_pages import DIVISIONS
from accounting.reports import Figures
from accounting.tests.day_sums import HOSTILE, TODAY, booked, day_sum

pytestmark = pytest.mark.django_db

SPREADSHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "today", lambda: TODAY)


def fetched(client: Client, part: str, format: str, **query: Any) -> Any:
    answer = client.get(reverse(f"reports:{part}"), {**query, "format": format})
    assert answer.status_code == 200
    return answer


def csv_lines(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.content.decode())))


def parsed(data: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(data)  # noqa: S314 - of our own making


def sheets(content: bytes) -> dict[str, list[list[Any]]]:
    """What stands in the cells: texts, numbers; a formula would be a Formula."""
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        assert book.testzip() is None
        names = [found.attrib["name"] for found in parsed(book.read("xl/workbook.xml")).iter(f"{SPREADSHEET}sheet")]
        texts = []
        if "xl/sharedStrings.xml" in book.namelist():
            shared = parsed(book.read("xl/sharedStrings.xml"))
            texts = ["".join(part.text or "" for part in item.iter(f"{SPREADSHEET}t")) for item in shared]
        pages = [parsed(book.read(f"xl/worksheets/sheet{number}.xml")) for number in range(1, len(names) + 1)]
        return {
            name: [cells(row, texts) for row in page.iter(f"{SPREADSHEET}row")]
            for name, page in zip(names, pages, strict=True)
        }


def cells(row: ElementTree.Element, texts: list[str]) -> list[Any]:
    found = []
    for cell in row:
        assert cell.find(f"{SPREADSHEET}f") is None, "a formula"
        value = cell.find(f"{SPREADSHEET}v")
        assert value is not None
        assert value.text is not None
        found.append(texts[int(value.text)] if cell.attrib.get("t") == "s" else Decimal(value.text))
    return found


def test_the_sum_of_a_csv_is_the_sum_of_the_ledger(admin_client: Client) -> None:
    moment = dt.datetime(2026, 11, 5, 12, tzinfo=dt.UTC)
    costs = ["0.000000000001", "0.1", "123.456789012345", "7", "0.333333333333", "1e-9"]
    for number, cost in enumerate(costs * 7):
        UsageRecord.objects.create(
            request_id=f"req_{number}",
            key=f"key {number % 5}",
            model="m",
            status="completed",
            source="upstream",
            started_at=moment + dt.timedelta(hours=number),
            finished_at=moment + dt.timedelta(hours=number),
            cost=Decimal(cost),
            attempts_cost=Decimal(cost),
            currency="USD",
            input=number,
        )
    rollups.mark_quarters(UsageRecord.objects.values_list("started_at", flat=True))
    rollups.roll_up()
    ledger = sum((cost for cost in UsageRecord.objects.values_list("cost", flat=True) if cost), Decimal(0))
    for part in DIVISIONS:
        lines = csv_lines(fetched(admin_client, part, "csv"))
        assert sum(Decimal(line["cost_USD"]) for line in lines) == ledger
        assert sum(int(line["input"]) for line in lines) == sum(range(42))
        assert sum(int(line["requests"]) for line in lines) == 42


def test_a_csv_has_the_lines_and_every_digit(admin_client: Client) -> None:
    booked(
        day_sum(cost="1234567.890123456789", requests=2, first_byte_ms=900, first_bytes=2, estimated=1, thinking=3),
        day_sum(cost=None, key="bob", requests=5, web_searches=1),
        day_sum("2026-10-05", "3"),
        day_sum(cost="2", currency="EUR", status="failed", attempts=3),
    )
    answer = fetched(admin_client, "keys", "csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == 'attachment; filename="ccproxy-by-key-2026-11.csv"'
    assert answer.content.decode() == (
        "key,requests,failed,attempts,input,cache_read,cache_write_5m,cache_write_1h,output,thinking,web_searches,"
        "unpriced,estimated,mean_first_byte_ms,cost_EUR,cost_USD,cost_before_EUR,cost_before_USD,"
        "attempts_cost_EUR,attempts_cost_USD\n"
        "alice,3,1,4,0,0,0,0,0,3,0,0,1,450,2.000000000000,1234567.890123456789,,3.000000000000,"
        "2.000000000000,1234567.890123456789\n"
        "bob,5,0,1,0,0,0,0,0,0,1,5,0,,,,,,,\n"
    )


def test_a_file_has_what_its_filter_shows(admin_client: Client) -> None:
    booked(
        day_sum(cost="1"), day_sum("2026-10-31", "5"), day_sum(cost="2", key="bob"), day_sum(cost="4", model="haiku")
    )
    query = {"from": "2026-10-31", "to": "2026-11-30", "model": "opus", "key": "alice"}
    answer = fetched(admin_client, "days", "csv", **query)
    assert [(line["day"], line["cost_USD"]) for line in csv_lines(answer)] == [
        ("2026-10-31", "5.000000000000"),
        ("2026-11-21", "1.000000000000"),
    ]
    assert 'filename="ccproxy-by-day-2026-10-31-to-2026-11-30.csv"' in answer["Content-Disposition"]


def test_a_spreadsheet_says_what_it_is_about(admin_client: Client) -> None:
    booked(day_sum(cost="1.5", cost_centre="R&D", owner=""), day_sum(cost="2.5", cost_centre="R&D", owner=""))
    answer = fetched(admin_client, "cost-centres", "xlsx", cost_centre="R&D", without="owner")
    assert answer["Content-Type"] == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert answer["Content-Disposition"] == 'attachment; filename="ccproxy-by-cost-centre-2026-11.xlsx"'
    (lines,) = sheets(answer.content).values()
    assert lines[:6] == [
        ["Report", "By cost centre"],
        ["Period", "2026-11-01 to 2026-11-30, both included"],
        ["Compared with", "2026-10-01 to 2026-10-21"],
        ["Owner", "(none)"],
        ["Cost centre", "R&D"],
        ["Time zone of the days", "UTC"],
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", lines[6][1])
    assert lines[7][:4] == ["Cost centre", "Requests", "Failed", "Attempts"]
    assert lines[8][:2] == ["R&D", 2]
    assert lines[8][13] == Decimal(4)
    assert lines[9][:2] == ["Total", 2]
    assert len(lines) == 10


def test_without_a_filter_a_spreadsheet_says_so(admin_client: Client) -> None:
    booked(day_sum(cost="1"))
    (lines,) = sheets(fetched(admin_client, "days", "xlsx").content).values()
    assert ["Filter", "none: everything"] in lines
    assert [line[0] for line in lines[-2:]] == [Decimal((TODAY - dt.date(1899, 12, 30)).days), "Total"]


def test_the_overview_has_a_sheet_for_each_part_and_one_csv_of_all(admin_client: Client) -> None:
    booked(*(day_sum(cost="1", key=f"key {number}") for number in range(30)), day_sum("2026-10-02", "3"))
    book = sheets(fetched(admin_client, "overview", "xlsx").content)
    assert list(book) == ["Total", "Days", "Keys", "Models", "Cost centres"]
    assert book["Total"][-1][:2] == ["November 2026", 30]
    assert sum(line[0].startswith("key ") for line in book["Keys"][7:]) == 30
    lines = csv_lines(fetched(admin_client, "overview", "csv"))
    assert [line["name"] for line in lines if line["section"] == "Models"] == ["opus"]
    for section in ("Total", "Days", "Keys", "Models", "Cost centres"):
        assert sum(Decimal(line["cost_USD"]) for line in lines if line["section"] == section) == 30
    assert next(line["cost_before_USD"] for line in lines if line["section"] == "Total") == "3.000000000000"


@pytest.mark.parametrize("part", ["overview", *(part for part in DIVISIONS if part != "days")])
def test_no_text_is_run_as_a_formula(admin_client: Client, part: str) -> None:
    fields = ("key", "owner", "cost_centre", "provider", "model")
    booked(*(day_sum(cost="1", currency="=1+", **dict.fromkeys(fields, name)) for name in HOSTILE))
    text = fetched(admin_client, part, "csv").content.decode()
    for line in csv.reader(io.StringIO(text)):
        assert not [cell for cell in line if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=cmd|' /C calc'!A0" in text
    found = [
        cell for page in sheets(fetched(admin_client, part, "xlsx").content).values() for row in page for cell in row
    ]
    assert set(HOSTILE) <= set(found)
    chosen = fetched(admin_client, part, "xlsx", key=HOSTILE[0], model=HOSTILE[1])
    assert any(["Key", HOSTILE[0]] in page for page in sheets(chosen.content).values())


def test_characters_that_no_spreadsheet_holds_do_not_break_it() -> None:
    names = ["a\x01b", "\x1b[31m", "a\nb", "\ufffe", "_x0041_", "ü€😀", "x" * 201, " a "]
    file = File("f", [("Key", name) for name in names], [Sheet("s", ["key"], [[name] for name in names])])
    (lines,) = sheets(as_xlsx(file).content).values()
    assert len(lines) == 2 * len(names) + 1
    assert [lines[-3], lines[-2], lines[-1]] == [["ü€😀"], ["x" * 201], [" a "]]


@pytest.mark.parametrize(
    ("number", "exact"),
    [
        (Decimal("123456789.012345"), True),
        (Decimal("0.100000000000"), True),
        (Decimal("123456789.0123456"), False),
        (Decimal("1E+20"), True),
        (10**15, True),
        (123_456_789_012_345, True),
        (1_234_567_890_123_456, False),
        (0, True),
        (Decimal("-0.000000000001"), True),
    ],
)
def test_a_spreadsheet_says_where_it_had_to_round(number: Any, exact: bool) -> None:
    assert holds(number) is exact
    (lines,) = sheets(as_xlsx(File("f", [("Report", "r")], [Sheet("s", ["n"], [[number]])])).content).values()
    assert (["Precision", report_files.ROUNDED] in lines) is not exact
    assert lines[-1] == ([Decimal(number)] if exact else [pytest.approx(Decimal(number), rel=Decimal("1e-15"))])


def test_lines_beyond_what_a_file_holds_are_one_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_files, "MOST_IN_A_FILE", 3)
    lines = [Line(f"key {number}", Figures(requests=number, cost={"USD": Decimal(number)})) for number in range(5)]
    made = sheet("Keys", "key", lines, ["USD"])
    assert [row[0] for row in made.rows] == ["key 0", "key 1", "3 more, together: narrow the report to see each"]
    assert made.rows[-1][1] == 9
    assert sum(row[made.columns.index("cost_USD")] for row in made.rows) == 10


def test_ten_thousand_lines_are_a_file() -> None:
    lines = [Line(f"key {number}", Figures(requests=number)) for number in range(report_files.MOST_IN_A_FILE)]
    file = File("f", [("Report", "r")], [sheet("Keys", "key", lines, ["USD"])])
    assert as_csv(file).content.count(b"\nkey ") == report_files.MOST_IN_A_FILE
    with zipfile.ZipFile(io.BytesIO(as_xlsx(file).content)) as book:
        assert book.read("xl/worksheets/sheet1.xml").count(b"<row ") == report_files.MOST_IN_A_FILE + 2


def test_an_empty_report_is_a_file_too(admin_client: Client) -> None:
    for part in ("overview", *DIVISIONS):
        header = fetched(admin_client, part, "csv").content.decode().splitlines()[0]
        assert "requests,failed" in header
        assert sheets(fetched(admin_client, part, "xlsx").content)


def test_columns_are_readable_in_a_spreadsheet() -> None:
    assert [readable(column) for column in ("cache_write_5m", "cost_USD", "")] == ["Cache write 5m", "Cost USD", ""]
