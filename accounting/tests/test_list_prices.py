"""The shipped price list: what of it becomes rows, which row wins, and how it is taken in anew."""

from __future__ import annotations

import datetime as dt
import io
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone

from accounting import list_prices, reports
from accounting.list_prices import BEGINNING, MAKERS, RATES, difference
from accounting.models import DaySum, Price
from accounting.prices import PriceList, Rates
from accounting.snapshot import rates_of
from providers.models import ConfigVersion, Provider

pytestmark = pytest.mark.urls(__name__)
urlpatterns = [path("admin/", admin.site.urls)]

COMPARE, PRICES = "admin:accounting_price_compare", "admin:accounting_price_changelist"
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
SOME_DAYS = [dt.datetime(year, month, 2, 20, tzinfo=dt.UTC) for year, month in ((2025, 3), (2026, 5), (2026, 11))]
LISTINGS = {listing.id: listing for listing in list_prices.listings()}


def provider(name: str = "p", base_url: str = "https://p.example", **fields: Any) -> Provider:
    return Provider.objects.create(name=name, type="openai", base_url=base_url, **fields)


def price_list(rows: list[Price]) -> PriceList:
    for number, row in enumerate(rows, 1):
        row.pk = number
    return PriceList(map(rates_of, rows))


@pytest.fixture(scope="module")
def makers() -> PriceList:
    return price_list(
        [row for name, only in MAKERS.items() for row in list_prices.prices_of(LISTINGS[name], None, only)]
    )


def at(prices: PriceList, model: str, moment: dt.datetime = NOW) -> Rates:
    found = prices.at(moment, 1, model)
    assert found is not None, model
    return found


# What becomes of the package's data


@pytest.mark.parametrize(
    ("model", "figures"),
    [
        ("claude-opus-4-5-20251101", "5 0.5 6.25 10 25 10"),
        ("claude-opus-4-1-20250805", "15 1.5 18.75 30 75 10"),
        ("claude-sonnet-4-20250514", "3 0.3 3.75 6 15 10"),
        ("claude-sonnet-4-5", "3 0.3 3.75 6 15 10"),
        ("claude-haiku-4-5-20251001", "1 0.1 1.25 2 5 10"),
        ("claude-3-5-haiku-20241022", "0.8 0.08 1 1.6 4 10"),
        ("Claude-Sonnet-5-5", "2 0.1 2.5 4 10 10"),
        ("claude-sonnet-5-5-20261001", "2 0.1 2.5 4 10 10"),
        ("gpt-5.1", "1.25 0.125 1.25 1.25 10 10"),
        ("gpt-5.1-2025-11-13", "1.25 0.125 1.25 1.25 10 10"),
        ("gpt-4o-mini", "0.15 0.075 0.15 0.15 0.6 10"),
        ("gemini-2.5-pro", "1.25 0.125 1.25 1.25 10 35"),
        ("grok-4", "3 0.75 3 3 15 0"),
    ],
)
def test_a_model_of_a_great_maker_has_its_price_wherever_it_is_sold(
    makers: PriceList, model: str, figures: str
) -> None:
    found = at(makers, model)
    assert [getattr(found, name) for name in RATES] == [Decimal(figure) for figure in figures.split()]


@pytest.mark.parametrize(
    "model",
    [
        "gpt-oss-120b",  # anyone may serve open weights: each host has its price
        "deepseek-chat",
        "mistral-large-latest",
        "glm-5",
        "gpt-image-1",  # paid by other things than our tokens
        "gpt-realtime",
        "text-embedding-3-small",
        "omni-moderation-latest",
        "gpt-5.1-turbo-of-tomorrow",
        "claude-opus-5-5-preview",
        "my-own-model",
    ],
)
def test_a_model_whose_price_is_not_certain_has_none(makers: PriceList, model: str) -> None:
    assert makers.at(NOW, 1, model) is None


def names_in(clause: Any) -> Iterator[str]:
    """Every name that a rule of the package spells out."""
    kind, value = next(iter(vars(clause).items()))
    if kind in {"or_", "and_"}:
        for part in value:
            yield from names_in(part)
    elif kind != "regex":
        yield value


@pytest.mark.parametrize("seller", LISTINGS)
def test_no_row_says_anything_but_the_package(seller: str) -> None:
    """For every name it spells out, on several days, the row that wins has the price the package itself finds."""
    listing = LISTINGS[seller]
    rows = list(list_prices.prices_of(listing, None))
    prices, wrong = price_list(rows), []
    by_hour = {row.model for row in rows if "other rates at" in row.source}
    for name in {name for model in listing.models for name in names_in(model.match)}:
        model = listing._match_model(name.lower())
        for day in SOME_DAYS:
            found = prices.at(day, 1, name)
            if found is None or found.model in by_hour:
                continue
            wanted = list_prices.our_rates(model.get_prices(day), model.id)
            if wanted is None or any(getattr(found, rate) != figure for rate, figure in wanted[0].items()):
                wrong.append((name, day, found))
    assert wrong == []


def test_what_a_row_leaves_out_it_says() -> None:
    sources = {row.model: row.source for row in list_prices.prices_of(LISTINGS["anthropic"], None)}
    assert "base rates, others above 200,000 tokens of input" in sources["claude-sonnet-4-5*"]
    assert sources["claude-opus-4-5*"].endswith(f"{timezone.now():%Y-%m-%d}")
    assert sources["claude-opus-4-5*"].startswith("genai-prices ")
    sources = {row.model: row.source for row in list_prices.prices_of(LISTINGS["deepseek"], None)}
    assert "other rates at 01:00-04:00, 06:00-10:00 UTC" in sources["deepseek-v4-pro*"]
    sources = {row.model: row.source for row in list_prices.prices_of(LISTINGS["openrouter"], None)}
    assert "cache writes for 1 h derived: twice the input" in sources["anthropic/claude-opus-4.5"]
    assert "cache reads priced as input" in sources["ai21/jamba-instruct"]


def test_a_price_that_changed_on_a_day_is_a_row_for_each_time(makers: PriceList) -> None:
    before, after = dt.datetime(2025, 6, 9, 23, 59, tzinfo=dt.UTC), dt.datetime(2025, 6, 10, tzinfo=dt.UTC)
    assert at(makers, "o3", before).input == 10
    assert at(makers, "o3", after).input == 2
    assert at(makers, "o3", BEGINNING).input == 10


def test_the_package_asks_nobody_over_the_network() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from genai_prices.data import providers\n"
        "import threading\n"
        "print(len(providers), threading.active_count())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert int(told[0]) > 10
    assert told[1] == "1"


@pytest.mark.parametrize(
    ("regex", "patterns"),
    [
        (r"^claude-opus-5-5-\d{8}$", ["claude-opus-5-5-20??????"]),
        (r"^claude-opus-5[-@]\d{8}$", ["claude-opus-5-20??????", "claude-opus-5@20??????"]),
        (r"^gpt-5\.6-luna-\d{4}-\d{2}-\d{2}$", ["gpt-5.6-luna-20??-??-??"]),
        (r"^x-ai/grok-4\.3-\d{8}$", ["x-ai/grok-4.3-20??????"]),
        (r"^gemini-3\.5-flash-\d", ["gemini-3.5-flash-[0-9]*"]),
        (r"^(?!.*-tts$)", []),
        (r"^o[134]", []),
        (r"claude", []),
        (r"^claude-.*$", []),
    ],
)
def test_an_expression_becomes_a_pattern_only_where_it_says_the_same(regex: str, patterns: list[str]) -> None:
    assert list_prices.names_of_regex(regex) == patterns


# Whose price wins


def row(
    number: int, model: str = "claude-*", *, listed: bool = False, day: int = 1, provider: int | None = None
) -> Rates:
    zero = dict.fromkeys(RATES, Decimal(0))
    moment = dt.datetime(2026, 1, day, tzinfo=dt.UTC)
    return Rates(id=number, model=model, provider_id=provider, valid_from=moment, currency="USD", listed=listed, **zero)


@pytest.mark.parametrize(
    "listed",
    [
        row(2, "claude-opus", listed=True),
        row(2, "claude-opus", listed=True, day=9),
        row(2, "claude-opus", listed=True, provider=1),
        row(2, "claude-o*", listed=True),
    ],
)
def test_a_price_of_ones_own_wins_over_every_listed_one(listed: Rates) -> None:
    for rows in ([row(1), listed], [listed, row(1)]):
        assert at(PriceList(rows), "claude-opus").id == 1


def test_until_ones_own_price_holds_the_listed_one_does() -> None:
    prices = PriceList([row(1, day=5), row(2, "claude-opus", listed=True)])
    assert at(prices, "claude-opus", dt.datetime(2026, 1, 4, tzinfo=dt.UTC)).id == 2
    assert at(prices, "claude-opus", dt.datetime(2026, 1, 5, tzinfo=dt.UTC)).id == 1


def test_a_hosts_own_price_wins_over_the_makers() -> None:
    prices = PriceList([row(1, "claude-opus", listed=True), row(2, "claude*", listed=True, provider=1)])
    assert at(prices, "claude-opus").id == 2


# Taking it in


@pytest.mark.django_db
def test_the_first_run_fills_the_list_once() -> None:
    count = list_prices.fill()
    assert count == Price.objects.count() > 300
    assert not Price.objects.filter(listed=False).exists()
    Price.objects.filter(model="claude-opus-4-5*").delete()
    assert list_prices.fill() == 0
    assert not Price.objects.filter(model="claude-opus-4-5*").exists()


@pytest.mark.django_db
def test_prices_of_ones_own_or_of_one_host_do_not_stand_for_the_list() -> None:
    Price.objects.create(model="claude-*", input=1)
    list_prices.fill_for(provider("r", "https://openrouter.ai/api/v1").pk)
    assert list_prices.fill() > 300
    assert Price.objects.filter(listed=False).get().input == 1


@pytest.mark.django_db(transaction=True)
def test_a_new_provider_brings_the_prices_of_its_host() -> None:
    host = provider("r", "https://openrouter.ai/api/v1")
    assert Price.objects.filter(provider=host).count() > 1000
    books = PriceList(map(rates_of, Price.objects.all()))
    found = books.at(NOW, host.pk, "anthropic/claude-sonnet-4.5")
    assert found is not None
    assert [found.input, found.output, found.cache_write_1h] == [Decimal(3), Decimal(15), Decimal(6)]
    host.base_url = "https://api.groq.com/openai/v1"
    host.save()
    sellers = {list_prices.seller_of(price) for price in Price.objects.filter(provider=host)}
    assert sellers == {"Groq"}
    host.base_url = "http://127.0.0.1:8000"
    host.save()
    assert not Price.objects.filter(provider=host).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "base_url",
    ["https://p.example/api.deepseek.com", "https://api.openai.com/v1", "http://127.0.0.1:1", "http://[::1]:1"],
)
def test_no_other_provider_gets_prices_of_its_own(base_url: str) -> None:
    provider(base_url=base_url)
    assert not Price.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_saving_a_provider_anew_leaves_prices_alone() -> None:
    host = provider("d", "https://api.deepseek.com/anthropic")
    before = list(Price.objects.values_list("pk", flat=True))
    version = ConfigVersion.current()
    host.enabled = False
    host.save()
    assert list(Price.objects.values_list("pk", flat=True)) == before != []
    assert ConfigVersion.current() == version + 1


@pytest.mark.django_db(transaction=True)
def test_the_demo_costs_nothing() -> None:
    demo = provider("demo", "http://127.0.0.1:1", is_demo=True)
    list_prices.fill()
    books = PriceList(map(rates_of, Price.objects.all()))
    found = books.at(NOW, demo.pk, "claude-opus-4-5")
    assert found is not None
    assert [found.input, found.output] == [Decimal(0), Decimal(0)]
    other = books.at(NOW, demo.pk + 1, "claude-opus-4-5")
    assert other is not None
    assert other.input == 5


def edited(model: str, **figures: Any) -> Price:
    """As if the shipped list had said something else when it was taken in."""
    Price.objects.filter(model=model, listed=True).update(**figures)
    return Price.objects.get(model=model, listed=True)


@pytest.mark.django_db
def test_a_changed_figure_becomes_a_new_row_and_the_old_one_stays() -> None:
    list_prices.fill()
    old = edited("claude-opus-4-5*", input=Decimal(99), output=Decimal("24.5"))
    own = Price.objects.create(model="claude-opus-4-5*", input=7)
    found = difference()
    (change,) = found.changed
    assert (found.new, found.gone) == ([], [])
    assert change.figures() == [("input", Decimal(99), Decimal(5)), ("output", Decimal("24.5"), Decimal(25))]
    before, rows = timezone.now() - dt.timedelta(minutes=1), Price.objects.count()
    assert found.take_in() == 1
    assert Price.objects.count() == rows + 1
    fresh = Price.objects.filter(model="claude-opus-4-5*", listed=True).latest("valid_from")
    old.refresh_from_db()
    own.refresh_from_db()
    assert (old.input, old.valid_from, own.input) == (99, BEGINNING, 7)
    assert (fresh.input, fresh.valid_from > before, fresh.source) == (5, True, change.then.source)
    books = PriceList(rates_of(price) for price in Price.objects.filter(listed=True))
    assert at(books, "claude-opus-4-5-20251101", before).input == 99
    assert at(books, "claude-opus-4-5-20251101", timezone.now()).input == 5
    assert difference() == list_prices.Difference([], [], [])


@pytest.mark.django_db
def test_an_announced_change_that_was_put_off_is_put_right() -> None:
    """Rows of the future are changes too; where a moment is taken already, the new row begins right after it."""
    list_prices.fill()
    announced = timezone.now() + dt.timedelta(days=30)
    wrong = Price.objects.get(model="gpt-5.1", listed=True)
    Price.objects.create(model="gpt-5.1", listed=True, valid_from=announced, input=77, source=wrong.source)
    (change,) = difference().changed
    assert (change.now.input, change.then.input) == (77, Decimal("1.25"))
    assert change.then.valid_from == announced + dt.timedelta(microseconds=1)
    difference().take_in()
    assert difference().changed == []


@pytest.mark.django_db
def test_new_and_gone_names_are_told_and_only_the_new_ones_added() -> None:
    list_prices.fill()
    Price.objects.filter(model__in=["gpt-5.1", "gpt-4.1"]).delete()
    kept = Price.objects.create(model="gone-model", listed=True, input=3)
    found = difference()
    assert sorted(price.model for price in found.new) == ["gpt-4.1", "gpt-5.1"]
    assert [price.model for price in found.gone] == ["gone-model"]
    assert found.take_in() == 2
    kept.refresh_from_db()
    assert kept.input == 3


@pytest.mark.django_db
def test_taking_in_moves_the_configuration_and_nothing_does_not() -> None:
    before = ConfigVersion.current()
    list_prices.fill()
    filled = ConfigVersion.current()
    assert filled > before
    difference().take_in()
    assert ConfigVersion.current() == filled


@pytest.mark.django_db
def test_two_who_take_in_the_same_at_once_are_no_conflict() -> None:
    first, second = difference(), difference()
    first.take_in()
    second.take_in()
    assert difference().new == []
    assert Price.objects.filter(model="gpt-5.1").count() == 1


def told(*arguments: str) -> str:
    out = io.StringIO()
    call_command("update_prices", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_the_command_says_what_it_does_and_a_dry_run_does_nothing() -> None:
    list_prices.fill()
    edited("claude-opus-4-5*", input=Decimal(99))
    Price.objects.filter(model="gpt-5.1").delete()
    Price.objects.create(model="gone-model", listed=True)
    rows = Price.objects.count()
    dry = told("--dry-run")
    assert Price.objects.count() == rows
    assert "new      gpt-5.1 from 2020-01-01" in dry
    assert f"changed  claude-opus-4-5* from {timezone.now():%Y-%m-%d}: input 99 -> 5" in dry
    assert "gone     gone-model" in dry
    assert "Nothing was written: 2 rows would be added." in dry
    assert "2 rows were added from genai-prices" in told()
    assert Price.objects.count() == rows + 2
    assert "0 rows were added" in told()


# In the admin


@pytest.mark.django_db
def test_the_difference_is_shown_before_it_is_taken_in(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    list_prices.fill()
    edited("claude-opus-4-5*", input=Decimal(99))
    Price.objects.filter(model="gpt-5.1").delete()
    Price.objects.create(model="<script>alert(1)</script>", listed=True)
    rows = Price.objects.count()
    with django_assert_max_num_queries(9):
        page = admin_client.get(reverse(COMPARE)).content.decode()
    assert "input 99 → 5" in page
    assert "gpt-5.1" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "Add 2 rows" in page
    assert Price.objects.count() == rows
    after = admin_client.post(reverse(COMPARE), follow=True).content.decode()
    assert "Prices added: 2." in after
    assert Price.objects.count() == rows + 2
    assert "There is nothing to add" in admin_client.get(reverse(COMPARE)).content.decode()


@pytest.mark.django_db
def test_only_who_may_add_prices_compares(client: Client, django_user_model: Any) -> None:
    assert client.get(reverse(COMPARE)).status_code == 302
    client.force_login(django_user_model.objects.create_user("finance", is_staff=True))
    assert client.get(reverse(COMPARE)).status_code == 403
    assert client.post(reverse(COMPARE)).status_code == 403
    assert not Price.objects.exists()


@pytest.mark.django_db
def test_a_listed_price_is_not_edited_and_ones_own_is_offered(admin_client: Client) -> None:
    list_prices.fill()
    listed = Price.objects.get(model="claude-3-5-haiku*")
    address = reverse("admin:accounting_price_change", args=[listed.pk])
    page = admin_client.get(address).content.decode()
    assert 'name="_save"' not in page
    assert 'name="input"' not in page
    assert ">0.8<" in page.replace("\n", "").replace(" ", "")
    assert "0.800000" not in page
    assert admin_client.post(address, {"input": "1"}).status_code == 403
    assert reverse("admin:accounting_price_add") in page


@pytest.mark.django_db
def test_the_list_of_prices_is_read_in_a_few_queries(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    list_prices.fill_for(provider("r", "https://openrouter.ai/api/v1").pk)
    list_prices.fill()
    Price.objects.create(model="zzz-own", input=Decimal("0.8"))
    with django_assert_max_num_queries(9):
        answer = admin_client.get(reverse(PRICES))
    page = answer.content.decode()
    assert len(answer.context["cl"].result_list) == 50
    assert answer.context["cl"].result_list[0].model == "zzz-own"
    assert "0.800000" not in page
    assert "always" in page


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "models"),
    [
        ({"origin": "own"}, ["m"]),
        ({"origin": "listed"}, ["a", "b"]),
        ({"origin": "nonsense"}, ["m", "a", "b"]),
        ({"provider": "any"}, ["m", "a"]),
        ({"provider": "nonsense"}, []),
        ({"q": "of may"}, ["m"]),
    ],
)
def test_prices_are_chosen_by_origin_provider_and_words(
    admin_client: Client, query: dict[str, str], models: list[str]
) -> None:
    Price.objects.create(model="m", source="contract of May")
    Price.objects.create(model="a", listed=True)
    Price.objects.create(model="b", listed=True, provider=provider())
    rows = admin_client.get(reverse(PRICES), query).context["cl"].result_list
    assert [price.model for price in rows] == models


FORM = {"model": "m", "provider": "", "valid_from_0": "2026-01-01", "valid_from_1": "00:00:00", "source": ""}
FORM |= {"currency": "usd", **dict.fromkeys(RATES, "1")}


@pytest.mark.django_db
def test_what_is_wrong_with_a_price_stands_beside_its_field(admin_client: Client) -> None:
    add = reverse("admin:accounting_price_add")
    Price.objects.create(model="m", valid_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), listed=True)
    assert admin_client.post(add, FORM).status_code == 302
    assert Price.objects.get(listed=False).currency == "USD"
    for name, text, sentence in (
        ("source", "again", "has a price from this very moment already"),
        ("currency", "€€€", "Three letters are expected"),
        ("input", "-1", "greater than or equal to 0"),
        ("output", "0.0000001", "no more than 6 decimal places"),
    ):
        answer = admin_client.post(add, {**FORM, name: text})
        assert answer.status_code == 200
        assert sentence in answer.content.decode()
    assert Price.objects.filter(listed=False).count() == 1


@pytest.mark.django_db
def test_rates_of_nothing_are_pointed_out(admin_client: Client) -> None:
    page = admin_client.post(reverse("admin:accounting_price_add"), {**FORM, "cache_read": "0"}, follow=True)
    assert "Costs nothing at this price: cache read." in page.content.decode()


# Which models lack one


@pytest.mark.django_db
def test_models_without_a_price_are_told_with_how_often_they_answered() -> None:
    today = dt.date(2026, 1, 15)

    def summed(model: str, unpriced: int, day: dt.date = today, provider: str = "p") -> None:
        counts = {
            field.name: 0 for field in DaySum._meta.get_fields() if field.get_internal_type() == "BigIntegerField"
        }
        counts |= {"requests": 9, "unpriced": unpriced}
        DaySum.objects.create(
            day=day, key="k", provider=provider, model="m", upstream_model=model, status="completed", **counts
        )

    summed("dark", 2)
    summed("dark", 3)
    summed("darker", 9, provider="q")
    summed("known", 0)
    summed("", 4, provider="")  # nobody was reached
    summed("long ago", 5, day=dt.date(2025, 12, 31))
    assert list_prices.unpriced(reports.month_of(today)) == [("q", "darker", 9), ("p", "dark", 5)]
