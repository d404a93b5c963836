"""Looks at a backup: whether every file is as it was, and whether an installation could be started from it.

Nothing is started, and nothing in the folder changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from accounting.ledger import Line, Opened, Settled, decode_line
from accounting.models import ApiKey, UsageAttempt, UsageRecord
from accounting.spool import SUFFIX, unseal
from ccproxy_site import keyring
from ccproxy_site.backup import DUMP, MANIFEST, checksum, files_of
from providers.models import ModelRoute, Provider

# What is counted of the database, in words.
COUNTED = {
    Provider._meta.db_table: "providers",
    ModelRoute._meta.db_table: "routes",
    ApiKey._meta.db_table: "keys",
    UsageRecord._meta.db_table: "requests in the ledger",
    UsageAttempt._meta.db_table: "attempts",
    "django_migrations": "migrations",
}
PROVIDERS = Provider._meta.db_table
# What pg_dump writes when it has written everything.
DUMP_END = b"-- PostgreSQL database dump complete"
MOST_TOLD = 10

# A provider's name and its sealed credential.
Sealed = tuple[str, str]


class Found(msgspec.Struct):
    seen: list[str] = []
    wrong: list[str] = []


class Unreadable(Exception):
    """Says what is wrong with a database copy."""


def look_at(folder: Path) -> Found:
    found = Found()
    if not (folder / MANIFEST).is_file():
        found.wrong.append(
            f"{MANIFEST} is not there: the backup was not finished, or was made by a version that wrote none"
        )
        return found
    names = look_at_files(folder, found)
    sealed = look_at_database(folder, names, found)
    look_at_spool(folder / settings.SPOOL_DIR.name, found)
    look_at_secrets(folder, sealed, found)
    return found


def look_at_files(folder: Path, found: Found) -> list[str]:
    """The names that the list of checksums holds."""
    lines = (folder / MANIFEST).read_text(errors="replace").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = files_of(folder)
    gone = [name for name in listed if name not in there]
    changed = [name for name in there if name in listed and checksum(folder / name) != listed[name]]
    added = [name for name in there if name not in listed]
    found.wrong += told(gone, "is in the list of checksums and not in the folder")
    found.wrong += told(changed, "is not what was copied: its checksum is another")
    found.wrong += told(added, "was not in the backup: was an installation started from this folder?")
    found.seen.append(f"{len(listed) - len(gone) - len(changed)} of {len(listed)} files are as they were copied")
    return list(listed)


def told(names: Sequence[str], what: str) -> list[str]:
    more = [f"and {len(names) - MOST_TOLD} more like it"] if len(names) > MOST_TOLD else []
    return [*(f"{name} {what}" for name in names[:MOST_TOLD]), *more]


def look_at_database(folder: Path, names: Iterable[str], found: Found) -> list[Sealed]:
    """The credentials in it."""
    at_the_top = [name for name in names if "/" not in name and name != keyring.FILE_NAME]
    if len(at_the_top) != 1 or not (folder / at_the_top[0]).is_file():
        found.wrong.append("there is no copy of the database in it")
        return []
    [name] = at_the_top
    read = read_dump if name == DUMP else read_sqlite
    try:
        rows, sealed = read(folder / name)
    except Unreadable as error:
        found.wrong.append(f"{name} {error}")
        return []
    found.seen.append(f"{name}: " + ", ".join(f"{rows[table]:,} {words}" for table, words in COUNTED.items()))
    return sealed


def read_sqlite(path: Path) -> tuple[Counter[str], list[Sealed]]:
    # Immutable: beside a copy in WAL mode SQLite would otherwise make files of its own.
    address = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            [verdict] = database.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise Unreadable(f"is damaged: {verdict}")
            counts = {table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in COUNTED}  # noqa: S608 - names of our own
            sealed = database.execute(f"SELECT name, sealed_credential FROM {PROVIDERS}").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise Unreadable(f"cannot be read as a database: {error}") from error
    return Counter(counts), sealed


def read_dump(path: Path) -> tuple[Counter[str], list[Sealed]]:
    rows: Counter[str] = Counter()
    sealed, tables, is_complete = [], set(), False
    with path.open("rb") as file:
        lines = iter(file)
        for line in lines:
            if line.startswith(b"COPY "):
                head = line.decode(errors="replace")
                table = head.split()[1].rpartition(".")[2].strip('"')
                tables.add(table)
                columns = head.partition("(")[2].partition(")")[0].split(", ")
                for row in rows_of_table(lines):
                    rows[table] += 1
                    if table == PROVIDERS:
                        values = dict(zip(columns, row.decode(errors="replace").split("\t"), strict=False))
                        sealed.append((values.get("name", ""), values.get("sealed_credential", "")))
            is_complete = is_complete or line.startswith(DUMP_END)
    if not is_complete:
        raise Unreadable("ends in the middle: pg_dump had not finished")
    if missing := COUNTED.keys() - tables:
        raise Unreadable(f"lacks {', '.join(sorted(missing))}: it is no dump of a ccproxy database")
    return rows, sealed


def rows_of_table(lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line == b"\\.\n":
            return
        yield line.rstrip(b"\n")


def look_at_spool(folder: Path, found: Found) -> None:
    opened: set[str] = set()
    settled: set[str] = set()
    damaged = 0
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    for path in paths:
        for line in lines_of(path):
            if line is None:
                damaged += 1
            elif isinstance(line, Settled):
                settled.add(line.row.request_id)
            elif isinstance(line, Opened):
                opened.add(line.row.request_id)
    if damaged:
        found.wrong.append(f"{damaged} lines of the spool cannot be read: answers may be missing from the ledger")
    found.seen.append(
        f"spool: {len(paths)} files, {len(settled):,} settled requests, {len(opened - settled):,} that were running"
    )
    if (folder / "quarantine.jsonl").is_file():
        found.seen.append("spool: rows that the database had refused are in quarantine.jsonl")


def lines_of(path: Path) -> Iterator[Line | None]:
    """None for each that is damaged; the last one may have been copied while it was written."""
    with path.open("rb") as file:
        for written in file:
            text = written.strip(b"\0\n")
            payload = unseal(text) if text else None
            if payload is not None:
                try:
                    yield decode_line(payload)
                except msgspec.MsgspecError:
                    yield None
            elif text and written.endswith(b"\n"):
                yield None


def look_at_secrets(folder: Path, sealed: Sequence[Sealed], found: Found) -> None:
    """As a start from this folder would find them: those of the environment win over those of the file."""
    kept = (folder / keyring.FILE_NAME).exists()
    secrets = keyring.read_secrets(os.environ, folder, embedded=kept)
    missing = [name for name, value in secrets.items() if not value]
    if missing:
        found.wrong.append(
            f"{', '.join(missing)}: neither in the backup nor in the environment. Without them no key opens and no"
            " credential can be read: set them to what the original has"
        )
        return
    found.seen.append(f"secrets: all of them, {'in the backup' if kept else 'from the environment'}")
    credentials = [(name, text) for name, text in sealed if text]
    closed = [name for name, text in credentials if not opens(text, secrets["CREDENTIAL_KEYS"])]
    found.wrong += told(
        [f"the credential of provider {name!r}" for name in closed],
        "does not open with these CREDENTIAL_KEYS: set them to what the original has, or enter it again afterwards",
    )
    found.seen.append(f"credentials: {len(credentials) - len(closed)} of {len(credentials)} open")


def opens(sealed: str, keys: str) -> bool:
    try:
        box = MultiFernet([Fernet(key.strip()) for key in keys.split(",") if key.strip()])
        json.loads(box.decrypt(sealed.encode()))
    except (InvalidToken, ValueError):
        return False
    return True
