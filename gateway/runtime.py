"""What a gateway process holds while it runs: configuration, ledger, connections. Made once, in one place."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
from django.conf import settings

from accounting.booking import Booker, Keeper
from accounting.ledger import Ledger
from accounting.prices import PriceList
from accounting.spool import Spool, SpoolFull
from gateway.configuration import Configuration, Listener
from gateway.metrics import Metrics, Now, Publisher
from gateway.running import Overview
from gateway.watch import Watch
from providers.messages import Limits
from providers.rate_headers import Rests
from providers.upstream import Upstreams


class Pace(msgspec.Struct, frozen=True):
    """Seconds until a waiting client gets its 200, and between signs of life on a silent stream."""

    commit_after: float = 15.0
    ping_after: float = 10.0


logger = logging.getLogger("ccproxy.runtime")


class Runtime:
    def __init__(self) -> None:
        self.configuration = Configuration(poll_seconds=settings.CONFIG_POLL_SECONDS)
        self.ledger = Ledger(
            Spool(
                settings.SPOOL_DIR,
                segment_bytes=settings.SPOOL_SEGMENT_BYTES,
                sync_every_line=settings.SPOOL_SYNC_EVERY_ROW,
            )
        )
        self.overview = Overview(lambda: self.ledger)
        self.keeper = Keeper(
            self.ledger,
            sync_seconds=settings.SPOOL_SYNC_SECONDS,
            progress_seconds=settings.SPOOL_PROGRESS_SECONDS,
        )
        self.booker = Booker(self.ledger, self._prices, pause=settings.BOOKING_SECONDS)
        self.metrics = Metrics(self._prices, self._now)
        self.publisher = Publisher(self.metrics, settings.METRICS_DIR)
        self.watch = Watch()
        self.upstreams = Upstreams()
        # Who has told us to come back later.
        self.rests = Rests()
        # Providers that do not count tokens, and until when they are not asked again.
        self.not_counting: dict[int, float] = {}
        # Two, whatever comes: more would only wait for each other, and running streams for all of them.
        self.counters = ThreadPoolExecutor(max_workers=2, thread_name_prefix="counting")
        self.limits = Limits(settings.MAX_MESSAGES, settings.MAX_CONTENT_BYTES)
        self.ending = False  # it was asked to; what runs may run on for a while
        self._stopped = False
        self.pace = Pace(settings.COMMIT_AFTER, settings.PING_AFTER)
        self.state_secret = settings.STATE_SECRET.encode()

    def start(self) -> None:
        """Threads only: whatever belongs to an event loop is made by the first request in it."""
        self.configuration.start()
        Listener(self.configuration, self.overview).start()
        self.configuration.wait_for_first_look(seconds=10)
        self.keeper.start()
        self.booker.start()
        self.publisher.take_place()
        self.publisher.start()

    def stop(self) -> None:
        """What could be booked is; the rest stays in the spool for the next process. Once is enough."""
        if self._stopped:
            return
        self._stopped = True
        self.counters.shutdown(wait=False, cancel_futures=True)
        self.configuration.stop()
        self.keeper.stop()
        self.booker.stop()
        self.publisher.stop()
        self.ledger.close()

    def _prices(self) -> PriceList:
        return self.configuration.current.books.prices

    def _now(self) -> Now:
        configuration, names = self.configuration, {}
        if configuration.is_loaded:
            names = {endpoint.id: endpoint.name for endpoint in configuration.current.routing.endpoints}
        return Now(
            processes=1,
            running=self.ledger.running,
            spool_backlog=self.ledger.spool.backlog,
            waiting=self.ledger.unwritten,
            version=configuration.current.version if configuration.is_loaded else 0,
            resting=[
                (names[provider_id], model, state.rests_until)
                for (provider_id, model), state in self.rests.told()
                if provider_id in names and state.rests_until > time.time()
            ],
        )

    def troubles(self) -> list[str]:
        """Why this process should get no requests now; empty when it may."""
        found = []
        if self.ending:
            found.append("this process is ending")
        if not self.configuration.is_loaded:
            found.append("no configuration has been read from the database yet")
        if self.ledger.unwritten:
            found.append("settlements wait in memory since the spool cannot be written")
        else:
            try:
                self.ledger.spool.probe()
            except SpoolFull as error:
                found.append(str(error))
        return found

    def degradations(self) -> list[str]:
        """What an administrator should look at, while requests go on."""
        found = []
        if self.configuration.failing_since is not None:
            found.append("the configuration cannot be read from the database: it stays as it was, the log says why")
        if self.booker.failing_since is not None:
            found.append("the database is away: the ledger waits in the spool")
        return found


_running: Runtime | None = None
_starting = threading.Lock()


def running() -> Runtime:
    """The runtime of this process, started at the first call."""
    global _running  # noqa: PLW0603 - the one place that holds it
    if _running is None:
        with _starting:
            if _running is None:
                runtime = Runtime()
                runtime.start()
                atexit.register(runtime.stop)
                _running = runtime
    return _running


def current() -> Runtime | None:
    """The same where it runs already: a page that may do without it starts none."""
    return _running


def replace(runtime: Runtime | None) -> Runtime | None:
    """For tests: another runtime in the place of the running one, which is returned."""
    global _running
    before, _running = _running, runtime
    return before
