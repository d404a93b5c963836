"""A ledger full of believable rows: for trying the reports, and for measuring them."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from accounting import rollups
from accounting.booking import book
from accounting.ledger import (
    CANCELLED,
    COMPLETED,
    COUNTED,
    CUT,
    ESTIMATED,
    FAILED,
    INTERRUPTED,
    UPSTREAM,
    Attempt,
    Row,
    Settled,
)
from accounting.models import ApiKey, CostCentre, DirtyQuarter, Price, UsageAttempt, UsageRecord
from accounting.prices import PriceList
from accounting.snapshot import KeyCard, card_of, rates_of
from providers.identity import base62
from providers.models import Provider
from providers.usage import Usage

BATCH = 5000
COST_CENTRES = ("research", "platform", "support", "")
OWNERS = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Radia")
FIRST, SECOND, EUROPE = "sample-first", "sample-second", "sample-europe"
# Where and as what a model is asked, how often in a thousand, and its currency and prices per million tokens: input,
# read from a cache, written to one for 5 minutes and for an hour, output. One of them has no price.
MODELS = (
    (FIRST, "claude-sonnet-5-5", "claude-sonnet-5-5", 560, ("USD", "3", "0.3", "3.75", "6", "15")),
    (FIRST, "claude-opus-4-5", "claude-opus-4-5", 150, ("USD", "5", "0.5", "6.25", "10", "25")),
    (SECOND, "claude-haiku-4-5", "openai/gpt-5-mini", 275, ("USD", "0.25", "0.025", "0", "0", "2")),
    (EUROPE, "claude-sonnet-5-5", "mistral-large", 12, ("EUR", "1.8", "0.18", "0", "0", "5.4")),
    (SECOND, "claude-haiku-4-5", "a-new-model", 3, None),
)
SHARES = [model[3] for model in MODELS]
STATUSES = {COMPLETED: 960, CANCELLED: 20, FAILED: 12, CUT: 6, INTERRUPTED: 2}
REASONS = {
    CANCELLED: "the client left",
    FAILED: "HTTP 529: overloaded",
    CUT: "the upstream ended the stream early",
    INTERRUPTED: "the gateway process ended before the answer did",
}
# How much of a day's work falls into each of its hours.
HOURS = (1, 1, 1, 1, 1, 1, 2, 5, 14, 22, 24, 22, 14, 20, 24, 24, 20, 12, 7, 5, 4, 3, 2, 1)


class Command(BaseCommand):
    help = (
        "Fills an empty ledger with made-up requests, for trying the reports and for measuring. It makes keys that"
        " nobody holds, cost centres, prices and providers that are never asked, so give it a folder of its own:"
        " CCPROXY_DATA_DIR=/tmp/sample"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rows", type=int, required=True, metavar="N", help="How many requests.")
        parser.add_argument("--days", type=int, default=90, metavar="N", help="Over how many days up to now.")
        parser.add_argument("--keys", type=int, default=40, metavar="N", help="From how many keys.")
        parser.add_argument("--seed", type=int, default=1, metavar="N", help="Another one makes other rows.")

    def handle(self, *args: Any, **options: Any) -> None:
        if min(options["rows"], options["days"], options["keys"]) < 1:
            raise CommandError("Rows, days and keys are numbers from 1 on.")
        if UsageRecord.objects.exists() or UsageAttempt.objects.exists():
            raise CommandError(
                "This ledger holds rows already, and samples among them could never be told apart: name an empty"
                " database, for example with CCPROXY_DATA_DIR=/tmp/sample, and run migrate there first."
            )
        chance = random.Random(options["seed"])
        with transaction.atomic():
            keys = [_key(number) for number in range(1, options["keys"] + 1)]
            providers = {name: _provider(name).pk for name in (FIRST, SECOND, EUROPE)}
            prices = PriceList([rates_of(price) for price in _prices(providers)])
        samples = Samples(chance, keys, providers)
        self._book(samples.over(options["rows"], options["days"]), prices, options["rows"])
        self._sum()

    def _book(self, samples: Iterator[Settled], prices: PriceList, rows: int) -> None:
        began, booked = time.monotonic(), 0
        while batch := list(itertools.islice(samples, BATCH)):
            book(batch, prices)
            booked += len(batch)
            if booked % (BATCH * 20) == 0 or booked == rows:
                self.stdout.write(f"{booked:,} of {rows:,} rows after {time.monotonic() - began:.0f} s")

    def _sum(self) -> None:
        began, quarters = time.monotonic(), DirtyQuarter.objects.count()
        while waiting := DirtyQuarter.objects.count():
            rollups.roll_up(limit=1000)
            done = quarters - max(waiting - 1000, 0)
            self.stdout.write(f"{done:,} of {quarters:,} quarter hours summed after {time.monotonic() - began:.0f} s")
        rollups.roll_up()


def _key(number: int) -> KeyCard:
    name = f"team-{number:02}"
    key = ApiKey.objects.filter(name=name).first()
    if key is None:
        code = COST_CENTRES[number % len(COST_CENTRES)]
        cost_centre = CostCentre.objects.get_or_create(code=code)[0] if code else None
        key, _ = ApiKey.issue(name, owner=OWNERS[number % len(OWNERS)], cost_centre=cost_centre)
    return card_of(key)


def _provider(name: str) -> Provider:
    base_url = f"https://{name}.invalid"
    return Provider.objects.get_or_create(
        name=name, defaults={"type": "openai", "base_url": base_url, "enabled": False}
    )[0]


def _prices(providers: dict[str, int]) -> Iterator[Price]:
    names = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    for provider, _, model, _, price in MODELS:
        if price:
            currency, *rates = price
            yield Price.objects.get_or_create(
                model=model,
                provider_id=providers[provider],
                valid_from=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
                defaults={
                    "currency": currency,
                    "source": "sample_usage",
                    **dict(zip(names, map(Decimal, rates), strict=True)),
                },
            )[0]


class Samples:
    """Requests as the gateway settles them, one after the other."""

    def __init__(self, chance: random.Random, keys: list[KeyCard], providers: dict[str, int]) -> None:
        self._chance = chance
        self._keys = keys
        self._providers = providers
        # Some teams ask far more than others.
        self._weights = [1 / (1 + place) for place in range(len(keys))]

    def over(self, rows: int, days: int) -> Iterator[Settled]:
        """In the order of time, the last one now; weekends are quiet."""
        now = time.time()
        hours = [dt.datetime.fromtimestamp(now - 3600 * (ago + 1), dt.UTC) for ago in reversed(range(24 * days))]
        weights = [HOURS[hour.hour] * (0.2 if hour.weekday() >= 5 else 1) for hour in hours]
        busy = sorted(self._chance.choices(range(len(hours)), weights, k=rows))
        for hour, requests in itertools.groupby(busy):
            moments = sorted(self._chance.uniform(0, 3600) for _ in requests)
            yield from map(self._settled, (hours[hour].timestamp() + moment for moment in moments))

    def _settled(self, started_at: float) -> Settled:
        chance = self._chance
        [key] = chance.choices(self._keys, self._weights)
        [(provider, model, upstream_model, _, _)] = chance.choices(MODELS, SHARES)
        [status] = chance.choices(list(STATUSES), list(STATUSES.values()))
        first_byte = chance.lognormvariate(0, 0.6)
        finished_at = started_at + first_byte + chance.expovariate(0.1)
        attempts = []
        if chance.random() < 0.02:
            attempts.append(self._attempt(1, EUROPE, "mistral-large", started_at, started_at + 0.4, FAILED))
        attempts.append(self._attempt(len(attempts) + 1, provider, upstream_model, started_at, finished_at, status))
        row = Row(
            request_id="req_" + base62(chance.getrandbits(144), 24),
            started_at=started_at,
            key_id=key.id,
            key=key.name,
            owner=key.owner,
            cost_centre=key.cost_centre,
            model=model,
            streamed=chance.random() < 0.9,
            session_id=f"session-{chance.randrange(10_000)}",
            finished_at=finished_at,
            status=status,
            stop_reason=chance.choice(("end_turn", "tool_use", "tool_use")) if status == COMPLETED else "",
            reason=REASONS.get(status, ""),
            first_byte_ms=None if status == FAILED else round(first_byte * 1000),
        )
        return Settled(row, attempts)

    def _attempt(
        self, number: int, provider: str, upstream_model: str, started_at: float, finished_at: float, status: str
    ) -> Attempt:
        attempt = Attempt(
            number=number,
            started_at=started_at,
            provider_id=self._providers[provider],
            provider=provider,
            upstream_model=upstream_model,
            finished_at=finished_at,
            status=status,
            reason=REASONS.get(status, ""),
            source=UPSTREAM,
        )
        if status != FAILED:
            attempt.usage = self._usage()
            attempt.upstream_id = f"msg_{self._chance.getrandbits(64):016x}"
            if status != COMPLETED:
                attempt.source, attempt.method = ESTIMATED, "characters"
            elif self._chance.random() < 0.01:
                attempt.source, attempt.method = COUNTED, "tokenizer"
        return attempt

    def _usage(self) -> Usage:
        """A coding session: a long context that mostly comes from a cache, and a short answer."""
        chance = self._chance
        output = int(chance.lognormvariate(5.5, 1.1))
        return Usage(
            input=chance.randrange(3, 4000),
            cache_read=int(chance.lognormvariate(10, 1)) if chance.random() < 0.8 else 0,
            cache_write_5m=chance.randrange(200, 6000) if chance.random() < 0.6 else 0,
            cache_write_1h=chance.randrange(200, 6000) if chance.random() < 0.05 else 0,
            output=output,
            thinking=output // 3 if chance.random() < 0.3 else 0,
            web_searches=1 if chance.random() < 0.005 else 0,
        )
