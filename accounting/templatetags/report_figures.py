"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounting.charts import figure
from accounting.report_choice import Choice, told

register = template.Library()
register.filter("told", told)

NOTHING = "–"


@register.filter
def grouped(count: int) -> str:
    return f"{count:,}"


@register.filter
def short(count: int) -> str:
    """For where there is little room."""
    return f"{count / 1e6:,.0f} million" if count >= 100_000_000 else f"{count:,}"


@register.filter
def percent(share: float) -> str:
    return f"{share:.1%}"


@register.filter
def rounded(money: Decimal) -> str:
    """To hundredths; below one to a hundredth of those. What is there is never shown as nothing."""
    if not money:
        return "0.00"
    if abs(money) >= 1:
        return f"{money:,.2f}"
    return f"{money:.4f}" if abs(money) >= Decimal("0.0001") else "<0.0001"


@register.simple_tag
def amount(money: Mapping[str, Decimal], currency: str) -> str | SafeString:
    """Rounded; a pointer that rests on it sees every digit."""
    if currency not in money:
        return NOTHING
    return format_html('<span title="{}">{}</span>', figure(money[currency], currency), rounded(money[currency]))


@register.simple_tag
def change(now: Any, before: Any) -> str:
    """From before to now, absolute and per cent. Either may be missing."""
    now, before = now or 0, before or 0
    difference = now - before
    if not difference:
        return "no change" if now else NOTHING
    absolute = f"{difference:+,}" if isinstance(difference, int) else _signed(difference)
    return f"{absolute} ({difference / before:+.1%})" if before > 0 else absolute


def _signed(difference: Decimal) -> str:
    return f"{'+' if difference > 0 else '-'}{rounded(abs(difference))}"


@register.filter
def of(money: Mapping[str, Decimal], currency: str) -> Decimal | None:
    return money.get(currency)


@register.simple_tag
def narrowed(choice: Choice, field: str, name: Any) -> str:
    """The part of an address that narrows a report to one of its lines."""
    return (choice.on_day(name) if field == "day" else choice.narrowed(field, name)).query()
