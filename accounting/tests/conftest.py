"""A ledger on a spool of its own, and entries to write into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounting.ledger import COMPLETED, UPSTREAM, Entry, Ledger
from accounting.snapshot import KeyCard
from accounting.spool import Spool
from providers.identity import request_id
from providers.routing import Candidate, Endpoint
from providers.usage import Usage

OWNER = KeyCard(7, "owner", "Olga", "R&D", (), frozenset({"messages"}), None, False)
CANDIDATE = Candidate(Endpoint(1, "first", "anthropic", "http://127.0.0.1:1"), "claude-upstream")


def begin(ledger: Ledger, model: str = "claude-opus") -> Entry:
    return ledger.begin(request_id(), OWNER, model=model, streamed=True, client_request_id="", session_id="s")


def finished(ledger: Ledger, usage: Usage = Usage(input=10, output=5), model: str = "claude-opus") -> Entry:  # noqa: B008
    entry = begin(ledger, model)
    entry.open_attempt(CANDIDATE)
    entry.close_attempt(COMPLETED, (usage, UPSTREAM, ""), upstream_id="msg_1")
    entry.settle(COMPLETED, stop_reason="end_turn")
    return entry


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Spool(tmp_path / "spool", segment_bytes=64 * 1024))
