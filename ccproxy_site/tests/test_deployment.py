"""There is no container engine where this is tested: the files are checked as data, and their commands are run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from ccproxy_site import supervisor

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = [name for name, service in COMPOSE["services"].items() if "command" in service]


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_the_compose_file_is_one_we_have(name: str) -> None:
    command = [str(part) for part in COMPOSE["services"][name]["command"]]
    program = [sys.executable, *command[1:]] if command[0] == "python" else [sys.executable, "-m", *command]
    done = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in (part for part in command if part.startswith("--")):
        assert option.rstrip("=") in done.stdout


def test_the_web_service_is_probed_as_documented() -> None:
    check = COMPOSE["services"]["web"]["healthcheck"]
    assert (check["interval"], check["timeout"], check["retries"]) == ("30s", "10s", 3)


def test_the_container_is_given_the_time_that_serve_may_take_to_end() -> None:
    grace = float(COMPOSE["services"]["web"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.DRAIN_SECONDS + supervisor.LATE_AT_THE_END + supervisor.GRACE


def test_the_image_copies_what_exists_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
    assert "USER ccproxy" in lines
