"""A copy of a running installation's ledger, spool and secrets that another can be started from."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from ccproxy_site import keyring


class Command(BaseCommand):
    help = "Copies database, spool and secrets of an installation, running or not, into a new folder."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "folder", type=Path, help="A folder that does not exist yet; only you will be able to read it."
        )

    def handle(self, *, folder: Path, **options: Any) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError as error:
            raise CommandError(f"{folder} is there already: name a new folder for each backup") from error
        copy_secrets(folder)
        # The spool before the database: an answer that is booked in between stands in both copies, and is booked once.
        # The other way round it would stand in neither.
        copy_spool(folder / settings.SPOOL_DIR.name)
        self.stdout.write(f"{folder}: secrets, spool and {copy_database(folder)}")


def copy_secrets(folder: Path) -> None:
    """On another than the embedded database they come from the environment, and whoever set it has them."""
    made = settings.DATA_DIR / keyring.FILE_NAME
    if made.exists():
        shutil.copy2(made, folder)


def copy_spool(folder: Path) -> None:
    folder.mkdir()
    for path in sorted(settings.SPOOL_DIR.glob("*")):
        with contextlib.suppress(FileNotFoundError):  # booked and dropped meanwhile
            shutil.copy2(path, folder)


def copy_database(folder: Path) -> str:
    if connection.vendor == "sqlite":
        copy = folder / Path(settings.DATABASES["default"]["NAME"]).name
        connection.ensure_connection()
        with contextlib.closing(sqlite3.connect(copy)) as target:
            connection.connection.backup(target)
        return copy.name
    copy = folder / "database.sql"
    try:
        dump(copy)
    except FileNotFoundError as error:
        raise CommandError("pg_dump was not found: install PostgreSQL's client and make the backup again") from error
    except subprocess.CalledProcessError as error:
        raise CommandError(f"pg_dump could not copy the database: {error.stderr.decode()[:500]}") from error
    return copy.name


def dump(copy: Path) -> None:
    told = connection.get_connection_params()
    address = {"PGHOST": told.get("host"), "PGPORT": told.get("port"), "PGUSER": told.get("user")}
    address |= {"PGPASSWORD": told.get("password"), "PGDATABASE": told.get("dbname")}
    environment = {**os.environ, **{name: str(value) for name, value in address.items() if value}}
    command = ["pg_dump", "--no-owner", "--no-privileges", "--file", str(copy)]
    subprocess.run(command, env=environment, check=True, capture_output=True)  # noqa: S603 - no argument is foreign
