"""Providers, routes, keys and prices from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway.apply import apply
from gateway.yaml_lines import BadFile


class Command(BaseCommand):
    help = (
        "Puts a YAML file of providers, routes, keys and prices into the database: all of it, or nothing when anything"
        " in it is wrong. Running it again changes nothing. docs/apply.md describes the file."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE")
        parser.add_argument("--dry-run", action="store_true", help="Say what would change, and change nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        path, dry_run = Path(options["file"]), options["dry_run"]
        try:
            report = apply(path.read_text(encoding="utf-8"), os.environ, dry_run=dry_run)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise CommandError(f"{path}: this is no text in UTF-8.") from None
        except BadFile as error:
            lines = "".join(f"\n  {mistake}" for mistake in error.mistakes)
            raise CommandError(f"{path}: nothing was changed.{lines}") from None
        for notice in report.notices:
            self.stderr.write(notice)
        for change in report.changes or ["nothing to change"]:
            self.stdout.write(change)
        if dry_run and report.changes:
            self.stderr.write("This was a dry run: nothing was changed.")
        for name, token in report.issued:
            self.stderr.write(f"This is the only time the token of {name} is shown:")
            self.stdout.write(f"{name}: {token}")
