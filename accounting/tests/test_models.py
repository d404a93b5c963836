"""Keys, prices and ledger rows as the database keeps them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from accounting import keys
from accounting.models import ApiKey, CostCentre, Price, UsageAttempt, UsageRecord
from accounting.snapshot import read_books
from providers.models import Provider

pytestmark = pytest.mark.django_db

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


def record(request_id: str = "req_1", **fields: Any) -> UsageRecord:
    values = {"started_at": NOON, "finished_at": NOON, "model": "m", "status": "completed", "source": "upstream"}
    return UsageRecord.objects.create(**{"request_id": request_id, "key": "alice", **values, **fields})


def test_a_token_is_told_once_and_kept_nowhere() -> None:
    key, token = ApiKey.issue("alice", owner="Alice")
    [row] = ApiKey.objects.values_list()
    assert token not in str(row)
    assert token not in f"{key!r} {key} {key.__dict__}"
    assert key.digest == keys.digest(token)
    assert token.startswith(key.prefix)


def test_a_name_is_issued_once() -> None:
    ApiKey.issue("alice")
    with pytest.raises(ValidationError, match="already exists"):
        ApiKey.issue("alice")


@pytest.mark.parametrize(
    "fields", [{"allowed_models": "all"}, {"allowed_models": [1]}, {"allowed_models": [""]}, {"scopes": ["root"]}]
)
def test_lists_of_a_key_are_lists_of_names(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ApiKey.issue("alice", **fields)


@pytest.mark.parametrize(
    ("fields", "state", "usable"),
    [
        ({}, "active", True),
        ({"expires_at": dt.timedelta(seconds=60)}, "active", True),
        ({"expires_at": dt.timedelta(seconds=-1)}, "expired", False),
        ({"revoked_at": dt.timedelta(0)}, "revoked", False),
        ({"revoked_at": dt.timedelta(0), "expires_at": dt.timedelta(seconds=-1)}, "revoked", False),
    ],
)
def test_a_key_is_active_until_it_expires_or_is_revoked(
    fields: dict[str, dt.timedelta], state: str, usable: bool
) -> None:
    key, _ = ApiKey.issue("alice", **{name: timezone.now() + away for name, away in fields.items()})
    assert key.state() == state
    assert ApiKey.objects.usable().exists() is usable


def test_the_request_path_finds_keys_by_digest() -> None:
    centre = CostCentre.objects.create(code="R&D")
    key, token = ApiKey.issue("alice", owner="Alice", cost_centre=centre, allowed_models=["*haiku*", "gpt-5"])
    card = read_books().keys[keys.digest(token)]
    assert (card.id, card.name, card.owner, card.cost_centre) == (key.pk, "alice", "Alice", "R&D")
    assert card.scopes == {"messages"}
    assert [model for model in ("claude-HAIKU-4", "gpt-5[1m]", "gpt-5-mini", "opus") if card.allows(model)] == [
        "claude-HAIKU-4",
        "gpt-5[1m]",
    ]


def test_a_revoked_key_stays_known_as_revoked() -> None:
    _, token = ApiKey.issue("alice", revoked_at=NOON)
    assert read_books().keys[keys.digest(token)].revoked


def test_a_cost_centre_with_keys_is_not_deleted() -> None:
    centre = CostCentre.objects.create(code="R&D")
    ApiKey.issue("alice", cost_centre=centre)
    with pytest.raises(ProtectedError), transaction.atomic():
        centre.delete()


@pytest.mark.parametrize("with_provider", [True, False])
def test_a_price_has_one_row_per_moment(with_provider: bool) -> None:
    provider = Provider.objects.create(name="p", type="openai", base_url="https://p.example") if with_provider else None
    Price.objects.create(model="m", provider=provider, valid_from=NOON)
    Price.objects.create(model="m", provider=provider, valid_from=NOON + dt.timedelta(seconds=1))
    with pytest.raises(IntegrityError), transaction.atomic():
        Price.objects.create(model="m", provider=provider, valid_from=NOON)


def test_a_price_is_not_negative() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Price(model="m", output=Decimal("-0.000001")).full_clean()


def test_a_request_is_booked_once() -> None:
    record()
    with pytest.raises(IntegrityError), transaction.atomic():
        record()


def test_an_attempt_is_booked_once() -> None:
    fields: dict[str, Any] = {"started_at": NOON, "finished_at": NOON, "source": "upstream", "status": "failed"}
    UsageAttempt.objects.create(record=record(), number=1, **fields)
    with pytest.raises(IntegrityError), transaction.atomic():
        UsageAttempt.objects.create(record_id="req_1", number=1, **fields)


def test_the_ledger_outlives_its_key_and_its_provider() -> None:
    key, _ = ApiKey.issue("alice")
    provider = Provider.objects.create(name="p", type="openai", base_url="https://p.example")
    record(api_key=key, provider_ref=provider, provider="p")

    key.delete()
    provider.delete()

    row = UsageRecord.objects.get()
    assert (row.key, row.provider) == ("alice", "p")


@pytest.mark.parametrize("cost", ["0", "0.000000000001", "0.0544", "123.456789012345", "999.999999999999", None])
def test_a_cost_comes_back_as_it_was_booked(cost: str | None) -> None:
    record(cost=cost and Decimal(cost))
    assert UsageRecord.objects.get().cost == (cost and Decimal(cost))


@pytest.mark.parametrize("tokens", [0, 1, 2**53])
def test_tokens_come_back_as_they_were_booked(tokens: int) -> None:
    record(input=tokens, output=tokens)
    row = UsageRecord.objects.get()
    assert (row.input, row.output) == (tokens, tokens)
