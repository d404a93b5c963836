"""Figures of a time, whole and divided, exact to the last unit."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from accounting import reports
from accounting.ledger import CUT, FAILED
from accounting.models import DaySum
from accounting.reports import Figures, Period
from accounting.rollups import roll_up
from accounting.tests.requests import booked, request
from providers.usage import Usage

pytestmark = pytest.mark.django_db

MARCH = reports.month_of(dt.date(2026, 3, 31))


@pytest.fixture
def ledger() -> None:
    booked(
        request("2026-02-28T23:59:59Z", Usage(input=1_000_000)),
        request("2026-03-01T00:00:00Z", Usage(input=1, cache_read=2, cache_write_5m=3, cache_write_1h=4, output=5)),
        request("2026-03-31T23:59:59Z", Usage(output=1), key="bob", cost_centre="R&D", first_byte_ms=201),
        request("2026-03-31T12:00:00Z", Usage(output=2), upstream_model="mistral-large", key="bob", owner="Olga"),
        request("2026-03-31T12:00:00Z", Usage(), status=FAILED, first_byte_ms=None, failed_before=Usage(input=7)),
        request("2026-03-31T12:00:00Z", Usage(output=3), status=CUT, upstream_model="unknown"),
        request("2026-04-01T00:00:00Z", Usage(input=1_000_000)),
    )
    roll_up()


def test_a_total_is_exact_and_keeps_currencies_apart(ledger: None) -> None:
    total = reports.total(MARCH)
    assert (total.requests, total.attempts, total.failed, total.unpriced) == (5, 6, 2, 1)
    assert (total.input, total.cache_read, total.cache_write, total.output, total.tokens) == (1, 2, 7, 11, 21)
    # 1 at 3, 2 at 0.3, 3 at 3.75, 4 at 6 and 5 at 15; and 1 at 15
    assert total.cost == {"USD": Decimal("0.00012885"), "EUR": Decimal("0.00003")}
    assert total.attempts_cost == {"USD": Decimal("0.00014985"), "EUR": Decimal("0.00003")}
    assert total.mean_first_byte_ms == round((100 + 201 + 100 + 100) / 4)
    assert total.error_share == 2 / 5


def test_nothing_is_a_total_too() -> None:
    total = reports.total(MARCH)
    assert total == Figures()
    assert (total.mean_first_byte_ms, total.error_share) == (None, 0.0)


def test_figures_are_divided_by_one_dimension_or_several(ledger: None) -> None:
    by_key = reports.by("key", MARCH)
    assert {key: figures.requests for key, figures in by_key.items()} == {"alice": 3, "bob": 2}
    assert by_key["bob"].cost == {"USD": Decimal("0.000015"), "EUR": Decimal("0.00003")}
    assert {day: figures.output for day, figures in reports.by("day", MARCH).items()} == {
        dt.date(2026, 3, 1): 5,
        dt.date(2026, 3, 31): 6,
    }
    by_both = reports.by_all(("key", "status"), MARCH)
    assert {both: figures.requests for both, figures in by_both.items()} == {
        ("alice", "completed"): 1,
        ("alice", "failed"): 1,
        ("alice", "cut"): 1,
        ("bob", "completed"): 2,
    }


@pytest.mark.parametrize("dimension", reports.DIMENSIONS)
def test_the_parts_add_up_to_the_whole(ledger: None, dimension: str) -> None:
    total, parts = reports.total(MARCH), reports.by(dimension, MARCH).values()
    for name in (*reports.COUNTS, "failed"):
        assert sum(getattr(part, name) for part in parts) == getattr(total, name)
    for name in reports.MONEY:
        for currency, amount in getattr(total, name).items():
            assert sum(getattr(part, name).get(currency, 0) for part in parts) == amount


def test_a_report_is_of_what_was_chosen(ledger: None) -> None:
    assert reports.total(MARCH, key="bob").requests == 2
    assert reports.total(MARCH, cost_centre="R&D").output == 1
    assert reports.by("model", MARCH, status__in=["failed"])["claude-opus"].requests == 1


def test_a_report_is_one_query(ledger: None, django_assert_num_queries: object) -> None:
    with django_assert_num_queries(1):  # type: ignore[operator]
        reports.by_all(("key", "model", "day"), MARCH)


def test_sums_beyond_what_a_database_adds_are_exact() -> None:
    """SQLite adds in 64 bits: nine million of a currency, in 10^-12."""
    booked(*[request(key=key, usage=Usage(output=400_000_000_001)) for key in ("alice", "bob", "carol")])
    roll_up()
    assert DaySum.objects.count() == 3
    assert reports.total(MARCH).cost == {"USD": Decimal("18000000.000045")}
    assert reports.by("key", MARCH)["bob"].cost == {"USD": Decimal("6000000.000015")}


@pytest.mark.parametrize(
    ("period", "before"),
    [
        (MARCH, Period(dt.date(2026, 2, 1), dt.date(2026, 3, 1))),
        (Period(dt.date(2026, 1, 1), dt.date(2026, 2, 1)), Period(dt.date(2025, 12, 1), dt.date(2026, 1, 1))),
        (Period(dt.date(2026, 3, 2), dt.date(2026, 3, 9)), Period(dt.date(2026, 2, 23), dt.date(2026, 3, 2))),
        (Period(dt.date(2026, 3, 1), dt.date(2026, 5, 1)), Period(dt.date(2025, 12, 30), dt.date(2026, 3, 1))),
    ],
)
def test_a_time_is_compared_with_the_one_before(period: Period, before: Period) -> None:
    assert period.before() == before
    assert before.end == period.start
