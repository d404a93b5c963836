"""-9 for the whole family under load, again and again; then every answer is looked for in the ledger.

`make torture ROUNDS=100`, or `python -m ccproxy_site.tests.e2e.torture --rounds 100 --seed 7 --database postgres`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from accounting import keys
from accounting.spool import unseal
from ccproxy_site.tests.e2e.family import Installation, Mock, database, installation, mock
from ccproxy_site.tests.e2e.load import MODELS, Load, Seen, configuration
from ccproxy_site.tests.e2e.reconcile import Row, compare

# Small segments and much progress, so that a short run meets a kill in the middle of everything a spool does.
RESTLESS = {"SPOOL_SEGMENT_BYTES": "65536", "SPOOL_PROGRESS_SECONDS": "0.3"}
KILLED_WHILE_STARTING = 0.25
WITH_WORKER_AND_BEAT = 0.2


@dataclass
class Evidence:
    """What every side has written down."""

    seen: list[Seen]
    calls: list[Row]  # the mock's bill
    attempts: list[Row]
    rows: list[Row]
    intents: set[str] = field(default_factory=set)  # request ids in the spools of the killed
    damage: list[str] = field(default_factory=list)

    @property
    def whole(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.whole]


@dataclass
class Findings:
    """Every way in which the sides could disagree; all empty where the ledger keeps its promise."""

    lacking: list[str]  # seen whole by a client, and not in the ledger
    twice: list[str]
    wrong: list[str]  # other figures or another outcome than the client saw or the mock billed
    unbooked: list[str]  # billed by the mock, without an attempt
    unbilled: list[str]  # an attempt with the upstream's figures, on no bill
    vanished: list[str]  # an intent that became no row
    damage: list[str]  # rows in quarantine, damaged files

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def __str__(self) -> str:
        lines = []
        for each in fields(self):
            found = getattr(self, each.name)
            lines += [f"{each.name}: {len(found)}", *(f"  {line}" for line in found[:10])]
        return "\n".join(lines)


def examine(evidence: Evidence) -> Findings:
    report = compare(evidence.calls, evidence.attempts, evidence.rows)
    rows = {row["request_id"]: row for row in evidence.rows}
    findings = Findings(
        lacking=[f"{seen.request_id}: seen whole" for seen in evidence.whole if seen.request_id not in rows],
        twice=report.twice,
        wrong=list(report.wrong),
        unbooked=report.unbooked,
        unbilled=report.unbilled,
        vanished=[
            f"{request_id}: only its intent was written" for request_id in sorted(evidence.intents - rows.keys())
        ],
        damage=evidence.damage,
    )
    for seen in evidence.whole:
        row = rows.get(seen.request_id)
        if row is not None and (row["status"] != "completed" or client_figures(row) != seen.figures()):
            findings.wrong.append(f"{seen.request_id}: seen {seen.figures()}, {row['status']} {client_figures(row)}")
    return findings


def client_figures(row: Row) -> dict[str, int]:
    """A row as its client could tell it."""
    return {
        "input": row["input"],
        "cache_read": row["cache_read"],
        "cache_write": row["cache_write_5m"] + row["cache_write_1h"],
        "output": row["output"],
    }


def torture(
    folder: Path,
    *,
    rounds: int,
    seed: int,
    kind: str = "sqlite",
    clients: int = 12,
    say: Callable[[str], Any] = print,
) -> Evidence:
    chance = random.Random(seed)
    intents: set[str] = set()
    with (
        database(kind) as place,
        mock(folder) as upstream,
        installation(folder, worker=False, **place, **RESTLESS) as gateway,
    ):
        key = prepare(gateway, upstream, migrate=bool(place))
        askers = [(key, model) for model in MODELS]
        began = time.monotonic()
        with Load(gateway.url, askers, clients=clients, seed=seed) as load:
            for _ in range(rounds):
                time.sleep(chance.uniform(0.1, 1.2))
                gateway.kill()
                intents |= opened_requests(gateway.spool)
                gateway.worker = chance.random() < WITH_WORKER_AND_BEAT
                if chance.random() < KILLED_WHILE_STARTING:
                    gateway.spawn()
                    time.sleep(chance.uniform(0, 3.5))
                    gateway.kill()
                gateway.start()
        seconds = time.monotonic() - began
        evidence = gather(gateway, upstream, load.seen, intents)
    torn = sum(seen.dropped for seen in evidence.seen)
    interrupted = sum(row["status"] == "interrupted" for row in evidence.rows)
    say(
        f"{kind}: {rounds} rounds in {seconds:.0f} s, seed {seed}: {len(evidence.seen)} asked,"
        f" {len(evidence.whole)} seen whole, {torn} torn off, {len(evidence.calls)} calls billed,"
        f" {len(evidence.rows)} rows, {interrupted} of them interrupted"
    )
    return evidence


def prepare(gateway: Installation, upstream: Mock, *, migrate: bool) -> str:
    """Configured, running, and with a key that works."""
    if migrate:
        gateway.manage("migrate", "--verbosity", "0")
    gateway.start()
    key = keys.mint()
    gateway.apply({**configuration(upstream), "keys": [{"name": "tester", "token": key}]})
    gateway.wait_until_key_works(key)
    return key


def gather(gateway: Installation, upstream: Mock, seen: list[Seen], intents: set[str]) -> Evidence:
    gateway.wait_until_booked()
    with ThreadPoolExecutor() as pool:  # two processes that take their time to start
        attempts, rows = pool.map(gateway.ledger, ["--attempts", "--format=jsonl"])
    return Evidence(
        seen,
        upstream.bill(),
        attempts,
        rows,
        intents,
        [path.name for path in gateway.spool.iterdir() if path.suffix in {".damaged", ".jsonl"}],
    )


def opened_requests(spool: Path) -> set[str]:
    """What the dead had begun, by a reader of its own: a line is a checksum, a blank and JSON."""
    found = set()
    for path in spool.glob("*.spool"):
        for line in path.read_bytes().split(b"\n"):
            payload = unseal(line)
            told = json.loads(payload) if payload else {}
            if told.get("line") == "open":
                found.add(told["row"]["request_id"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills a gateway under load, and reconciles.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--clients", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccproxy-torture-") as folder:
        evidence = torture(
            Path(folder), rounds=options.rounds, seed=options.seed, kind=options.database, clients=options.clients
        )
        findings = examine(evidence)
        if findings:
            sys.stderr.write((Path(folder) / "serve.log").read_text()[-8000:])
    sys.stdout.write(f"{findings}\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
