"""GET /v1/usage: what the calling key has used, and nothing of anybody else's."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from accounting import rollups
from accounting.models import Status, UsageRecord
from gateway import usage
from gateway.advice import BY_STATUS, what_to_do
from gateway.tests.conftest import EXPIRED_TOKEN, LIMITED_TOKEN, OWNER_TOKEN, REVOKED_TOKEN, Gateway
from providers.dialects.refusals import Case, Report, classify

OWNER, LIMITED = 1, 2  # the ids of the keys in conftest
HOSTILE = "<script>alert(1)</script>\"'\\ {{ 7*7 }} \N{RIGHT-TO-LEFT OVERRIDE}"
_numbers = itertools.count(1)


def booked(key_id: int, **fields: Any) -> UsageRecord:
    """A row as the booker writes it, not summed yet."""
    now = timezone.now()
    known: dict[str, Any] = {
        "request_id": f"req_{next(_numbers)}",
        "api_key_id": key_id,
        "key": f"key-{key_id}",
        "provider": "first",
        "model": "claude-opus-5-5",
        "started_at": now,
        "finished_at": now,
        "status": Status.COMPLETED,
        "source": "upstream",
        "input": 10,
        "output": 5,
        "cost": Decimal("0.25"),
        "attempts_cost": Decimal("0.25"),
        "currency": "USD",
    }
    row = UsageRecord.objects.create(**{**known, **fields})
    rollups.mark_quarters([row.started_at])
    return row


@pytest.fixture
def ledger(transactional_db: None) -> Iterator[None]:
    """Rows of two keys; other threads see them."""
    booked(OWNER)
    booked(OWNER, model="claude-haiku-5-5", cost=Decimal("1.000000000001"), cache_read=7, thinking=3)
    booked(OWNER, model="priced-by-nobody", cost=None, attempts_cost=None, currency="")
    booked(OWNER, status=Status.FAILED, reason="the provider is overloaded: try again in a moment", cost=Decimal(0))
    booked(LIMITED, cost=Decimal(99), currency="EUR", reason="not yours", status=Status.FAILED)
    rollups.roll_up()
    yield
    connection.close()


async def asked(gateway: Gateway, token: str | None = OWNER_TOKEN, path: str = "/v1/usage", **options: Any) -> Any:
    gateway.route()
    return await gateway.ask(b"", method="GET", path=path, token=token, **options)


async def test_the_figures_are_those_of_the_ledger(ledger: None, gateway: Gateway) -> None:
    reply = await asked(gateway)
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    told = reply.json()
    assert told["key"] == {
        "name": "owner",
        "owner": "owner@example.org",
        "cost_centre": "CC1",
        "allowed_models": [],
        "expires_at": None,
    }
    tokens = {"input": 40, "cache_read": 7, "cache_write_5m": 0, "cache_write_1h": 0, "output": 20, "thinking": 3}
    figures = {
        "requests": 4,
        "failed": 1,
        "tokens": tokens,
        "web_searches": 0,
        "cost": {"USD": "1.250000000001"},
        "unpriced": 1,
    }
    today = timezone.localdate().isoformat()
    assert told["month"] == {"from": f"{today[:8]}01", "to": today, **figures}
    assert told["today"] == {"day": today, **figures}
    assert told["days"] == [{"day": today, **figures}]
    assert [(line["model"], line["requests"]) for line in told["models"]] == [
        ("claude-opus-5-5", 2),
        ("claude-haiku-5-5", 1),
        ("priced-by-nobody", 1),
    ]
    assert (told["budget"], told["limits"], told["time_zone"]) == (None, None, "UTC")
    assert told["summary"] == "1.25 USD (1 unpriced) this month, 1.25 USD (1 unpriced) today"


async def test_only_rows_of_the_calling_key_are_told(ledger: None, gateway: Gateway) -> None:
    told = (await asked(gateway, LIMITED_TOKEN)).json()
    assert told["key"]["name"] == "limited"
    assert told["key"]["allowed_models"] == ["*haiku*"]
    assert told["month"]["requests"] == 1
    assert told["month"]["cost"] == {"EUR": "99"}
    assert [error["reason"] for error in told["last_errors"]] == ["not yours"]
    others = (await asked(gateway)).body.decode()
    assert "not yours" not in others
    assert "EUR" not in others


@pytest.mark.django_db(transaction=True)
async def test_a_key_without_rows_gets_zeros(gateway: Gateway) -> None:
    told = (await asked(gateway)).json()
    assert told["month"]["requests"] == told["today"]["requests"] == 0
    assert (told["month"]["cost"], told["days"], told["models"], told["last_errors"]) == ({}, [], [], [])
    assert told["summary"] == "0.00 this month, 0.00 today"


async def test_an_error_comes_with_what_to_do(ledger: None, gateway: Gateway) -> None:
    [error] = (await asked(gateway)).json()["last_errors"]
    assert error["status"] == "failed"
    assert error["model"] == "claude-opus-5-5"
    assert error["request_id"].startswith("req_")
    assert error["suggestion"] == "Try again in a moment."


@pytest.mark.parametrize(
    ("token", "status", "kind", "sentence"),
    [
        (None, 401, "authentication_error", "no key was sent"),
        ("ccp_wrong", 401, "authentication_error", "no key of this gateway"),
        (REVOKED_TOKEN, 401, "authentication_error", "was revoked"),
        (EXPIRED_TOKEN, 401, "authentication_error", "has expired"),
    ],
    ids=["none", "mistyped", "revoked", "expired"],  # tokens differ in each process, names must not
)
async def test_a_key_that_does_not_work_is_refused_in_the_form_clients_read(
    gateway: Gateway, token: str | None, status: int, kind: str, sentence: str
) -> None:
    reply = await asked(gateway, token)
    assert reply.status == status
    assert reply.json()["error"]["type"] == kind
    assert sentence in reply.json()["error"]["message"]


async def test_the_key_may_come_as_a_bearer_and_the_path_with_a_slash(ledger: None, gateway: Gateway) -> None:
    reply = await asked(gateway, None, "/v1/usage/", headers={"authorization": f"Bearer {OWNER_TOKEN}"})
    assert reply.json()["key"]["name"] == "owner"


async def test_other_methods_are_refused(gateway: Gateway) -> None:
    gateway.route()
    for method in ("POST", "PUT", "DELETE"):
        reply = await gateway.ask(b"", method=method, path="/v1/usage")
        assert reply.status == 405
        assert reply.json()["type"] == "error"


async def test_the_database_is_asked_in_a_thread_that_keeps_no_connection(
    ledger: None, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Watched:
        def close(self) -> None:
            closed.append(threading.current_thread().name)
            connection.close()

    monkeypatch.setattr(usage, "connection", Watched())
    assert (await asked(gateway)).status == 200
    assert [name.partition("_")[0] for name in closed] == ["usage"]


async def test_a_database_that_is_away_is_said_and_not_thrown(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(key_id: int) -> None:
        raise DatabaseError(f"no route to 10.0.0.7 for {key_id}")

    monkeypatch.setattr(usage, "usage_of", away)
    reply = await asked(gateway)
    assert reply.status == 503
    assert "try again" in reply.json()["error"]["message"]
    assert "10.0.0.7" not in reply.body.decode()


@pytest.fixture
def hostile_ledger(transactional_db: None) -> Iterator[None]:
    booked(OWNER, model=HOSTILE, reason=HOSTILE, status=Status.CUT, currency='"x', cost=Decimal(1))
    rollups.roll_up()
    yield
    connection.close()


async def test_hostile_text_is_json_and_no_more(hostile_ledger: None, gateway: Gateway) -> None:
    told = (await asked(gateway)).json()
    assert told["models"][0]["model"] == told["last_errors"][0]["reason"] == HOSTILE
    assert told["summary"] == '1.00 "x this month, 1.00 "x today'


async def test_the_example_in_the_documentation_has_the_fields_of_a_reply(ledger: None, gateway: Gateway) -> None:
    told = json.loads((await asked(gateway)).body)
    assert shape(told) == shape(usage.EXAMPLE)


def shape(of: Any, name: str = "") -> Any:
    """Field names all the way down; of a list its first entry, of a sum of money nothing."""
    if isinstance(of, dict):
        return {} if name == "cost" else {field: shape(value, field) for field, value in of.items()}
    return [shape(of[0])] if isinstance(of, list) and of and isinstance(of[0], dict) else None


@pytest.mark.django_db
def test_a_look_at_the_figures_takes_few_queries(django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        booked(OWNER, model=f"model-{number}", status=Status.FAILED)
    rollups.roll_up()
    with django_assert_max_num_queries(8):
        assert len(usage.usage_of(OWNER).errors) == 10


@pytest.mark.django_db
def test_days_are_days_of_the_books() -> None:
    with timezone.override("Asia/Tokyo"):
        assert usage.usage_of(OWNER).today == dt.datetime.now(dt.timezone(dt.timedelta(hours=9))).date()


@pytest.mark.django_db
def test_what_is_not_summed_yet_lies_after_the_moment_that_is_told() -> None:
    booked(OWNER)
    rollups.roll_up()
    assert timezone.now() - usage.usage_of(OWNER).until < dt.timedelta(seconds=5)
    late = booked(OWNER, started_at=timezone.now() + dt.timedelta(seconds=1))
    used = usage.usage_of(OWNER)
    assert used.total(used.month).requests == 1
    assert used.until <= late.finished_at


@pytest.mark.parametrize(
    ("value", "exact", "rounded"),
    [
        ("0", "0", "0.00"),
        ("0.000000000001", "0.000000000001", "0.0000"),
        ("0.99995", "0.99995", "1.0000"),
        ("1", "1", "1.00"),
        ("1000", "1000", "1,000.00"),
        ("1E+3", "1000", "1,000.00"),
        ("1234567.895", "1234567.895", "1,234,567.90"),
        ("-0.5", "-0.5", "-0.5000"),
        ("120.500", "120.5", "120.50"),
    ],
)
def test_money_is_told_exactly_and_rounded(value: str, exact: str, rounded: str) -> None:
    assert usage.exact(Decimal(value)) == exact
    assert usage.rounded(Decimal(value)) == rounded


@pytest.mark.parametrize(
    ("report", "advice"),
    [
        (Report(400, "prompt is too long: 9 tokens > 8 maximum"), "/compact"),
        (Report(402, "pay"), "money"),
        (Report(401, "no"), "credential"),
        (Report(404, "gone"), "another model"),
        (Report(429, "slow"), "Wait a minute"),
        (Report(529, "busy"), "in a moment"),
        (Report(408, "late"), "smaller task"),
        (Report(418, "tea"), "request id"),
    ],
)
def test_what_an_upstream_reports_leads_to_advice(report: Report, advice: str) -> None:
    assert advice in what_to_do(Status.FAILED, classify(Case(report)).message)


@pytest.mark.parametrize("status", list(usage.TROUBLES))
@pytest.mark.parametrize("reason", ["", HOSTILE, "\0", "x" * 300])
def test_any_reason_leads_to_some_advice(status: str, reason: str) -> None:
    assert what_to_do(status, reason) == BY_STATUS[Status(status)]
