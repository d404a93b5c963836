"""Every page of the admin in a real browser: it opens, nothing is missing, nothing fails in its console."""

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
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from accounting import keys
from ccproxy_site.tests.e2e.family import Installation, installation, mock

pytestmark = pytest.mark.e2e

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
WIDTH, HEIGHT = 1440, 900
PATIENCE = 30.0
# Sections that must be among those the admin's first page links to.
EXPECTED = {
    "accounting/apikey",
    "accounting/costcentre",
    "accounting/price",
    "accounting/usagerecord",
    "auth/user",
    "providers/modelroute",
    "providers/provider",
}
SETTLED = "document.fonts.ready.then(() => new Promise(done => setTimeout(done, 100)))"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """With something to see on every page."""
    if CHROMIUM is None:
        reason = "Chromium is not installed: make setup-e2e"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("house")
    with mock(folder) as upstream, installation(folder) as gateway:
        gateway.start()
        key = keys.mint()
        gateway.apply(configuration(upstream.url, key))
        gateway.wait_until_key_works(key)
        upstream.queue({"status": 529}, {"text": "From the second."})
        for model in ("claude-opus-5-5", "claude-haiku-5-5"):
            ask(gateway, key, model)
        gateway.wait_until_booked()
        yield gateway


def configuration(url: str, key: str) -> dict[str, Any]:
    there = {"type": "anthropic", "base_url": url, "auth_value": "sk-upstream"}
    return {
        "cost_centres": [{"code": "R&D", "name": "Research"}],
        "providers": [
            {"name": "first", **there},
            {"name": "second", **there},
            {"name": "idle", "type": "openai", "base_url": "https://openrouter.ai/api/v1", "enabled": False},
        ],
        "model_routes": {
            "*opus*": [{"provider": "first", "priority": 1}, {"provider": "second", "priority": 2, "model": "big-one"}],
            "*haiku*": [{"provider": "second"}],
            "*": [{"provider": "idle", "model": "vendor/a-model-with-a-long-name-2026-11-20"}],
        },
        "keys": [
            {"name": "bob", "owner": "bob@example.org", "cost_centre": "R&D", "token": key},
            {"name": "carol", "models": ["*haiku*"], "expires": "2031-01-31"},
            {"name": "dan", "revoked": True},
        ],
        "prices": [{"model": "*haiku*", "input": "0.8", "output": 4, "cache_read": "0.08", "source": "a list"}],
    }


def ask(gateway: Installation, key: str, model: str) -> None:
    body = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"x-api-key": key, "content-type": "application/json"}
    request = urllib.request.Request(gateway.url + "/v1/messages", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200


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

    async def picture(self, path: Path) -> None:
        """All of the page, in a window as high as it is."""
        await self.resize(await self.run("document.documentElement.scrollHeight"))
        shot = await self.call("Page.captureScreenshot")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))
        await self.resize(HEIGHT)

    async def resize(self, height: int) -> None:
        sizes = {"width": WIDTH, "height": max(height, HEIGHT), "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **sizes)

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


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[str]:
    """The address of its DevTools."""
    assert CHROMIUM is not None
    profile = tmp_path / "profile"
    with subprocess.Popen(
        [CHROMIUM, f"--user-data-dir={profile}", *OPTIONS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield f"http://127.0.0.1:{told_port(profile / 'DevToolsActivePort')}"
        finally:
            process.terminate()


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


async def test_every_page_of_the_admin_opens_without_an_error(
    house: Installation, chromium: str, pictures: Path
) -> None:
    found: list[str] = []
    previewed: list[str] = []
    async with tab(chromium) as page:

        async def look(name: str) -> None:
            await page.picture(pictures / f"{name}.png")
            width = await page.run("document.documentElement.scrollWidth")
            found.extend(f"{name}: {fault}" for fault in page.faults)
            if width > WIDTH:
                found.append(f"{name}: {width} pixels wide in a window of {WIDTH}")
            page.faults.clear()

        await page.open(house.url + "/admin/")
        await look("login")
        await page.submit(
            f"""document.querySelector('[name=username]').value = 'admin';
            document.querySelector('[name=password]').value = {json.dumps(house.first_login()["password"])};
            document.querySelector('form:has([name=password])').submit()"""
        )
        await look("index")
        assert await page.run("location.pathname") == "/admin/"
        sections = await links(page, r"/admin/(\w+/\w+)/$")
        assert set(sections) >= EXPECTED

        for section in sections:
            name = section.replace("/", "-")
            await page.open(f"{house.url}/admin/{section}/")
            await look(f"{name}-list")
            others = {"add": await links(page, rf"(/admin/{section}/add/)$")}
            others["change"] = (await links(page, rf"(/admin/{section}/\d+/change/)"))[-1:]
            for kind, paths in others.items():
                for path in paths:
                    await page.open(house.url + path)
                    await look(f"{name}-{kind}")
            for path in await links(page, rf"(/admin/{section}/.*/preview/?)$"):
                await page.open(house.url + path)
                await look(f"{name}-preview")
                previewed.append(path)

    assert found == []
    assert len(previewed) == 1, "the page of a provider leads to a preview of its requests"


async def links(page: Page, pattern: str) -> list[str]:
    """What the links of a page lead to, as far as it matches, each once."""
    paths = await page.run("[...document.querySelectorAll('a[href]')].map(link => new URL(link.href).pathname)")
    return list(dict.fromkeys(match[1] for path in paths if (match := re.search(pattern, path))))
