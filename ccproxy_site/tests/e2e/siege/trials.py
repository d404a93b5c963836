"""Every attack by its name: on what settings it is made, and how hard in its two forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.bodies import large_bodies
from ccproxy_site.tests.e2e.siege.crowds import connection_caps, overload
from ccproxy_site.tests.e2e.siege.malformed import malformed
from ccproxy_site.tests.e2e.siege.order import pipelining, websockets
from ccproxy_site.tests.e2e.siege.restarts import kill_one_of_two, sighup_under_load, sigterm_under_streams
from ccproxy_site.tests.e2e.siege.site import Site, State, site
from ccproxy_site.tests.e2e.siege.slowness import slow_heads, slow_readers, slow_stream
from ccproxy_site.tests.e2e.siege.vanishing import vanish

# In CI one installation serves every attack: its patience is short, and it is full with few.
SHORT_SETTINGS = {
    "HEADER_SECONDS": "2",
    "SILENT_SECONDS": "3",
    "KEEP_ALIVE_SECONDS": "4",
    "BODY_GRACE_SECONDS": "2",
    "BODY_SILENCE_SECONDS": "3",
    "MAX_BODY_BYTES": str(1024 * 1024),
    "MAX_CONCURRENT_REQUESTS": "45",
    "MAX_CONNECTIONS_PER_ADDRESS": "160",
    "MAX_CONNECTIONS": "180",
}
ROOM_FOR_FEW = {"MAX_CONCURRENT_REQUESTS": "60"}
FEW_CONNECTIONS = {"MAX_CONNECTIONS_PER_ADDRESS": "800", "MAX_CONNECTIONS": "1000"}


@dataclass(frozen=True)
class Attack:
    """What is done to a site, on a site of its own or on one that is there; these settings are for its full length."""

    attack: Callable[[Site, Effort], list[Figure]]
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, folder: Path, effort: Effort) -> list[Figure]:
        with site(folder, **(self.settings if effort.slack == 1 else SHORT_SETTINGS)) as held:
            return self.on(held, effort)

    def on(self, held: Site, effort: Effort) -> list[Figure]:
        """Whatever was done, afterwards everything must be as it was before."""
        before = State.of(held)
        return [*self.attack(held, effort), *before.recovery(held, effort)]


@dataclass(frozen=True)
class Trial:
    run: Callable[[Path, Effort], list[Figure]]
    long: Effort
    short: Effort


TRIALS = {
    "slow_stream": Trial(Attack(slow_stream), Effort(90, 1), Effort(6, 1, slack=5)),
    "slow_readers": Trial(Attack(slow_readers), Effort(60, 200), Effort(20, 30, slack=5)),
    "slow_heads": Trial(Attack(slow_heads), Effort(90, 500), Effort(5, 90, slack=5)),
    "large_bodies": Trial(Attack(large_bodies), Effort(60, 10), Effort(5, 40, slack=5)),
    "malformed": Trial(Attack(malformed), Effort(30, 1), Effort(5, 1, slack=5)),
    "vanish": Trial(Attack(vanish), Effort(20, 500), Effort(2, 40, slack=5)),
    "overload": Trial(Attack(overload, ROOM_FOR_FEW), Effort(90, 180), Effort(9, 135, slack=5)),
    "connection_caps": Trial(Attack(connection_caps, FEW_CONNECTIONS), Effort(10, 1000), Effort(3, 180, slack=5)),
    "pipelining": Trial(Attack(pipelining), Effort(20, 1000), Effort(4, 500, slack=5)),
    "websockets": Trial(Attack(websockets), Effort(10, 200), Effort(5, 40, slack=5)),
    "sigterm_under_streams": Trial(sigterm_under_streams, Effort(20, 200), Effort(10, 30, slack=5)),
    "sighup_under_load": Trial(sighup_under_load, Effort(60, 24), Effort(8, 12, slack=5)),
    "kill_one_of_two": Trial(kill_one_of_two, Effort(30, 24), Effort(8, 12, slack=5)),
}
