"""Ends and restarts, asked for and suffered, under load: who could be answered is, and all of it is booked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import aiohttp

from accounting.spool import unseal
from ccproxy_site.tests.e2e.family import Installation, Mock, database, get_json, installation, mock
from ccproxy_site.tests.e2e.load import MODELS, PATIENCE, Ask, Load, Seen, ask
from ccproxy_site.tests.e2e.reconcile import Row
from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.torture import Findings, examine, gather, prepare

# Whatever is waited for comes within a minute, or never.
NEVER = 60.0
# Seconds in which a client has heard of a death.
NOTICED = 1.0
# A stream must not outlast the time a process has for draining.
LONGEST_STREAM = 30.0


@dataclass
class House:
    """An installation under attack, its provider, and who may ask it."""

    gateway: Installation
    upstream: Mock
    askers: list[tuple[str, str]]

    def signal(self, number: signal.Signals) -> None:
        assert self.gateway.process is not None
        self.gateway.process.send_signal(number)

    def findings(self, seen: Sequence[Seen]) -> Findings:
        """What differs is told, and who was not answered."""
        found = examine(gather(self.gateway, self.upstream, [*seen], set()))
        unanswered = [f"  {each.request_id} {each.status} {each.failure}" for each in seen if not each.whole]
        sys.stdout.write("".join(f"{line}\n" for line in unanswered[:20]) + (f"{found}\n" if found else ""))
        return found


@contextlib.contextmanager
def house(folder: Path, kind: str, *, processes: int) -> Iterator[House]:
    shared = {"REDIS_URL": os.environ["REDIS_URL"]} if os.environ.get("REDIS_URL") else {"ALLOW_LOCAL_STATE": "true"}
    with (
        database(kind) as place,
        mock(folder) as upstream,
        installation(folder, worker=False, **place, **shared) as gateway,
    ):
        gateway.processes = processes
        key = prepare(gateway, upstream, migrate=bool(place))
        wait_until(lambda: all(knows(gateway, key) for _ in range(8 * processes)))  # each asks any of them
        yield House(gateway, upstream, [(key, model) for model in MODELS])


def sigterm_under_streams(folder: Path, effort: Effort, kind: str = "sqlite") -> list[Figure]:
    """All streams are running when the end is asked for: each of them comes to its own end first."""
    with house(folder, kind, processes=1) as held:
        questions = [slow_stream(model, effort.seconds) for _, model in held.askers]
        with Streams(held, questions, effort.clients) as streams:
            wait_until(streams.have_begun)
            over = sum(bool(seen.ended) for seen in streams.seen)
            held.signal(signal.SIGTERM)
            unready = seconds_until_unready(held.gateway)
            assert held.gateway.process is not None
            code = held.gateway.process.wait(2 * NEVER)
        held.gateway.process = None
        return [
            Figure("streams that were over before the signal", over, 0),
            Figure("streams cut", sum(not seen.whole for seen in streams.seen), 0),
            Figure("exit code", abs(code), 0),
            Figure("until readiness is 503", unready, 1 * effort.slack, "s"),
            Figure("differences between ledger, bill and clients", number_of(held.findings(streams.seen)), 0),
        ]


def sighup_under_load(folder: Path, effort: Effort, kind: str = "sqlite") -> list[Figure]:
    """Two restarts, the second asked for during the first: no client can tell."""
    with house(folder, kind, processes=2) as held:
        gateway, clients = held.gateway, max(effort.clients // 2, 1)
        before, until = gateway.web_processes(), time.monotonic() + effort.seconds
        with (
            Load(gateway.url, held.askers, clients=clients, seed=1) as kept,
            Load(gateway.url, held.askers, clients=clients, seed=2, keep_alive=False) as fresh,
        ):
            time.sleep(1)
            held.signal(signal.SIGHUP)
            time.sleep(0.5)
            held.signal(signal.SIGHUP)
            wait_until(lambda: restarts_of(gateway) == 2)
            wait_until(lambda: len(gateway.web_processes()) == 2)
            time.sleep(max(until - time.monotonic(), 1))
        seen = [*kept.seen, *fresh.seen]
        findings = held.findings(seen)
        return [
            Figure("kinds of clients that were not answered", (not kept.seen) + (not fresh.seen), 0),
            Figure("requests failed", sum(not each.whole and not each.dropped for each in seen), 0),
            Figure("streams cut", sum(each.dropped for each in seen), 0),
            Figure("processes that stayed", len(before & gateway.web_processes()), 0),
            Figure("restarts too many", restarts_of(gateway) - 2, 0),
            Figure("differences between ledger, bill and clients", number_of(findings), 0),
        ]


def kill_one_of_two(folder: Path, effort: Effort, kind: str = "sqlite") -> list[Figure]:
    """-9 for one of two web processes: the other's clients notice nothing, and it books what the dead one left."""
    with house(folder, kind, processes=2) as held:
        gateway = held.gateway
        with Load(gateway.url, held.askers, clients=effort.clients, slow=0.5) as load:
            time.sleep(effort.seconds / 2)
            victim, its_requests = strike(gateway)
            killed = time.monotonic()
            wait_until(lambda: not journals_of(gateway, victim))
            adopted = time.monotonic() - killed
            time.sleep(effort.seconds / 2)
        torn = [seen for seen in load.seen if not seen.whole]
        # A client that keeps a connection may ask over it before it has noticed.
        elsewhen = [seen for seen in torn if not seen.began - NOTICED <= killed <= seen.ended + NOTICED]
        findings = held.findings(load.seen)
        return [
            Figure("victims without a stream", not any(seen.dropped for seen in torn), 0),
            Figure(
                "streams cut on the other process", len({s.request_id for s in torn if s.dropped} - its_requests), 0
            ),
            Figure("requests refused", sum(bool(seen.status) and not seen.dropped for seen in torn), 0),
            Figure("requests failed at another moment", len(elsewhen), 0),
            Figure("until the ledger holds the dead one's rows", adopted, 10 * effort.slack, "s"),
            Figure("rows that stand twice", len(findings.twice), 0),
            Figure("differences between ledger, bill and clients", number_of(findings), 0),
        ]


def knows(gateway: Installation, key: str) -> bool:
    request = urllib.request.Request(gateway.url + "/v1/models", headers={"x-api-key": key})
    try:
        with urllib.request.urlopen(request, timeout=NEVER):
            return True
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return False


def strike(gateway: Installation) -> tuple[int, set[str]]:
    """Kills a web process that has something to lose; returns it and every request in its journal.

    It is stopped before it is killed: what its journal says is then exactly what it knew.
    """
    until = time.monotonic() + NEVER
    while time.monotonic() < until:
        for pid in sorted(gateway.web_processes()):
            os.kill(pid, signal.SIGSTOP)
            lines = [line for path in journals_of(gateway, pid) for line in told_by(path)]
            opened = {line["row"]["request_id"] for line in lines if line["line"] == "open"}
            settled = {line["row"]["request_id"] for line in lines if line["line"] == "done"}
            if opened - settled:
                os.kill(pid, signal.SIGKILL)
                return pid, opened
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
    raise AssertionError("no web process had anything to lose")


def journals_of(gateway: Installation, pid: int) -> list[Path]:
    return [path for path in gateway.spool.glob("*.spool") if path.stem.split("-")[1] == str(pid)]


def told_by(journal: Path) -> list[Row]:
    payloads = (unseal(line) for line in journal.read_bytes().split(b"\n"))
    return [json.loads(payload) for payload in payloads if payload]


def restarts_of(gateway: Installation) -> int:
    return gateway.log.read_text().count("restart: done")


def number_of(findings: Findings) -> int:
    return sum(len(getattr(findings, each.name)) for each in fields(findings))


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + NEVER
    while not is_so():
        assert time.monotonic() < until, "it did not come within a minute"
        time.sleep(0.05)


def seconds_until_unready(gateway: Installation) -> float:
    began = time.monotonic()
    while time.monotonic() < began + NEVER:
        try:
            get_json(gateway.url + "/health/ready")
        except urllib.error.HTTPError as refusal:
            with refusal:
                return time.monotonic() - began if refusal.code == 503 else NEVER
        except OSError:
            break
        time.sleep(0.01)
    return NEVER


def slow_stream(model: str, seconds: float) -> Ask:
    pieces = 50
    script = {"size": 40 * pieces, "chunks": pieces, "chunk_delay": min(seconds, LONGEST_STREAM) / pieces}
    block = {"type": "text", "text": f"[[mock: {json.dumps(script)}]]"}
    body = {"model": model, "max_tokens": 8000, "stream": True, "messages": [{"role": "user", "content": [block]}]}
    return Ask(body, 40 * pieces)


class Streams:
    """So many clients, each with one question, asked when the block is entered; on leaving all have their end."""

    def __init__(self, held: House, questions: Sequence[Ask], number: int) -> None:
        self._url = held.gateway.url
        self._key = held.askers[0][0]
        self._questions = [questions[each % len(questions)] for each in range(number)]
        self.seen = [Seen(question.body["model"], streamed=True) for question in self._questions]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask_all()), name="streams")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def have_begun(self) -> bool:
        return all(seen.text_length for seen in self.seen)

    async def _ask_all(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=PATIENCE) as session:
            pairs = zip(self._questions, self.seen, strict=True)
            await asyncio.gather(*(ask(session, self._url, self._key, question, seen) for question, seen in pairs))
