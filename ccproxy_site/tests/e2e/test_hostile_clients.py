"""Slow, hostile and vanishing clients against one gateway, in the short form of `make siege`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

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
