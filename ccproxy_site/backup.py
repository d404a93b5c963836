"""Makes a backup: secrets, spool, database, and last of all the list of checksums that shows it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from django.conf import settings
from django.db import connection

from ccproxy_site import keyring

DUMP = "database.sql"
# In the form of sha256sum, whose --check reads it too.
MANIFEST = "SHA256SUMS"


class Impossible(Exception):
    """Says why, and what to do."""


def make(folder: Path) -> str:
    """Returns what was copied."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise Impossible(f"{folder} is there already: name a new folder for each backup") from error
    copy_secrets(folder)
    # The spool before the database: an answer that is booked in between stands in both copies, and is booked once.
    # The other way round it would stand in neither.
    copy_spool(folder / settings.SPOOL_DIR.name)
    database = copy_database(folder)
    write_manifest(folder)
    return f"secrets, spool and {database}; manage.py backup {folder} --check looks at it"


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
    copy = folder / DUMP
    try:
        dump(copy)
    except FileNotFoundError as error:
        raise Impossible("pg_dump was not found: install PostgreSQL's client and make the backup again") from error
    except subprocess.CalledProcessError as error:
        raise Impossible(f"pg_dump could not copy the database: {error.stderr.decode()[:500]}") from error
    return copy.name


def dump(copy: Path) -> None:
    told = connection.get_connection_params()
    address = {"PGHOST": told.get("host"), "PGPORT": told.get("port"), "PGUSER": told.get("user")}
    address |= {"PGPASSWORD": told.get("password"), "PGDATABASE": told.get("dbname")}
    environment = {**os.environ, **{name: str(value) for name, value in address.items() if value}}
    command = ["pg_dump", "--no-owner", "--no-privileges", "--file", str(copy)]
    subprocess.run(command, env=environment, check=True, capture_output=True)  # noqa: S603 - no argument is foreign


def write_manifest(folder: Path) -> None:
    lines = [f"{checksum(folder / name)}  {name}\n" for name in files_of(folder)]
    (folder / MANIFEST).write_text("".join(lines))


def files_of(folder: Path) -> list[str]:
    """By their paths in it; the list of checksums itself is none of them."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != MANIFEST)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
