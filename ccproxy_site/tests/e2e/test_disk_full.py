"""The disk under the spool is full: no provider is called, what runs ends well, and room is all the cure it needs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.family import ROOT, Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.load import MODELS, Load
from ccproxy_site.tests.e2e.torture import examine, gather, prepare

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SMALL_SEGMENTS = {"SPOOL_SEGMENT_BYTES": "65536", "SPOOL_PROGRESS_SECONDS": "0.5"}
RECOVERY = 7.5  # seconds; a few would do


class Disk:
    """A file system of two megabytes, and what fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        descriptor = os.open(self._ballast, os.O_CREAT | os.O_WRONLY)
        try:
            for piece in (65536, 512):
                with contextlib.suppress(OSError):
                    while os.write(descriptor, bytes(piece)):
                        pass
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(path)], check=True)
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def until(condition: Callable[[], Any], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not after {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def stands_still(upstream: Mock) -> bool:
    calls = upstream.bill()
    time.sleep(0.7)
    return len(upstream.bill()) == len(calls) and all(call["finished_at"] for call in calls)


def refusal(gateway: Installation, key: str) -> tuple[int, Any]:
    """The status and body that a question gets now."""
    body = {"model": MODELS[0], "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
    request = urllib.request.Request(gateway.url + "/v1/messages", json.dumps(body).encode(), {"x-api-key": key})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def play(folder: Path) -> None:
    with (
        small_disk(folder / "var" / "spool") as disk,
        mock(folder) as upstream,
        installation(folder, worker=False, **SMALL_SEGMENTS) as gateway,
    ):
        key = prepare(gateway, upstream, migrate=False)
        askers = [(key, model) for model in MODELS]
        with Load(gateway.url, askers, clients=6, slow=0.4) as load:
            until(lambda: len(load.seen) > 10, 10, "the load runs")
            assert gateway.health()["http"] == 200
            fill_and_free(gateway, upstream, disk, load, key)
        assert not any(seen.dropped for seen in load.seen), "an answer that was on its way did not end"
        with Load(gateway.url, askers, clients=6, slow=0.4, seed=1) as load_when_killed:
            until(lambda: any(seen.whole for seen in load_when_killed.seen), 10, "the load runs again")
            fill_and_kill(gateway, upstream, disk, load_when_killed)
        evidence = gather(gateway, upstream, load.seen + load_when_killed.seen, set())
    refused = {seen.request_id for seen in evidence.seen if seen.status == 503}
    assert refused
    assert not refused & {call["request_id"] for call in evidence.calls}
    findings = examine(evidence)
    assert not findings, str(findings)
    assert len(evidence.rows) == len(evidence.calls)


def fill_and_free(gateway: Installation, upstream: Mock, disk: Disk, load: Load, key: str) -> None:
    disk.fill()
    took = until(lambda: any(seen.status == 503 for seen in load.seen), 30, "a question is refused")
    until(lambda: stands_still(upstream), 15, "what was running has ended, and took the last room")

    status, envelope = refusal(gateway, key)
    assert status == 503
    assert envelope["type"] == "error"
    assert envelope["error"]["details"]["code"] == "ledger_unavailable"
    assert "disk is full" in envelope["error"]["message"]
    health = gateway.health()
    assert (health["http"], health["status"]) == (503, "unhealthy")
    assert "CRITICAL" in gateway.log.read_text()
    billed, refused = len(upstream.bill()), len(load.seen)
    until(lambda: len(load.seen) > refused + 10, 10, "more questions are refused")
    assert len(upstream.bill()) == billed, "a provider was called that could not be booked"

    disk.free()
    recovered = until(lambda: gateway.health()["http"] == 200, RECOVERY, "it is ready again")
    answers = len(load.seen)
    until(lambda: sum(seen.whole for seen in load.seen[answers:]) > 10, RECOVERY, "questions are answered again")
    print(  # noqa: T201 - the figures are what the test is for
        f"disk full: refused {took:.1f} s after the disk was, {sum(seen.status == 503 for seen in load.seen)} refusals,"
        f" ready {recovered:.1f} s after there was room, {sum(seen.whole for seen in load.seen)} whole answers"
    )


def fill_and_kill(gateway: Installation, upstream: Mock, disk: Disk, load: Load) -> None:
    """What ends while the disk is full must not live in memory alone."""
    disk.fill()
    until(lambda: any(seen.status == 503 for seen in load.seen), 30, "a question is refused")
    until(lambda: stands_still(upstream), 15, "what was running has ended, and took the last room")
    gateway.kill()
    disk.free()
    gateway.start()


def may(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_full_disk_refuses_in_time_heals_by_itself_and_costs_no_row(tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    trial.mkdir()
    if may("mount", "-t", "tmpfs", "tmpfs", str(trial)):
        subprocess.run(["umount", str(trial)], check=True)
        play(tmp_path)
    elif may("unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(trial)):
        command = ["unshare", "-rm", sys.executable, "-m", __spec__.name, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        reason = "neither mount nor unshare -rm is permitted here"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


if __name__ == "__main__":
    play(Path(sys.argv[1]))
