"""The running configuration hears of a change in its own process at once, however seldom it looks by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.db import transaction

from accounting.models import ApiKey
from gateway.configuration import Configuration

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def configuration() -> Iterator[Configuration]:
    configuration = Configuration(poll_seconds=3600)
    configuration.start()
    configuration.wait_for_first_look(10)
    yield configuration
    configuration.stop()


def knows(configuration: Configuration, name: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if any(card.name == name for card in configuration.current.books.keys.values()):
            return True
        time.sleep(0.01)
    return False


def test_a_key_that_was_just_issued_is_known_long_before_the_next_look(configuration: Configuration) -> None:
    ApiKey.issue("alice")
    assert knows(configuration, "alice", seconds=10)


def test_what_is_not_committed_is_no_change(configuration: Configuration) -> None:
    with transaction.atomic():
        ApiKey.issue("bob")
        transaction.set_rollback(True)
    assert not knows(configuration, "bob", seconds=0.3)


def test_a_configuration_that_has_stopped_is_told_nothing(configuration: Configuration) -> None:
    configuration.stop()
    ApiKey.issue("carol")
    assert not knows(configuration, "carol", seconds=0.3)
