"""The conformance suite against a gateway: one of ours that it starts itself, or any other."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from providers.conformance import report
from providers.conformance.cases import Case, load
from providers.conformance.configurations import CONFIGURATIONS, ours, written
from providers.conformance.house import House
from providers.conformance.remote import Remote
from providers.conformance.scripted import ScriptedUpstream

HOST = "127.0.0.1"


class Command(BaseCommand):
    help = (
        "Runs the conformance suite, end to end. Without arguments it starts a gateway of its own in a temporary"
        " folder; with BASE_URL and KEY it drives that one, which must have been configured as --print-config says."
        " docs/conformance.md describes it. Exit code 1 when a case failed."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("base_url", nargs="?", metavar="BASE_URL")
        parser.add_argument("key", nargs="?", metavar="KEY")
        parser.add_argument("--upstream-port", type=int, default=8790, help="Of the scripted upstream, with BASE_URL.")
        parser.add_argument("--model-prefix", default="conformance-", help="What the models' names begin with.")
        parser.add_argument(
            "--print-config",
            nargs="?",
            const="ccproxy",
            choices=CONFIGURATIONS,
            help="Print what a gateway must be told, and run nothing.",
        )
        parser.add_argument("--core", action="store_true", help="Only what every gateway for Claude Code should do.")
        parser.add_argument("--only", nargs="+", metavar="ID", help="Only these cases, or those whose ids begin so.")
        parser.add_argument("--json", type=Path, metavar="FILE", help="Write the results here, too.")

    def handle(self, *args: Any, **options: Any) -> None:
        every = load()
        cases = chosen(every, core=options["core"], only=options["only"])
        prefix, port = options["model_prefix"], options["upstream_port"]
        if options["print_config"]:
            make = CONFIGURATIONS[options["print_config"]]
            self.stdout.write(written(make(every, f"http://{HOST}:{port}", prefix)))
            return
        if bool(options["base_url"]) != bool(options["key"]):
            raise CommandError("BASE_URL and KEY belong together.")
        own = not options["base_url"]
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever was started is ended, too
        with contextlib.ExitStack() as stack:
            upstream = listening(stack, 0 if own else port)
            address, key = options["base_url"], options["key"]
            if own:
                address, key = started(stack, ours(every, f"http://{HOST}:{upstream.port}", prefix))
            player = Remote(address, key, upstream, prefix=prefix, strict=own)
            results = list(report.judged(cases, player, has_all=own))
        for line in report.lines(results):
            self.stdout.write(line)
        if options["json"]:
            options["json"].write_bytes(msgspec.json.format(msgspec.json.encode(report.document(results)), indent=2))
        verdicts = {result.verdict for result in results}
        if verdicts == {"not applicable"}:
            raise CommandError(
                f"No question reached the scripted upstream by way of {address}: is it running, does it take the key,"
                f" and does it send models named {prefix}… to port {port}? --print-config shows how"
            )
        if "failed" in verdicts:
            sys.exit(1)


def chosen(cases: list[Case], *, core: bool, only: list[str] | None) -> list[Case]:
    found = [case for case in cases if case.core or not core]
    if only:
        found = [case for case in found if case.id.startswith(tuple(only))]
    if not found:
        raise CommandError("No case has such an id.")
    return found


def listening(stack: contextlib.ExitStack, port: int) -> ScriptedUpstream:
    try:
        return stack.enter_context(ScriptedUpstream(HOST, port))
    except OSError as error:
        raise CommandError(f"The scripted upstream cannot listen on port {port}: {error.strerror}.") from None


def started(stack: contextlib.ExitStack, configuration: dict[str, Any]) -> tuple[str, str]:
    """The address and the key of a gateway of ours."""
    try:
        house = stack.enter_context(House(settings.BASE_DIR / "manage.py"))
        return house.url, house.configure(configuration)
    except RuntimeError as error:
        raise CommandError(f"No gateway could be started: {error}") from None
