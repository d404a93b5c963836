"""The sums equal the rows, whoever books or sums at the same time, and whatever fails in between."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting import reports, rollups, rows, tasks
from accounting.ledger import CANCELLED, ESTIMATED, FAILED
from accounting.models import (
    ApiKey,
    DaySum,
    DirtyDay,
    DirtyQuarter,
    QuarterSum,
    Status,
    SumsState,
    UsageAttempt,
    UsageRecord,
)
from accounting.rollups import FIGURES, GROUP, roll_up
from accounting.tests.requests import NOON, booked, moment, request
from accounting.verify import verify
from providers.usage import MOST_TOKENS, Usage

pytestmark = pytest.mark.django_db

BERLIN = ZoneInfo("Europe/Berlin")


def of_rows() -> dict[tuple[Any, ...], list[int]]:
    """What the sums must be, reckoned in another way: row after row, through the models."""
    totals: dict[tuple[Any, ...], list[int]] = {}
    for row in UsageRecord.objects.all():
        money = [int((cost or 0) * 10**12) for cost in (row.cost, row.attempts_cost)]
        tokens = [getattr(row, name) for name in rollups.TOKENS]
        flags = [row.cost is None, row.source == "estimated", row.first_byte_ms or 0, row.first_byte_ms is not None]
        figures = [1, row.attempt_count, *tokens, *money, *map(int, flags)]
        group = tuple(getattr(row, name) for name in GROUP)
        totals[group] = [a + b for a, b in zip(totals.get(group, [0] * len(figures)), figures, strict=True)]
    return totals


def of_sums(model: type[QuarterSum] | type[DaySum]) -> dict[tuple[Any, ...], list[int]]:
    totals: dict[tuple[Any, ...], list[int]] = {}
    for line in model.objects.all():
        group = tuple(getattr(line, name) for name in GROUP)
        figures = [getattr(line, name) for name in FIGURES]
        totals[group] = [a + b for a, b in zip(totals.get(group, [0] * len(figures)), figures, strict=True)]
    return totals


def assert_sums_are_those_of_the_rows() -> None:
    assert of_sums(QuarterSum) == of_rows()
    assert of_sums(DaySum) == of_rows()
    assert not DirtyQuarter.objects.exists()
    assert not DirtyDay.objects.exists()


def days() -> dict[str, int]:
    """Requests by day."""
    counted: Counter[str] = Counter()
    for line in DaySum.objects.all():
        counted[str(line.day)] += line.requests
    return dict(counted)


def test_a_request_is_summed_with_all_its_figures() -> None:
    usage = Usage(input=10, cache_read=20, cache_write_5m=30, cache_write_1h=40, output=50, thinking=5, web_searches=1)
    booked(request(usage=usage, failed_before=Usage(input=7), owner="Olga", cost_centre="R&D"))
    assert roll_up() == 1
    day = DaySum.objects.get()
    assert (day.day, QuarterSum.objects.get().starts_at) == (dt.date(2026, 3, 10), moment(NOON))
    assert (day.key, day.owner, day.cost_centre, day.provider, day.model) == (
        "alice",
        "Olga",
        "R&D",
        "first",
        "claude-opus",
    )
    counts = [1, 2, 10, 20, 30, 40, 50, 5, 1]
    # 10 at 3, 20 at 0.3, 30 at 3.75, 40 at 6, 50 at 15 per million, and a search at 10 per thousand; 7 at 3 before
    money = [11_138_500_000, 11_159_500_000]
    assert [getattr(day, name) for name in FIGURES] == [*counts, *money, 0, 0, 100, 1]
    assert_sums_are_those_of_the_rows()


def test_running_twice_changes_nothing() -> None:
    booked(request(), request(key="bob"), request("2026-03-11T08:00:00Z"))
    roll_up()
    before = of_sums(DaySum)
    DirtyQuarter.objects.create(starts_at=moment(NOON))
    assert roll_up() == 1
    assert roll_up() == 0
    assert of_sums(DaySum) == before
    assert_sums_are_those_of_the_rows()


def test_a_late_row_lands_in_the_quarter_hour_in_which_it_began() -> None:
    booked(request("2026-03-10T12:14:59.999999Z"), request("2026-03-10T12:15:00Z"))
    roll_up()
    booked(request("2026-03-10T12:00:00Z"), request("2026-02-01T23:59:59Z"))
    assert roll_up() == 2
    quarters = dict(QuarterSum.objects.values_list("starts_at", "requests"))
    assert quarters == {
        moment("2026-02-01T23:45:00Z"): 1,
        moment("2026-03-10T12:00:00Z"): 2,
        moment("2026-03-10T12:15:00Z"): 1,
    }
    assert days() == {"2026-02-01": 1, "2026-03-10": 3}
    assert_sums_are_those_of_the_rows()


def test_a_moment_that_is_stored_as_the_next_quarter_hour_marks_that_one() -> None:
    """A double is finer than a microsecond: the last of them is stored as the quarter hour after it."""
    late = request()
    late.row.started_at = moment(NOON).timestamp() - 2.4e-7
    booked(late)
    assert UsageRecord.objects.get().started_at == moment(NOON)
    roll_up()
    assert_sums_are_those_of_the_rows()


def test_what_no_price_was_known_of_what_is_estimated_and_what_has_no_first_byte_is_told_apart() -> None:
    booked(
        request(upstream_model="unknown"),
        request(status=CANCELLED, source=ESTIMATED),
        request(status=FAILED, usage=Usage(), first_byte_ms=None),
        request(upstream_model="mistral-large"),
    )
    roll_up()
    found = {
        (line.status, line.currency): (line.unpriced, line.estimated, line.first_bytes, line.first_byte_ms, line.cost)
        for line in DaySum.objects.all()
    }
    assert found == {
        ("completed", ""): (1, 0, 1, 100, 0),
        ("cancelled", "USD"): (0, 1, 1, 100, 105_000_000),
        ("failed", "USD"): (0, 0, 0, 0, 0),
        ("completed", "EUR"): (0, 0, 1, 100, 105_000_000),
    }
    assert_sums_are_those_of_the_rows()


def test_a_correction_is_summed_where_it_stands_and_may_take_away() -> None:
    booked(request())
    row = UsageRecord.objects.get()
    UsageRecord.objects.create(
        request_id="correction_1",
        corrects=row.request_id,
        started_at=moment("2026-03-12T09:00:00Z"),
        finished_at=moment("2026-03-12T09:00:00Z"),
        key=row.key,
        model=row.model,
        status=Status.CORRECTION,
        source="counted",
        input=-10,
        cost=Decimal("-0.00003"),
        currency="USD",
        attempt_count=0,
    )
    rollups.mark_quarters([moment("2026-03-12T09:00:00Z")])
    roll_up()
    assert DaySum.objects.get(status="correction").cost == -30_000_000
    assert_sums_are_those_of_the_rows()


def test_rows_of_a_key_that_is_gone_still_count() -> None:
    key, _ = ApiKey.issue("carol")
    booked(request(key_id=key.pk, key=key.name))
    key.delete()
    roll_up()
    assert DaySum.objects.get().key == "carol"
    assert_sums_are_those_of_the_rows()


@pytest.mark.parametrize("at", ["insert", "_mark_days", "_columns"])
@pytest.mark.parametrize("broken_time", [1, 2])
def test_a_crash_anywhere_is_made_up_for_by_the_marks(
    monkeypatch: pytest.MonkeyPatch, at: str, broken_time: int
) -> None:
    booked(request())
    roll_up()
    booked(request(), request("2026-03-11T12:00:00Z"))
    honest: Callable[..., Any] = getattr(rollups, at)
    times = iter(range(1, 100))

    def dies(*arguments: Any, **options: Any) -> Any:
        if next(times) == broken_time:
            raise KeyboardInterrupt
        return honest(*arguments, **options)

    with monkeypatch.context() as crash:
        crash.setattr(rollups, at, dies)
        with pytest.raises(KeyboardInterrupt):
            roll_up()
    assert DirtyQuarter.objects.exists() or DirtyDay.objects.exists()
    assert verify().sound
    roll_up()
    assert_sums_are_those_of_the_rows()


def test_a_limit_leaves_the_older_ones_for_the_next_time() -> None:
    booked(request("2026-03-01T12:00:00Z"), request("2026-03-02T12:00:00Z"), request("2026-03-03T12:00:00Z"))
    assert roll_up(limit=2) == 2
    assert days() == {"2026-03-02": 1, "2026-03-03": 1}
    assert roll_up(limit=2) == 1
    assert_sums_are_those_of_the_rows()


def test_summing_a_quarter_hour_takes_few_queries(django_assert_max_num_queries: Any) -> None:
    booked(*[request(key=f"key {number}") for number in range(50)])
    SumsState.objects.create(pk=1, time_zone="UTC")
    # With PostgreSQL a cursor, and its savepoints in a test, are queries too.
    with django_assert_max_num_queries(36):
        roll_up()
    assert_sums_are_those_of_the_rows()


def test_what_one_column_cannot_hold_goes_into_a_second_line() -> None:
    five_million = Usage(output=333_333_333_333)
    booked(request(usage=five_million), request(usage=five_million), request("2026-03-10T15:00:00Z", five_million))
    roll_up()
    assert QuarterSum.objects.count() == DaySum.objects.count() == 3
    assert_sums_are_those_of_the_rows()
    total = reports.total(reports.month_of(dt.date(2026, 3, 1)))
    assert total.cost == {"USD": Decimal("14999999.999985")}


def test_an_absurd_figure_keeps_no_other_from_being_summed(caplog: pytest.LogCaptureFixture) -> None:
    """Some upstreams have answered 10^30 tokens."""
    absurd = Usage(input=MOST_TOKENS, output=MOST_TOKENS)
    booked(request(), request(usage=absurd), *[request("2026-03-11T12:00:00Z", absurd) for _ in range(3)])
    booked(request("2026-03-11T12:00:00Z", key="bob"))
    roll_up()
    assert days() == {"2026-03-10": 2, "2026-03-11": 4}
    assert "verify_ledger says when" in caplog.text
    month = reports.month_of(dt.date(2026, 3, 1))
    assert reports.by("key", month)["bob"].cost == {"USD": Decimal("0.000105")}
    assert reports.total(month).input == 4 * MOST_TOKENS + 20
    assert set(verify().wrong) == {"sums of a quarter hour that are not those of its rows"}


def zone_of_the_books(settings: Any, name: str) -> None:
    settings.TIME_ZONE = name
    settings.BOOKS_TIME_ZONE = ZoneInfo(name)


def test_days_are_those_of_the_books(settings: Any) -> None:
    zone_of_the_books(settings, "Asia/Kathmandu")  # 5 hours and 45 minutes ahead
    booked(request("2026-03-10T18:14:59Z"), request("2026-03-10T18:15:00Z"))
    roll_up()
    assert days() == {"2026-03-10": 1, "2026-03-11": 1}
    assert verify().sound


@pytest.mark.parametrize(
    ("zone", "last", "first", "day"),
    [
        ("Europe/Berlin", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z", "2026-03-30"),  # a day of 23 hours ends
        ("Europe/Berlin", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z", "2026-10-26"),  # one of 25
        ("Africa/Cairo", "2026-04-23T21:59:59Z", "2026-04-23T22:00:00Z", "2026-04-24"),  # at midnight it is one o'clock
        ("Africa/Cairo", "2026-10-29T21:59:59Z", "2026-10-29T22:00:00Z", "2026-10-30"),  # and eleven once more
        ("America/Havana", "2026-11-01T03:59:59Z", "2026-11-01T04:00:00Z", "2026-11-01"),  # midnight comes twice
    ],
)
def test_days_on_which_the_clocks_change_are_whole(settings: Any, zone: str, last: str, first: str, day: str) -> None:
    zone_of_the_books(settings, zone)
    booked(request(last), request(first), request(first))
    roll_up()
    assert days()[day] == 2
    assert_sums_are_those_of_the_rows()


def test_another_time_zone_sums_all_days_anew(settings: Any) -> None:
    booked(request("2026-03-10T23:30:00Z"), request("2026-03-11T12:00:00Z"), request("2026-06-01T22:30:00Z"))
    roll_up()
    assert days() == {"2026-03-10": 1, "2026-03-11": 1, "2026-06-01": 1}
    zone_of_the_books(settings, "Europe/Berlin")
    roll_up()
    assert days() == {"2026-03-11": 2, "2026-06-02": 1}
    assert_sums_are_those_of_the_rows()
    assert verify().sound


def test_a_crash_while_the_time_zone_changes_is_made_up_for(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    booked(request("2026-03-10T23:30:00Z"))
    roll_up()
    zone_of_the_books(settings, "Europe/Berlin")
    with monkeypatch.context() as crash:
        crash.setattr(rollups, "_sum_day", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            roll_up()
    roll_up()
    assert days() == {"2026-03-11": 1}


def test_nothing_is_behind_when_nothing_waits() -> None:
    assert rollups.lag() is None
    booked(request())
    roll_up()
    assert rollups.lag() is None


def test_what_was_never_summed_is_behind_since_its_quarter_hour_began() -> None:
    began = timezone.now() - dt.timedelta(hours=2)
    booked(request(began.isoformat()))
    lag = rollups.lag()
    assert lag is not None
    assert 7199 < lag < 7200 + 15 * 60 + 60


def test_a_late_row_is_behind_since_the_last_time_that_all_was_summed() -> None:
    """An adopted row of three days ago does not make the figures three days old."""
    roll_up()
    SumsState.objects.update(complete_at=timezone.now() - dt.timedelta(seconds=30))
    booked(request((timezone.now() - dt.timedelta(days=3)).isoformat()))
    lag = rollups.lag()
    assert lag is not None
    assert 29 < lag < 90


def test_a_day_that_waits_for_its_sum_is_behind_too() -> None:
    booked(request())
    roll_up()
    DirtyDay.objects.create(day=dt.date(2026, 3, 10))
    SumsState.objects.update(complete_at=timezone.now() - dt.timedelta(seconds=300))
    lag = rollups.lag()
    assert lag is not None
    assert 299 < lag < 360


def test_celery_rolls_up_again_and_again() -> None:
    booked(request())
    tasks.roll_up()
    assert_sums_are_those_of_the_rows()
    entry = django_settings.CELERY_BEAT_SCHEDULE["roll-up"]
    assert (entry["task"], entry["schedule"]) == (tasks.roll_up.name, django_settings.ROLLUP_SECONDS)


STEPS = st.lists(
    st.one_of(
        st.lists(
            st.tuples(
                st.sampled_from(["2026-03-09T23:59:59Z", "2026-03-10T00:00:00Z", NOON, "2026-03-10T12:14:00Z"]),
                st.integers(0, 10**9),
                st.sampled_from(["claude-upstream", "mistral-large", "unknown"]),
                st.sampled_from(["alice", "bob"]),
            ),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(["again", "UTC", "Asia/Tokyo"]),
        st.integers(1, 2),
    ),
    max_size=8,
)


@given(STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_booked_and_summed_in_any_order_ends_with_sums_equal_to_the_rows(
    settings: Any, steps: list[Any]
) -> None:
    with transaction.atomic():
        zone_of_the_books(settings, "UTC")
        batch = [request()]
        for step in steps:
            if isinstance(step, int):
                roll_up(limit=step)
            elif step == "again":
                booked(*batch)
            elif isinstance(step, str):
                zone_of_the_books(settings, step)
            else:
                batch = [
                    request(at, Usage(input=tokens), upstream_model=model, key=key) for at, tokens, model, key in step
                ]
                booked(*batch)
        assert verify().sound
        roll_up()
        assert_sums_are_those_of_the_rows()
        transaction.set_rollback(True)


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    """With a database connection of its own."""

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def somebody_waits_for_a_lock() -> bool:
    """Asked on a connection that may be inside a transaction, which would see the same news for ever."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(waiting)
        return bool(cursor.fetchone()[0])


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_roll_up_waits_for_rows_that_are_written_and_not_yet_committed() -> None:
    booked(request())
    roll_up()
    booked(request())  # the mark stands
    written, commit = threading.Event(), threading.Event()

    def book_slowly() -> None:
        with transaction.atomic():
            booked(request())
            written.set()
            commit.wait(20)

    booker = in_thread(book_slowly)
    assert written.wait(20)
    roller = in_thread(roll_up)
    while roller.is_alive() and not somebody_waits_for_a_lock():
        time.sleep(0.01)
    assert roller.is_alive()
    commit.set()
    booker.join()
    roller.join()
    assert days() == {"2026-03-10": 3}
    assert_sums_are_those_of_the_rows()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_rows_that_are_booked_while_their_quarter_hour_is_summed_are_summed_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    booked(request())
    honest = rows.insert
    bookers: list[threading.Thread] = []

    def overtaken(*arguments: Any, **options: Any) -> None:
        """The rows are read and the mark is gone: now somebody books, and has to wait for us."""
        if not bookers:
            bookers.append(in_thread(lambda: booked(request())))
            while bookers[0].is_alive() and not somebody_waits_for_a_lock():
                time.sleep(0.01)
            assert bookers[0].is_alive()
        honest(*arguments, **options)

    monkeypatch.setattr(rollups, "insert", overtaken)
    assert roll_up() == 1
    bookers[0].join()
    assert roll_up() == 1
    assert_sums_are_those_of_the_rows()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_that_sum_at_the_same_time_do_each_quarter_hour_once_while_others_book() -> None:
    for hour in range(24):
        booked(request(f"2026-03-10T{hour:02}:01:00Z"), request(f"2026-03-10T{hour:02}:31:00Z"))
    summed: list[int] = []
    rollers = [in_thread(lambda: summed.append(roll_up())) for _ in range(2)]
    for roller in rollers:
        roller.join()
    assert sum(summed) == 48
    assert_sums_are_those_of_the_rows()

    def keep_booking() -> None:
        for number in range(30):
            booked(request(f"2026-03-10T{number % 24:02}:01:00Z"), request(NOON))

    busy = [in_thread(keep_booking) for _ in range(3)]
    while any(thread.is_alive() for thread in busy):
        rollers = [in_thread(roll_up) for _ in range(2)]
        for roller in rollers:
            roller.join()
    roll_up()
    assert UsageRecord.objects.count() == UsageAttempt.objects.count() == 48 + 180
    assert_sums_are_those_of_the_rows()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_time_zone_that_changes_while_another_worker_sums_leaves_no_day_of_the_old_one(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    booked(request("2026-03-10T23:30:00Z"), request("2026-03-11T12:00:00Z"))
    honest = rollups._sum_day
    new: list[threading.Thread] = []

    def overtaken(day: dt.date) -> None:
        if not new:
            zone_of_the_books(settings, "Europe/Berlin")
            new.append(in_thread(roll_up))
            new[0].join()
        honest(day)

    monkeypatch.setattr(rollups, "_sum_day", overtaken)
    roll_up()
    assert days() == {"2026-03-11": 2}
    assert_sums_are_those_of_the_rows()
