"""`manage.py mock_upstream`: a provider that costs nothing, answers the same every time, and keeps a bill."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from providers.mock import server


class Command(BaseCommand):
    help = "Serve the mock upstream: Messages, Chat Completions and Responses, scripted, with an exact bill."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8788, help="0 takes a free port; the first line names it.")
        parser.add_argument("--bill", type=Path, metavar="FILE", help="Keep the bill in this JSONL file, too.")

    def handle(self, *_: Any, host: str, port: int, bill: Path | None, **__: Any) -> None:
        asyncio.run(self._serve(host, port, bill))

    async def _serve(self, host: str, port: int, bill: Path | None) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with server.running(host, port, bill) as url:
            self.stdout.write(f"mock upstream on {url}")
            self.stdout.flush()
            await stop.wait()
