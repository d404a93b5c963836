"""Everything that answers requests, by one command; on the embedded database it also makes what is missing."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from accounting.models import ApiKey
from ccproxy_site import keyring
from ccproxy_site.checks import refusal_of_web_processes
from ccproxy_site.settings import given_environment
from ccproxy_site.supervisor import Child, Family, Slot, listeners
from gateway import first_run, metrics
from providers import hot

FIRST_KEY = "first key"
PATIENCE = 60.0
MANAGE = str(settings.BASE_DIR / "manage.py")


class Command(BaseCommand):
    help = "Starts the gateway, one Celery worker and one beat; on the embedded database it also sets them up."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument("--workers", type=int, default=settings.WEB_CONCURRENCY, help="Web processes on the port.")
        parser.add_argument(
            "--check", action="store_true", help="Start nothing, only say whether a start would succeed."
        )
        parser.add_argument("--no-worker", action="store_true", help="Another host runs the worker and the beat.")

    def handle(self, *, host: str, port: int, workers: int, check: bool, no_worker: bool, **options: Any) -> None:
        refusal = keyring.missing(settings.SECRETS) or refusal_of_web_processes(workers)
        if refusal:
            raise CommandError(refusal)
        if check:
            refuse_unready_database()
            return
        held = take_port(host, port, workers)
        url = url_of(host, held[0].getsockname()[1])
        self.prepare_database()
        token = self.tell(self.first_run())
        metrics.begin_anew(settings.METRICS_DIR)
        family = family_on(held, no_worker=no_worker)
        connections.close_all()
        threading.Thread(target=self.announce, args=(url, token), daemon=True).start()
        if not family.run():
            sys.exit(1)

    def prepare_database(self) -> None:
        if settings.EMBEDDED:
            call_command("migrate", verbosity=0)
        else:
            refuse_unready_database()

    def first_run(self) -> dict[str, str]:
        """What only a first run makes and only that run can tell."""
        for line in (*first_run.provider_from_environment(), *first_run.prices()):
            self.stdout.write(line)
        first_run.sums()
        secrets = {}
        password = first_run.administrator()
        if password:
            secrets["administrator"] = f"{first_run.ADMINISTRATOR} / {password}"
        if not ApiKey.objects.exists():
            _, secrets["key"] = ApiKey.issue(FIRST_KEY)
        return secrets

    def tell(self, secrets: dict[str, str]) -> str:
        """At once, since a start that fails later must not take them along. Returns the key if it may be shown."""
        if not secrets:
            return ""
        text = "".join(f"{name:<16}{secret}\n" for name, secret in secrets.items())
        if sys.stdout.isatty():
            self.stdout.write(text)
            return secrets.get("key", "")
        self.stdout.write(f"{'first login':<16}in {write_privately(text)}, which only you can read; delete it then")
        return ""

    def announce(self, url: str, token: str) -> None:
        if not wait_until_ready(url):
            self.stderr.write(f"the gateway is not ready after {PATIENCE:.0f} s: {url}/health/ready says why")
            return
        shown = token or "<a key: python manage.py issue_key NAME>"
        self.stdout.write(
            f"{'gateway':<16}{url}\n{'admin':<16}{url}/admin/\n{'compiled loops':<16}{hot.state()}\n\n"
            "Point Claude Code at it:\n\n"
            f"  export ANTHROPIC_BASE_URL={url}\n  export ANTHROPIC_AUTH_TOKEN={shown}\n  claude\n"
        )
        self.stdout.flush()


def url_of(host: str, port: int) -> str:
    """Where this machine reaches it; `everywhere` is no address to open."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def family_on(held: Sequence[socket.socket], *, no_worker: bool) -> Family:
    # The children find the code wherever `serve` was started from.
    paths = [str(settings.BASE_DIR), given_environment.get("PYTHONPATH", "")]
    environment = {
        **given_environment,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "WEB_CONCURRENCY": str(len(held)),
    }
    web = [sys.executable, "-m", "ccproxy_site.server"]
    slots = [
        Slot("gateway" if len(held) == 1 else f"gateway {number}", web, environment, listener)
        for number, listener in enumerate(held, start=1)
    ]
    background = [] if no_worker else background_children(environment)
    rehearsal = Child("rehearsal", [sys.executable, MANAGE, "serve", "--check"], environment)
    return Family(
        slots, background, demo_children(environment), rehearsal=rehearsal, drain_seconds=settings.DRAIN_SECONDS
    )


def background_children(environment: Mapping[str, str]) -> list[Child]:
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "ccproxy_site"]
    # Threads: a pool of processes would outlive a worker that is killed.
    worker = ["worker", "--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle"]
    return [
        Child("worker", [*celery, *worker, "--loglevel", "WARNING"], environment),
        Child("beat", [*celery, "beat", "--loglevel", "WARNING", "--pidfile="], environment),
    ]


def demo_children(environment: Mapping[str, str]) -> list[Child]:
    """The built-in mock provider, as long as no other provider is there."""
    port = free_port()
    if not first_run.demo_route(f"http://127.0.0.1:{port}"):
        return []
    return [Child("demo provider", [sys.executable, MANAGE, "mock_upstream", "--port", str(port)], environment)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_port(host: str, port: int, workers: int) -> list[socket.socket]:
    if workers > 1 and sys.platform != "linux":
        raise CommandError("several web processes on one port need Linux: start with --workers 1")
    try:
        return listeners(host, port, workers)
    except OSError as error:
        raise CommandError(f"{host}:{port} cannot be listened on ({error}): choose another with --port") from error


def refuse_unready_database() -> None:
    try:
        executor = MigrationExecutor(connection)
    except DatabaseError as error:
        raise CommandError(f"the database cannot be read, and a start needs it once: {error}") from error
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise CommandError("the database has pending migrations: run `python manage.py migrate` once, then start")


def wait_until_ready(url: str) -> bool:
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own address: no proxy knows it
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with straight.open(f"{url}/health/ready", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def write_privately(text: str) -> str:
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    path = settings.DATA_DIR / "first-login.txt"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return str(path)
