"""What the papers for operators tell people to type and to read is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ["deployment.md", "troubleshooting.md", "operations.md"]


def anchors_of(path: Path) -> set[str]:
    """As they are made of headings where such files are shown."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAPERS)
def test_every_command_exists(name: str) -> None:
    named = set(re.findall(r"manage\.py (\w+)", (ROOT / "docs" / name).read_text()))
    assert named
    assert named <= set(get_commands())


@pytest.mark.parametrize("name", PAPERS)
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / name).read_text())
    assert links
    for link in links:
        target, _, anchor = link.partition("#")
        path = (ROOT / "docs" / (target or name)).resolve()
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link


def test_the_secrets_that_deployment_makes_are_taken(tmp_path: Path) -> None:
    """The shell lines as they stand there, and the settings' own reading of what they wrote."""
    [lines] = re.findall(r"```sh\n(umask 077\n.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    subprocess.run(["sh", "-eu", "-c", lines], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    given = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    environment = {**given, "PATH": os.environ["PATH"], "CCPROXY_DATA_DIR": str(tmp_path), "HOST": "10.0.0.7"}
    environment["DATABASE_URL"] = "postgres://nobody@127.0.0.1:1/none"
    told = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "doctor"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "ok       secrets " in told
    assert "ok       hosts " in told
