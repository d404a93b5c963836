"""There is no container engine where this is tested: the files are checked as data, and their commands are run."""

from __future__ import annotations

import configparser
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from ccproxy_site import supervisor
from providers.models import Provider

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"\n(?=FROM )", DOCKERFILE)[1:]
OURS = [name for name, service in COMPOSE["services"].items() if "command" in service]


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_the_compose_file_is_one_we_have(name: str) -> None:
    command = [str(part) for part in COMPOSE["services"][name]["command"]]
    program = [sys.executable, *command[1:]] if command[0] == "python" else [sys.executable, "-m", *command]
    done = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in (part for part in command if part.startswith("--")):
        assert option.rstrip("=") in done.stdout


@pytest.mark.parametrize("name", [*OURS, "postgres", "redis"])
def test_every_service_that_stays_is_probed_and_comes_back(name: str) -> None:
    service = COMPOSE["services"][name]
    if name == "migrate":
        assert service["restart"] == "no"
        return
    check = service["healthcheck"]
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries"} <= check.keys()


def test_the_web_service_is_probed_as_documented() -> None:
    check = COMPOSE["services"]["web"]["healthcheck"]
    assert (check["interval"], check["timeout"], check["retries"]) == ("30s", "10s", 3)
    assert DOCKERFILE.count("HEALTHCHECK --interval=30s --timeout=10s --retries=3 ") == 2


def test_no_password_stands_in_the_compose_file() -> None:
    given = [
        value
        for service in COMPOSE["services"].values()
        for name, value in service.get("environment", {}).items()
        if "PASSWORD" in name or "@" in value
    ]
    assert len(given) > 1
    assert all("${POSTGRES_PASSWORD:?" in value for value in given)


LONGEST_END = settings.DRAIN_SECONDS + supervisor.LATE_AT_THE_END + supervisor.GRACE


def test_the_container_is_given_the_time_that_serve_may_take_to_end() -> None:
    assert float(COMPOSE["services"]["web"]["stop_grace_period"].removesuffix("s")) > LONGEST_END


def test_systemd_gives_it_the_same_time_and_knows_its_commands() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((ROOT / "deploy" / "ccproxy.service").read_text())
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > LONGEST_END
    assert service["ExecStart"].endswith(".venv/bin/python manage.py serve")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["KillMode"]) == ("true", "strict", "mixed")
    assert f"/var/lib/{service['StateDirectory']}" in service["Environment"]


def test_the_servers_in_front_wait_as_long_as_an_answer_takes_and_hold_nothing_back() -> None:
    nginx, caddy = ((ROOT / "deploy" / name).read_text() for name in ("nginx.conf", "Caddyfile"))
    longest = Provider._meta.get_field("total_timeout").default
    assert float(re.findall(r"proxy_read_timeout (\d+)s", nginx)[0]) > longest
    assert float(re.findall(r"response_header_timeout (\d+)s", caddy)[0]) > longest
    assert float(re.findall(r"keepalive_timeout (\d+)s", nginx)[0]) < settings.KEEP_ALIVE_SECONDS
    assert float(re.findall(r"keepalive (\d+)s", caddy)[0]) < settings.KEEP_ALIVE_SECONDS
    assert "proxy_buffering off" in nginx
    assert "flush_interval -1" in caddy
    megabytes = settings.MAX_BODY_BYTES // 2**20
    assert f"client_max_body_size {megabytes}m" in nginx
    assert f"max_size {megabytes}MB" in caddy


@pytest.mark.parametrize("target", ["debian", "alpine"])
def test_an_image_runs_as_nobody_special_and_has_no_compiler(target: str) -> None:
    stage = next(stage for stage in STAGES if stage.splitlines()[0].endswith(f" AS {target}"))
    lines = stage.splitlines()
    assert "USER ccproxy" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert not any("gcc" in line for line in lines)
    assert lines.index("USER ccproxy") < next(at for at, line in enumerate(lines) if line.startswith("CMD"))


def test_the_image_that_is_made_without_a_target_is_the_one_on_debian() -> None:
    assert STAGES[-1].splitlines()[0].endswith(" AS debian")


def test_the_image_runs_files_that_exist_and_are_not_left_out_of_it() -> None:
    named = re.findall(
        r"\b(manage\.py|deploy/\w+\.(?:py|sh))\b", DOCKERFILE + (ROOT / "docker-compose.yml").read_text()
    )
    left_out = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in {"#", ""}}
    assert set(named) == {"manage.py", "deploy/healthy.py", "deploy/build.sh"}
    for name in named:
        assert (ROOT / name).exists()
        assert left_out.isdisjoint({name, name.partition("/")[0]})
    assert {".env", ".git", "var"} <= left_out


def test_the_compilers_requirements_are_locked_and_do_what_the_image_wants_of_them(tmp_path: Path) -> None:
    locked = (ROOT / "requirements-build.txt").read_text()
    assert {"cython", "setuptools"} == set(re.findall(r"^(\w+)==", locked, re.MULTILINE))
    shutil.copytree(ROOT / "providers", tmp_path / "providers", ignore=shutil.ignore_patterns("*.so", "tests"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    assert " ".join(build[1:]) in (ROOT / "deploy" / "build.sh").read_text()
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    told = subprocess.run(
        [sys.executable, "-c", "from providers import hot; print(hot.state())"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == "in use"


def healthy(*arguments: str, **environment: str) -> int:
    command = [sys.executable, str(ROOT / "deploy" / "healthy.py"), *arguments]
    own = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=own, capture_output=True, check=False).returncode


def test_the_health_check_of_a_container_fails_where_nobody_answers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert healthy(PORT=str(nobody.getsockname()[1])) == 1


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_of_a_container_passes_on_what_ready_says(status: int, code: int) -> None:
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert healthy(PORT=str(server.server_port)) == code


def test_the_health_check_of_the_clock_looks_when_it_noted_something_last(tmp_path: Path) -> None:
    assert healthy("beat", CCPROXY_DATA_DIR=str(tmp_path)) == 1
    notes = tmp_path / "beat-schedule.db"
    notes.write_text("")
    assert healthy("beat", CCPROXY_DATA_DIR=str(tmp_path)) == 0
    os.utime(notes, (0, 0))
    assert healthy("beat", CCPROXY_DATA_DIR=str(tmp_path)) == 1
