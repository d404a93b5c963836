"""A gateway of ours, started for one run in a folder that is thrown away after it."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from providers.conformance.cases import Json

PATIENCE = 60.0
# Whatever else stands in the environment may belong to another installation.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONPATH")
SECRETS = ("SECRET_KEY", "CREDENTIAL_KEYS", "KEY_DIGEST_SECRET", "STATE_SECRET")
# And the same may stand in a .env beside manage.py, which fills in what is not set at all.
EMPTY = (
    "REDIS_URL",
    "LOG_FILE_PATH",
    "ERROR_LOG_FILE_PATH",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "OPENAI_BASE_URL",
    "BACKEND_URL",
    "BACKEND_KEY",
)


def environment(folder: Path) -> dict[str, str]:
    """Of an installation that has nothing in common with any other on this machine."""
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        **dict.fromkeys(EMPTY, ""),
        **{name: base64.urlsafe_b64encode(os.urandom(32)).decode() for name in SECRETS},
        "CCPROXY_DATA_DIR": str(folder),
        "DATABASE_URL": f"sqlite:///{folder / 'conformance.sqlite3'}",
        "CELERY_BROKER_URL": "filesystem://",
        "PROVIDER_PRIVATE_NETWORKS": "allow",
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "WARNING",
    }


class House:
    """`serve` on a SQLite file; configured by `apply`, which also issues the key."""

    def __init__(self, manage: Path) -> None:
        self._manage = [sys.executable, str(manage)]
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self._path = Path(self._folder.name)
        self._environment = environment(self._path)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> House:
        self._run("migrate", "--verbosity", "0")
        command = [*self._manage, "serve", "--port", str(self.port), "--workers", "1", "--no-worker"]
        with (self._path / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)  # noqa: S603
        try:
            self._wait(lambda: self._answers("/health/ready", {}), "the gateway does not start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def configure(self, configuration: Json) -> str:
        """Puts it into force; returns the key."""
        path = self._path / "conformance.yaml"
        path.write_text(json.dumps(configuration))
        issued = re.search(r"\bccp_\S+", self._run("apply", str(path)))
        if issued is None:
            raise RuntimeError("the gateway was configured, and no key was issued")
        key = issued[0]
        self._wait(
            lambda: self._answers("/v1/models", {"x-api-key": key}), "the configuration does not come into force"
        )
        return key

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            [*self._manage, *arguments], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def _answers(self, path: str, headers: dict[str, str]) -> bool:
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _wait(self, until: Callable[[], bool], complaint: str) -> None:
        end = time.monotonic() + PATIENCE
        while not until():
            if time.monotonic() > end or self._process is None or self._process.poll() is not None:
                log = (self._path / "serve.log").read_text(errors="replace")
                raise RuntimeError(f"{complaint}: {log[-2000:]}")
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
