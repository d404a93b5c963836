"""What `serve` hands to its children, and what `serve --check` says without starting any."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.migrations.executor import MigrationExecutor

from ccproxy_site.management.commands import serve
from ccproxy_site.settings import given_environment
from ccproxy_site.supervisor import Child, listeners


def check() -> str:
    said = io.StringIO()
    call_command("serve", check=True, stdout=said)
    return said.getvalue()


@pytest.mark.django_db
def test_a_check_that_finds_nothing_says_nothing_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "take_port", lambda *_: pytest.fail("a check takes no port"))
    assert check() == ""


def test_a_check_says_that_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(serve, "MigrationExecutor", away)
    with pytest.raises(
        CommandError, match="the database cannot be read, and a start needs it once: connection refused"
    ):
        check()


@pytest.mark.django_db
def test_a_check_says_that_migrations_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    class Behind(MigrationExecutor):
        def migration_plan(self, *_: Any, **__: Any) -> Any:
            return [("a migration", False)]

    monkeypatch.setattr(serve, "MigrationExecutor", Behind)
    with pytest.raises(CommandError, match=r"pending migrations: run `python manage\.py migrate` once"):
        check()


def test_children_get_what_was_given_and_read_dotenv_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a restart would hand them the old values, and these win over the file."""
    monkeypatch.setenv("READ_FROM_DOTENV", "old")
    monkeypatch.setitem(given_environment, "PYTHONPATH", "/elsewhere")
    handed: list[Mapping[str, str]] = []

    def no_demo(environment: Mapping[str, str]) -> list[Child]:
        handed.append(environment)
        return []

    monkeypatch.setattr(serve, "demo_children", no_demo)
    held = listeners("127.0.0.1", 0, 2)
    serve.family_on(held, no_worker=True)
    for each in held:
        each.close()
    [environment] = handed
    assert "READ_FROM_DOTENV" not in environment
    assert environment["WEB_CONCURRENCY"] == "2"
    assert environment["PYTHONPATH"] == f"{settings.BASE_DIR}:/elsewhere"
