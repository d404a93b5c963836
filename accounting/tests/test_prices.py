"""Which price holds, and what an answer costs to the last digit."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.prices import PriceList, Rates
from providers.usage import Usage

NEW_YEAR = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TICK = dt.timedelta(microseconds=1)


def rates(number: int = 1, model: str = "m", provider: int | None = None, **fields: Any) -> Rates:
    zero = {
        name: Decimal(0) for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
    }
    values: dict[str, Any] = {"valid_from": NEW_YEAR, "currency": "USD", **zero, **fields}
    return Rates(id=number, model=model, provider_id=provider, **values)


OLD, NEW = rates(1, valid_from=NEW_YEAR - dt.timedelta(days=365)), rates(2)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (OLD.valid_from - TICK, None),
        (OLD.valid_from, 1),
        (NEW_YEAR - TICK, 1),
        (NEW_YEAR, 2),
        (NEW_YEAR + TICK, 2),
        (NEW_YEAR.astimezone(dt.timezone(dt.timedelta(hours=5))), 2),
    ],
)
def test_a_price_holds_from_its_first_moment(moment: dt.datetime, expected: int | None) -> None:
    for rows in ([OLD, NEW], [NEW, OLD]):
        found = PriceList(rows).at(moment, 1, "m")
        assert (found and found.id) == expected


@pytest.mark.parametrize(
    ("model", "provider", "expected"),
    [
        ("claude-haiku", 7, 1),  # the provider's own, by name
        ("claude-sonnet", 7, 2),  # the provider's own pattern before everybody's exact name
        ("claude-sonnet", 8, 3),
        ("claude-opus", 8, 4),  # the pattern with more letters
        ("Claude-OPUS", 8, 4),
        ("clever", 8, 5),
        ("gpt", 8, None),
    ],
)
def test_the_narrowest_price_wins(model: str, provider: int, expected: int | None) -> None:
    prices = PriceList(
        [
            rates(5, "cl*"),
            rates(4, "claude-*"),
            rates(3, "claude-sonnet"),
            rates(2, "claude-*", 7),
            rates(1, "claude-haiku", 7),
        ]
    )
    for _ in range(2):  # the second time from memory
        found = prices.at(NEW_YEAR, provider, model)
        assert (found and found.id) == expected


def test_a_narrow_price_that_is_not_valid_yet_leaves_the_wide_one_in_force() -> None:
    prices = PriceList([rates(1, "m*"), rates(2, "m", valid_from=NEW_YEAR + dt.timedelta(days=1))])
    found = prices.at(NEW_YEAR, 1, "m")
    assert found is not None
    assert found.id == 1


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(), "0"),
        (Usage(input=1), "0.000003"),
        (Usage(output=1), "0.000015"),
        (Usage(cache_read=1), "0.0000003"),
        (Usage(cache_write_5m=1), "0.00000375"),
        (Usage(cache_write_1h=1), "0.000006"),
        (Usage(web_searches=1), "0.01"),
        (Usage(input=1000, cache_read=20_000, cache_write_5m=400, output=700), "0.021"),
        (Usage(output=10, thinking=7), "0.00015"),  # thinking is part of the output
    ],
)
def test_the_cost_of_an_answer(usage: Usage, cost: str) -> None:
    sonnet = rates(
        input=Decimal(3),
        cache_read=Decimal("0.3"),
        cache_write_5m=Decimal("3.75"),
        cache_write_1h=Decimal(6),
        output=Decimal(15),
        web_search=Decimal(10),
    )
    assert sonnet.cost(usage) == Decimal(cost)


def test_a_million_small_costs_add_up_exactly() -> None:
    a_tenth = rates(input=Decimal("0.1"))
    assert sum((a_tenth.cost(Usage(input=1)) for _ in range(1_000_000)), Decimal(0)) == Decimal("0.1")


count = st.integers(0, 10**9)
rate = st.decimals(0, 10_000, places=6)


@given(first=count, second=count, price=rate)
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(first: int, second: int, price: Decimal) -> None:
    row = rates(output=price)
    one, other = Usage(output=first), Usage(output=second)
    assert row.cost(one + other) == row.cost(one) + row.cost(other)
