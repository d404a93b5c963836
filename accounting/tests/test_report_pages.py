"""The reports as a finance reader opens them: figures, addresses, who may and who may not."""

from __future__ import annotations

import datetime as dt
import html
import re
import time
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.http import QueryDict
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounting import report_pages, reports, rollups
from accounting.models import ApiKey
from accounting.report_choice import Choice, chosen_by, compared_with, file_part, told
from accounting.report_lines import charts_of, currencies_of, cut, ranked, summed
from accounting.report_pages import DIVISIONS
from accounting.reports import Figures, Period, month_of
from accounting.templatetags.report_figures import amount, change, rounded, short
from accounting.tests.day_sums import HOSTILE, TODAY, booked, day_sum
from providers.models import Provider

pytestmark = pytest.mark.django_db

PARTS = ("overview", *DIVISIONS)
NOVEMBER, OCTOBER = (
    Period(dt.date(2026, 11, 1), dt.date(2026, 12, 1)),
    Period(dt.date(2026, 10, 1), dt.date(2026, 11, 1)),
)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "today", lambda: TODAY)


@pytest.fixture
def finance(client: Client) -> Client:
    client.force_login(person("fiona", staff=True, group=True))
    return client


def person(name: str, *, staff: bool, group: bool = False, superuser: bool = False, password: str = "") -> User:
    found = User.objects.create_user(name, password=password or None, is_staff=staff, is_superuser=superuser)
    if group:
        found.groups.add(Group.objects.get(name="Finance"))
    return found


def address(part: str = "overview", **query: Any) -> str:
    return reverse(f"reports:{part}") + (f"?{urlencode(query, doseq=True)}" if query else "")


def opened(client: Client, part: str = "overview", **query: Any) -> str:
    answer = client.get(address(part, **query))
    assert answer.status_code == 200
    return str(answer.content.decode())


def rows(page: str, table: str = "lines") -> list[list[str]]:
    """The cells of a table, as people read them; its head is the first row and its foot the last."""
    found = re.search(rf'<table class="cc-table" id="{table}">(.*?)</table>', page, re.DOTALL)
    assert found, f"there is no table {table}"
    lines = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    return [[text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)] for line in lines]


def text_of(fragment: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", fragment)).strip()


def cards(page: str) -> dict[str, tuple[str, str]]:
    shape = r'cc-label">(.*?)</div>\s*<div class="cc-figure">(.*?)</div>\s*<div class="cc-compare">(.*?)</div>'
    return {
        text_of(label): (text_of(figure), text_of(more)) for label, figure, more in re.findall(shape, page, re.DOTALL)
    }


def links(page: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(r'href="([^"]*)"', page)]


# The group, and who may


def test_the_finance_group_may_see_reports_and_nothing_else() -> None:
    assert [str(found.codename) for found in Group.objects.get(name="Finance").permissions.all()] == ["view_reports"]


def test_a_group_that_its_administrator_changed_stays_as_it_is() -> None:
    group = Group.objects.get(name="Finance")
    group.permissions.set([Permission.objects.get(codename="view_price")])
    call_command("migrate", verbosity=0)
    assert [found.codename for found in group.permissions.all()] == ["view_price"]


def test_a_group_that_is_gone_is_made_again() -> None:
    Group.objects.filter(name="Finance").delete()
    call_command("migrate", verbosity=0)
    assert Group.objects.get(name="Finance").permissions.get().codename == "view_reports"


ROLES: dict[str, tuple[dict[str, Any] | None, int]] = {
    "anonymous": (None, 302),
    "signed in": ({"staff": False}, 403),
    "signed in and in the group": ({"staff": False, "group": True}, 403),
    "staff": ({"staff": True}, 403),
    "finance": ({"staff": True, "group": True}, 200),
    "superuser": ({"staff": True, "superuser": True}, 200),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("part", PARTS)
def test_who_may_open_which_page(client: Client, part: str, role: str) -> None:
    booked(day_sum(cost="1.5"))
    options, expected = ROLES[role]
    if options is not None:
        client.force_login(person("pat", **options))
    for more in ({}, {"format": "csv"}, {"format": "xlsx"}):
        assert client.get(address(part, **more)).status_code == expected
        assert client.head(address(part, **more)).status_code == expected
    for method in ("post", "put", "delete", "options"):
        answer = getattr(client, method)(address(part))
        assert answer.status_code == (405 if expected == 200 else expected)
        assert b"alice" not in answer.content


def test_who_is_not_signed_in_comes_back_after_the_login(client: Client) -> None:
    answer = client.get(address("keys", key="a b"))
    assert answer["Location"] == "/admin/login/?next=/admin/reports/keys/%3Fkey%3Da%2Bb"
    person("fiona", staff=True, group=True, password="pw")
    back = client.post(answer["Location"], {"username": "fiona", "password": "pw"})
    assert back["Location"] == "/admin/reports/keys/?key=a+b"


def test_who_may_not_is_told_whom_to_ask(client: Client) -> None:
    client.force_login(person("dev", staff=False, group=True))
    page = client.get(address()).content.decode()
    assert "Ask an administrator to add you to the group and to tick “Staff status”." in page


def test_an_account_that_was_closed_sees_nothing(finance: Client) -> None:
    User.objects.update(is_active=False)
    assert finance.get(address()).status_code == 302


def test_no_page_is_kept_by_a_browser_or_a_proxy(finance: Client) -> None:
    for more in ({}, {"format": "csv"}):
        assert "no-store" in finance.get(address("keys", **more))["Cache-Control"]


def test_a_finance_reader_sees_no_key_and_no_address(finance: Client) -> None:
    key, _ = ApiKey.issue("alice")
    provider = Provider(name="first", type="openai", base_url="https://inner.example")
    provider.set_credential("sk-upstream")
    provider.save()
    booked(day_sum(cost="1", api_key_id=key.pk))
    for part in PARTS:
        for more in ({}, {"format": "csv"}):
            content = finance.get(address(part, **more)).content.decode()
            for secret in (key.digest, key.prefix, "inner.example", "sk-upstream"):
                assert secret not in content


def test_the_admin_itself_shows_finance_nothing_to_change(finance: Client) -> None:
    for name in ("accounting_apikey", "accounting_usagerecord", "providers_provider", "auth_user"):
        assert finance.get(reverse(f"admin:{name}_changelist")).status_code == 403


# The overview


def test_the_overview_compares_a_month_that_is_over_with_the_whole_one_before(finance: Client) -> None:
    booked(
        day_sum("2026-10-01", "12.50", requests=10, input=1000, cache_read=200, output=50),
        day_sum("2026-10-31", "0.75", requests=5, status="failed"),
        day_sum("2026-09-30", "10", requests=4, input=500),
        day_sum("2026-08-31", "99"),
        day_sum("2026-11-01", "77"),
    )
    page = opened(finance, **{"from": "2026-10-01", "to": "2026-10-31"})
    assert cards(page) == {
        "Cost, USD": ("13.25", "+3.25 (+32.5%)"),
        "Requests": ("15", "+11 (+275.0%)"),
        "Tokens": ("1,250", "+750 (+150.0%)"),
        "Failed, cut or cancelled": ("33.3%", "5; before 0.0%"),
    }
    assert "Compared with September 2026." in page
    kinds = {row[0]: row[1:] for row in rows(page, "kinds")}
    assert kinds["Input"] == ["1,000", "500", "+500 (+100.0%)"]
    assert kinds["Cache read"] == ["200", "0", "+200"]
    assert kinds["Web searches"] == ["0", "0", "–"]


def test_a_running_month_is_compared_with_as_many_days_of_the_one_before(finance: Client) -> None:
    booked(day_sum("2026-11-02", "5"), day_sum("2026-10-21", "4"), day_sum("2026-10-22", "100", requests=7))
    page = opened(finance)
    assert cards(page)["Cost, USD"] == ("5.00", "+1.00 (+25.0%)")
    compared = text_of(re.search(r'id="compared">(.*?)</p>', page, re.DOTALL)[1])  # type: ignore[index]
    assert re.sub(r"\s+", " ", compared) == (
        "Compared with 1 to 21 October 2026. All of October 2026: 104.00 USD, 8 requests."
    )


def test_currencies_are_never_added(finance: Client) -> None:
    booked(day_sum(cost="1.5"), day_sum(cost="3"), day_sum(cost="2.25", currency="EUR", key="bob"))
    page = opened(finance)
    assert (cards(page)["Cost, USD"][0], cards(page)["Cost, EUR"][0]) == ("4.50", "2.25")
    assert "6.75" not in page
    assert page.count('<svg class="cc-chart"') == 2
    assert rows(opened(finance, "keys"))[-1][:7] == ["Total", "4.50", "–", "+4.50", "2.25", "–", "+2.25"]


def test_the_currency_of_most_requests_decides_the_order(finance: Client) -> None:
    booked(
        day_sum(cost="900", currency="JPY", model="a"),
        day_sum(cost="1", requests=5, model="a"),
        day_sum(cost="2", requests=5, model="b"),
    )
    page = opened(finance)
    assert list(cards(page))[:2] == ["Cost, USD", "Cost, JPY"]
    assert [row[0] for row in rows(page, "top-models")[1:]] == ["b", "a"]
    assert currencies_of([Figures(requests=1, cost={"EUR": Decimal(1), "USD": Decimal(2)})]) == ["USD", "EUR"]


def test_money_shows_every_digit_to_a_pointer(finance: Client) -> None:
    booked(day_sum(cost="1234.567890123456"))
    page = opened(finance)
    assert '<span title="1,234.567890123456 USD">1,234.57</span>' in page


def test_what_has_no_price_is_a_warning_with_what_to_do(finance: Client, admin_client: Client) -> None:
    booked(day_sum(cost=None, model="new-model", requests=3), day_sum(cost="1"))
    warning = re.sub(r"\s+", " ", text_of(re.search(r'id="unpriced">(.*?)</p>', opened(finance), re.DOTALL)[1]))  # type: ignore[index]
    assert warning.startswith("3 requests had no known price, so the cost below is too low. Model: new-model (3).")
    assert "Ask an administrator to add a price" in warning
    assert "/admin/accounting/price/add/" in links(opened(admin_client))
    booked_page = opened(finance, model="opus")
    assert 'id="unpriced"' not in booked_page


def test_without_a_price_the_chart_is_of_requests(finance: Client) -> None:
    booked(day_sum(cost=None))
    page = opened(finance)
    assert "Requests per day" in page
    assert cards(page)["Cost"] == ("–", "Nothing with a price")


def test_the_dearest_ten_are_on_top_and_lead_on(finance: Client) -> None:
    booked(*(day_sum(cost=str(number), key=f"key {number:02}") for number in range(1, 13)))
    page = opened(finance)
    assert [row[0] for row in rows(page, "top-keys")[1:]] == [f"key {number:02}" for number in range(12, 2, -1)]
    assert "All 12 keys" in page
    assert address("keys", **{"from": "2026-11-01", "to": "2026-11-30"}) in links(page)


@pytest.mark.parametrize("part", PARTS)
def test_an_empty_ledger_is_a_page_too(finance: Client, part: str) -> None:
    page = opened(finance, part)
    assert "Nothing" in page
    assert "Days of UTC; figures up to" in page


# The tables


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("keys", "key"),
        ("models", "model"),
        ("cost-centres", "cost_centre"),
        ("providers", "provider"),
        ("owners", "owner"),
    ],
)
def test_each_table_has_the_figures_that_were_booked(finance: Client, part: str, field: str) -> None:
    booked(
        day_sum("2026-11-01", "2.5", requests=3, input=10, output=4, **{field: "a"}),
        day_sum("2026-11-30", "0.25", requests=1, cache_read=5, cache_write_5m=2, cache_write_1h=1, **{field: "a"}),
        day_sum("2026-11-02", "7", requests=2, status="cut", **{field: "b"}),
        day_sum("2026-11-02", None, requests=9, **{field: ""}),
        day_sum("2026-10-02", "1", **{field: "a"}),
        day_sum("2026-10-03", "4", **{field: "gone"}),
        day_sum("2026-10-31", "50", **{field: "a"}),
    )
    assert rows(opened(finance, part))[1:] == [
        ["b", "7.00", "–", "+7.00", "2", "2", "0", "0", "0", "0", "0"],
        ["a", "2.75", "1.00", "+1.75 (+175.0%)", "4", "0", "0", "10", "5", "3", "4"],
        ["(none)", "–", "–", "–", "9", "0", "9", "0", "0", "0", "0"],
        ["gone", "–", "4.00", "-4.00 (-100.0%)", "0", "0", "0", "0", "0", "0", "0"],
        ["Total", "9.75", "5.00", "+4.75 (+95.0%)", "15", "2", "9", "10", "5", "3", "4"],
    ]


def test_the_table_of_days_is_in_their_order(finance: Client) -> None:
    booked(day_sum("2026-11-03", "2"), day_sum("2026-11-01", "1"), day_sum("2026-11-03", "0.5", key="bob"))
    page = opened(finance, "days")
    assert [row[:2] for row in rows(page)[1:]] == [["2026-11-01", "1.00"], ["2026-11-03", "2.50"], ["Total", "3.50"]]
    assert "Cost per day (USD)" in page
    assert "2026-11-03: 2.5 USD" in page


def test_a_year_is_drawn_by_month() -> None:
    days = {
        dt.date(2026, 1, 31): Figures(cost={"USD": Decimal(1)}),
        dt.date(2026, 3, 1): Figures(cost={"USD": Decimal(2)}),
    }
    (chart,) = charts_of(days, Period(dt.date(2026, 1, 1), dt.date(2027, 1, 1)), ["USD"])
    assert (chart.title, chart.points) == ("Cost per month", [("2026-01", 1), ("2026-02", 0), ("2026-03", 2)])


@pytest.mark.parametrize("part", [part for part in PARTS if part != "days"])
def test_each_line_leads_to_the_same_report_narrowed_to_it(finance: Client, part: str) -> None:
    booked(
        day_sum(cost="1", key="a&b=c", owner="", cost_centre="R&D", provider="p", model="m/1"),
        day_sum(cost="2", key="z"),
    )
    page = opened(finance, part, model="m/1")
    field = DIVISIONS[part].field if part != "overview" else "key"
    for link in links(page):
        asked = parse_qs(link.removeprefix("?"))
        if link.startswith("?") and (field in asked or field in asked.get("without", [])) and "format" not in asked:
            assert asked["from"] == ["2026-11-01"]
            narrowed = opened(finance, part, **asked)
            assert "1.00" in narrowed
            assert "3.00" not in narrowed
            return
    raise AssertionError("no link narrows this page")


def test_a_day_leads_to_itself(finance: Client) -> None:
    booked(day_sum("2026-11-03", "2", key="a b"))
    assert "?from=2026-11-03&to=2026-11-03&key=a+b" in links(opened(finance, "days", key="a b"))


def test_a_filter_goes_along_to_the_other_reports_and_into_the_files(finance: Client) -> None:
    booked(day_sum(cost="1"))
    query = {"from": "2026-11-02", "to": "2026-11-21", "key": "alice", "status": "completed", "without": "owner"}
    page = opened(finance, "keys", **query)
    assert address("models", **query) in links(page)
    assert f"?{urlencode(query)}&format=csv" in links(page)


def test_every_filter_is_a_chip_that_can_be_removed(finance: Client) -> None:
    booked(day_sum(cost="1"))
    chosen = {"key": "alice", "model": "opus", "provider": "first", "cost_centre": "R&D", "status": "completed"}
    page = opened(finance, "models", **chosen, without="owner")
    chips = re.search(r'id="chips">(.*?)</p>', page, re.DOTALL)
    assert chips
    texts = [text_of(chip) for chip in re.findall(r"<a.*?</a>", chips[1], re.DOTALL)]
    assert texts == [
        "owner: (none) ×",
        "key: alice ×",
        "model: opus ×",
        "provider: first ×",
        "cost centre: R&D ×",
        "status: completed ×",
    ]
    for link, gone in zip(links(chips[1]), ["without", *chosen], strict=True):
        assert set(parse_qs(link[1:])) == {"from", "to", "without", *chosen} - {gone}


def test_lines_beyond_a_thousand_are_one_and_the_page_says_so(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_pages, "MOST_ON_A_PAGE", 3)
    booked(*(day_sum(cost=str(number), key=f"key {number}") for number in range(1, 6)))
    page = opened(finance, "keys")
    assert "There are 5 lines. The first 3 are here" in page
    assert [row[:2] for row in rows(page)[1:]] == [
        ["key 5", "5.00"],
        ["key 4", "4.00"],
        ["3 more, together", "6.00"],
        ["Total", "15.00"],
    ]


def test_as_many_lines_as_fit_are_all_there() -> None:
    lines = ranked({f"key {number}": Figures(requests=number) for number in range(4)}, {}, [])
    assert cut(lines, 4) == lines
    assert [line.left_out for line in cut(lines, 3)] == [0, 0, 2]


# What an address asks for


def choice(**query: Any) -> Choice:
    return chosen_by(QueryDict(urlencode(query, doseq=True)), TODAY)


def test_without_days_it_is_this_month() -> None:
    assert choice().period == NOVEMBER


@pytest.mark.parametrize(
    ("first", "last", "period"),
    [
        ("2026-10-01", "2026-10-31", OCTOBER),
        ("2026-11-21", "2026-11-21", Period(TODAY, dt.date(2026, 11, 22))),
        ("2026-11-10", "", Period(dt.date(2026, 11, 10), dt.date(2026, 11, 22))),
        ("2027-01-10", "", Period(dt.date(2027, 1, 10), dt.date(2027, 1, 11))),
        ("", "2026-10-31", OCTOBER),
        (" 2026-10-01 ", "2026-10-31", OCTOBER),
        ("2000-01-01", "2199-12-31", Period(dt.date(2000, 1, 1), dt.date(2200, 1, 1))),
    ],
)
def test_the_last_day_is_included(first: str, last: str, period: Period) -> None:
    asked = choice(**{"from": first, "to": last})
    assert (asked.period, asked.faults) == (period, {})


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"from": "0001-01-01"}, "from"),
        ({"to": "9999-12-31"}, "to"),
        ({"to": "2026-11-21T00:00"}, "to"),
        ({"from": "2026-11-02", "to": "2026-11-01"}, "to"),
        ({"from": "\0"}, "from"),
        ({"from": "１２３４-٠١-01"}, "from"),
    ],
)
def test_a_day_that_is_none_leaves_this_month(query: dict[str, str], field: str) -> None:
    asked = choice(**query, key="alice")
    assert (asked.period, asked.chosen) == (NOVEMBER, {"key": "alice"})
    assert asked.faults[field].endswith("Until then this month is shown.")


@pytest.mark.parametrize("part", PARTS)
def test_what_is_wrong_stands_beside_its_field_and_makes_no_file(finance: Client, part: str) -> None:
    query = {"from": "yesterday", "to": "2199-12-32", "status": "lost", "key": "nobody"}
    page = opened(finance, part, **query)
    for field in query:
        assert f'aria-describedby="{field}-fault"' in page
        assert f'id="{field}-fault"' in page
    assert 'name="from" value="2026-11-01"' in page
    assert finance.get(address(part, **query, format="csv")).status_code == 400


@pytest.mark.parametrize("field", ["key", "model", "provider", "cost_centre", "owner", "status"])
def test_a_name_that_nothing_has_is_told_beside_its_field(finance: Client, field: str) -> None:
    booked(day_sum(cost="1"))
    for value in ("nobody", "a\0b", "x" * 5000, "\udcff", "' OR 1=1 --", "%s%(a)s"):
        page = finance.get(address("keys") + "?" + urlencode({field: value}, errors="surrogatepass")).content.decode()
        assert f'id="{field}-fault"' in page
        assert '<table class="cc-table" id="lines">' not in page


def test_a_format_that_there_is_not_is_told_and_is_no_file(finance: Client) -> None:
    answer = finance.get(address("keys", format="pdf"))
    assert answer.status_code == 400
    assert "There is no such format: say one of csv, xlsx." in answer.content.decode()


def test_lines_that_name_none_can_be_chosen(finance: Client) -> None:
    booked(day_sum(cost="1", owner=""), day_sum(cost="2"))
    assert [row[:2] for row in rows(opened(finance, "owners", without="owner"))[1:]] == [
        ["(none)", "1.00"],
        ["Total", "1.00"],
    ]
    assert choice(without=["owner", "password", "day__gte"]).chosen == {"owner": ""}


@pytest.mark.parametrize(
    ("period", "words", "name"),
    [
        (NOVEMBER, "November 2026", "2026-11"),
        (Period(TODAY, dt.date(2026, 11, 22)), "21 November 2026", "2026-11-21-to-2026-11-21"),
        (Period(dt.date(2026, 1, 1), dt.date(2027, 1, 1)), "2026", "2026-01-01-to-2026-12-31"),
        (Period(dt.date(2026, 11, 2), TODAY), "2 to 20 November 2026", "2026-11-02-to-2026-11-20"),
        (Period(dt.date(2025, 12, 31), TODAY), "31 December 2025 to 20 November 2026", "2025-12-31-to-2026-11-20"),
        (Period(dt.date(2026, 10, 2), TODAY), "2 October to 20 November 2026", "2026-10-02-to-2026-11-20"),
    ],
)
def test_periods_in_words_and_in_names_of_files(period: Period, words: str, name: str) -> None:
    assert (told(period), file_part(period)) == (words, name)


@pytest.mark.parametrize(
    ("period", "today", "compared"),
    [
        (NOVEMBER, TODAY, Period(OCTOBER.start, dt.date(2026, 10, 22))),
        (NOVEMBER, dt.date(2026, 11, 30), OCTOBER),
        (NOVEMBER, dt.date(2026, 12, 1), OCTOBER),
        (month_of(dt.date(2026, 3, 1)), dt.date(2026, 3, 30), month_of(dt.date(2026, 2, 1))),
        (
            Period(dt.date(2026, 11, 15), dt.date(2026, 11, 22)),
            TODAY,
            Period(dt.date(2026, 11, 8), dt.date(2026, 11, 15)),
        ),
    ],
)
def test_like_is_compared_with_like(period: Period, today: dt.date, compared: Period) -> None:
    assert compared_with(period, today) == compared


# Figures as people read them


@pytest.mark.parametrize(
    ("money", "shown"),
    [
        ("0", "0.00"),
        ("0.00005", "<0.0001"),
        ("0.0001", "0.0001"),
        ("0.99994", "0.9999"),
        ("1", "1.00"),
        ("1234567.891", "1,234,567.89"),
        ("-2.5", "-2.50"),
    ],
)
def test_money_is_rounded_as_its_size_allows(money: str, shown: str) -> None:
    assert rounded(Decimal(money)) == shown


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        (12, 10, "+2 (+20.0%)"),
        (8, 10, "-2 (-20.0%)"),
        (10, 10, "no change"),
        (0, 0, "–"),
        (5, 0, "+5"),
        (Decimal("1.5"), None, "+1.50"),
        (None, Decimal("1.5"), "-1.50 (-100.0%)"),
        (None, None, "–"),
    ],
)
def test_a_change_is_absolute_and_in_per_cent(now: Any, before: Any, words: str) -> None:
    assert change(now, before) == words


def test_what_is_missing_is_a_dash_and_large_counts_are_short() -> None:
    assert amount({}, "USD") == "–"
    assert (short(99_999_999), short(3_739_827_045)) == ("99,999,999", "3,740 million")


def test_sums_of_figures_keep_all_there_is() -> None:
    parts = [Figures(requests=1, failed=1, cost={"USD": Decimal("0.1")}), Figures(requests=2, cost={"EUR": Decimal(1)})]
    together = summed(parts)
    assert (together.requests, together.failed, together.cost) == (3, 1, {"USD": Decimal("0.1"), "EUR": Decimal(1)})
    assert summed([]) == Figures()


# Names that would do harm, and many of them


@pytest.mark.parametrize("part", PARTS)
def test_names_stay_text_on_every_page(finance: Client, part: str) -> None:
    fields = ("key", "owner", "cost_centre", "provider", "model")
    booked(*(day_sum(cost=cost, **dict.fromkeys(fields, name)) for name in HOSTILE for cost in ("1", None)))
    asked = [{}, *({"key": name, "model": name, "from": name, "status": name, "format": name} for name in HOSTILE)]
    for query in asked:
        page = finance.get(address(part, **query)).content.decode()
        assert html.escape(query.get("key", HOSTILE[0])) in page
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "{{7*7}}" in page


def many() -> None:
    first = TODAY - dt.timedelta(days=89)
    booked(
        *(
            day_sum(first + dt.timedelta(days=day), "0.123456789012", key=f"key {key}", owner=f"owner {key % 9}",
                    cost_centre=f"centre {key % 5}", model=f"model {model}", status=status, requests=3, input=10)
            for day in range(90)
            for key in range(40)
            for model in range(6)
            for status in ("completed", "failed")
        )
    )  # fmt: skip


def test_a_quarter_of_forty_keys_is_few_queries_and_no_wait(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    many()
    query = {"from": TODAY - dt.timedelta(days=89), "to": TODAY}
    for part in PARTS:
        began = time.process_time()
        with django_assert_max_num_queries(8):
            page = opened(admin_client, part, **query)
        assert time.process_time() - began < 1.5
        assert "129,600" in page


@pytest.mark.parametrize("part", PARTS)
def test_what_a_member_may_costs_two_queries_more(
    finance: Client, part: str, django_assert_max_num_queries: Any
) -> None:
    booked(day_sum(cost="1"))
    rollups.mark_quarters([dt.datetime(2026, 11, 21, tzinfo=dt.UTC)])
    with django_assert_max_num_queries(10):
        opened(finance, part, key="alice")


def test_a_page_says_up_to_when_its_figures_reach(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "lag", lambda: 3600.0)
    before = timezone.localtime() - dt.timedelta(hours=1)
    told_at = re.search(r"figures up to (\d{4}-\d\d-\d\d \d\d:\d\d)\.", opened(finance))
    assert told_at
    reached = dt.datetime.strptime(told_at[1], "%Y-%m-%d %H:%M").replace(tzinfo=before.tzinfo)
    assert abs(reached - before) < dt.timedelta(minutes=2)
