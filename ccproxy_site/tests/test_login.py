"""Signing in: who may, who waits after too many attempts, and what nobody learns by trying."""

from __future__ import annotations

import re
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client

from ccproxy_site.caches import RedisOrMemory
from gateway import throttle

LOGIN = "/admin/login/"
PASSWORD = "correct horse battery"


class Browser:
    """Somebody at an address of his own, so that no other test's attempts count for him."""

    def __init__(self) -> None:
        self.address = f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
        self.client = Client()

    def sign_in(self, name: str, password: str = PASSWORD, next_page: str = "/admin/") -> Any:
        form = {"username": name, "password": password, "next": next_page}
        return self.client.post(LOGIN, form, REMOTE_ADDR=self.address)

    def fail(self, name: str, times: int) -> Any:
        for _ in range(times):
            page = self.sign_in(name, "wrong")
        return page

    @property
    def is_in(self) -> bool:
        return "_auth_user_id" in self.client.session


@pytest.fixture
def browser(settings: Any) -> Browser:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return Browser()


@pytest.fixture
def alice(browser: Browser, db: None) -> User:
    return User.objects.create_user(f"alice-{secrets.token_hex(4)}", password=PASSWORD, is_staff=True)


def test_the_right_password_opens(browser: Browser, alice: User) -> None:
    assert browser.sign_in(alice.username).status_code == 302
    assert browser.is_in


def test_after_five_failures_also_the_right_password_waits(browser: Browser, alice: User) -> None:
    assert browser.fail(alice.username, 5).status_code == 200

    page = browser.sign_in(alice.username)

    assert page.status_code == 429
    assert re.search(r"Wait until \d\d:\d\d:\d\d \(UTC\), then try again\.", page.content.decode())
    assert 0 < int(page["Retry-After"]) <= 15 * 60
    assert not browser.is_in


def test_the_pause_ends(browser: Browser, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "SECONDS", 2)
    assert browser.fail(alice.username, 6).status_code == 429

    time.sleep(2.2)

    assert browser.sign_in(alice.username).status_code == 302


def test_a_success_forgets_the_failures_before_it(browser: Browser, alice: User) -> None:
    browser.fail(alice.username, 4)
    browser.sign_in(alice.username)

    assert browser.fail(alice.username, 4).status_code == 200


def test_successes_do_not_count_against_an_address(browser: Browser, alice: User) -> None:
    for _ in range(throttle.ATTEMPTS_FROM_ADDRESS + 2):
        assert browser.sign_in(alice.username).status_code == 302


def test_an_account_of_his_own_gives_a_guesser_no_new_attempts(browser: Browser, alice: User) -> None:
    for number in range(throttle.ATTEMPTS_FROM_ADDRESS):
        if number % 4 == 0:
            browser.sign_in(alice.username)
        browser.sign_in(f"victim-{number}", "wrong")

    assert browser.sign_in("another", "wrong").status_code == 429


def test_another_address_does_not_wait(browser: Browser, alice: User) -> None:
    browser.fail(alice.username, 6)

    assert Browser().sign_in(alice.username).status_code == 302


def test_one_network_of_ipv6_is_one_address_and_writing_a_name_otherwise_is_no_other_name(
    browser: Browser, alice: User
) -> None:
    browser.fail(alice.username, 3)
    browser.address = browser.address.replace("::1", "::dead:beef")
    browser.fail(alice.username.upper(), 2)

    assert browser.sign_in(alice.username).status_code == 429


@pytest.mark.django_db
def test_thirty_failures_from_one_address_close_it_for_every_name(browser: Browser) -> None:
    for number in range(throttle.ATTEMPTS_FROM_ADDRESS):
        assert browser.sign_in(f"name-{number}", "wrong").status_code == 200

    assert browser.sign_in("one-more", "wrong").status_code == 429


def test_nothing_tells_a_known_name_from_an_unknown_one(browser: Browser, alice: User) -> None:
    User.objects.create_user("gone", password=PASSWORD, is_active=False)

    def told(name: str, password: str) -> str:
        page = Browser().sign_in(name, password).content.decode()
        return re.sub(r'value="[^"]*"', "", page).replace(name, "")

    assert told(alice.username, "wrong") == told("nobody-of-this-name", "wrong") == told("gone", PASSWORD)
    pauses = []
    for name in (alice.username, "nobody-of-this-name"):
        other = Browser()
        other.fail(name, 5)
        pauses.append((other.sign_in(name).status_code, other.sign_in(name, "wrong").status_code))
    assert pauses == [(429, 429), (429, 429)]


def test_many_attempts_at_once_are_no_more_than_five() -> None:
    """Counted before the attempt: else all of them would be made before the first one failed."""
    start, address = threading.Barrier(40), secrets.token_hex(8)

    def attempt(_: int) -> int:
        start.wait()
        return throttle.seconds_to_wait("test", address, "alice")

    with ThreadPoolExecutor(40) as pool:
        waits = list(pool.map(attempt, range(40)))

    assert waits.count(0) == throttle.ATTEMPTS


def test_a_counter_that_redis_forgot_to_end_closes_nobody_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may count on in a counter that ended in between; such a one has no end of its own."""
    monkeypatch.setattr(throttle, "SECONDS", 2)
    address = secrets.token_hex(8)
    cache.set(throttle._counters("test", address, "alice")[1], 99, None)
    assert throttle.seconds_to_wait("test", address, "alice") == 2

    time.sleep(2.2)

    assert throttle.seconds_to_wait("test", address, "alice") == 0


def test_while_redis_is_away_the_process_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    steady = RedisOrMemory("redis://127.0.0.1:1/0", {})
    name = secrets.token_hex(8)

    assert steady.add(name, 0, 60)
    assert [steady.incr(name), steady.incr(name), steady.decr(name)] == [1, 2, 1]
    assert steady.get(name) == 1
    steady.delete(name)
    assert steady.get(name) is None
    assert "Redis is away" in caplog.text


def test_a_developer_without_a_place_in_the_admin_is_led_to_his_own_page(browser: Browser, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=False)

    assert browser.sign_in(alice.username)["Location"] == "/me"
    assert browser.is_in
    assert browser.sign_in(alice.username, next_page="/me/")["Location"] == "/me/"
    assert "no place in the admin" in browser.client.get("/admin/", follow=True).content.decode()


def test_a_login_leads_to_no_other_site(browser: Browser, alice: User) -> None:
    assert browser.sign_in(alice.username, next_page="https://evil.example/")["Location"] == "/admin/"


def test_an_empty_form_counts_no_attempt_of_anybody(browser: Browser, alice: User) -> None:
    for _ in range(throttle.ATTEMPTS_FROM_ADDRESS + 1):
        assert browser.sign_in("", "").status_code == 200

    assert browser.sign_in(alice.username).status_code == 302


def test_cookies_stay_on_https_where_the_page_came_over_it(alice: User, settings: Any) -> None:
    def secure(**request: Any) -> set[bool]:
        client = Client()
        client.post(LOGIN, {"username": alice.username, "password": PASSWORD}, **request)
        assert {"sessionid", "csrftoken"} <= set(client.cookies)
        assert all(cookie["httponly"] and cookie["samesite"] == "Lax" for cookie in client.cookies.values())
        return {bool(cookie["secure"]) for cookie in client.cookies.values()}

    settings.ALLOWED_HOSTS = ["gateway.example.org"]
    there = {"HTTP_HOST": "gateway.example.org"}
    assert secure(**there) == {False}
    assert secure(secure=True, **there) == {True}
    settings.CSRF_TRUSTED_ORIGINS = ["https://gateway.example.org"]
    assert secure(**there) == {True}, "a proxy in front speaks https"
    settings.CSRF_TRUSTED_ORIGINS = ["https://gateway.example.org", "http://gateway.example.org"]
    assert secure(**there) == {False}
