"""The conformance command examines a gateway that it starts itself, every case over real connections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccproxy_site.tests.e2e.family import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MANAGE = [sys.executable, "manage.py", "conformance"]


def test_our_gateway_passes_every_case(tmp_path: Path) -> None:
    score = tmp_path / "score.json"
    done = subprocess.run([*MANAGE, "--json", str(score)], cwd=ROOT, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout[-2000:])

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(score.read_text())
    assert told["all"]["failed"] == told["all"]["not applicable"] == 0
    assert told["all"]["passed"] >= 900
    assert told["core"]["passed"] >= 300


def test_a_gateway_that_is_not_there_passes_none(tmp_path: Path) -> None:
    nobody = ["http://127.0.0.1:9", "ccp_none", "--only", "stream-text", "--upstream-port", "0"]
    done = subprocess.run([*MANAGE, *nobody], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1, done.stdout + done.stderr
