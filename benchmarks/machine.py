"""Where a figure comes from: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("aiohttp", "daphne", "Django", "django-ninja", "httpx", "msgspec", "Twisted", "uvloop")


@dataclass(frozen=True)
class Machine:
    processor: str
    cores: int
    system: str


def machine() -> Machine:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return Machine(model, os.cpu_count() or 1, f"{platform.system()} {platform.release()}")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


def commit() -> str:
    """With a plus sign where the tree has changes of its own; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return told.stdout.strip()
