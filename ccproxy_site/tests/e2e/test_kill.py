"""Whatever moment the family is killed in, no answer that a client has seen is missing from the ledger."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ccproxy_site.tests.e2e.family import Installation
from ccproxy_site.tests.e2e.torture import Evidence, examine, torture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROUNDS = 10  # on each database


@dataclass
class Survivor:
    """An installation after its rounds, stopped."""

    folder: Path
    torture: Future[Evidence]


@pytest.fixture(scope="module")
def survivors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Survivor]]:
    """Both databases at the same time: most of a round is waiting for processes to start."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("sqlite", "postgres")}
    with ThreadPoolExecutor() as pool:
        yield {
            kind: Survivor(
                folder, pool.submit(torture, folder, rounds=ROUNDS, seed=random.randrange(10**6), kind=kind, clients=8)
            )
            for kind, folder in folders.items()
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_answer_a_client_saw_survives(survivors: dict[str, Survivor], kind: str) -> None:
    evidence = survivors[kind].torture.result()

    findings = examine(evidence)

    assert not findings, str(findings)
    assert len(evidence.whole) > 50
    assert any(seen.dropped for seen in evidence.seen), "nothing was running when the family was killed"
    assert any(row["status"] == "interrupted" for row in evidence.rows)
    assert evidence.intents


# The rules of the tables would refuse a second row of the same name.
WITHOUT_RULES = (
    "CREATE TABLE loose AS SELECT * FROM accounting_usagerecord",
    "DROP TABLE accounting_usagerecord",
    "ALTER TABLE loose RENAME TO accounting_usagerecord",
)
TAMPERING = {
    "lacking": "DELETE FROM accounting_usagerecord WHERE request_id = ?",
    "twice": "INSERT INTO accounting_usagerecord SELECT * FROM accounting_usagerecord WHERE request_id = ?",
    "wrong": "UPDATE accounting_usagerecord SET output = output + 1 WHERE request_id = ?",
    "unbooked": "DELETE FROM accounting_usageattempt WHERE record_id = ?",
    "unbilled": (
        "INSERT INTO accounting_usageattempt SELECT id + 1000000, input, cache_read, cache_write_5m, cache_write_1h,"
        " output, thinking, web_searches, source, method, cost, currency, number + 1, started_at, finished_at,"
        " provider, upstream_model, upstream_id, reached, status, reason, provider_ref_id, record_id"
        " FROM accounting_usageattempt WHERE record_id = ?"
    ),
    "vanished": "DELETE FROM accounting_usagerecord WHERE request_id = ?",
}


def test_the_examination_notices_a_ledger_that_was_tampered_with(
    survivors: dict[str, Survivor], tmp_path: Path
) -> None:
    honest = survivors["sqlite"].torture.result()
    shutil.copytree(survivors["sqlite"].folder / "var", tmp_path / "var")
    victims = dict(zip(TAMPERING, [seen.request_id for seen in honest.whole if seen.status == 200], strict=False))
    victims["vanished"] = next(row["request_id"] for row in honest.rows if row["status"] == "interrupted")
    with closing(sqlite3.connect(tmp_path / "var" / "ccproxy.sqlite3")) as connection, connection:
        for statement in WITHOUT_RULES:
            connection.execute(statement)
        for name, statement in TAMPERING.items():
            assert connection.execute(statement, (victims[name],)).rowcount == 1, name
    copy = Installation(tmp_path)

    findings = examine(replace(honest, attempts=copy.ledger("--attempts"), rows=copy.ledger()))

    for name, victim in victims.items():
        assert any(line.startswith(victim) for line in getattr(findings, name)), f"{name}: {victim}\n{findings}"
