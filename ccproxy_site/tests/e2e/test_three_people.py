"""Three people arrive at an empty gateway: an administrator, a developer with Claude Code, a finance reader."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccproxy_site.tests.e2e.browser import PATIENCE, Page, chromium, demand_chromium, pictures, tab
from ccproxy_site.tests.e2e.claude_code import CLAUDE, demand
from ccproxy_site.tests.e2e.family import Installation, Mock, installation, mock

__all__ = ["chromium", "pictures"]

pytestmark = pytest.mark.e2e

PASSWORD = "correct horse battery staple"
MODEL = "claude-sonnet-4-5"
GUIDE = "document.querySelector('.cc-steps')"
FORM = "document.querySelector('#content form, form[id$=_form]')"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Mock]]:
    """Nothing but what the first start makes; the key it made is taken away, as if it were nobody's."""
    demand_chromium()
    demand(CLAUDE)
    folder = tmp_path_factory.mktemp("house")
    with mock(folder) as upstream, installation(folder, worker=True, ROLLUP_SECONDS="1") as gateway:
        gateway.start()
        gateway.first_login()
        gateway.manage("shell", "-c", "from accounting.models import ApiKey; ApiKey.objects.all().delete()")
        yield gateway, upstream


async def test_three_people_arrive(house: tuple[Installation, Mock], chromium: str, tmp_path: Path) -> None:
    gateway, upstream = house
    async with tab(chromium) as page:
        await page.sign_in(gateway.url + "/admin/", "admin", gateway.first_login()["password"])
        snippet = await administrator_follows_the_guide(page, gateway, upstream)
        answer = claude(snippet, tmp_path)
        assert answer, "Claude Code printed nothing"
        await the_guide_is_gone(page, gateway)
        await administrator_invites_finance(page, gateway)
    token = snippet.partition("ANTHROPIC_AUTH_TOKEN=")[2].split()[0]
    async with tab(chromium) as page:
        await page.call("Network.clearBrowserCookies")
        await developer_looks(page, gateway, token)
    async with tab(chromium) as page:
        await page.call("Network.clearBrowserCookies")
        await finance_reads(page, gateway, tmp_path)


# The administrator


async def administrator_follows_the_guide(page: Page, gateway: Installation, upstream: Mock) -> str:
    """Each step by the button the guide shows. Returns the lines for a shell that the page of the new key has."""
    await follow(page, "Add a provider")
    await fill(page, name="vendor", type="anthropic", base_url=upstream.url, credential="sk-upstream")
    await page.open(gateway.url + "/admin/")
    await follow(page, "Add a route")
    provider = await page.run(
        "fetch('/admin/autocomplete/?app_label=providers&model_name=routetarget&field_name=provider&term=vendor')"
        ".then(reply => reply.json()).then(found => found.results[0].id)"
    )
    await page.run(
        f"""(() => {{
            const select = document.querySelector('[name="targets-0-provider"]');
            select.append(new Option('vendor', {json.dumps(provider)}, true, true));
        }})()"""
    )
    await fill(page, pattern="claude-*")
    await page.open(gateway.url + "/admin/")
    await follow(page, "Issue a key")
    await fill(page, name="alice", owner="alice@example.org")
    snippet = str(await page.run("document.querySelector('pre[id^=snippet]').innerText"))
    assert snippet.count("export ") == 2
    await page.run("document.querySelector('[data-copy^=\"#snippet\"]').click()")
    return snippet


async def follow(page: Page, button: str) -> None:
    """Of the guide's buttons the one that says this."""
    found = f"[...{GUIDE}.querySelectorAll('a')].find(link => link.innerText.trim() === {json.dumps(button)})"
    assert await page.run(f"Boolean({found})"), f"the guide has no button {button!r}"
    await page.submit(f"{found}.click()")


async def fill(page: Page, **values: str) -> None:
    """The form of the page, as a person would, and save."""
    await page.run(
        f"""(() => {{
            for (const [name, value] of Object.entries({json.dumps(values)})) {{
                const field = document.querySelector(`[name="${{name}}"]`);
                field.value = value;
                field.dispatchEvent(new Event('change', {{bubbles: true}}));
            }}
        }})()"""
    )
    await page.submit("document.querySelector('[name=_save]').click()")
    complaints = await page.run("[...document.querySelectorAll('.errorlist, .errornote')].map(each => each.innerText)")
    assert complaints == []


async def the_guide_is_gone(page: Page, gateway: Installation) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        await page.open(gateway.url + "/admin/")
        if not await page.run(f"Boolean({GUIDE})"):
            return
        assert time.monotonic() < until, await page.run(f"{GUIDE}.innerText")


async def administrator_invites_finance(page: Page, gateway: Installation) -> None:
    await page.open(gateway.url + "/admin/auth/user/add/")
    await fill(page, username="fiona", password1=PASSWORD, password2=PASSWORD)
    await page.run(
        """(() => {
            document.querySelector('[name=is_staff]').checked = true;
            const groups = document.querySelector('select[name=groups], select[id^=id_groups]');
            const finance = [...document.querySelectorAll('select option')].find(each => each.text === 'Finance');
            finance.selected = true;
            groups.name = 'groups';
            groups.append(finance);
        })()"""
    )
    await page.submit("document.querySelector('[name=_save]').click()")


# The developer


def claude(snippet: str, folder: Path) -> str:
    """What the real Claude Code prints after the very lines that were copied."""
    lines = [line for line in snippet.splitlines() if line.startswith("export ")]
    script = "\n".join([*lines, f'exec "{CLAUDE}" -p "Say hello" --model {MODEL}'])
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CLAUDE_CONFIG_DIR": str(folder / "config"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


async def developer_looks(page: Page, gateway: Installation, token: str) -> None:
    await page.open(gateway.url + "/me")
    await page.submit(
        f"""document.querySelector('[name=token]').value = {json.dumps(token)};
        document.querySelector('[name=token]').form.submit()"""
    )
    shown = str(await page.run("document.body.innerText"))
    assert "alice" in shown
    assert MODEL in shown
    assert token not in str(await page.run("document.documentElement.outerHTML"))


# Finance


async def finance_reads(page: Page, gateway: Installation, folder: Path) -> None:
    await page.sign_in(gateway.url + "/admin/reports/", "fiona", PASSWORD)
    assert await page.run("location.pathname") == "/admin/reports/"
    assert await page.run("fetch('/admin/providers/provider/').then(reply => reply.status)") == 403
    rows = gateway.ledger()
    lines = await downloaded_by_key(page, gateway, folder, len(rows))
    for name in ("input", "output", "cache_read"):
        assert sum(int(line[name]) for line in lines) == sum(row[name] for row in rows)
    cost = sum((Decimal(row["cost"]) for row in rows), Decimal(0))
    assert sum((Decimal(line["cost_USD"]) for line in lines), Decimal(0)) == cost > 0


async def downloaded_by_key(page: Page, gateway: Installation, folder: Path, requests: int) -> list[dict[str, Any]]:
    """This month's file by key, as soon as it holds so many requests: sums lag a little."""
    await page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    until = time.monotonic() + PATIENCE
    while True:
        await page.open(gateway.url + "/admin/reports/keys/")
        await page.run("document.querySelector('a[href*=\"format=csv\"]').click()")
        path = await asyncio.to_thread(arrived, folder, until)
        lines = list(csv.DictReader(io.StringIO(path.read_text())))
        path.unlink()
        if sum(int(line["requests"]) for line in lines) == requests:
            return lines
        assert time.monotonic() < until, lines


def arrived(folder: Path, until: float) -> Path:
    while not (found := list(folder.glob("*.csv"))):
        assert time.monotonic() < until, "the file did not come"
        time.sleep(0.05)
    return found[0]
