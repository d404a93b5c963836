"""`make screenshots`: the pictures in docs/, taken of a gateway of its own with believable rows in its ledger."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from ccproxy_site.tests.e2e.browser import NARROW, WIDTH, Page, running_chromium, tab
from ccproxy_site.tests.e2e.family import ROOT, Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.load import Load

FOLDER = ROOT / "docs" / "screenshots"
LONGEST = 1300  # pixels of a picture in docs/
# Name and path; what is behind a query is as a person would choose it.
ADMIN_PAGES = {
    "home": "/admin/",
    "live": "/admin/live/",
    "requests": "/admin/accounting/usagerecord/",
    "reports": "/admin/reports/",
    "report-by-key": "/admin/reports/keys/",
    "keys": "/admin/accounting/apikey/",
    "providers": "/admin/providers/provider/",
    "add-a-provider": "/admin/providers/provider/add/",
    "routes": "/admin/providers/modelroute/",
    "which-route": "/admin/providers/modelroute/which/?model=claude-opus-4-5",
    "prices": "/admin/accounting/price/",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="in the ledger")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--everything", action="store_true", help="also dark, and as wide as a telephone")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="ccproxy-screenshots-")))
        upstream = running.enter_context(mock(folder))
        gateway = running.enter_context(installation(folder, worker=True, LOG_LEVEL="WARNING"))
        password, token = furnish(gateway, upstream, options.rows)
        # So that the live view has something to show.
        askers = [(token, "claude-opus-4-5"), (token, "claude-haiku-4-5")]
        running.enter_context(Load(gateway.url, askers, clients=9, slow=1.0, pause=0.2))
        chromium = running.enter_context(running_chromium(folder / "profile"))
        asyncio.run(shoot(gateway, chromium, password, token, options.folder, everything=options.everything))


def furnish(gateway: Installation, upstream: Mock, rows: int) -> tuple[str, str]:
    """Something to see on every page. Returns the administrator's password and a developer's key."""
    gateway.start()
    password = gateway.first_login()["password"]
    (gateway.folder / "var" / "first-login.txt").unlink()
    if rows:
        gateway.manage("sample_usage", "--rows", str(rows), "--keys", "12")
    gateway.apply(configuration(upstream))
    token = gateway.issue_key("alice", "--owner", "alice@example.org")
    gateway.wait_until_key_works(token)
    return password, token


def configuration(upstream: Mock) -> dict[str, Any]:
    there = {"base_url": upstream.url, "auth_value": "sk-upstream"}
    return {
        "providers": [{"name": "main", "type": "anthropic", **there}, {"name": "spare", "type": "openai", **there}],
        "model_routes": {
            "*opus*": [{"provider": "main", "priority": 1}, {"provider": "spare", "priority": 2, "model": "gpt-5.1"}],
            "*haiku*": [{"provider": "spare", "model": "gpt-5-mini"}],
        },
    }


async def shoot(
    gateway: Installation, chromium: str, password: str, token: str, folder: Path, *, everything: bool
) -> None:
    forms = [(WIDTH, "light", "")]
    if everything:
        forms += [(WIDTH, "dark", "-dark"), (NARROW, "light", "-narrow"), (NARROW, "dark", "-narrow-dark")]
    async with tab(chromium) as page:
        await page.sign_in(gateway.url + "/admin/", "admin", password)
        for width, scheme, ending in forms:
            await page.prefer(scheme)
            for name, path in ADMIN_PAGES.items():
                await page.open(gateway.url + path)
                await page.picture(folder / f"{name}{ending}.png", width, None if everything else LONGEST)
        await page.call("Network.clearBrowserCookies")
        await open_with(page, gateway, token)
        for width, scheme, ending in forms:
            await page.prefer(scheme)
            await page.open(gateway.url + "/me")
            await page.picture(folder / f"me{ending}.png", width, None if everything else LONGEST)


async def open_with(page: Page, gateway: Installation, token: str) -> None:
    await page.open(gateway.url + "/me")
    await page.submit(
        f"""document.querySelector('[name=token]').value = {json.dumps(token)};
        document.querySelector('[name=token]').form.submit()"""
    )


if __name__ == "__main__":
    main()
