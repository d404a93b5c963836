"""Slow, hostile and vanishing clients against one gateway, in the short form of `make siege`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccproxy_site.tests.e2e.family import installation
from ccproxy_site.tests.e2e.siege import broken
from ccproxy_site.tests.e2e.siege.site import Site, site
from ccproxy_site.tests.e2e.siege.trials import SHORT_SETTINGS, TRIALS, Attack

pytestmark = pytest.mark.e2e

# The others end or restart it: test_restarts.py.
ATTACKS = {name: trial.run for name, trial in TRIALS.items() if isinstance(trial.run, Attack)}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all attacks: whatever one of them leaves behind, the next would meet."""
    with site(tmp_path_factory.mktemp("site"), **SHORT_SETTINGS) as besieged:
        yield besieged


@pytest.mark.parametrize("name", ATTACKS)
def test_it_holds_against(held: Site, name: str) -> None:
    figures = ATTACKS[name].on(held, TRIALS[name].short)

    sys.stdout.write("".join(f"{name}: {figure}\n" for figure in figures))
    assert not broken(figures), held.gateway.log.read_text()[-4000:]


def test_nothing_that_cannot_be_read_keeps_its_place(tmp_path: Path) -> None:
    """A good question with an unreadable one behind it, again and again, where only two are taken at once."""
    good = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    bad = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n"
    with installation(tmp_path, MAX_CONCURRENT_REQUESTS="2") as gateway:
        gateway.start()
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
                client.sendall(good + bad)
                answers = b"".join(iter(lambda: client.recv(65536), b""))
                assert answers.startswith(b"HTTP/1.1 401 "), answers
                assert b"HTTP/1.1 400 " in answers, answers
