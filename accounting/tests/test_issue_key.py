"""Issuing a key from the command line."""

from __future__ import annotations

import datetime as dt
import io

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounting import keys
from accounting.models import ApiKey, CostCentre

pytestmark = pytest.mark.django_db


def issue(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("issue_key", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_key_stands_alone_on_the_last_line() -> None:
    out, err = issue("alice")
    token = out.splitlines()[-1]
    assert out == token + "\n"
    assert keys.is_well_formed(token)
    assert token not in err
    assert ApiKey.objects.get(digest=keys.digest(token)).name == "alice"


def test_everything_about_a_key_can_be_said() -> None:
    CostCentre.objects.create(code="R&D")
    issue(
        *("alice", "--owner", "Alice A.", "--cost-centre", "R&D", "--model", "*haiku*", "gpt-5", "--model", "o3"),
        *("--scope", "operator", "--scope", "messages", "--expires", "2999-12-31"),
    )
    key = ApiKey.objects.get()
    assert (key.owner, str(key.cost_centre)) == ("Alice A.", "R&D")
    assert key.allowed_models == ["*haiku*", "gpt-5", "o3"]
    assert key.scopes == ["operator", "messages"]
    assert key.expires_at == dt.datetime(3000, 1, 1, tzinfo=dt.UTC)


def test_a_plain_key_may_ask_every_model_and_nothing_else() -> None:
    issue("alice")
    key = ApiKey.objects.get()
    assert (key.allowed_models, key.scopes, key.expires_at) == ([], ["messages"], None)


def test_an_unknown_cost_centre_is_made_and_said() -> None:
    _, err = issue("alice", "--cost-centre", "new")
    assert "There was no cost centre new: it was made." in err
    assert str(ApiKey.objects.get().cost_centre) == "new"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["alice"], "A key named 'alice' exists already"),
        (["bob", "--expires", "2020-01-01"], "2020-01-01 has passed"),
        (["bob", "--expires", "tomorrow"], "'tomorrow' is no date"),
        (["bob", "--scope", "root"], "invalid choice: 'root'"),
        (["  "], "name: This field cannot be blank."),
        (["b" * 101], "name: Ensure this value has at most 100 characters"),
        (["bob", "--cost-centre", "c" * 51], "code: Ensure this value has at most 50 characters"),
    ],
)
def test_a_mistake_is_a_sentence_and_makes_nothing(arguments: list[str], sentence: str) -> None:
    ApiKey.issue("alice")
    with pytest.raises(CommandError, match=sentence):
        issue(*arguments)
    assert list(ApiKey.objects.values_list("name", flat=True)) == ["alice"]
    assert not CostCentre.objects.exists()


def test_a_key_that_is_refused_leaves_no_cost_centre_behind() -> None:
    with pytest.raises(CommandError):
        issue("b" * 101, "--cost-centre", "new")
    assert not CostCentre.objects.exists()


def test_today_is_a_day_a_key_may_still_be_used_on() -> None:
    issue("alice", "--expires", timezone.now().date().isoformat())
    assert ApiKey.objects.get().state() == "active"
