"""What is besieged: an installation, its upstreams, and what shows how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from accounting import keys
from ccproxy_site.tests.e2e.family import Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.load import configuration
from ccproxy_site.tests.e2e.siege import Effort, Figure, flood, sockets

# Answered by the mock, by its script; and by the flood, where there is one.
MODEL, FLOOD_MODEL = "claude-anthropic", "claude-flood"
# As ccproxy_site/settings.py has them.
DEFAULTS = {
    "MAX_BODY_BYTES": 32 * 1024 * 1024,
    "MAX_HEADER_BYTES": 32 * 1024,
    "MAX_HEADERS": 100,
    "HEADER_SECONDS": 10,
    "SILENT_SECONDS": 30,
    "KEEP_ALIVE_SECONDS": 75,
    "BODY_GRACE_SECONDS": 10,
    "BODY_BYTES_PER_SECOND": 1024,
    "BODY_SILENCE_SECONDS": 30,
    "MAX_CONNECTIONS": 10_000,
    "MAX_CONNECTIONS_PER_ADDRESS": 0,
    "MAX_CONCURRENT_REQUESTS": 2000,
}
MEGABYTE = 1024 * 1024
# Full service is back so soon.
RECOVERY_SECONDS = 35.0
RECOVERED_MEMORY = 20.0


@dataclass
class Site:
    gateway: Installation
    upstream: Mock
    flood: socket.socket
    key: str

    @property
    def port(self) -> int:
        return self.gateway.port

    def limit(self, name: str) -> int:
        return int(self.gateway.environment.get(name, DEFAULTS[name]))

    def servers(self) -> set[int]:
        found = self.gateway.web_processes()
        assert found, self.gateway.log.read_text()[-4000:]
        return found

    def memory(self) -> float:
        """Of the web processes, in megabytes."""
        return sum(map(sockets.memory, self.servers())) / MEGABYTE

    def descriptors(self) -> int:
        kept = {self.upstream.port, self.flood.getsockname()[1]}
        return sum(sockets.descriptors(pid, kept) for pid in self.servers())

    def question(
        self, script: dict[str, Any] | None = None, *, model: str = MODEL, stream: bool = True, name: str = ""
    ) -> bytes:
        """A request as it goes over the line; `name` is told in its x-request-id."""
        text = f"[[mock: {json.dumps(script)}]]" if script is not None else "Hi"
        message = {"role": "user", "content": text}
        body = {"model": model, "max_tokens": 1000, "stream": stream, "messages": [message]}
        return self.post(json.dumps(body).encode(), f"x-request-id: {name}" if name else "")

    def post(self, body: bytes, *headers: str) -> bytes:
        return self.head(f"content-length: {len(body)}", *headers) + body

    def head(self, *headers: str) -> bytes:
        """Of a question whose body is somebody else's affair."""
        lines = ["POST /v1/messages HTTP/1.1", "host: localhost", f"x-api-key: {self.key}", *filter(None, headers)]
        return "\r\n".join([*lines, "", ""]).encode()

    def answers(self) -> bool:
        request = urllib.request.Request(self.gateway.url + "/v1/messages", a_question(), {"x-api-key": self.key})
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return bool(json.load(reply)["type"] == "message")
        except (OSError, ValueError):
            return False


def a_question() -> bytes:
    message = {"role": "user", "content": "Who is there?"}
    return json.dumps({"model": MODEL, "max_tokens": 100, "messages": [message]}).encode()


@contextlib.contextmanager
def site(folder: Path, **settings: str) -> Iterator[Site]:
    """Configured and running, warm enough that its first requests are not what is measured."""
    with (
        contextlib.closing(flood.listening()) as line,
        mock(folder) as upstream,
        installation(folder, worker=False, LOG_LEVEL="WARNING", **settings) as gateway,
    ):
        gateway.start()
        key = keys.mint()
        known = configuration(upstream)
        flooding = {**known["providers"][0], "name": "flood", "base_url": f"http://127.0.0.1:{line.getsockname()[1]}"}
        known["providers"].append(flooding)
        known["model_routes"][FLOOD_MODEL] = [{"provider": "flood"}]
        gateway.apply({**known, "keys": [{"name": "tester", "token": key}]})
        gateway.wait_until_key_works(key)
        held = Site(gateway, upstream, line, key)
        for _ in range(20):
            assert held.answers(), gateway.log.read_text()[-4000:]
        gateway.wait_until_booked()
        yield held


@dataclass
class State:
    """How a site was before an attack."""

    memory: float
    descriptors: int
    servers: set[int]

    @classmethod
    def of(cls, held: Site) -> State:
        return cls(held.memory(), held.descriptors(), held.servers())

    def recovery(self, held: Site, effort: Effort) -> list[Figure]:
        """Waits until the site is as it was, and says what is missing."""
        began = time.monotonic()
        until = began + RECOVERY_SECONDS
        while not (answers := held.answers()) and time.monotonic() < until:
            time.sleep(0.1)
        answered = time.monotonic() - began if answers else math.inf
        while (left := held.descriptors() - self.descriptors) > 0 and time.monotonic() < until:
            time.sleep(0.1)
        figures = [
            Figure("recovery: seconds until a request is answered", round(answered, 1), RECOVERY_SECONDS, "s"),
            Figure("recovery: descriptors left", left, 0),
            Figure("recovery: processes replaced", len(self.servers - held.servers()), 0),
        ]
        if effort.slack == 1:
            while (grown := held.memory() - self.memory) > RECOVERED_MEMORY and time.monotonic() < until:
                time.sleep(0.5)
            figures.append(Figure("recovery: memory not given back", round(grown, 1), RECOVERED_MEMORY, "MB"))
        return figures


@dataclass
class Probes:
    """While the block runs, these pages are fetched again and again from a thread; how long each took."""

    url: str
    paths: Sequence[str] = ("/health/live",)
    pause: float = 0.1
    delays: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for path in self.paths:
                began = time.monotonic()
                try:
                    with urllib.request.urlopen(self.url + path, timeout=10) as reply:
                        reply.read()
                except OSError as error:
                    self.failures.append(f"{path}: {error}")
                self.delays.append(time.monotonic() - began)
            if self._stop.wait(self.pause):
                break

    def figures(self, effort: Effort, most: float = 500) -> list[Figure]:
        """`most`: milliseconds that the slowest may take."""
        return [
            Figure(f"probes of {len(self.delays)} that failed{told(self.failures)}", len(self.failures), 0),
            Figure("slowest probe", milliseconds(max(self.delays)), most * effort.slack, "ms"),
        ]


class Watch:
    """The most memory that was seen while the block ran."""

    def __init__(self, held: Site) -> None:
        self._site = held
        self.before = self.most = held.memory()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.most = max(self.most, self._site.memory())

    async def _look(self) -> None:
        while True:
            self.most = max(self.most, self._site.memory())
            await asyncio.sleep(0.1)

    @property
    def grown(self) -> float:
        return round(self.most - self.before, 1)


def told(culprits: Sequence[str]) -> str:
    """Who they were, for the name of a figure."""
    return "".join(f"; {culprit} ({times})" for culprit, times in Counter(culprits).most_common(8))


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else math.inf


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
