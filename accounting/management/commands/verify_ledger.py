"""Proves the ledger, or names what is wrong with it."""

from __future__ import annotations

from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounting import dates
from accounting.verify import Findings, verify


class Command(BaseCommand):
    help = (
        "Reads the whole ledger and proves that each request stands in it once with all its attempts, that each cost"
        " is what the row's own price makes of its tokens, and that the sums of quarter hours and days equal the rows."
        " Changes nothing; ends with 1 when something is wrong. Amounts of money in sums are in 10^-12. A DATE is a day"
        " (2026-01-31) or a moment (2026-01-31T18:00:00+01:00), in UTC unless it says otherwise."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", metavar="DATE", help="Only what began at this moment or later.")
        parser.add_argument(
            "--to",
            metavar="DATE",
            help="Only what began before: a day is included whole, a moment is the first one left out.",
        )
        parser.add_argument("--json", action="store_true", help="The findings as one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            start = dates.beginning(options["from"]) if options["from"] else None
            end = dates.end(options["to"]) if options["to"] else None
        except ValueError as error:
            raise CommandError(str(error)) from None
        findings = verify(start, end)
        if options["json"]:
            self.stdout.write(
                msgspec.json.encode({"sound": findings.sound, **msgspec.structs.asdict(findings)}).decode()
            )
        else:
            self._tell(findings)
        if not findings.sound:
            raise CommandError(
                "The ledger is not sound. Nothing was changed: keep a backup of the database and the spool as they are"
                " now, and compare the rows named above with it and with the log of their day."
            )

    def _tell(self, findings: Findings) -> None:
        for what, count in findings.checked.items():
            self.stdout.write(f"{count:>13,} {what} looked at")
        for what, count in findings.waiting.items():
            if count:
                self.stdout.write(f"{count:>13,} {what} wait to be summed; their sums were not compared")
        for kind, wrong in findings.wrong.items():
            self.stdout.write(f"{wrong.count:>13,} {kind}:")
            for name in wrong.names:
                self.stdout.write(f"{'':>14}{name}")
            if wrong.count > len(wrong.names):
                self.stdout.write(f"{'':>14}and {wrong.count - len(wrong.names):,} more")
        if findings.sound:
            self.stdout.write("The ledger is sound.")
