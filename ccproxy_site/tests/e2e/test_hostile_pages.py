"""The admin in a real browser under its policy: no name runs, and what the pages themselves run still works."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from accounting import keys
from ccproxy_site.tests.e2e.browser import Page, chromium, demand_chromium, links, tab
from ccproxy_site.tests.e2e.family import Installation, installation, mock

__all__ = ["chromium"]

pytestmark = pytest.mark.e2e

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(1)>'+alert(1)+'{{7*7}}"
FAILURE = {"status": 400, "error": HOSTILE}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    demand_chromium()
    folder = tmp_path_factory.mktemp("hostile")
    with mock(folder) as upstream, installation(folder) as gateway:
        gateway.start()
        key = keys.mint()
        gateway.apply(configuration(upstream.url, key))
        gateway.wait_until_key_works(key)
        upstream.queue({"text": "Hello."}, FAILURE)
        for _ in range(2):
            ask(gateway, key)
        gateway.wait_until_booked()
        yield gateway


def configuration(url: str, key: str) -> dict[str, Any]:
    return {
        "cost_centres": [{"code": HOSTILE[:50], "name": HOSTILE}],
        "providers": [{"name": HOSTILE, "type": "anthropic", "base_url": url, "auth_value": "sk-upstream"}],
        "model_routes": {f"*{HOSTILE}": [{"provider": HOSTILE}], "*": [{"provider": HOSTILE}]},
        "keys": [{"name": HOSTILE, "owner": HOSTILE, "cost_centre": HOSTILE[:50], "token": key}],
        "prices": [{"model": HOSTILE, "input": 1, "source": HOSTILE}],
    }


def ask(gateway: Installation, key: str) -> None:
    body = {"model": HOSTILE, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"x-api-key": key, "content-type": "application/json"}
    request = urllib.request.Request(gateway.url + "/v1/messages", json.dumps(body).encode(), headers)
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10).close()


async def test_no_name_runs_and_what_the_pages_run_still_works(house: Installation, chromium: str) -> None:
    """A dialog would stop the page, and a breach of the policy is an error in its console."""
    async with tab(chromium) as page:
        await page.sign_in(house.url + "/admin/", "admin", house.first_login()["password"])
        for path in await addresses(page, house):
            await page.open(house.url + path)
            assert page.faults == [], path
        await switch_the_theme(page, house)
        await use_the_search(page, house)
        await add_a_line(page, house)
        await open_the_filters(page, house)
        await copy_a_text(page, house)
        await read_the_documentation(page, house)
        assert page.faults == []


async def addresses(page: Page, house: Installation) -> list[str]:
    """The sections, and in each of the ones with hostile rows the newest."""
    sections = await links(page, r"(/admin/\w+/(?:provider|modelroute|apikey|costcentre|price|usagerecord)/)$")
    rows = []
    for section in sections:
        await page.open(house.url + section)
        assert page.faults == [], section
        rows += (await links(page, rf"({section}\d+/change/)"))[:1]
    assert len(rows) >= 5
    return [*rows, "/admin/", "/admin/live/", "/admin/reports/", "/admin/reports/keys/", "/me"]


async def switch_the_theme(page: Page, house: Installation) -> None:
    await page.open(house.url + "/admin/")
    later = "new Promise(done => setTimeout(() => done(document.documentElement.className), 50))"
    for theme in ("dark", "light"):
        button = f"""[x-on\\:click="switchTheme('{theme}')"]"""
        await page.run(f"document.querySelector({json.dumps(button)}).click()")
        assert await page.run(later) == theme


async def use_the_search(page: Page, house: Installation) -> None:
    """The palette under Ctrl+K finds a hostile name, and shows it as text."""
    await page.run("window.dispatchEvent(new KeyboardEvent('keydown', {key: 'k', ctrlKey: true}))")
    await page.run(
        """(() => {
            const field = document.querySelector('#search-input-command');
            field.value = 'alert';
            field.dispatchEvent(new KeyboardEvent('keyup', {key: 't', bubbles: true}));
        })()"""
    )
    assert "<script>alert(1)" in await page.run(text_of("#command-results-list"))


def text_of(selector: str) -> str:
    """A script that waits until there is such an element."""
    return f"""new Promise(found => {{
        const look = () => {{
            const element = document.querySelector({json.dumps(selector)});
            element ? found(element.textContent) : setTimeout(look, 50);
        }};
        look();
    }})"""


async def add_a_line(page: Page, house: Installation) -> None:
    """Another target of a route, without a reload."""
    await page.open(house.url + "/admin/providers/modelroute/add/")
    lines = "document.querySelectorAll('[id^=targets-]:not([id*=__prefix__]) select[name$=provider]').length"
    before = await page.run(lines)
    await page.run("document.querySelector('.add-row a, a.add-row').click()")
    assert await page.run(lines) == before + 1


async def open_the_filters(page: Page, house: Installation) -> None:
    await page.open(house.url + "/admin/accounting/apikey/")
    shown = "getComputedStyle(document.querySelector('#changelist-filter')).display"
    assert await page.run(shown) == "none"
    await page.run("document.querySelector('[x-on\\\\:click^=\"filterOpen\"]').click()")
    assert await page.run(f"new Promise(done => setTimeout(() => done({shown}), 400))") != "none"


async def copy_a_text(page: Page, house: Installation) -> None:
    """Also where there is no clipboard, as over plain http from another host: then it is at least selected."""
    await page.open(house.url + "/me")
    said = await page.run(
        """(async () => {
            Object.defineProperty(navigator, 'clipboard', {value: undefined});
            document.body.insertAdjacentHTML('beforeend', '<pre id="words">a snippet</pre>'
                + '<button type="button" class="cc-copy" data-copy="#words">Copy</button>');
            const button = document.querySelector('[data-copy="#words"]');
            const wait = time => new Promise(done => setTimeout(done, time));
            button.click();
            await wait(50);
            const first = button.textContent;
            await wait(2200);
            return [first, getSelection().toString(), button.textContent];
        })()"""
    )
    assert said[0] in {"Copied", "Selected: press Ctrl+C"}
    assert said[1:] == ["a snippet", "Copy"]


async def read_the_documentation(page: Page, house: Installation) -> None:
    """Swagger runs under the stricter policy of pages outside the admin."""
    await page.open(house.url + "/docs")
    assert "/v1/messages" in await page.run(text_of(".opblock"))
