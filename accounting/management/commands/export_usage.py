"""The ledger to standard output, for spreadsheets, scripts and whoever wants to check a bill."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounting import dates, export


class Command(BaseCommand):
    help = (
        "Writes the settled rows of the ledger to standard output, ordered by their start. A DATE is a day"
        " (2026-01-31) or a moment (2026-01-31T18:00:00+01:00), in UTC unless it says otherwise."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", metavar="DATE", help="Requests that started at this moment or later.")
        parser.add_argument(
            "--to",
            metavar="DATE",
            help="Requests that started before: a day is included whole, a moment is the first one left out.",
        )
        parser.add_argument("--format", choices=tuple(export.FORMATS), default="csv")
        parser.add_argument(
            "--attempts",
            action="store_true",
            help="One line per call to a provider instead of one per request: for reconciling with a provider's bill.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            start = dates.beginning(options["from"]) if options["from"] else None
            end = dates.end(options["to"]) if options["to"] else None
        except ValueError as error:
            raise CommandError(str(error)) from None
        columns = tuple(export.ATTEMPT_COLUMNS) if options["attempts"] else export.RECORD_COLUMNS
        rows = export.attempts(start, end) if options["attempts"] else export.records(start, end)
        try:
            export.FORMATS[options["format"]](columns, rows, self.stdout)
            self.stdout.flush()
        except BrokenPipeError:
            # Whoever read has seen enough. What is still buffered must not fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
