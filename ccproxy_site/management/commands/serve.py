"""Everything that answers requests, by one command; on the embedded database it also makes what is missing."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from accounting.models import ApiKey
from ccproxy_site import keyring
from ccproxy_site.supervisor import Child, Family
from gateway import first_run

FIRST_KEY = "first key"
PATIENCE = 60.0


class Command(BaseCommand):
    help = "Starts the gateway, one Celery worker and one beat; on the embedded database it also sets them up."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument("--no-worker", action="store_true", help="Another host runs the worker and the beat.")

    def handle(self, *, host: str, port: int, no_worker: bool, **options: Any) -> None:
        sentence = keyring.missing(settings.SECRETS)
        if sentence:
            raise CommandError(sentence)
        refuse_taken_port(host, port)
        self.prepare_database()
        token = self.tell(self.first_run())
        children = family(host, port, no_worker=no_worker)
        threading.Thread(target=self.announce, args=(url_of(host, port), token), daemon=True).start()
        Family(children).run()

    def prepare_database(self) -> None:
        if settings.EMBEDDED:
            call_command("migrate", verbosity=0)
        elif pending_migrations():
            raise CommandError("the database has pending migrations: run `python manage.py migrate` once, then start")

    def first_run(self) -> dict[str, str]:
        """What only a first run makes and only that run can tell."""
        for line in first_run.provider_from_environment():
            self.stdout.write(line)
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
            f"{'gateway':<16}{url}\n{'admin':<16}{url}/admin/\n\nPoint Claude Code at it:\n\n"
            f"  export ANTHROPIC_BASE_URL={url}\n  export ANTHROPIC_AUTH_TOKEN={shown}\n  claude\n"
        )
        self.stdout.flush()


def url_of(host: str, port: int) -> str:
    """Where this machine reaches it; `everywhere` is no address to open."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def family(host: str, port: int, *, no_worker: bool) -> list[Child]:
    # The children find the code wherever `serve` was started from.
    paths = [str(settings.BASE_DIR), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    python = sys.executable
    children = [Child("gateway", [python, "-m", "ccproxy_site.server", "--host", host, "--port", str(port)])]
    if not no_worker:
        celery = [python, "-m", "celery", "--quiet", "-A", "ccproxy_site"]
        # Threads: a pool of processes would outlive a worker that is killed.
        worker = ["worker", "--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle"]
        children.append(Child("worker", [*celery, *worker, "--loglevel", "WARNING"]))
        children.append(Child("beat", [*celery, "beat", "--loglevel", "WARNING", "--pidfile="]))
    demo = demo_child()
    return [*children, demo] if demo else children


def demo_child() -> Child | None:
    """The built-in mock provider, as long as no other provider is there."""
    port = free_port()
    if not first_run.demo_route(f"http://127.0.0.1:{port}"):
        return None
    manage = str(settings.BASE_DIR / "manage.py")
    return Child("demo provider", [sys.executable, manage, "mock_upstream", "--port", str(port)])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(f"{host}:{port} cannot be listened on ({error}): choose another with --port") from error


def pending_migrations() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def wait_until_ready(url: str) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=2):  # noqa: S310 - our own address
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def write_privately(text: str) -> str:
    path = settings.DATA_DIR / "first-login.txt"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return str(path)
