"""Made-up rows are as true to the ledger's rules as real ones."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounting import reports
from accounting.models import ApiKey, DaySum, UsageAttempt, UsageRecord
from accounting.tests.requests import booked, request
from accounting.verify import verify
from providers.models import Provider

pytestmark = pytest.mark.django_db


def sample(**options: int) -> str:
    out = StringIO()
    call_command("sample_usage", stdout=out, **{"rows": 600, "days": 3, "keys": 5, **options})
    return out.getvalue()


def test_samples_are_a_sound_ledger_with_its_sums() -> None:
    said = sample()
    assert "600 of 600 rows" in said
    findings = verify()
    assert findings.sound
    assert (findings.checked["requests"], findings.waiting) == (600, {"quarter hours": 0, "days": 0})
    assert set(UsageRecord.objects.values_list("key", flat=True)) == {f"team-0{number}" for number in range(1, 6)}
    assert UsageAttempt.objects.count() > 600
    period = reports.Period(DaySum.objects.earliest("day").day, reports.month_after(reports.today()))
    total = reports.total(period)
    assert total.requests == 600
    assert total.cost["USD"] > 0
    assert 0 < total.failed < 60


def test_samples_are_asked_of_nobody_and_opened_by_no_key() -> None:
    sample(rows=5)
    assert not Provider.objects.filter(enabled=True).exists()
    assert ApiKey.objects.count() == 5


def test_a_ledger_that_holds_rows_is_left_alone() -> None:
    booked(request())
    with pytest.raises(CommandError, match="holds rows already"):
        sample()
    assert UsageRecord.objects.count() == 1
    assert not ApiKey.objects.exists()


def test_no_rows_are_no_sample() -> None:
    with pytest.raises(CommandError, match="from 1 on"):
        sample(rows=0)
