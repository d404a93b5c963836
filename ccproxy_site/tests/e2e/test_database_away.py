"""The database is away for half a minute under load: nobody notices but the health page, and no row is lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ccproxy_site.tests.e2e.family import Installation, database, installation, mock
from ccproxy_site.tests.e2e.load import MODELS, Load
from ccproxy_site.tests.e2e.torture import Evidence, examine, gather, prepare

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SECONDS = 30.0
# What a running gateway may take to be well again.
RECOVERY = 35.0


class TcpRelay:
    """Stands before a server and can cut every connection, or take what comes and pass nothing on."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._silent = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")
        self._thread.start()
        self._do(self._listen())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.ensure_future(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not self._silent:
                    sink.write(data)
                    await sink.drain()
        sink.close()

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        self._do(self._close())
        yield
        self._do(self._listen())

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """As if every packet got lost; afterwards the host is back, and knows nothing of its old connections."""
        self._silent = True
        yield
        self._do(self._cut())
        self._silent = False

    def stop(self) -> None:
        self._do(self._close())
        self._do(asyncio.wait_for(self._ended(), 5))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ended(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@contextlib.contextmanager
def locked(gateway: Installation) -> Iterator[None]:
    """Somebody else writes to the embedded database and does not come to an end."""
    path = gateway.folder / "var" / "ccproxy.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@dataclass
class Report:
    evidence: Evidence
    asked_meanwhile: int
    health: list[tuple[float, int, str]]  # seconds since it went away, HTTP status, what it says
    recovered_after: float

    @property
    def noticed_after(self) -> float:
        return next(moment for moment, _, status in self.health if status == "degraded")


Breakage = Callable[[Installation, TcpRelay | None], contextlib.AbstractContextManager[None]]


def outage(name: str, folder: Path, kind: str, breakage: Breakage) -> Report:
    with contextlib.ExitStack() as stack:
        place, relay = stack.enter_context(database(kind)), None
        if kind == "postgres":
            url = urlsplit(place["DATABASE_URL"])
            relay = TcpRelay(url.hostname or "127.0.0.1", url.port or 5432)
            stack.callback(relay.stop)
            user = url.netloc.rpartition("@")[0]
            place["DATABASE_URL"] = url._replace(netloc=f"{user}@127.0.0.1:{relay.port}").geturl()
        upstream = stack.enter_context(mock(folder))
        gateway = stack.enter_context(installation(folder, worker=False, **place))
        key = prepare(gateway, upstream, migrate=bool(place))
        health = []
        with Load(gateway.url, [(key, model) for model in MODELS], clients=4, pause=0.1) as load:
            time.sleep(1)
            before, began = len(load.seen), time.monotonic()
            with breakage(gateway, relay):
                while time.monotonic() < began + SECONDS:
                    told = gateway.health()
                    health.append((time.monotonic() - began, told["http"], told["status"]))
                    time.sleep(0.25)
            ended, meanwhile = time.monotonic(), len(load.seen) - before
            while gateway.health()["status"] != "healthy" and time.monotonic() < ended + RECOVERY:
                time.sleep(0.1)
            recovered_after = time.monotonic() - ended
        report = Report(gather(gateway, upstream, load.seen, set()), meanwhile, health, recovered_after)
    failed = sum(not seen.whole for seen in load.seen)
    print(  # noqa: T201 - the figures are what the test is for
        f"{name}: away for {SECONDS:.0f} s, {meanwhile} answers meanwhile, {failed} requests failed;"
        f" health degraded after {report.noticed_after:.1f} s, healthy {recovered_after:.1f} s after the return;"
        f" {len(report.evidence.whole)} answers, {len(report.evidence.rows)} rows"
    )
    return report


OUTAGES: dict[str, tuple[str, Breakage]] = {
    "PostgreSQL refuses": ("postgres", lambda _, relay: relay.refusing() if relay else contextlib.nullcontext()),
    "PostgreSQL is silent": ("postgres", lambda _, relay: relay.silent() if relay else contextlib.nullcontext()),
    "SQLite is locked": ("sqlite", lambda gateway, _: locked(gateway)),
}


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Report]]]:
    """All at the same time, since they mostly wait."""
    with ThreadPoolExecutor() as pool:
        yield {name: pool.submit(outage, name, tmp_path_factory.mktemp("away"), *how) for name, how in OUTAGES.items()}


@pytest.mark.parametrize("name", OUTAGES)
def test_nobody_notices_that_the_database_is_away(outages: dict[str, Future[Report]], name: str) -> None:
    report = outages[name].result()

    assert [seen for seen in report.evidence.seen if not seen.whole] == []
    assert report.asked_meanwhile > 20
    assert {http for _, http, _ in report.health} == {200}
    assert report.noticed_after < SECONDS / 2
    assert report.health[-1][2] == "degraded"
    assert report.recovered_after < RECOVERY
    findings = examine(report.evidence)
    assert not findings, str(findings)
    assert len(report.evidence.rows) == len(report.evidence.seen)
