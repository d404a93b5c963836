"""The admin's first page: its figures, what it asks somebody to do, and who sees what."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from accounting.models import COST_DIGITS, ApiKey, DaySum, DirtyQuarter, QuarterSum, UsageRecord
from ccproxy_site import guide, home
from ccproxy_site.recent import recent
from gateway import runtime
from providers.models import ModelRoute, Provider, ProviderHealth, RouteTarget

pytestmark = pytest.mark.django_db

# A Thursday in winter, 14:37 in Berlin.
NOW = dt.datetime(2026, 1, 15, 13, 37, tzinfo=dt.UTC)
Asks = Callable[..., bool]


def everything(_: str) -> bool:
    return True


def only(*permissions: str) -> Asks:
    return lambda permission: permission in permissions


def sums(starts_at: dt.datetime, requests: int, **changes: Any) -> QuarterSum:
    return QuarterSum.objects.create(starts_at=starts_at, **figures(requests, **changes))


def figures(requests: int, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(
        ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking", "web_searches"), 0
    )
    values |= dict.fromkeys(("cost", "attempts_cost", "unpriced", "estimated", "first_byte_ms", "first_bytes"), 0)
    names = {"key": "alice", "provider": "first", "model": "m", "upstream_model": "m", "status": "completed"}
    money = {"currency": "USD"}
    return {**values, **names, **money, "requests": requests, "attempts": requests, **changes}


def usd(amount: str) -> int:
    return int(Decimal(amount).scaleb(COST_DIGITS))


def card(label: str, now: dt.datetime = NOW) -> home.Card:
    return next(card for card in home.cards(recent(now)) if card.label == label)


def test_today_is_compared_with_yesterday_up_to_the_last_full_quarter_hour() -> None:
    sums(NOW.replace(hour=9, minute=0), 30, cost=usd("1.5"))
    sums(NOW.replace(minute=30), 12)  # runs: not yet to be compared
    sums(NOW.replace(day=14, hour=9, minute=0), 20, cost=usd("3"))
    sums(NOW.replace(day=14, minute=15), 5)  # the last one that is compared
    sums(NOW.replace(day=14, minute=30), 1000)
    sums(NOW.replace(day=13, hour=12), 1000)

    requests, cost = card("Requests"), card("Cost")

    assert requests.figures[0].shown == "42"
    assert requests.compared == "25 yesterday by 13:30 (+20\N{NO-BREAK SPACE}%)"
    assert cost.figures[0].shown == "1.50 USD"
    assert cost.compared == "3.00 yesterday by 13:30 (-50\N{NO-BREAK SPACE}%)"


def test_days_begin_in_the_time_zone_of_the_books() -> None:
    sums(dt.datetime(2026, 1, 14, 22, 45, tzinfo=dt.UTC), 7)  # 23:45 in Berlin, still yesterday
    sums(dt.datetime(2026, 1, 14, 23, 0, tzinfo=dt.UTC), 5)  # midnight

    with timezone.override("Europe/Berlin"):
        found = recent(NOW)

    assert found.today.requests == 5
    assert found.yesterday_by_now.requests == 0
    assert timezone.localtime(found.until, dt.UTC) == NOW.replace(minute=30)


def test_yesterday_ends_at_the_same_time_of_the_clock_on_the_day_it_was_changed() -> None:
    noon = dt.datetime(2026, 3, 29, 10, 0, tzinfo=dt.UTC)  # 12:00 in Berlin, an hour less after midnight
    sums(dt.datetime(2026, 3, 28, 10, 45, tzinfo=dt.UTC), 3)  # 11:45
    sums(dt.datetime(2026, 3, 28, 11, 0, tzinfo=dt.UTC), 100)  # 12:00

    with timezone.override("Europe/Berlin"):
        assert recent(noon).yesterday_by_now.requests == 3


def test_money_of_two_currencies_is_never_added() -> None:
    sums(NOW.replace(hour=9, minute=0), 1, cost=usd("2"))
    sums(NOW.replace(hour=9, minute=0), 1, cost=usd("0.0012"), currency="EUR")
    DaySum.objects.create(day=NOW.date(), **figures(1, cost=usd("2"), currency="USD"))
    DaySum.objects.create(day=NOW.date(), **figures(1, cost=usd("3"), currency="EUR"))

    assert [figure.shown for figure in card("Cost").figures] == ["0.0012 EUR", "2.00 USD"]
    assert "EUR" not in "".join(figure.shown for figure in card("Requests").figures)


def test_errors_tokens_and_the_time_to_the_first_token_are_told() -> None:
    sums(NOW.replace(hour=8, minute=0), 8, input=1_000_000, output=500_000, first_byte_ms=8_000, first_bytes=8)
    sums(NOW.replace(hour=8, minute=0), 2, status="failed", currency="")

    assert card("Errors").figures[0].shown == "2 (20.0\N{NO-BREAK SPACE}%)"
    assert card("Tokens").figures[0] == home.Figure("1.50 M", "1,500,000")
    assert card("Mean time to first token").figures[0].shown == "1.00 s"


def test_an_hour_of_the_chart_holds_what_began_in_it() -> None:
    sums(NOW.replace(minute=0), 4)
    sums(NOW.replace(hour=12, minute=45), 3)
    sums(NOW.replace(day=14, hour=13, minute=45), 9)  # before the chart begins

    hours = recent(NOW).requests_by_hour

    assert len(hours) == 24
    assert hours[-2:] == [("12:00", 3), ("13:00", 4)]
    assert sum(number for _, number in hours) == 7


def test_the_hours_of_a_zone_of_half_hours_are_its_own() -> None:
    sums(NOW.replace(minute=30), 4)  # 19:00 in Kolkata
    sums(NOW.replace(minute=15), 3)  # 18:45

    with timezone.override("Asia/Kolkata"):
        assert recent(NOW).requests_by_hour[-2:] == [("18:00", 3), ("19:00", 4)]


def test_a_finance_reader_sees_money_and_nothing_of_the_machine() -> None:
    provider()
    shown = home.home(only("accounting.view_reports"), NOW, is_superuser=False)

    assert [card.label for card in shown.cards][:2] == ["Requests", "Cost"]
    assert (shown.providers, shown.state, shown.troubles, shown.guide, shown.first_password) == (None, [], [], [], "")
    assert (shown.unpriced, shown.expiring) == ([], [])


def test_whoever_has_no_permission_reads_a_sentence(client: Client) -> None:
    user = User.objects.create_user("carol", is_staff=True)
    client.force_login(user)

    page = client.get("/admin/").content.decode()

    assert "nothing on this page for your account" in page
    assert "cc-card" not in page
    assert "To the first answer" not in page


def test_the_guide_shrinks_with_each_step_and_vanishes_after_the_last() -> None:
    def open_steps() -> list[str]:
        return [step.title for step in guide.steps() if not step.is_done]

    titles = ["Add a provider", "Route a model to it", "Issue a key", "Ask something"]
    demo = Provider.objects.create(name="demo", type="anthropic", base_url="http://127.0.0.1:1", is_demo=True)
    assert open_steps() == titles
    own = provider()
    assert open_steps() == titles[1:]
    route = ModelRoute.objects.create(pattern="*")
    RouteTarget.objects.create(route=route, provider=demo)
    assert open_steps() == titles[1:], "a route to the demo is none"
    RouteTarget.objects.create(route=route, provider=own)
    assert open_steps() == titles[2:]
    ApiKey.issue("alice")
    assert open_steps() == titles[3:]
    record("req_1", demo)
    assert open_steps() == titles[3:], "the demo's answer is none"
    record("req_2", own, status="failed")
    assert open_steps() == titles[3:]
    record("req_3", own)
    assert guide.steps() == []


def test_the_guide_is_over_also_where_only_the_sums_tell_of_an_answer() -> None:
    own = provider()
    DaySum.objects.create(day=NOW.date(), **figures(1, provider_ref=own))

    assert guide.answered()


def test_every_step_that_is_open_has_one_button_to_a_page_that_exists(admin_client: Client) -> None:
    page = admin_client.get("/admin/").content.decode()

    assert page.count('class="cc-button cc-primary"') == 4
    for step in guide.steps():
        assert admin_client.get(step.path).status_code == 200, step


def provider(name: str = "first", **fields: Any) -> Provider:
    return Provider.objects.create(name=name, type="anthropic", base_url="https://api.example.com", **fields)


def record(request_id: str, provider: Provider, **changes: Any) -> UsageRecord:
    values = {"started_at": NOW, "finished_at": NOW, "model": "m", "status": "completed", "source": "upstream"}
    names = {"key": "alice", "provider": provider.name, "provider_ref": provider}
    return UsageRecord.objects.create(**{"request_id": request_id, **values, **names, **changes})


def test_the_state_of_every_provider_is_told(admin_client: Client) -> None:
    today = timezone.localdate()
    well, ill = provider("well"), provider("ill")
    provider("new")
    provider("resting", enabled=False)
    ProviderHealth.objects.create(provider=well, ok=True, latency_ms=212, checked_at=timezone.now())
    ProviderHealth.objects.create(provider=ill, ok=False, detail="401: refused", checked_at=timezone.now())
    DaySum.objects.create(day=today, **figures(5, provider="well"))
    DaySum.objects.create(day=today, **figures(3, provider="ill", status="failed"))

    lines = {line.name: line for line in home.provider_lines(Provider.objects.select_related("health"))}
    page = admin_client.get("/admin/").content.decode()

    assert (lines["well"].well, lines["well"].latency, lines["well"].requests) == (True, "212 ms", 5)
    assert (lines["ill"].well, lines["ill"].failed) == (False, 3)
    for said in ("401: refused", "not probed yet", "switched off", "212 ms"):
        assert said in page


def test_models_without_a_price_are_named_with_what_to_do(admin_client: Client) -> None:
    DaySum.objects.create(day=timezone.localdate(), **figures(9, upstream_model="a/b&c", currency="", unpriced=9))
    DaySum.objects.create(day=timezone.localdate() - dt.timedelta(days=30), **figures(1, upstream_model="old"))

    assert home.unpriced() == [("first", "a/b&c", 9)]
    page = admin_client.get("/admin/").content.decode()
    assert '/admin/accounting/price/add/?model=a%2Fb%26c"' in page
    assert "9 requests in 7 days" in page


def test_keys_that_end_soon_are_named(admin_client: Client) -> None:
    now = timezone.now()
    for name, days in (("soon", 3), ("sooner", 1), ("later", 15), ("over", -1)):
        ApiKey.issue(name, expires_at=now + dt.timedelta(days=days))
    ApiKey.issue("revoked", expires_at=now + dt.timedelta(days=2), revoked_at=now)
    ApiKey.issue("endless")

    assert [key.name for key in home.expiring(now)] == ["sooner", "soon"]
    assert "sooner" in admin_client.get("/admin/").content.decode()


def test_the_first_password_that_still_lies_there_is_told_to_superusers_only(
    settings: Any, tmp_path: Path, admin_client: Client
) -> None:
    settings.DATA_DIR = tmp_path
    assert "first password" not in admin_client.get("/admin/").content.decode()
    (tmp_path / "first-login.txt").write_text("administrator admin / secret-in-a-file")

    page = admin_client.get("/admin/").content.decode()

    assert str(tmp_path / "first-login.txt") in page
    assert "secret-in-a-file" not in page
    assert home.home(everything, NOW, is_superuser=False).first_password == ""


def test_a_page_starts_no_runtime_and_tells_the_state_of_one_that_runs(no_runtime: None, admin_client: Client) -> None:
    admin_client.get("/admin/")
    assert runtime.current() is None
    assert [name for name, _ in home.state(None)] == ["Figures here and in reports"]

    held = runtime.Runtime()
    runtime.replace(held)
    try:
        assert ("Waiting in its spool to be booked", "nothing") in home.state(None)
        held.ending = True
        assert home.troubles(None)[0] == "This process is ending."
    finally:
        runtime.replace(None)
        held.ledger.close()


@pytest.fixture
def no_runtime() -> Iterator[None]:
    before = runtime.replace(None)
    yield
    runtime.replace(before)


def test_sums_that_nobody_makes_are_an_alarm(no_runtime: None) -> None:
    DirtyQuarter.objects.create(starts_at=timezone.now() - dt.timedelta(hours=3))

    shown = home.home(everything, timezone.now(), is_superuser=True)

    assert ("Figures here and in reports", "3.0 h behind") in shown.state
    assert "see that the worker runs" in shown.troubles[-1]
    assert home.troubles(home.LATE_SECONDS) == []


@pytest.fixture
def crowded() -> None:
    """Sums as a million rows leave them: 300 groups in each quarter hour of two days, and a month of days."""
    now = timezone.now()
    start = now.replace(minute=0, second=0, microsecond=0) - dt.timedelta(days=2)
    names = [{"key": f"team-{key}", "model": f"m{model}"} for key in range(20) for model in range(5)]
    quarters = [start + dt.timedelta(minutes=15 * number) for number in range(190)]
    groups = [figures(3, cost=usd("0.01"), **name) for name in names]
    QuarterSum.objects.bulk_create(
        [QuarterSum(starts_at=quarter, **group) for quarter in quarters for group in groups], batch_size=500
    )
    days = [timezone.localdate() - dt.timedelta(days=number) for number in range(30)]
    DaySum.objects.bulk_create([DaySum(day=day, **group) for day in days for group in groups], batch_size=500)
    for number in range(10):
        provider(f"provider-{number}")


@pytest.mark.usefixtures("crowded")
def test_the_page_takes_few_queries_and_little_time(
    admin_client: Client, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    admin_client.get("/admin/")
    began = timezone.now()
    with django_assert_max_num_queries(15):
        page = admin_client.get("/admin/")
    took = (timezone.now() - began).total_seconds()

    assert page.status_code == 200
    assert b"Cost per day" in page.content
    assert took < 1.5, "it should be 0.3 s; five times the slack for a busy machine"


@pytest.mark.parametrize(
    ("permissions", "seen", "unseen"),
    [
        ((), ("/admin/", "/me"), ("/admin/reports/", "/admin/live/", "/admin/providers/provider/")),
        (("view_reports",), ("/admin/reports/",), ("/admin/live/", "/admin/accounting/apikey/", "/admin/auth/user/")),
        (("view_usagerecord",), ("/admin/live/", "/admin/accounting/usagerecord/"), ("/admin/reports/",)),
        (("view_provider", "view_modelroute"), ("/admin/providers/modelroute/",), ("/admin/accounting/price/",)),
    ],
)
def test_the_sidebar_leads_everybody_where_he_may_go(
    client: Client, permissions: tuple[str, ...], seen: tuple[str, ...], unseen: tuple[str, ...]
) -> None:
    user = User.objects.create_user("carol", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)

    page = client.get("/admin/").content.decode()

    for path in seen:
        assert f'href="{path}"' in page, path
    for path in unseen:
        assert f'href="{path}"' not in page, path


def test_everywhere_the_sidebar_leads_there_is_a_page(admin_client: Client) -> None:
    from ccproxy_site.sidebar import PLACES

    for _, places in PLACES:
        for name, _, path, _ in places:
            assert admin_client.get(path).status_code == 200, name
