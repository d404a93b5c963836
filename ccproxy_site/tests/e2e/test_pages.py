"""Every page of the admin in a real browser: it opens, nothing is missing, nothing fails in its console."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounting import keys
from ccproxy_site.tests.e2e.browser import WIDTH, chromium, demand_chromium, links, pictures, tab
from ccproxy_site.tests.e2e.family import Installation, installation, mock

__all__ = ["chromium", "pictures"]

pytestmark = pytest.mark.e2e

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


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """With something to see on every page."""
    demand_chromium()
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
        await page.sign_in(house.url + "/admin/", "admin", house.first_login()["password"])
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
