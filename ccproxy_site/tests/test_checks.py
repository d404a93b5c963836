"""What a start is refused for, before anything is there that could go wrong."""

from __future__ import annotations

import io
import socket
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command


@pytest.fixture
def several(settings: Any) -> Any:
    settings.WEB_CONCURRENCY, settings.REDIS_URL, settings.ALLOW_LOCAL_STATE = 3, "", False
    return settings


def complaints() -> list[str]:
    return [error.msg for error in run_checks() if error.id == "ccproxy.E001"]


def test_several_processes_without_redis_are_refused_with_why_and_what_to_do(several: Any) -> None:
    [sentence] = complaints()
    assert "3 web processes need REDIS_URL" in sentence
    assert "would be counted 3 times over" in sentence
    assert "ALLOW_LOCAL_STATE=true" in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [("REDIS_URL", "redis://127.0.0.1:6379/0"), ("ALLOW_LOCAL_STATE", True), ("WEB_CONCURRENCY", 1)],
)
def test_each_of_these_makes_it_good(several: Any, name: str, value: object) -> None:
    setattr(several, name, value)
    assert complaints() == []


def test_none_at_all_is_refused(several: Any) -> None:
    several.WEB_CONCURRENCY = 0
    assert "cannot serve anybody" in complaints()[0]


def test_serve_refuses_with_the_same_sentence_before_it_takes_the_port(several: Any) -> None:
    [sentence] = complaints()
    several.WEB_CONCURRENCY = 1
    with pytest.raises(CommandError) as refusal:
        call_command("serve", workers=3, stdout=io.StringIO())
    assert str(refusal.value) == sentence


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_says_which_port_is_taken(several: Any, workers: int) -> None:
    several.ALLOW_LOCAL_STATE = True
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"127.0.0.1:{port} cannot be listened on .*choose another with --port"):
            call_command("serve", host="127.0.0.1", port=port, workers=workers)
