"""The ratios of the last whole run that was kept: what CI compares its short run with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import commit, machine
from benchmarks.report import Report

FILE = Path(__file__).with_name("ratios.json")
# A short run is rough: only what is worse than what was kept by more than a third is called a change.
TOLERANCE = 4 / 3


def store(report: Report) -> None:
    told = {
        "ratios": {result.scenario.name: round(result.ratio, 3) for result in report.results},
        "commit": commit(),
        "day": datetime.now(UTC).date().isoformat(),
        "processor": machine().processor,
    }
    FILE.write_text(json.dumps(told, indent=2) + "\n")


def most() -> dict[str, float]:
    """What each scenario's ratio may be."""
    return {name: ratio * TOLERANCE for name, ratio in json.loads(FILE.read_text())["ratios"].items()}
