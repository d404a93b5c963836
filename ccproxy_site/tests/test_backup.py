"""What a look at a backup finds: that it is whole, or what is wrong with it. e2e/test_backup.py restores one."""

from __future__ import annotations

import io
import shutil
import sqlite3
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounting.ledger import Attempt, Opened, Row, Settled
from accounting.models import ApiKey
from accounting.spool import seal
from ccproxy_site import backup, keyring
from providers.models import Provider

pytestmark = pytest.mark.django_db(transaction=True)

CREDENTIAL = "sk-canary-8c2b"


def lines() -> list[bytes]:
    """Of a request that is settled, and of one that runs."""
    rows = [Row(request_id=name, started_at=time.time(), key_id=1, key="alice") for name in ("req_1", "req_2")]
    attempt = Attempt(number=1, started_at=time.time(), provider_id=1, provider="p", upstream_model="m")
    told = [Opened(rows[0], [attempt]), Settled(rows[0], [attempt]), Opened(rows[1], [attempt])]
    return [seal(msgspec.json.encode(line)) for line in told]


@pytest.fixture
def folder(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup just made, of an installation that made its secrets by itself."""
    settings.DATA_DIR, settings.SPOOL_DIR = tmp_path / "var", tmp_path / "var" / "spool"
    settings.SPOOL_DIR.mkdir(parents=True)
    # As a process leaves it that is writing: the last line is not there yet as a whole.
    (settings.SPOOL_DIR / "1-1-000000.spool").write_bytes(b"".join(lines()) + lines()[0][:20] + bytes(4096))
    (settings.DATA_DIR / keyring.FILE_NAME).write_text(
        "".join(f"{name}={settings.SECRETS[name]}\n" for name in keyring.MAKERS)
    )
    for name in keyring.MAKERS:
        monkeypatch.delenv(name, raising=False)
    provider = Provider(name="open\\router", type="openai", base_url="https://api.example.com/v1")
    provider.set_credential(CREDENTIAL)
    provider.save()
    ApiKey.issue("alice")
    made = tmp_path / "backups" / "to day?"
    call_command("backup", made, stdout=io.StringIO())
    return made


def looked_at(folder: Path) -> str:
    out = io.StringIO()
    call_command("backup", folder, check=True, stdout=out)
    return out.getvalue()


def complaint(folder: Path) -> str:
    with pytest.raises(CommandError) as refusal:
        looked_at(folder)
    assert CREDENTIAL not in str(refusal.value)
    assert "make another backup" in str(refusal.value)
    return str(refusal.value)


def database_of(folder: Path) -> Path:
    [found] = [
        path for path in folder.iterdir() if path.is_file() and path.name not in {backup.MANIFEST, keyring.FILE_NAME}
    ]
    return found


def signed_again(folder: Path) -> Path:
    """As if the damage had been there when the checksums were taken."""
    (folder / backup.MANIFEST).unlink()
    backup.write_manifest(folder)
    return folder


def test_a_whole_backup_says_what_is_in_it_and_stays_as_it_is(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    told = looked_at(folder)
    assert "3 of 3 files are as they were copied" in told
    assert "1 providers, 0 routes, 1 keys, 0 requests in the ledger" in told
    assert "spool: 1 files, 1 settled requests, 1 that were running" in told
    assert "secrets: all of them, in the backup" in told
    assert "credentials: 1 of 1 open" in told
    assert told.endswith("The backup is whole.\n")
    assert CREDENTIAL not in told
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_checksums_are_those_that_sha256sum_reads(folder: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", backup.MANIFEST], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("what", ["database", "secrets", "spool"])
def test_a_flipped_byte_is_found_in_every_file(folder: Path, what: str) -> None:
    [spool] = (folder / "spool").iterdir()
    path = {"database": database_of(folder), "secrets": folder / keyring.FILE_NAME, "spool": spool}[what]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{path.name} is not what was copied" in complaint(folder)


def test_a_truncated_database_is_found_even_where_the_checksums_are_right(folder: Path) -> None:
    path = database_of(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is not what was copied" in complaint(folder)
    said = complaint(signed_again(folder))
    assert (
        "ends in the middle" in said
        if connection.vendor == "postgresql"
        else "is damaged" in said or "cannot be" in said
    )


def test_a_database_of_something_else_is_no_backup(folder: Path) -> None:
    path = database_of(folder)
    path.unlink()
    if connection.vendor == "postgresql":
        path.write_text("COPY public.other (id) FROM stdin;\n1\n\\.\n-- PostgreSQL database dump complete\n")
    else:
        sqlite3.connect(path).execute("CREATE TABLE other (id)").connection.close()
    said = complaint(signed_again(folder))
    assert "it is no dump of a ccproxy database" in said or "no such table" in said


def test_a_damaged_line_of_the_spool_is_found_even_where_the_checksums_are_right(folder: Path) -> None:
    [path] = (folder / "spool").iterdir()
    path.write_bytes(path.read_bytes().replace(b'"req_1"', b'"req_9"'))
    assert "2 lines of the spool cannot be read" in complaint(signed_again(folder))


def test_a_file_that_is_gone_and_one_that_came_are_named(folder: Path) -> None:
    [spool] = (folder / "spool").iterdir()
    spool.unlink()
    (folder / "ccproxy.sqlite3-wal").touch()
    said = complaint(folder)
    assert f"spool/{spool.name} is in the list of checksums and not in the folder" in said
    assert "ccproxy.sqlite3-wal was not in the backup" in said


def test_without_its_secrets_it_is_no_backup(folder: Path) -> None:
    (folder / keyring.FILE_NAME).unlink()
    said = complaint(signed_again(folder))
    assert (
        "SECRET_KEY, CREDENTIAL_KEYS, KEY_DIGEST_SECRET, STATE_SECRET: neither in the backup nor in the environment"
        in said
    )


def test_secrets_of_the_environment_do_as_well(folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / keyring.FILE_NAME).unlink()
    for name, secret in settings.SECRETS.items():
        monkeypatch.setenv(name, secret)
    assert "secrets: all of them, from the environment" in looked_at(signed_again(folder))


@pytest.mark.parametrize("keys", ["QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", "no key"])
def test_credentials_that_do_not_open_are_named_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    monkeypatch.setenv("CREDENTIAL_KEYS", keys)
    said = complaint(folder)
    assert "router' does not open with these CREDENTIAL_KEYS" in said
    assert keys not in said


def test_a_folder_without_checksums_or_none_at_all_is_no_backup(folder: Path, tmp_path: Path) -> None:
    (folder / backup.MANIFEST).unlink()
    assert "the backup was not finished" in complaint(folder)
    assert "SHA256SUMS is not there" in complaint(tmp_path / "nowhere")


def test_a_folder_that_is_there_is_never_written_into(folder: Path) -> None:
    with pytest.raises(CommandError, match="name a new folder for each backup"):
        call_command("backup", folder)
    assert looked_at(folder)


def test_without_postgresqls_client_it_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "vendor", "postgresql")
    monkeypatch.setattr(connection, "get_connection_params", dict)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("pg_dump")))
    with pytest.raises(CommandError, match="install PostgreSQL's client"):
        call_command("backup", tmp_path / "another")
    assert "not finished" in complaint(tmp_path / "another")


def test_a_copy_of_the_folder_is_as_good(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert "The backup is whole." in looked_at(tmp_path / "copy")
