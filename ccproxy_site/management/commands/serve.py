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
        secrets = self.first_run()
        children = family(host, port, no_worker=no_worker)
        threading.Thread(target=self.announce, args=(host, port, secrets), daemon=True).start()
        Family(children).run()

    def prepare_database(self) -> None:
        if settings.EMBEDDED:
            call_command("migrate", verbosity=0)
        elif pending_migrations():
            raise CommandError("the database has pending migrations: run `python manage.py migrate` once, then start")

    def first_run(self) -> list[str]:
        """What only a first run makes, and the lines that tell its secrets."""
        for line in first_run.provider_from_environment():
            self.stdout.write(line)
        lines = []
        password = first_run.administrator()
        if password:
            lines.append(f"administrator   admin / {password}")
        if not ApiKey.objects.exists():
            _, token = ApiKey.issue(FIRST_KEY)
            lines.append(f"key             {token}")
        return lines

    def announce(self, host: str, port: int, secrets: list[str]) -> None:
        url = f"http://{host}:{port}"
        if not wait_until_ready(url):
            self.stderr.write(f"the gateway is not ready after {PATIENCE:.0f} s: {url}/health/ready says why")
            return
        token = next((line.split()[-1] for line in secrets if line.startswith("key")), "")
        lines = [f"gateway         {url}", f"admin           {url}/admin/"]
        if secrets and not sys.stdout.isatty():
            path = write_privately("\n".join(secrets) + "\n")
            lines.append(f"first login     in {path}, which only you can read; delete it once you have it")
            token = ""
        else:
            lines += secrets
        shown = token or "<a key: python manage.py issue_key NAME>"
        lines += ["", "Point Claude Code at it:", "", f"  export ANTHROPIC_BASE_URL={url}"]
        lines += [f"  export ANTHROPIC_AUTH_TOKEN={shown}", "  claude", ""]
        self.stdout.write("\n".join(lines))
        self.stdout.flush()


def family(host: str, port: int, *, no_worker: bool) -> list[Child]:
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
    with socket.socket() as probe:
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
