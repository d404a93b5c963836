"""A copy of a running installation's ledger, spool and secrets that another can be started from, or a look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ccproxy_site import backup, backup_check


class Command(BaseCommand):
    help = (
        "Copies database, spool and secrets of an installation, running or not, into a new folder. With --check it"
        " looks whether such a folder is whole and could be started from; it starts and changes nothing."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "folder", type=Path, help="A folder that does not exist yet; only you will be able to read it."
        )
        parser.add_argument(
            "--check", action="store_true", help="Look at the backup in this folder, and say what is in it."
        )

    def handle(self, *, folder: Path, check: bool, **options: Any) -> None:
        if check:
            self.look_at(folder)
            return
        try:
            copied = backup.make(folder)
        except backup.Impossible as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{folder}: {copied}")

    def look_at(self, folder: Path) -> None:
        found = backup_check.look_at(folder)
        for line in found.seen:
            self.stdout.write(line)
        if found.wrong:
            lines = "".join(f"\n  {sentence}" for sentence in found.wrong)
            raise CommandError(f"{folder} is not to be relied on. Mend this, or make another backup:{lines}")
        self.stdout.write("The backup is whole.")
