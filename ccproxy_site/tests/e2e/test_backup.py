"""A backup that is made while requests run is an installation of its own, and its ledger reconciles."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.family import database, installation, mock
from ccproxy_site.tests.e2e.load import MODELS, Load, Seen, configuration
from ccproxy_site.tests.e2e.reconcile import reconcile

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

Row = dict[str, Any]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_backup_of_a_running_installation_restores_to_a_ledger_that_reconciles(kind: str, tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "mock").mkdir()
    (tmp_path / "restored").mkdir()
    backup = tmp_path / "restored" / "var"
    with (
        database(kind) as extra,
        database(kind) as elsewhere,
        mock(tmp_path / "mock") as upstream,
        installation(tmp_path / "original", worker=False, **extra) as original,
    ):
        original.manage("migrate")
        original.start()
        original.apply(configuration(upstream))
        key = original.issue_key()
        original.wait_until_key_works(key)
        with Load(original.url, [(key, model) for model in MODELS]) as load:
            time.sleep(3)
            before = [seen for seen in load.seen if seen.whole]
            original.manage("backup", str(backup))
            time.sleep(1)
        assert "The backup is whole." in original.manage("backup", str(backup), "--check")
        reconcile(original, upstream)
        rows = original.ledger()
        restore(backup, elsewhere)
        # The secrets of the environment are the original's; only the database is another.
        address = {name: url for name, url in elsewhere.items() if name == "DATABASE_URL"}
        with installation(tmp_path / "restored", worker=False, **(extra | address)) as restored:
            restored.start()
            restored.wait_until_booked()
            compare(rows, restored.ledger(), before)
            restored.wait_until_key_works(key)


def restore(backup: Path, elsewhere: dict[str, str]) -> None:
    """As the documentation says: the folder is the data folder, and a dump is read into an empty database."""
    dump = backup / "database.sql"
    if dump.exists():
        command = ["psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", str(dump), elsewhere["DATABASE_URL"]]
        subprocess.run(command, check=True, capture_output=True)


def compare(rows: list[Row], restored: list[Row], before: list[Seen]) -> None:
    """What was answered before the backup began stands there to the token; nothing stands there twice or changed."""
    original = {row["request_id"]: row for row in rows}
    copied = {row["request_id"]: row for row in restored}
    assert max(Counter(row["request_id"] for row in restored).values()) == 1
    assert len(before) > 20
    assert {seen.request_id for seen in before} <= copied.keys() <= original.keys()
    settled = [row for row in restored if row["status"] != "interrupted"]
    assert settled == [original[row["request_id"]] for row in settled]
    assert not {seen.request_id for seen in before} & {row["request_id"] for row in restored if row not in settled}
