"""Reports as files: CSV with every digit, and XLSX. No text in either is ever run as a formula."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import xlsxwriter  # type: ignore[import-untyped]
from django.http import HttpResponse

from accounting.export import Row, write_csv
from accounting.report_lines import Line, cut

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
# A number in a spreadsheet is a double.
DIGITS_OF_A_DOUBLE = 15
ROUNDED = "Some figures have more digits than a spreadsheet holds: the CSV of this report has all of them."
# What goes beyond is one line together.
MOST_IN_A_FILE = 10_000
# Letters to a column, which the names of models fill.
NAME_WIDTH, FIGURE_WIDTH = 36, 14


# The columns of every file, after the name of the line and before money.
FIGURES = (
    "requests",
    "failed",
    "attempts",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "thinking",
    "web_searches",
    "unpriced",
    "estimated",
    "mean_first_byte_ms",
)


class Sheet(msgspec.Struct, frozen=True):
    """Lines under one another; `total` is what they come to, beneath them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    total: Row | None = None


class File(msgspec.Struct, frozen=True):
    """What one page shows. `head` says what it is about: a name and a text in each line."""

    name: str
    head: Sequence[tuple[str, str]]
    sheets: Sequence[Sheet]


def sheet(
    title: str,
    column: str,
    lines: Sequence[Line],
    currencies: Sequence[str],
    total: Line | None = None,
    *,
    compares: bool = True,
) -> Sheet:
    """Money has a column for each currency, always in the same order; what cost before, where periods are compared."""
    currencies = sorted(currencies)
    columns = [column, *FIGURES, *(f"cost_{currency}" for currency in currencies)]
    columns += [f"cost_before_{currency}" for currency in currencies if compares]
    columns += [f"attempts_cost_{currency}" for currency in currencies]

    def row(line: Line) -> Row:
        name = f"{line.left_out} more, together: narrow the report to see each" if line.left_out else line.name
        figures: list[Any] = [getattr(line.figures, figure) for figure in FIGURES]
        figures += [line.figures.cost.get(currency) for currency in currencies]
        figures += [line.before.cost.get(currency) for currency in currencies if compares]
        return [name, *figures, *(line.figures.attempts_cost.get(currency) for currency in currencies)]

    return Sheet(title, columns, [row(line) for line in cut(lines, MOST_IN_A_FILE)], row(total) if total else None)


def as_csv(file: File) -> HttpResponse:
    """The lines alone; where there are several sheets, a first column says which."""
    answer = _attachment(f"{file.name}.csv", "text/csv; charset=utf-8")
    if len(file.sheets) == 1:
        write_csv(file.sheets[0].columns, file.sheets[0].rows, answer)
        return answer
    columns = ("section", "name", *file.sheets[0].columns[1:])
    write_csv(columns, ((sheet.title, *row) for sheet in file.sheets for row in sheet.rows), answer)
    return answer


def as_xlsx(file: File) -> HttpResponse:
    made = io.BytesIO()
    # Kept in memory: a few thousand lines at most, and no file that could stay behind.
    with xlsxwriter.Workbook(made, {"in_memory": True}) as book:
        for sheet in file.sheets:
            _Writer(book, sheet).write(file.head)
    answer = _attachment(f"{file.name}.xlsx", XLSX)
    answer.write(made.getvalue())
    return answer


def _attachment(name: str, content_type: str) -> HttpResponse:
    return HttpResponse(content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})


class _Writer:
    """One sheet of a workbook, from its first line to its last."""

    def __init__(self, book: Any, sheet: Sheet) -> None:
        self.sheet = sheet
        self.page = book.add_worksheet(sheet.title)
        self.bold = book.add_format({"bold": True})
        self.header = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
        self.formats = {
            weight: {
                int: book.add_format({"num_format": "#,##0", "bold": weight}),
                Decimal: book.add_format({"num_format": "#,##0.00##########", "bold": weight}),
                dt.date: book.add_format({"num_format": "yyyy-mm-dd", "bold": weight, "align": "left"}),
                str: book.add_format({"bold": weight}),
            }
            for weight in (False, True)
        }

    def write(self, head: Sequence[tuple[str, str]]) -> None:
        rows = [*self.sheet.rows, *([self.sheet.total] if self.sheet.total else [])]
        if any(isinstance(value, int | Decimal) and not holds(value) for row in rows for value in row):
            head = [*head, ("Precision", ROUNDED)]
        self.page.set_column(0, 0, NAME_WIDTH)
        self.page.set_column(1, len(self.sheet.columns) - 1, FIGURE_WIDTH)
        for line, (name, text) in enumerate(head):
            self.page.write_string(line, 0, name, self.bold)
            self.page.write_string(line, 1, text)
        top = len(head) + 1
        for place, column in enumerate(self.sheet.columns):
            self.page.write_string(top, place, readable(column), self.header)
        self.page.freeze_panes(top + 1, 1)
        for line, row in enumerate(rows, top + 1):
            for place, value in enumerate(row):
                self._cell(line, place, value, line - top > len(self.sheet.rows))

    def _cell(self, line: int, place: int, value: Any, bold: bool) -> None:
        formats = self.formats[bold]
        if isinstance(value, str):
            self.page.write_string(line, place, value, formats[str])
        elif isinstance(value, dt.date):
            self.page.write_datetime(line, place, value, formats[dt.date])
        elif value is not None:
            self.page.write_number(line, place, value, formats[type(value)])


def holds(value: int | Decimal) -> bool:
    """Whether a spreadsheet's number keeps every digit of it."""
    digits = "".join(str(digit) for digit in Decimal(value).as_tuple().digits)
    return len(digits.strip("0")) <= DIGITS_OF_A_DOUBLE


def readable(column: str) -> str:
    words = column.replace("_", " ")
    return words[:1].upper() + words[1:]
