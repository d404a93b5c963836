"""Keys and prices as they stand in the database, for a process that asks them thousands of times a second."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec

from accounting.models import ApiKey, Price
from accounting.prices import PriceList, Rates
from providers.routing import matches, plain_model


class KeyCard(msgspec.Struct, frozen=True):
    """What the request path needs to know of an issued key. Expiry is judged when used, not when read."""

    id: int
    name: str
    owner: str
    cost_centre: str
    allowed_models: tuple[str, ...]
    scopes: frozenset[str]
    expires_at: float | None
    revoked: bool

    def allows(self, model: str) -> bool:
        name = plain_model(model)
        return not self.allowed_models or any(matches(pattern, name) for pattern in self.allowed_models)


class Books(msgspec.Struct, frozen=True):
    keys: Mapping[str, KeyCard]  # by digest
    prices: PriceList


def read_books() -> Books:
    present: dict[str, KeyCard] = {}
    previous: dict[str, KeyCard] = {}
    for key in ApiKey.objects.select_related("cost_centre"):
        present[key.digest] = card = card_of(key)
        if key.previous_digest and key.previous_until:
            previous[key.previous_digest] = until(card, key.previous_until)
    # A token that one key had before may have been given to another since: whose it is now has it.
    return Books({**previous, **present}, PriceList(rates_of(price) for price in Price.objects.all()))


def until(card: KeyCard, moment: dt.datetime) -> KeyCard:
    """The same key by the token before, which ends then, or with the key itself if that is sooner."""
    ends = moment.timestamp() if card.expires_at is None else min(moment.timestamp(), card.expires_at)
    return msgspec.structs.replace(card, expires_at=ends)


def card_of(key: ApiKey) -> KeyCard:
    return KeyCard(
        id=key.pk,
        name=key.name,
        owner=key.owner,
        cost_centre=key.cost_centre.code if key.cost_centre else "",
        allowed_models=tuple(key.allowed_models),
        scopes=frozenset(key.scopes),
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        revoked=key.revoked_at is not None,
    )


def rates_of(price: Price) -> Rates:
    return Rates(
        id=price.pk,
        model=price.model,
        provider_id=price.provider_id,
        valid_from=price.valid_from.astimezone(dt.UTC),
        currency=price.currency,
        input=price.input,
        cache_read=price.cache_read,
        cache_write_5m=price.cache_write_5m,
        cache_write_1h=price.cache_write_1h,
        output=price.output,
        web_search=price.web_search,
        listed=price.listed,
    )
