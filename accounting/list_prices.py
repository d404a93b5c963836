"""The prices that come with the product: what the genai-prices package knows, as rows of our own price list.

The package is read as data; nobody is asked over the network.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
from django.db import transaction
from django.db.models.signals import post_save
from django.utils import timezone

from accounting import reports
from accounting.models import Price
from providers.models import Provider

PACKAGE = "genai-prices"
# Bills from the first day on are priced: what the list dates no further holds since then.
BEGINNING = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
A_MOMENT = dt.timedelta(milliseconds=1)
RATES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
# Makers whose models cost the same wherever they are sold under their own names, and which names those are. What anyone
# may serve (open weights) has a price per host: those rows belong to the providers whose address is that host's.
MAKERS = {
    "anthropic": re.compile(r"claude"),
    "openai": re.compile(r"(?!gpt-oss)"),
    "google": re.compile(r"gemini"),
    "x-ai": re.compile(r"grok"),
}
# Rates of ours by their names in the package, and those of what no request of ours brings. A model with any other is
# left out: its bill would not be the sum of ours.
THEIRS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
THEIRS_PER_THOUSAND = "web_searches_kcount"
NEVER_USED = {"input_audio_mtok", "cache_audio_read_mtok", "storage_searches_kcount"}
FREE = ":free"
DEMO_SOURCE = "The built-in demo costs nothing."
SMALLEST_RATE = Decimal("0.000001")


class Change(msgspec.Struct, frozen=True):
    """A row that will hold instead of another; `now` is what holds at that moment as things stand."""

    now: Price
    then: Price

    def figures(self) -> list[tuple[str, Decimal, Decimal]]:
        """Those that differ."""
        both = [(name, getattr(self.now, name), getattr(self.then, name)) for name in RATES]
        return [(name, now, then) for name, now, then in both if now != then]


class Difference(msgspec.Struct, frozen=True):
    """Between the list that comes with the product and the listed rows that stand in the database."""

    new: list[Price]
    changed: list[Change]
    gone: list[Price]

    def take_in(self) -> int:
        """Adds rows and touches none: a bill of yesterday stays explained."""
        rows = [*self.new, *(change.then for change in self.changed)]
        if rows:
            # Somebody who takes the same rows in at the same time is no conflict.
            Price.objects.bulk_create(rows, batch_size=500, ignore_conflicts=True)
        return len(rows)


def difference() -> Difference:
    now = timezone.now()
    shipped = series(shipped_prices())
    standing = series(Price.objects.filter(listed=True).select_related("provider"))
    found = Difference([], [], [rows[-1] for name, rows in standing.items() if name not in shipped])
    for name, rows in shipped.items():
        if name in standing:
            found.changed.extend(changes(standing[name], rows, now))
        else:
            found.new.extend(rows)
    return found


Series = dict[tuple[int | None, str], list[Price]]


def series(prices: Iterable[Price]) -> Series:
    """The rows of each name at each provider, the oldest first."""
    found: Series = {}
    for price in sorted(prices, key=lambda price: price.valid_from):
        found.setdefault((price.provider_id, price.model.lower()), []).append(price)
    return found


def changes(standing: list[Price], shipped: list[Price], now: dt.datetime) -> Iterator[Change]:
    """What must be added so that from now on both say the same; what they said before is history."""
    rows = list(standing)
    for moment in sorted({now, *(price.valid_from for price in (*standing, *shipped) if price.valid_from > now)}):
        holds, wanted = valid_at(rows, moment + A_MOMENT), valid_at(shipped, moment + A_MOMENT)
        if rates(holds) == rates(wanted):
            continue
        # Of a row that begins at the very moment the successor begins right after it.
        start, taken = moment, {row.valid_from for row in rows}
        while start in taken:
            start += dt.timedelta(microseconds=1)
        then = copied(wanted, start)
        rows.append(then)
        yield Change(holds, then)


def valid_at(prices: list[Price], moment: dt.datetime) -> Price:
    past = [price for price in prices if price.valid_from <= moment]
    return max(past or prices[:1], key=lambda price: price.valid_from)


def rates(price: Price) -> tuple[Any, ...]:
    return price.currency, *(getattr(price, name) for name in RATES)


def copied(price: Price, valid_from: dt.datetime) -> Price:
    fields = ("model", "provider", "currency", *RATES, "source", "listed")
    return Price(valid_from=valid_from, **{name: getattr(price, name) for name in fields})


def fill() -> int:
    """The whole list, where none of it stands yet but what `fill_for` brought."""
    return 0 if Price.objects.filter(listed=True, provider=None).exists() else difference().take_in()


def fill_for(provider_id: int) -> None:
    """The prices of a provider's host, for one that has none yet or has moved to another host."""
    provider = Provider.objects.filter(pk=provider_id).first()
    if provider is None:
        return
    shipped = list(prices_at(provider))
    sellers = {seller_of(price) for price in shipped}
    standing = Price.objects.filter(listed=True, provider=provider)
    if sellers == {seller_of(price) for price in standing}:
        return
    with transaction.atomic():
        standing.delete()
        Price.objects.bulk_create(shipped, batch_size=500, ignore_conflicts=True)


def follow_provider(instance: Provider, **_: Any) -> None:
    transaction.on_commit(functools.partial(fill_for, instance.pk), robust=True)


# Connected as soon as the admin is loaded, which every process does.
post_save.connect(follow_provider, sender=Provider, dispatch_uid="list prices follow providers")


def unpriced(period: reports.Period) -> list[tuple[str, str, int]]:
    """Which models answered in these days without a price: provider, the provider's name for it, requests."""
    found = reports.by_all(("provider", "upstream_model"), period, unpriced__gt=0)
    named = [(provider, model, figures.unpriced) for (provider, model), figures in found.items() if model]
    return sorted(named, key=lambda line: (-line[2], line))


# From the package's form into ours


def shipped_prices() -> Iterator[Price]:
    """Every row that belongs into the list, for the providers as they are now."""
    for listing in listings():
        if pattern := MAKERS.get(listing.id):
            yield from prices_of(listing, None, only=pattern)
    for provider in Provider.objects.all():
        yield from prices_at(provider)


def prices_at(provider: Provider) -> Iterator[Price]:
    if provider.is_demo:
        yield Price(model="*", provider=provider, valid_from=BEGINNING, source=DEMO_SOURCE, listed=True)
        return
    listing = next((each for each in listings() if re.match(each.api_pattern, provider.base_url)), None)
    if listing and listing.id not in MAKERS:
        yield from prices_of(listing, provider)


def listings() -> list[Any]:
    """What the package has, by seller. Read when it is needed: it takes 20 MB."""
    from genai_prices.data import providers

    return providers


def prices_of(listing: Any, provider: Provider | None, only: re.Pattern[str] = re.compile("")) -> Iterator[Price]:
    """Of two models that share a name, the first has it, as in the package itself."""
    taken: set[str] = set()
    source = source_of(listing.name)
    for model in listing.models:
        dated = dated_rates(model) if only.match(model.id) else []
        for name in names(model.match):
            if name.lower() in taken or len(name) > 200:
                continue
            taken.add(name.lower())
            for valid_from, values, notes in dated:
                told = "; ".join((source, *notes))
                yield Price(
                    model=name, provider=provider, valid_from=valid_from, source=told[:200], listed=True, **values
                )


def edition() -> str:
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def source_of(seller: str) -> str:
    """With the day it was taken in: the package does not say when it looked."""
    return f"{edition()}, {seller}, {timezone.now():%Y-%m-%d}"


def seller_of(price: Price) -> str:
    """As `source_of` wrote it."""
    return price.source if price.source == DEMO_SOURCE else "".join(price.source.split(", ")[1:2])


Dated = tuple[dt.datetime, dict[str, Decimal], list[str]]


def dated_rates(model: Any) -> list[Dated]:
    """Its rates from each date on; nothing where they cannot be told in ours."""
    conditional = [(part.constraint, part.prices) for part in model.prices] if isinstance(model.prices, list) else []
    found: list[Dated] = []
    hours = []
    for constraint, prices in conditional or [(None, model.prices)]:
        if hasattr(constraint, "start_time"):
            hours.append(f"{constraint.start_time:%H:%M}-{constraint.end_time:%H:%M}")
            continue
        figures = our_rates(prices, model.id)
        if figures is None:
            return []
        # Before its first date the list means the first of them.
        first = constraint is None or not found
        found.append((BEGINNING if first else midnight(constraint.start_date), *figures))
    starts = [start for start, *_ in found]
    if starts != sorted(set(starts)):
        return []
    if hours:
        for _, _, notes in found:
            notes.append(f"other rates at {', '.join(hours)} UTC")
    return found


def midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def our_rates(prices: Any, name: str) -> tuple[dict[str, Decimal], list[str]] | None:
    """And what must be said about them: a base rate where there are tiers, what was derived."""
    given = {key: value for key, value in vars(prices).items() if value is not None and key not in NEVER_USED}
    if not given and name.endswith(FREE):
        return dict.fromkeys(RATES, Decimal(0)), []
    if not {"input_mtok", "output_mtok"} <= given.keys() <= {*THEIRS, THEIRS_PER_THOUSAND}:
        return None
    tiers = [tier.start for value in given.values() for tier in getattr(value, "tiers", ())]
    base = {key: getattr(value, "base", value) for key, value in given.items()}
    notes = [f"base rates, others above {min(tiers):,} tokens of input"] if tiers else []
    values = {
        "input": base["input_mtok"],
        "output": base["output_mtok"],
        "cache_read": base.get("cache_read_mtok", base["input_mtok"]),
        "cache_write_5m": base.get("cache_write_mtok", base["input_mtok"]),
        "web_search": base.get(THEIRS_PER_THOUSAND, Decimal(0)),
    }
    values["cache_write_1h"], derived = for_an_hour(base, name)
    notes += ["cache reads priced as input"] if "cache_read_mtok" not in base else []
    notes += [derived] if derived else []
    exact = all(value == value.quantize(SMALLEST_RATE) for value in values.values())
    return (values, notes) if exact else None


def for_an_hour(base: dict[str, Decimal], name: str) -> tuple[Decimal, str]:
    if "cache_write_1h_mtok" in base:
        return base["cache_write_1h_mtok"], ""
    if "cache_write_mtok" in base and "claude" in name:
        return 2 * base["input_mtok"], "cache writes for 1 h derived: twice the input"
    return base.get("cache_write_mtok", base["input_mtok"]), ""


def names(clause: Any) -> list[str]:
    """What a rule of the package matches, as names and patterns of ours; nothing where they cannot say it."""
    kind, value = next(iter(vars(clause).items()))
    if kind in {"or_", "and_"}:
        # Of a name that must also not be something, the former is told: what is excluded has rows of its own.
        return [name for part in value for name in names(part)]
    if kind == "regex":
        return names_of_regex(value)
    if re.search(r"[*?\[]", value):
        return []
    before, after = {"equals": ("", ""), "starts_with": ("", "*"), "ends_with": ("*", ""), "contains": ("*", "*")}[kind]
    return [f"{before}{value}{after}"]


def names_of_regex(regex: str) -> list[str]:
    """Of a name with a date, with or without dashes; other expressions say too much."""
    dated = re.fullmatch(r"\^(?P<name>(?:[\w@/:-]|\\\.)+?)(?P<mark>-|@|\[-@\])(?P<date>\\d(\{8\}\$|\{4\}-.*|))", regex)
    if dated is None:
        return []
    ending = {r"\d{8}$": "20??????", r"\d{4}-\d{2}-\d{2}$": "20??-??-??", r"\d": "[0-9]*"}.get(dated["date"])
    name = dated["name"].replace("\\.", ".")
    return [f"{name}{mark}{ending}" for mark in dated["mark"].strip("[]")] if ending else []
