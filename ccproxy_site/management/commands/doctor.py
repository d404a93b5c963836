"""What is wrong with this installation, and how to mend it."""

from __future__ import annotations

from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ccproxy_site.doctor import examine


class Command(BaseCommand):
    help = (
        "Looks at environment, files, database, worker, providers, routes, keys and prices, and says of each whether it"
        " is well, or how to mend it. Changes nothing and tells no secret; ends with 1 when there is a problem."
    )
    requires_system_checks = []  # they are among what is looked at

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="The findings as one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        found = examine()
        problems = sum(finding.level == "problem" for finding in found)
        if options["json"]:
            self.stdout.write(msgspec.json.encode({"sound": not problems, "findings": found}).decode())
        else:
            for finding in found:
                self.stdout.write(one_line(f"{finding.level:<8} {finding.about:<17} {finding.message}"))
        if problems:
            raise CommandError(f"{problems} of these are problems." if problems > 1 else "One of these is a problem.")


def one_line(text: str) -> str:
    """Names come from people: nothing in them may speak to a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
