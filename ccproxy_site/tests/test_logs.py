"""Lines of the log: for people one line each whatever stands in them, for programs JSON with named events."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import authenticate
from django.test import Client

from ccproxy_site.logs import JsonLines, TextLines
from gateway.tests.conftest import (
    OWNER_TOKEN,
    Gateway,
    Upstream,
    endpoint,
    gateway,
    question,
    second_upstream,
    upstream,
)
from gateway.tests.test_relay import route_to
from providers import health
from providers.log_events import LogEvent, about
from providers.models import Provider

__all__ = ["gateway", "second_upstream", "upstream"]  # the fixtures

HOSTILE = "a\r\n2026-11-21 CRITICAL root: forged\x1b[2K\x00\u2028\x85\u202e\ud800"


def record(message: str, *arguments: object, extra: dict[str, Any] | None = None, **fields: Any) -> logging.LogRecord:
    logger = logging.getLogger("ccproxy.requests")
    info = fields.pop("exc_info", None)
    return logger.makeRecord(logger.name, logging.INFO, __file__, 1, message, arguments, info, extra=extra)


def read(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonLines().format(made)
    assert line.isascii()
    assert line.isprintable()
    found: dict[str, Any] = json.loads(line)
    return found


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [read(made) for made in caplog.records]


def test_a_line_of_json_says_when_what_and_about_whom() -> None:
    told = read(record("configuration %d is in force", 7, extra=about(LogEvent.CONFIGURATION_IN_FORCE, version=7)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", told.pop("time"))
    assert told == {
        "level": "INFO",
        "logger": "ccproxy.requests",
        "event": "configuration_in_force",
        "message": "configuration 7 is in force",
        "version": 7,
    }
    assert read(record("of a library"))["event"] is None


def test_no_field_takes_the_place_of_what_every_line_has() -> None:
    told = read(record("said", extra=about(LogEvent.ENDING, level="forged", message="forged", time=0, event="x")))
    assert (told["level"], told["message"], told["event"]) == ("INFO", "said", "ending")
    assert isinstance(told["time"], str)


def test_no_name_forges_a_line_or_hides_one() -> None:
    for made in (record("key=%s", HOSTILE), record(HOSTILE, extra=about(LogEvent.ENDING, key=HOSTILE))):
        line = TextLines().format(made)
        assert line.isprintable() or "\ud800" in line
        assert len(line.splitlines()) == 1
        assert "forged\\x1b[2K\\x00\\u2028\\x85\\u202e" in line
    assert read(record("key=%s", HOSTILE, extra=about(LogEvent.ENDING, key=HOSTILE)))["key"] == HOSTILE
    assert TextLines().format(record("what was asked: ответ 回答")).endswith("what was asked: ответ 回答")


def test_a_traceback_stays_with_its_line() -> None:
    try:
        raise ValueError(HOSTILE.replace("\ud800", ""))
    except ValueError:
        made = record("it failed", exc_info=sys.exc_info())
    assert "Traceback" in read(made)["exception"]
    first, *others = TextLines().format(made).splitlines()
    assert first.endswith("it failed")
    assert others[0] == "  Traceback (most recent call last):"
    assert {line[:2] for line in others} == {"  "}, "none of them looks like a line of its own"
    assert all(line.isprintable() for line in others)


def test_every_event_is_told_somewhere() -> None:
    sources = "".join(
        path.read_text()
        for package in ("providers", "accounting", "gateway", "ccproxy_site")
        for path in (settings.BASE_DIR / package).rglob("*.py")
        if "tests" not in path.parts and path.name != "log_events.py"
    )
    assert [event.name for event in LogEvent if f"LogEvent.{event.name}" not in sources] == []
    assert {event.value for event in LogEvent} == {event.name.lower() for event in LogEvent}


async def test_a_request_leaves_one_line_with_its_figures_and_stages(
    gateway: Gateway, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script({"text": "Good morning to you", "first_delay": 0.05})
    with caplog.at_level(logging.INFO):
        reply = await gateway.ask(question())
    [told] = events(caplog)
    [booked] = gateway.settled()
    assert (told["event"], told["logger"]) == ("request_completed", "ccproxy.requests")
    assert told["request_id"] == reply.headers["request-id"]
    names = ("key", "model", "provider", "status", "attempts", "messages", "streamed")
    assert [told[name] for name in names] == ["owner", "claude-opus-5-5", "openai-1", "completed", 1, 1, True]
    assert (told["input"], told["output"]) == (booked.attempts[0].usage.input, booked.attempts[0].usage.output)
    assert 0 < told["intake_ms"] < 5000
    assert told["failed_attempts_ms"] == 0
    assert told["first_byte_ms"] <= told["duration_ms"] + 1
    assert told["last_attempt_ms"] <= told["duration_ms"]
    assert OWNER_TOKEN not in str(told)


async def test_a_failover_and_a_failure_leave_a_line_each(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url), endpoint(2, "openai", second_upstream.url)))
    await upstream.default({"status": 529})
    await second_upstream.script({"status": 200, "text": "fine"}, {"status": 500})
    with caplog.at_level(logging.INFO):
        await gateway.ask(question())
        await gateway.ask(question())
    told = events(caplog)
    assert [line["event"] for line in told] == [
        "failover",
        "request_completed",
        "failover",
        "request_failed",
        "request_completed",
    ]
    assert (told[0]["provider"], told[0]["next"]) == ("openai-1", "openai-2")
    assert told[1]["failed_attempts_ms"] > 0
    assert (told[3]["level"], told[3]["error"], told[3]["status"]) == ("WARNING", "overloaded_error", "failed")
    assert told[3]["request_id"] == told[4]["request_id"]
    assert told[4]["status"] == "failed"


async def test_what_the_request_is_to_blame_for_is_no_warning(
    gateway: Gateway, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script({"status": 400})
    with caplog.at_level(logging.INFO):
        await gateway.ask(question())
    assert {line["level"] for line in events(caplog)} == {"INFO"}


@pytest.mark.django_db
def test_a_failed_login_names_the_address_and_not_what_was_typed(caplog: pytest.LogCaptureFixture) -> None:
    Client().post("/admin/login/", {"username": "my-pass-word", "password": "hunter2"}, REMOTE_ADDR="192.0.2.7")
    authenticate(username="my-pass-word", password="hunter2")
    first, second = (line for line in events(caplog) if line["event"] == "login_failed")
    assert (first["address"], second["address"]) == ("192.0.2.7", "")
    assert "my-pass-word" not in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_provider_that_falls_ill_is_a_line_and_one_when_it_is_well(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Provider.objects.create(name="of a test\nforged", type="openai", base_url="http://127.0.0.1:9")
    findings = [True, False, False, True, True]

    async def found(_: object) -> list[health.Finding]:
        return [health.Finding(findings.pop(0), "HTTP 500", 3)]

    monkeypatch.setattr(health, "_probe", found)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            health.probe_all()
    told = [line for line in events(caplog) if line["logger"] == "ccproxy.health"]
    assert [(line["event"], line["level"]) for line in told] == [("provider_ill", "WARNING"), ("provider_well", "INFO")]
    assert told[0]["provider"] == "of a test\nforged"


SAYS = """
import django, logging
django.setup()
logging.getLogger("ccproxy.requests").info("request_completed")
logging.getLogger("ccproxy.api").info("of no interest")
logging.getLogger("ccproxy.api").error("it failed")
"""


def said(folder: Path, **environment: str) -> tuple[list[str], list[str], list[str]]:
    """Of a process with these settings: its console, its log file, its file of errors."""
    files = {"LOG_FILE_PATH": str(folder / "log.jsonl"), "ERROR_LOG_FILE_PATH": str(folder / "error.jsonl")}
    known = {"DJANGO_SETTINGS_MODULE": "ccproxy_site.settings", "CCPROXY_DATA_DIR": str(folder), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        cwd=settings.BASE_DIR,
        env={**known, **files, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    written = (Path(path).read_text().splitlines() for path in files.values())
    return done.stderr.splitlines(), *written  # type: ignore[return-value]


def test_files_are_json_and_errors_have_their_own(tmp_path: Path) -> None:
    console, log, errors = said(tmp_path)
    assert [line.split(" ", 2)[2] for line in console] == [
        "INFO ccproxy.requests: request_completed",
        "INFO ccproxy.api: of no interest",
        "ERROR ccproxy.api: it failed",
    ]
    assert [json.loads(line)["message"] for line in log] == ["request_completed", "of no interest", "it failed"]
    assert [json.loads(line)["message"] for line in errors] == ["it failed"]


def test_the_line_of_each_request_has_a_level_of_its_own(tmp_path: Path) -> None:
    console, _, _ = said(tmp_path, LOG_LEVEL="ERROR", METRICS_LOG_LEVEL="INFO", LOG_FORMAT="json")
    assert [json.loads(line)["message"] for line in console] == ["request_completed", "it failed"]
    console, _, _ = said(tmp_path, METRICS_LOG_LEVEL="WARNING")
    assert "request_completed" not in "".join(console)


@pytest.mark.parametrize(("name", "absurd"), [("LOG_FORMAT", "xml"), ("METRICS_LOG_LEVEL", "LOUD")])
def test_absurd_settings_stop_the_start(tmp_path: Path, name: str, absurd: str) -> None:
    environment = {name: absurd, "CCPROXY_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"{name} is {absurd!r}" in done.stderr
