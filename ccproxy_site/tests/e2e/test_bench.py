"""`make bench` in its short form: what a request costs beside bare Daphne in the same run, every reply checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccproxy_site.tests.e2e.family import ROOT

pytestmark = pytest.mark.e2e

# The gateway's processor time in that of bare Daphne.
MOST = {"S1": 3.5, "S2": 1.5}


def test_a_request_costs_a_small_multiple_of_what_bare_daphne_costs(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--scenario", *MOST, "--json", str(figures)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    assert report["bad_replies"] == 0
    assert report["booked"] == report["answered_by_gateway"] > 0
    for name, most in MOST.items():
        assert report["scenarios"][name]["ratio"] <= most, done.stdout
