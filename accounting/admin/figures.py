"""How the admin writes moments, money and rates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString


def moment(when: dt.datetime | None) -> str:
    """To the second, in the books' time zone."""
    return f"{timezone.localtime(when):%Y-%m-%d %H:%M:%S}" if when else ""


def minute(when: dt.datetime | None) -> str:
    return moment(when)[:-3]


def unbroken(text: str) -> SafeString:
    """In one line, however narrow the column is."""
    return format_html('<span class="whitespace-nowrap">{}</span>', text)


def money(amounts: Mapping[str, Decimal]) -> str:
    """Rounded to be read; by currency, for currencies cannot be added."""
    rounded = (
        f"{amount:,.{2 if abs(amount) >= 1 else 4}f} {currency}"
        for currency, amount in sorted(amounts.items())
        if amount
    )
    return " + ".join(rounded) or "0"


def plain(number: Decimal | None) -> str:
    """Exact, without needless zeros."""
    return "" if number is None else f"{number.normalize():f}"


def number(text: str | None) -> int:
    """What stands in an address may be anything; no row has the number 0."""
    return int(text) if text and text.isdecimal() and len(text) < 19 else 0
