"""The developer's page in a real browser: its door, the test of a key, its copy buttons; and its status line."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounting import keys
from ccproxy_site.tests.e2e.browser import Page, chromium, demand_chromium, pictures, tab
from ccproxy_site.tests.e2e.family import PATIENCE, Installation, installation, mock
from ccproxy_site.tests.e2e.test_pages import ask, configuration

__all__ = ["chromium", "pictures"]

pytestmark = pytest.mark.e2e

KEY = keys.mint()
TESTED = "document.getElementById('me-test-results').innerText"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One answer has come, was booked and summed."""
    demand_chromium()
    folder = tmp_path_factory.mktemp("house")
    with mock(folder) as upstream, installation(folder, worker=True, ROLLUP_SECONDS="1") as gateway:
        gateway.start()
        gateway.apply(configuration(upstream.url, KEY))
        gateway.wait_until_key_works(KEY)
        ask(gateway, KEY, "claude-haiku-5-5")
        until = time.monotonic() + PATIENCE
        while used(gateway) == 0:
            assert time.monotonic() < until, "the request was not summed"
            time.sleep(0.2)
        yield gateway


def used(gateway: Installation) -> int:
    request = urllib.request.Request(gateway.url + "/v1/usage", headers={"x-api-key": KEY})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return int(json.load(reply)["month"]["requests"])


async def test_a_developer_opens_the_page_tests_the_key_and_copies(
    house: Installation, chromium: str, pictures: Path
) -> None:
    async with tab(chromium) as page:
        await page.open(house.url + "/me")
        await page.picture(pictures / "me-doors.png")
        await page.submit(
            f"document.querySelector('[name=token]').value = {json.dumps(KEY)}; document.querySelector('form').submit()"
        )
        assert await page.run("location.pathname") == "/me"
        assert house.url in await page.run("document.getElementById('me-shell').innerText")
        assert "was answered by" in await page.run("document.body.innerText")
        assert (
            await trial_of(page, KEY, lines=3)
            == "Claude Code can start. The line above tells when its first request has come."
        )
        assert "refused" in await trial_of(page, keys.mint(), lines=1)
        assert "no key" in await trial_of(page, "with a space", lines=1)
        assert KEY not in await page.run("document.documentElement.outerHTML")
        await page.run("document.querySelector('.cc-copy').click()")
        await page.run("new Promise(done => setTimeout(done, 200))")
        assert await page.run("document.querySelector('.cc-copy').textContent") in {"Copied", "Selected: press Ctrl+C"}
        await page.picture(pictures / "me.png")
    # The refusal that was asked for is all that the console holds.
    assert [fault for fault in page.faults if not fault.startswith(("401 for", "Failed to load resource"))] == []


async def trial_of(page: Page, key: str, *, lines: int) -> str:
    """The last line that the test of this key says."""
    await page.run(
        f"""document.getElementById('me-test-key').value = {json.dumps(key)};
        document.getElementById('me-test-results').replaceChildren();
        document.getElementById('me-test-run').click()"""
    )
    for _ in range(100):
        said = str(await page.run(TESTED)).splitlines()
        if len(said) >= lines:
            return said[-1]
        await page.run("new Promise(done => setTimeout(done, 50))")
    raise AssertionError(f"the test of the key said no more than {said}")


def test_the_status_line_that_the_page_offers_shows_the_cost(house: Installation, tmp_path: Path) -> None:
    with urllib.request.urlopen(house.url + "/me/statusline", timeout=10) as reply:
        (tmp_path / "statusline.sh").write_bytes(reply.read())
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": house.url,
        "ANTHROPIC_AUTH_TOKEN": KEY,
    }
    command = ["sh", str(tmp_path / "statusline.sh")]
    done = subprocess.run(command, env=environment, input="{}", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ccproxy: 0.00")
    assert "USD" in done.stdout
    assert done.stdout.endswith("today\n")
