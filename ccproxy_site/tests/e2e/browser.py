"""A real browser for the tests, driven over its DevTools: pages, what goes wrong in them, and pictures of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "about:blank",
]
WIDTH, HEIGHT, NARROW = 1440, 900, 390
PATIENCE = 30.0
SETTLED = "document.fonts.ready.then(() => new Promise(done => setTimeout(done, 100)))"


def demand_chromium() -> str:
    """A developer may leave the browser out, a build may not."""
    if CHROMIUM is None:
        reason = "Chromium is not installed: make setup-e2e"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return CHROMIUM


class Page:
    """One tab, driven over the DevTools protocol, and what went wrong in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.faults: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.reader = asyncio.create_task(self._read())

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await asyncio.wait_for(self._replies[number], PATIENCE)

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await self.settled()

    async def settled(self) -> None:
        await asyncio.wait_for(self._loaded.wait(), PATIENCE)
        await self.run(SETTLED)

    async def submit(self, script: str) -> None:
        """Runs what leads to another page, and waits for that."""
        self._loaded.clear()
        await self.run(script)
        await self.settled()

    async def run(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def sign_in(self, url: str, name: str, password: str) -> None:
        """At the login that `url` leads to."""
        await self.open(url)
        await self.submit(
            f"""document.querySelector('[name=username]').value = {json.dumps(name)};
            document.querySelector('[name=password]').value = {json.dumps(password)};
            document.querySelector('form:has([name=password])').submit()"""
        )

    async def picture(self, path: Path, width: int = WIDTH, most: int | None = None) -> None:
        """All of the page, in a window as high as it is, or of `most` pixels."""
        await self.resize(HEIGHT, width)
        height = await self.run("document.documentElement.scrollHeight")
        await self.resize(min(height, most or height), width)
        shot = await self.call("Page.captureScreenshot")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))
        await self.resize(HEIGHT)

    async def resize(self, height: int, width: int = WIDTH) -> None:
        sizes = {"width": width, "height": max(height, HEIGHT), "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **sizes)

    async def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as a person sets it for the whole system."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._replies.pop(told["id"]).set_result(told.get("result", told))
            else:
                self._note(told["method"], told["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.faults.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "assert"}:
            self.faults.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.faults.append(f"{params['response']['status']} for {params['response']['url']}")


@contextlib.contextmanager
def running_chromium(profile: Path) -> Iterator[str]:
    """Gives the address of its DevTools."""
    program = demand_chromium()
    with subprocess.Popen(
        [program, f"--user-data-dir={profile}", *OPTIONS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield f"http://127.0.0.1:{told_port(profile / 'DevToolsActivePort')}"
        finally:
            process.terminate()


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[str]:
    with running_chromium(tmp_path / "profile") as address:
        yield address


def told_port(path: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if path.exists() and (lines := path.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start in {PATIENCE} s")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.asynccontextmanager
async def tab(chromium: str) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession() as session:
        async with session.put(chromium + "/json/new") as reply:
            address = (await reply.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=64 * 2**20) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.call(f"{domain}.enable")
            await page.call("Emulation.setScrollbarsHidden", hidden=True)
            await page.resize(HEIGHT)
            yield page
        await page.reader


async def links(page: Page, pattern: str) -> list[str]:
    """What the links of a page lead to, as far as it matches, each once."""
    paths = await page.run("[...document.querySelectorAll('a[href]')].map(link => new URL(link.href).pathname)")
    return list(dict.fromkeys(match[1] for path in paths if (match := re.search(pattern, path))))
