"""The journal: what was appended is found again, by this process or by the one that buries it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from accounting.spool import DRAFT_SECONDS, Orphan, Segment, Spool, SpoolFull, orphans, seal, unseal

NOTHING: list[bytes] = []


def nothing() -> list[bytes]:
    return NOTHING


def fresh(path: Path, size: int = 4096) -> Spool:
    return Spool(path, segment_bytes=size)


def drained(spool: Spool) -> list[bytes]:
    found: list[bytes] = []
    while True:
        payloads, booked = spool.unread()
        booked()
        if not payloads:
            return found
        found += payloads


def adopted(path: Path) -> list[bytes]:
    with orphans(path, "nobody") as found:
        payloads = []
        for orphan in found:
            payloads += list(orphan.payloads())
            orphan.release(remove=True)
    return payloads


def test_a_line_comes_back_and_a_damaged_one_does_not() -> None:
    line = seal(b'{"a":1}')
    assert unseal(line.rstrip(b"\n")) == b'{"a":1}'
    assert unseal(line.replace(b"1}", b"2}").rstrip(b"\n")) is None
    assert unseal(b"") is None
    assert unseal(b"zzzzzzzz {}") is None


def test_lines_are_read_in_order_and_once(tmp_path: Path) -> None:
    spool = fresh(tmp_path)
    lines = [b"line %d" % number for number in range(500)]
    for line in lines:
        spool.append([line], nothing)
    assert drained(spool) == lines
    assert drained(spool) == []
    spool.close(remove=True)


def test_unread_lines_stay_until_they_are_booked(tmp_path: Path) -> None:
    spool = fresh(tmp_path)
    spool.append([b"one", b"two"], nothing)
    assert spool.unread()[0] == [b"one", b"two"]
    assert spool.unread()[0] == [b"one", b"two"]
    assert drained(spool) == [b"one", b"two"]
    spool.close(remove=True)


def test_a_full_segment_is_dropped_only_after_its_rows_are_booked(tmp_path: Path) -> None:
    spool = fresh(tmp_path)
    for number in range(100):
        spool.append([b"x" * 100 + b"%d" % number], nothing)
    before = len(list(tmp_path.glob("*.spool")))
    assert before > 2
    assert len(drained(spool)) == 100
    spool.sync()
    assert len(list(tmp_path.glob("*.spool"))) == 1
    spool.close(remove=True)
    assert list(tmp_path.glob("*.spool")) == []


def test_a_new_segment_begins_with_what_still_runs(tmp_path: Path) -> None:
    spool = fresh(tmp_path)
    spool.append([b"x" * 2000], nothing)
    spool.append([b"y" * 3000], lambda: [b"still running"])
    newest = max(tmp_path.glob("*.spool"))
    assert b"still running" in newest.read_bytes()
    spool.close(remove=True)


def test_the_living_are_not_adopted(tmp_path: Path) -> None:
    spool = fresh(tmp_path)
    spool.append([b"mine"], nothing)
    with orphans(tmp_path, "nobody") as found:
        assert list(found) == []
    spool.close(remove=True)


def test_the_dead_are_adopted_whole_and_in_order(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from accounting.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), segment_bytes=4096)\n"
        "for n in range(300): spool.append([b'line %d' % n], lambda: [])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert adopted(tmp_path) == [b"line %d" % number for number in range(300)]
    assert list(tmp_path.glob("*.spool")) == []


def test_only_one_process_adopts_at_a_time(tmp_path: Path) -> None:
    spool = fresh(tmp_path)
    spool.append([b"left behind"], nothing)
    spool.close(remove=False)
    with orphans(tmp_path, "first") as first, orphans(tmp_path, "second") as second:
        assert list(second) == []
        assert len(list(first)) == 1


def test_a_page_lost_in_a_power_cut_costs_its_own_lines_only(tmp_path: Path) -> None:
    spool = fresh(tmp_path, 8192)
    for number in range(100):
        spool.append([b"line %03d " % number + b"x" * 40], nothing)
    spool.close(remove=False)
    [path] = tmp_path.glob("*.spool")
    data = bytearray(path.read_bytes())
    data[2048:2560] = bytes(512)
    path.write_bytes(data)
    with orphans(tmp_path, "nobody") as found:
        [orphan] = found
        kept = list(orphan.payloads())
        assert 85 < len(kept) < 100
        assert orphan.damaged in {1, 2}
        orphan.keep_as_evidence()
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_a_disk_that_takes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = fresh(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accounting.spool._reserve", full)
    with pytest.raises(SpoolFull, match="No space left"):
        spool.append([b"line"], nothing)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    spool.append([b"line"], nothing)
    assert drained(spool) == [b"line"]
    spool.close(remove=True)


def test_a_short_write_is_a_failure_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = fresh(tmp_path)
    spool.append([b"whole"], nothing)
    honest = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda descriptor, data, at: honest(descriptor, data[:5], at))
    with pytest.raises(SpoolFull):
        spool.append([b"halved"], nothing)
    monkeypatch.undo()
    spool.append([b"next"], nothing)
    assert drained(spool) == [b"whole", b"next"]
    spool.close(remove=True)


def test_a_segment_is_locked_before_it_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []
    rename = os.rename

    def watching(source: Path, target: Path) -> None:
        descriptor = os.open(source, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked.append(True)
        os.close(descriptor)
        rename(source, target)

    monkeypatch.setattr("os.rename", watching)
    segment = Segment.create(tmp_path / "a.spool", 4096)
    assert locked == [True]
    segment.close(remove=True)


def test_a_segment_that_its_owner_drops_at_this_moment_is_not_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our opening and our locking it: its open requests run on, in a later segment."""
    living = fresh(tmp_path)
    living.append([b"still running"], nothing)
    lock = fcntl.flock
    moments = iter(["the adoption's own lock", "the segment's"])

    def drop_and_lock(descriptor: int, how: int) -> None:
        if next(moments, "") == "the segment's":
            living.close(remove=True)
        lock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", drop_and_lock)
    assert adopted(tmp_path) == []


def test_a_journal_that_grows_while_it_is_claimed_waits_for_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = fresh(tmp_path)
    dead.append([b"first"], nothing)
    dead.close(remove=False)
    [path] = tmp_path.glob("*.spool")
    claim = Orphan.claim

    def grow_and_claim(orphan: Orphan, paths: Iterable[Path]) -> bool:
        path.with_name(path.name.replace("-000000", "-000001")).write_bytes(seal(b"second"))
        return claim(orphan, paths)

    with monkeypatch.context() as moment:
        moment.setattr(Orphan, "claim", grow_and_claim)
        assert adopted(tmp_path) == []
    assert adopted(tmp_path) == [b"first", b"second"]


def test_a_draft_is_left_to_its_maker_until_it_is_old(tmp_path: Path) -> None:
    draft = tmp_path / "1-2-000000.draft"
    draft.write_bytes(b"")
    assert adopted(tmp_path) == []
    assert draft.exists()
    long_ago = time.time() - 2 * DRAFT_SECONDS
    os.utime(draft, (long_ago, long_ago))
    adopted(tmp_path)
    assert not draft.exists()
