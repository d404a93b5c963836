"""What `doctor` says of an installation that is well, and of each thing that can be wrong with one."""

from __future__ import annotations

import datetime as dt
import fcntl
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounting.models import ApiKey, DaySum, DirtyQuarter, UsageRecord
from accounting.reports import today
from accounting.rollups import FIGURES
from ccproxy_site import doctor, keyring
from ccproxy_site.management.commands.doctor import one_line
from providers import hot
from providers.models import ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.routing import Route, Routing

pytestmark = pytest.mark.django_db

EVERYWHERE = "0.0.0.0"  # noqa: S104 - named, not bound
ROOT = Path(__file__).resolve().parents[2]
CANARY = "sk-canary-2e9f"
URL = "https://api.example.com/v1"


@pytest.fixture(autouse=True)
def house(tmp_path: Path, settings: Any) -> Path:
    """A data folder as a running gateway has it: private, and with a journal that its process holds."""
    tmp_path.chmod(0o700)
    settings.DATA_DIR, settings.SPOOL_DIR = tmp_path, tmp_path / "spool"
    settings.SPOOL_DIR.mkdir(mode=0o700)
    settings.REDIS_URL, settings.ALLOWED_HOSTS = "", ["localhost"]
    settings.SECRETS = dict.fromkeys(keyring.MAKERS, CANARY + "x" * 40)
    return tmp_path


@pytest.fixture
def provider() -> Provider:
    """With all that belongs to a gateway that is well."""
    provider = Provider(name="openrouter", type="openai", base_url=URL)
    provider.set_credential(CANARY)
    provider.save()
    ProviderHealth.objects.create(provider=provider, checked_at=timezone.now(), ok=True, detail="HTTP 200")
    RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="*sonnet*"), provider=provider)
    ApiKey.issue("alice")
    get_user_model().objects.create_superuser("admin")
    return provider


def said(*abouts: str) -> list[str]:
    """What is not well with these, and that nothing else was named there."""
    found = [finding for finding in doctor.examine() if finding.about in abouts]
    assert {finding.about for finding in found} == set(abouts)
    assert CANARY not in str(found)
    return [f"{finding.level}: {finding.message}" for finding in found if finding.level != "ok"]


def test_a_gateway_that_is_well_is_called_well(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "state", lambda: "in use")
    assert [finding for finding in doctor.examine() if finding.level != "ok"] == []
    out = io.StringIO()
    call_command("doctor", stdout=out)
    assert len(out.getvalue().splitlines()) > 15
    assert CANARY not in out.getvalue()


def test_as_json_it_says_the_same_and_ends_with_an_error_all_the_same(provider: Provider) -> None:
    ApiKey.objects.all().delete()
    out = io.StringIO()
    with pytest.raises(CommandError, match="One of these is a problem"):
        call_command("doctor", json=True, stdout=out)
    told = json.loads(out.getvalue())
    assert told["sound"] is False
    assert [finding["about"] for finding in told["findings"] if finding["level"] == "problem"] == ["keys"]


# Environment and files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DATABASE_URI", "did you mean DATABASE_URL?"),
        ("CSRF_TRUSTED_ORIGIN", "did you mean CSRF_TRUSTED_ORIGINS?"),
        ("CCPROXY_DATADIR", "did you mean CCPROXY_DATA_DIR?"),
        ("CCPROXY_SPEED", ".env.example has all that are"),
    ],
)
def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    monkeypatch.setenv(name, CANARY)
    [line] = said("environment")
    assert line.startswith(f"warning: the environment variable {name} is read by nobody")
    assert expected in line


@pytest.mark.parametrize(
    "name", ["HOSTNAME", "LOGNAME", "HTTP_PROXY", "PROVIDER_OPENROUTER_CREDENTIAL", "CCPROXY_BUILD_CYTHON"]
)
def test_variables_of_others_are_nobodys_business(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert said("environment") == []


def test_secrets_that_are_missing_short_or_malformed_are_named(settings: Any) -> None:
    settings.SECRETS = {**settings.SECRETS, "SECRET_KEY": "", "STATE_SECRET": "short"}
    settings.CREDENTIAL_KEYS = ["no key"]
    missing, malformed, short = said("secrets")
    assert missing.startswith("problem: SECRET_KEY must be set")
    assert malformed.startswith("problem: CREDENTIAL_KEYS must be keys of 32 bytes")
    assert short.startswith("warning: STATE_SECRET: shorter than 32")


def test_debugging_is_a_problem(settings: Any) -> None:
    settings.DEBUG = True
    assert said("debug")[0].startswith("problem: DEBUG is on")


@pytest.mark.parametrize(
    ("host", "allowed", "origins", "expected"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "[::1]"], [], ""),
        ("::1", ["localhost"], [], ""),
        (EVERYWHERE, ["localhost", "127.0.0.1", "[::1]"], [], "warning: HOST is 0.0.0.0, .* Set ALLOWED_HOSTS"),
        ("::", ["my.localhost"], [], "warning: HOST is ::, .* Set ALLOWED_HOSTS"),
        ("10.0.0.7", ["gw.example"], [], "warning: .* Set CSRF_TRUSTED_ORIGINS=https://gw.example"),
        ("127.0.0.1", [".example"], [], "warning: .* Set CSRF_TRUSTED_ORIGINS=https://example"),
        (EVERYWHERE, ["*"], [], "warning: .* Set CSRF_TRUSTED_ORIGINS=https://gateway.example"),
        (EVERYWHERE, ["gw.example"], ["https://gw.example"], ""),
    ],
)
def test_who_listens_to_others_must_answer_to_a_name(
    settings: Any, host: str, allowed: list[str], origins: list[str], expected: str
) -> None:
    settings.HOST, settings.ALLOWED_HOSTS, settings.CSRF_TRUSTED_ORIGINS = host, allowed, origins
    lines = said("hosts")
    assert len(lines) == bool(expected)
    assert re.match(expected, "".join(lines))


def test_what_check_refuses_is_a_problem(settings: Any) -> None:
    settings.WEB_CONCURRENCY, settings.ALLOW_LOCAL_STATE = 3, False
    assert said("settings")[0].startswith("problem: 3 web processes need REDIS_URL")


def test_loops_that_were_not_built_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "state", lambda: "not built")
    assert said("compiled loops")[0].startswith("warning: not built")


def test_a_data_folder_that_is_absent_open_or_full_is_told(
    settings: Any, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.chmod(0o777)
    assert said("data folder") == [f"warning: others may write into {house}: chmod 700 {house}"]
    house.chmod(0o700)
    usage = shutil.disk_usage(house)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 * doctor.MEGABYTE))
    assert said("data folder")[0].startswith(f"problem: {house} has 5 MB free")
    settings.DATA_DIR = house / "nowhere"
    assert "is not there" in said("data folder")[0]


def test_secrets_that_others_can_read_are_a_problem_and_the_first_login_is_a_warning(house: Path) -> None:
    (house / keyring.FILE_NAME).write_text(f"SECRET_KEY={CANARY}\n")
    (house / keyring.FILE_NAME).chmod(0o640)
    (house / "first-login.txt").write_text(CANARY)
    readable, left = said("private files")
    assert readable == f"problem: others can read the secrets: chmod 600 {house / keyring.FILE_NAME}"
    assert left.startswith(f"warning: the first password and key still lie in {house / 'first-login.txt'}")


@pytest.mark.parametrize(
    ("folder", "file", "is_open"),
    [(0o700, 0o644, False), (0o755, 0o600, False), (0o755, 0o644, True), (0o710, 0o640, True), (0o701, 0o640, False)],
)
def test_who_can_read_a_file_is_told_from_its_folder_too(house: Path, folder: int, file: int, is_open: bool) -> None:
    path = house / "inner" / "database"
    path.parent.mkdir()
    path.touch()
    path.chmod(file)
    path.parent.chmod(folder)
    assert doctor.is_open_to_others(path) is is_open


def test_without_a_spool_nothing_is_wrong_yet(settings: Any, house: Path) -> None:
    settings.SPOOL_DIR = house / "none"
    assert said("spool") == []


def test_journals_of_the_dead_wait_for_a_start_or_for_a_living_process_that_does_not_care(house: Path) -> None:
    dead, living = house / "spool" / "1-1-000000.spool", house / "spool" / "2-2-000000.spool"
    dead.touch()
    assert said("spool")[0].startswith("warning: 1 journals of ended processes wait to be booked: the next start")
    with living.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert said("spool") == []  # it has just died, and is about to be taken over
        os.utime(dead, (time.time() - 600,) * 2)
        assert "no living one takes them over" in said("spool")[0]
        dead.unlink()
        assert said("spool") == []


def test_what_was_set_aside_is_told(house: Path) -> None:
    (house / "spool" / "quarantine.jsonl").write_text("{}\n{}\n")
    (house / "spool" / "1-1-000000.damaged").touch()
    refused, damaged = said("spool")
    assert refused.startswith("problem: 2 requests are not in the ledger")
    assert damaged.startswith("warning: 1 journals in")
    (house / "spool" / "quarantine.jsonl").write_text("")
    assert said("spool") == [damaged]


# Other servers


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_redis_that_is_away_is_a_problem_told_once_and_without_its_password(settings: Any, nobody: int) -> None:
    settings.REDIS_URL = f"redis://:{CANARY}@127.0.0.1:{nobody}/0"
    settings.CELERY_BROKER_URL = f"redis://:{CANARY}@127.0.0.1:{nobody}/1"
    [line] = said("redis and broker")
    assert line.startswith("problem: the server of REDIS_URL and CELERY_BROKER_URL does not answer (Error 111")


def test_redis_that_is_silent_is_not_waited_for(settings: Any, silent: int) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{silent}/0"
    started = time.monotonic()
    assert "does not answer" in said("redis and broker")[0]
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "url", [f"redis://:p#{CANARY}@redis.example", f"amqp://user:{CANARY}@127.0.0.1:1//", f"{CANARY}://x"]
)
def test_no_piece_of_a_brokers_address_is_told(settings: Any, url: str) -> None:
    settings.CELERY_BROKER_URL = url
    assert "the server of CELERY_BROKER_URL does not answer" in said("redis and broker")[0]


def run(tmp_path: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    known = {name: os.environ[name] for name in ("PATH", *keyring.MAKERS)}
    known |= {"CCPROXY_DATA_DIR": str(tmp_path), **environment}
    started = time.monotonic()
    command = [sys.executable, str(ROOT / "manage.py"), "doctor"]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    return done, time.monotonic() - started


def test_with_everything_away_it_says_so_soon_and_goes_on(tmp_path: Path, silent: int) -> None:
    done, seconds = run(
        tmp_path,
        DATABASE_URL=f"postgres://someone:{CANARY}@127.0.0.1:{silent}/ccproxy",
        REDIS_URL=f"redis://:{CANARY}@127.0.0.1:{silent}/0",
    )
    assert done.returncode == 1
    assert "problem  database          it does not answer" in done.stdout
    assert "without the database this could not be looked at: " in done.stdout
    assert "ok       debug" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < 15  # some five on a machine that is not busy with other tests


def test_where_nothing_was_started_yet_nothing_is_made(tmp_path: Path) -> None:
    done, _ = run(tmp_path / "var")
    assert done.returncode == 1
    assert "there is none yet at" in done.stdout
    assert not (tmp_path / "var").exists()


def test_a_database_of_nothing_lacks_its_migrations(tmp_path: Path) -> None:
    (tmp_path / "ccproxy.sqlite3").touch(mode=0o600)
    done, _ = run(tmp_path)
    assert "are not applied: `manage.py migrate` applies them" in done.stdout
    assert "the database refuses to tell (no such table" in done.stdout
    assert "Traceback" not in done.stderr


# What stands in the database


def test_a_clock_that_runs_before_the_ledger_is_doubted(provider: Provider) -> None:
    tomorrow = timezone.now() + dt.timedelta(days=1)
    UsageRecord.objects.create(
        request_id="req_1",
        started_at=tomorrow,
        finished_at=tomorrow,
        key="k",
        model="m",
        status="completed",
        source="upstream",
    )
    assert "from the future" in said("clock")[0]


def test_old_probes_and_late_sums_show_that_nobody_works(provider: Provider) -> None:
    long_ago = timezone.now() - dt.timedelta(hours=5)
    ProviderHealth.objects.update(checked_at=long_ago)
    DirtyQuarter.objects.create(starts_at=long_ago)
    probes, sums = said("worker")
    assert probes.startswith("problem: the last probe is 5.0 h old, so worker or beat does not run")
    assert sums.startswith("problem: reports are 5.0 h behind the ledger")
    ProviderHealth.objects.all().delete()
    assert said("worker")[0].startswith("warning: no provider was probed yet, 60 s after a start")


def test_providers_that_are_absent_ill_or_cannot_be_read_are_told(provider: Provider, settings: Any) -> None:
    ProviderHealth.objects.update(ok=False, detail="HTTP 401: the provider refuses the credential")
    assert said("providers")[0].startswith("problem: openrouter: the last probe failed (HTTP 401")
    settings.CREDENTIAL_KEYS = ["QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="]
    assert said("providers")[0].startswith("problem: the credential of openrouter does not open with CREDENTIAL_KEYS")
    Provider.objects.update(enabled=False)
    assert said("providers")[0].startswith("problem: none is enabled")


def test_the_demo_alone_is_a_warning(provider: Provider) -> None:
    Provider.objects.update(is_demo=True)
    assert said("providers")[0].startswith("warning: only the built-in demo answers")


def test_routes_that_lead_nowhere_and_names_nobody_takes_are_told(provider: Provider) -> None:
    ModelRoute.objects.create(pattern="gpt-*")
    ModelRoute.objects.create(pattern="*SONNET*")
    empty, lost = said("routes")
    assert empty.startswith("warning: no enabled provider answers for *SONNET*, gpt-*")
    assert lost == "warning: *SONNET* is never taken: *sonnet* stands before it and takes all of its names."
    ModelRoute.objects.all().delete()
    assert said("routes")[0].startswith("problem: there is none")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["gpt-*", "gpt-?"], [("gpt-*", "gpt-?")]),
        (["gpt-?", "gpt-*"], []),
        (["a*b", "a*?b"], [("a*b", "a*?b")]),
        (["a*?b", "a*b"], []),
        (["*a*", "a*"], [("*a*", "a*")]),
        (["*a", "a*"], []),
        (["claude-x", "CLAUDE-X"], [("claude-x", "CLAUDE-X")]),
        (["*", "claude-*"], []),
        (["**", "*"], [("**", "*")]),
        (["?a", "x[ab]"], []),
        (["x[!a]*", "x?*"], []),
        (["*a*b*c*d*e*", "*a*b*c*d*e*f"], []),
    ],
)
def test_a_pattern_never_wins_where_one_before_it_takes_all_its_names(
    patterns: list[str], expected: list[tuple[str, str]]
) -> None:
    routing = Routing(Route(pattern, ()) for pattern in patterns)
    assert list(doctor.never_winning(routing.routes)) == expected


def test_keys_that_are_absent_or_end_soon_are_told(provider: Provider) -> None:
    ApiKey.issue("bob", expires_at=timezone.now() + dt.timedelta(days=3))
    assert said("keys")[0].startswith("warning: these end within 14 days: bob (")
    ApiKey.objects.update(revoked_at=timezone.now())
    assert said("keys")[0].startswith("problem: none is active")


def test_models_without_a_price_are_told(provider: Provider) -> None:
    figures = {**dict.fromkeys(FIGURES, 0), "requests": 3, "unpriced": 3}
    line = {"key": "k", "provider": "openrouter", "model": "x", "upstream_model": "new-model", "status": "completed"}
    DaySum.objects.create(day=today(), **line, **figures)
    DaySum.objects.create(day=today() - dt.timedelta(days=30), **{**line, "upstream_model": "old-model"}, **figures)
    [told] = said("prices")
    assert told.startswith("warning: 3 requests of the last 7 days have no cost")
    assert "new-model of openrouter" in told
    assert "old-model" not in told


def test_without_an_administrator_it_says_how_to_make_one() -> None:
    assert said("administrators") == ["warning: nobody can sign in to the admin: `manage.py createsuperuser`."]


def test_a_name_that_speaks_to_terminals_stays_a_name(provider: Provider) -> None:
    Provider.objects.update(name="\x1b[2Jevil\nok       keys")
    out = io.StringIO()
    call_command("doctor", stdout=out)
    assert "\x1b" not in out.getvalue()
    assert "?[2Jevil?ok       keys" in out.getvalue()
    assert one_line("Müller") == "Müller"


def test_it_asks_the_database_few_questions(provider: Provider, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        other = Provider.objects.create(name=f"p{number}", type="openai", base_url=URL)
        RouteTarget.objects.create(route=ModelRoute.objects.create(pattern=f"m{number}"), provider=other)
    with django_assert_max_num_queries(30):
        assert doctor.examine()
