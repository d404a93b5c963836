"""Restarts, ends and deaths of web processes; `siege/restarts.py` has the scenarios, here they run in short."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ccproxy_site.tests.e2e.family import Installation, get_json, installation, lives
from ccproxy_site.tests.e2e.siege import Effort, Figure, broken
from ccproxy_site.tests.e2e.siege.restarts import (
    kill_one_of_two,
    restarts_of,
    sighup_under_load,
    sigterm_under_streams,
    wait_until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHORT = Effort(seconds=8, clients=12, slack=5)
ALONE = {"ALLOW_LOCAL_STATE": "true"}


def run(scenario: Callable[..., list[Figure]], folder: Path, effort: Effort, kind: str) -> list[str]:
    figures = scenario(folder, effort, kind)
    print(f"{scenario.__name__} on {kind}:", "; ".join(map(str, figures)))  # noqa: T201 - what the test is for
    if broken(figures):
        lines = (folder / "serve.log").read_text().splitlines()
        print("\n".join(line for line in lines if "request_completed" not in line)[-8000:])  # noqa: T201
    return broken(figures)


def test_an_end_lets_running_streams_end(tmp_path: Path) -> None:
    assert run(sigterm_under_streams, tmp_path, Effort(seconds=10, clients=30, slack=5), "sqlite") == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_nobody_notices_a_restart(tmp_path: Path, kind: str) -> None:
    assert run(sighup_under_load, tmp_path, SHORT, kind) == []


def test_a_killed_process_takes_only_its_own_streams_along(tmp_path: Path) -> None:
    assert run(kill_one_of_two, tmp_path, SHORT, "sqlite") == []


def test_nobody_outlives_a_killed_supervisor_of_several(tmp_path: Path) -> None:
    """Also those that had been replaced already."""
    with installation(tmp_path, worker=True, **ALONE) as house:
        house.processes = 2
        house.start()
        assert house.process is not None
        house.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(house.web_processes()) > 2)
        family = house.family()
        house.process.kill()
        house.process.wait(10)

        wait_until(lambda: not any(map(lives, family)))
        house.process = None
        house.start()  # and the port is free
        assert house.stop() == 0


def test_a_successor_that_cannot_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    """The secrets became unreadable since: whoever starts now fails."""
    with installation(tmp_path, worker=False, **ALONE) as house:
        house.processes = 2
        house.start()
        old, secrets = house.web_processes(), tmp_path / "var" / "secrets.env"
        whole = secrets.read_bytes()
        secrets.write_bytes(b"SECRET_KEY=\xff\xfe")

        restart(house)
        wait_until(lambda: "the restart was given up and what runs goes on: a start would fail now" in told(house))
        assert house.web_processes() == old
        assert {get_json(house.url + "/health/ready")["status"] for _ in range(20)} == {"healthy"}

        secrets.write_bytes(whole)
        restart(house)
        wait_until(lambda: restarts_of(house) == 1)
        wait_until(lambda: not house.web_processes() & old)
        assert house.stop() == 0
        assert told(house).count("Point Claude Code at it") == 1


def test_a_restart_without_the_database_is_given_up(tmp_path: Path) -> None:
    """Who runs has its configuration in memory and answers; a successor would have none."""
    with installation(tmp_path) as house:
        house.start()
        old, database = house.web_processes(), tmp_path / "var" / "ccproxy.sqlite3"
        database.rename(tmp_path / "away")
        database.mkdir()

        restart(house)
        wait_until(lambda: "what runs goes on: a start would fail now" in told(house))
        assert "the database cannot be read, and a start needs it once" in told(house)
        assert house.web_processes() == old
        assert get_json(house.url + "/health/ready")["status"] != "unhealthy"


def test_a_killed_process_alone_is_replaced_and_nobody_is_refused_meanwhile(tmp_path: Path) -> None:
    with installation(tmp_path) as house:
        house.start()
        [old] = house.web_processes()
        os.kill(old, signal.SIGKILL)
        assert get_json(house.url + "/health/live", timeout=30)["status"]
        assert house.web_processes() != {old}
        assert house.stop() == 0


def restart(house: Installation) -> None:
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)


def told(house: Installation) -> str:
    return house.log.read_text()
