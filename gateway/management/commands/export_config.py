"""Providers, routes, keys and prices as a file."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from gateway.export_config import export


class Command(BaseCommand):
    help = (
        "Prints providers, routes, keys, cost centres and your own prices as the YAML that `apply` reads. Credentials"
        " stand in it as names of variables, tokens of keys not at all. docs/apply.md describes the file."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(export(), ending="")
