"""The price list that comes with the product against the one in the database, and into it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from accounting import list_prices
from accounting.list_prices import Difference
from accounting.models import Price


class Command(BaseCommand):
    help = (
        "Takes new and changed prices of the list that comes with the product into the database. Rows are added, none"
        " is changed; prices of your own win. Nobody is asked over the network: another list comes with an upgrade."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be added.")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        found = list_prices.difference()
        for line in told(found):
            self.stdout.write(line)
        if dry_run:
            self.stdout.write(f"Nothing was written: {len(found.new) + len(found.changed)} rows would be added.")
        else:
            self.stdout.write(f"{found.take_in()} rows were added from {list_prices.edition()}.")


def told(found: Difference) -> list[str]:
    return [
        *(f"new      {named(price)}" for price in found.new),
        *(
            f"changed  {named(change.then)}: "
            + ", ".join(f"{name} {short(now)} -> {short(then)}" for name, now, then in change.figures())
            for change in found.changed
        ),
        *(f"gone     {named(price)}: its rows stay until you delete them" for price in found.gone),
    ]


def named(price: Price) -> str:
    at = f" at {price.provider}" if price.provider else ""
    return f"{price.model}{at} from {price.valid_from:%Y-%m-%d}"


def short(rate: Any) -> str:
    return f"{rate.normalize():f}"
