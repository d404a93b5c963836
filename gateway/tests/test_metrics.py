"""What is counted, how it is summed over processes that come and go, and what a reader gets of it."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
import subprocess
import sys
import threading
import time
import timeit
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from prometheus_client.parser import text_string_to_metric_families

from accounting.ledger import Attempt, Row
from accounting.prices import PriceList, Rates
from gateway import figures, metrics
from gateway.metrics import Figures, Metrics, Now, Publisher, Times
from gateway.tests.conftest import Gateway, Upstream, endpoint, question
from gateway.tests.test_relay import route_to
from gateway.watch import Probe, Seen
from providers.errors import KeyRefused, Overloaded
from providers.usage import Usage

DASHBOARD = settings.BASE_DIR / "docs" / "grafana" / "ccproxy.json"


def price(**changes: Any) -> Rates:
    known: dict[str, Any] = dict.fromkeys(("cache_read", "cache_write_5m", "cache_write_1h", "web_search"), Decimal(0))
    known |= {"id": 1, "model": "m", "provider_id": None, "valid_from": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
    return Rates(**{**known, "currency": "EUR", "input": Decimal(1), "output": Decimal(10), **changes})


def counting(*prices: Rates, now: Now | None = None) -> Metrics:
    return Metrics(lambda: PriceList(prices), lambda: now or Now())


def settle(held: Metrics, seconds: float = 1.0, **changes: Any) -> None:
    """One request of a thousand tokens read and ten made."""
    told = {"provider": "p", "status": "completed", "route": "claude-*", "language": "openai", **changes}
    row = Row("req_1", 100.0, 1, "k", finished_at=100.0 + seconds, status=told["status"], first_byte_ms=20)
    attempt = Attempt(1, 100.0, 7, told["provider"], "m", status=told["status"], usage=Usage(input=1000, output=10))
    held.settled(row, [attempt], told["route"], told["language"])


def figures_of(held: Metrics) -> Figures:
    whole = Figures()
    whole.add(metrics.decoded(held.encoded()), lives=True)
    return whole


def text_of(told: Figures) -> str:
    return figures.prometheus(figures.Standing(told, Seen(), [])).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


async def test_every_request_is_counted_once_with_its_tokens_and_time(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    for stream in (True, False, True):
        assert (await gateway.ask(question(stream=stream))).status == 200
    text = text_of(figures_of(gateway.runtime.metrics))
    name = f"{kind}-1"
    labels = {"provider": name, "route": "claude-*"}
    assert value(text, "ccproxy_requests_total", **labels, language=kind, status="completed") == 3
    assert value(text, "ccproxy_attempts_total", provider=name, status="completed") == 3
    booked = [settled.attempts[-1].usage for settled in gateway.settled()]
    assert value(text, "ccproxy_tokens_total", **labels, kind="output") == sum(usage.output for usage in booked) > 0
    assert value(text, "ccproxy_request_duration_seconds_count", **labels) == 3
    assert value(text, "ccproxy_first_byte_seconds_count", **labels) == 3


async def test_a_failover_names_who_failed_and_why(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url), endpoint(2, "openai", second_upstream.url)))
    await upstream.default({"status": 529})
    for _ in range(2):
        assert (await gateway.ask(question())).status == 200
    told = figures_of(gateway.runtime.metrics)
    assert told.totals.failovers == {"openai-1": 2}
    assert told.totals.failures == {("openai-1", "overloaded_error"): 2}
    assert told.totals.attempts == {("openai-1", "failed"): 2, ("openai-2", "completed"): 2}
    assert told.now.failing == {"openai-1": 2}
    assert set(told.answered_at) == {"openai-2"}
    await upstream.default({"text": "well again"})
    assert (await gateway.ask(question())).status == 200
    assert figures_of(gateway.runtime.metrics).now.failing == {}


async def test_a_request_at_fault_is_no_failure_of_the_provider(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.default({"status": 400})
    assert (await gateway.ask(question())).status == 400
    told = figures_of(gateway.runtime.metrics)
    assert (told.totals.failures, told.now.failing) == ({}, {})
    assert told.totals.refusals == {("invalid_request_error", 400): 1}


async def test_refusals_are_counted_by_type(gateway: Gateway) -> None:
    gateway.route(route_to(endpoint(1, "openai", "http://127.0.0.1:9")))
    await gateway.ask(question(), token=None)
    await gateway.ask(b"{")
    await gateway.ask(question(model="unknown"))
    assert figures_of(gateway.runtime.metrics).totals.refusals == {
        ("authentication_error", 401): 1,
        ("invalid_request_error", 400): 1,
        ("not_found_error", 404): 1,
    }


async def test_what_a_client_calls_its_model_is_no_label(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    for number in range(30):
        await gateway.ask(question(model=f"claude-of-a-client-{number}"))
    text = text_of(figures_of(gateway.runtime.metrics))
    assert "of-a-client" not in text
    labels = {"provider": "openai-1", "route": "claude-*", "language": "openai", "status": "completed"}
    assert value(text, "ccproxy_requests_total", **labels) == 30


def test_cost_is_counted_by_currency_where_a_price_is_known() -> None:
    held = counting(price())
    for _ in range(3):
        settle(held)
    settle(held, provider="other")
    told = figures_of(held).totals
    assert told.cost[("p", "claude-*", "EUR")] == pytest.approx(3 * (1000 * 1 + 10 * 10) / 1_000_000)
    assert figures_of(counting()).totals.cost == {}


def test_absurd_figures_of_a_provider_stop_no_counting() -> None:
    held = counting(price(input=Decimal(10) ** 11))
    row = Row("req_1", 100.0, 1, "k", finished_at=101.0, status="completed")
    absurd = Attempt(1, 100.0, 7, "p", "m", status="completed", usage=Usage(input=2**53, output=2**53))
    for _ in range(5000):
        held.settled(row, [absurd], "r", "openai")
        if held._bills[7, "p", "r", "m"].input > 2**60:
            held.encoded()
    settle(held)
    told = figures_of(held)
    assert requests(told) == 5001
    assert "ccproxy_tokens_total" in text_of(told)


def test_percentiles_are_those_of_the_times_within_a_tenth() -> None:
    chance = random.Random(7)
    durations = sorted(chance.lognormvariate(0.5, 1.2) for _ in range(20_000))
    times = Times()
    for seconds in durations:
        times.note(seconds)
    for share in (0.5, 0.95, 0.99):
        assert times.percentile(share) == pytest.approx(durations[int(share * len(durations))], rel=0.1)
    assert times.seconds == pytest.approx(sum(durations))


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 0.0005, 0.001, 899.9, 1e9])
def test_odd_times_have_a_place(seconds: float) -> None:
    times = Times()
    times.note(seconds)
    found = times.percentile(0.5)
    assert found is not None
    assert 0.0 <= found <= metrics.BOUNDS[-1]
    assert figures.buckets(times)[-1] == ("+Inf", 1.0)
    assert Times().percentile(0.5) is None


def test_histograms_are_what_prometheus_reads() -> None:
    held = counting()
    for seconds in (0.004, 0.3, 0.3, 7.0, 2000.0):
        settle(held, seconds)
    text = text_of(figures_of(held))
    labels = {"provider": "p", "route": "claude-*"}
    found = {
        key[1]: number for key, number in samples(text).items() if key[0] == "ccproxy_request_duration_seconds_bucket"
    }
    by_bound = {float(dict(key)["le"]): number for key, number in found.items()}
    assert [by_bound[bound] for bound in (0.005, 0.25, 0.5, 5.0, 10.0, 500.0, float("inf"))] == [1, 1, 3, 3, 4, 4, 5]
    assert list(by_bound.values()) == sorted(by_bound.values())
    assert value(text, "ccproxy_request_duration_seconds_sum", **labels) == pytest.approx(2007.604)


def test_nothing_is_lost_between_threads() -> None:
    held, rounds = counting(), 3000
    stop = threading.Event()

    def fold() -> None:
        while not stop.is_set():
            held.encoded()

    folding = threading.Thread(target=fold)
    folding.start()

    def count() -> None:
        for _ in range(rounds):
            settle(held)

    counters = [threading.Thread(target=count) for _ in range(3)]
    for thread in counters:
        thread.start()
    for thread in counters:
        thread.join()
    stop.set()
    folding.join()
    told = figures_of(held)
    [tally] = told.totals.requests.values()
    assert tally.requests == tally.duration.number == 3 * rounds
    assert told.totals.tokens[("p", "claude-*", "input")] == 3 * rounds * 1000


def test_the_last_hour_is_of_the_last_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    held, moment = counting(), 1_000_000_000.0
    monkeypatch.setattr(time, "time", lambda: moment)
    settle(held, status="failed")
    assert figures.as_json(standing(held))["last_hour"]["by_status"] == {"failed": 1}
    moment += 50 * 60
    settle(held)
    assert figures.as_json(standing(held))["last_hour"]["error_share"] == 0.5
    moment += 15 * 60
    told = figures.as_json(standing(held))
    assert told["last_hour"]["by_status"] == {"completed": 1}
    assert told["total"]["requests"] == 2
    assert told["last_hour"]["routes"][0]["duration_seconds"]["p50"] == pytest.approx(1.0, rel=0.25)
    moment += 7200
    assert figures.as_json(standing(held))["last_hour"]["requests"] == 0


def standing(held: Metrics) -> figures.Standing:
    return figures.Standing(figures_of(held), Seen(), [])


def test_a_health_score_falls_with_what_the_provider_spoils() -> None:
    held = counting()
    for _ in range(3):
        settle(held)
    settle(held, status="failed")
    held.failed("p", Overloaded("busy"))
    [told] = figures.as_json(standing(held))["last_hour"]["providers"]
    assert (told["attempts"], told["completed"], told["health_score"]) == (4, 3, 0.75)


def published(directory: Path, **now: Any) -> tuple[Metrics, Publisher]:
    held = counting(now=Now(processes=1, **now))
    publisher = Publisher(held, directory)
    publisher.take_place()
    return held, publisher


def test_processes_are_summed_and_what_one_had_counted_outlives_it(tmp_path: Path) -> None:
    first, at_first = published(tmp_path, running=2)
    second, at_second = published(tmp_path, running=3)
    settle(first)
    settle(second)
    settle(second)
    at_second.all_figures()  # as it does every second
    told = at_first.all_figures()
    assert (requests(told), told.now.running, told.now.processes) == (3, 5, 2)

    at_second.stop()
    told = at_first.all_figures()
    assert (requests(told), told.now.running, told.now.processes) == (3, 2, 1)

    third, at_third = published(tmp_path)
    assert len([*tmp_path.glob("*.figures")]) == 2, "it counts on where the second has ended"
    settle(third)
    assert requests(at_third.all_figures()) == requests(at_first.all_figures()) == 4
    at_first.stop()
    at_third.stop()


def requests(told: Figures) -> int:
    return sum(tally.requests for tally in told.totals.requests.values())


CHILD = """
import os, sys, time, django
django.setup()
from pathlib import Path
from gateway.tests.test_metrics import published, settle
held, publisher = published(Path(sys.argv[1]), running=1)
publisher.start()
settle(held)
print(len(publisher.all_figures().totals.requests), flush=True)
time.sleep(60)
"""


def test_a_figure_that_was_told_is_not_lost_with_a_killed_process(tmp_path: Path) -> None:
    environment = {"DJANGO_SETTINGS_MODULE": "ccproxy_site.settings", "CCPROXY_DATA_DIR": str(tmp_path), "PATH": ""}
    _, at_ours = published(tmp_path / "metrics")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "metrics")],
        cwd=settings.BASE_DIR,
        env=environment,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        before = at_ours.all_figures()
        assert (requests(before), before.now.processes, before.now.running) == (1, 2, 1)
        child.kill()
    after = at_ours.all_figures()
    assert (requests(after), after.now.processes, after.now.running) == (1, 1, 0)
    assert after.cpu_seconds >= before.cpu_seconds > 0
    at_ours.stop()


def test_older_figures_never_take_the_place_of_those_that_were_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second's write has its figures in hand when somebody asks: siblings would tell less than was told before."""
    held, publisher = published(tmp_path)
    honest, asking = held.encoded, list[threading.Thread]()

    def encoded() -> bytes:
        payload = honest()
        if not asking:
            settle(held)
            asking.append(threading.Thread(target=publisher.all_figures))
            asking[0].start()
            asking[0].join(timeout=0.3)
        return payload

    monkeypatch.setattr(held, "encoded", encoded)
    publisher.all_figures()
    asking[0].join()
    assert requests(metrics.read(tmp_path / "1.figures")) == 1
    publisher.stop()


def test_a_start_begins_anew_but_leaves_the_living(tmp_path: Path) -> None:
    first, at_first = published(tmp_path)
    second, at_second = published(tmp_path)
    settle(first)
    settle(second)
    at_second.stop()
    at_first.all_figures()
    metrics.begin_anew(tmp_path)
    assert requests(at_first.all_figures()) == 1
    metrics.begin_anew(tmp_path / "that is not there")
    at_first.stop()


def test_what_cannot_be_read_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "1.figures").write_bytes(b"of another version")
    (tmp_path / "2.figures").write_bytes(b"")
    held, publisher = published(tmp_path)
    settle(held)
    assert requests(publisher.all_figures()) == 1
    publisher.stop()


def test_a_disk_that_takes_nothing_is_told_once_and_figures_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    held, publisher = published(nowhere / "metrics")
    settle(held)
    assert requests(publisher.all_figures()) == 1
    held, publisher = published(tmp_path / "metrics")
    (tmp_path / "metrics" / "1.draft").mkdir()
    for _ in range(3):
        settle(held)
        publisher.all_figures()
    assert requests(publisher.all_figures()) == 3
    assert ["not kept" in line or "cannot be written" in line for line in caplog.messages] == [True, True]
    publisher.stop()


def test_an_idle_process_leaves_the_disk_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, publisher = published(tmp_path)
    written: list[int] = []

    def write(place: metrics.Place, payload: bytes) -> None:
        written.append(len(payload))

    monkeypatch.setattr(metrics.Place, "write", write)
    monkeypatch.setattr(metrics, "PAUSE", 0.01)
    publisher.start()
    time.sleep(0.3)
    settle(held)
    time.sleep(0.3)
    assert len(written) == 2
    publisher.stop()


def test_refused_keys_are_one_line_however_many_there_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = counting()
    for _ in range(3):
        for _ in range(500):
            held.refused(KeyRefused.kind, KeyRefused.status)
        held.encoded()
    assert caplog.messages == ["500 requests were refused for their key"]
    monkeypatch.setattr("gateway.metrics.TELLING_PAUSE", 0.0)
    held._tell_at = 0.0
    held.encoded()
    assert caplog.messages[1:] == ["1000 requests were refused for their key"]


def test_counting_a_request_costs_a_few_microseconds() -> None:
    held = counting()
    row = Row("req_1", 100.0, 1, "k", finished_at=101.0, status="completed", first_byte_ms=20)
    attempts = [Attempt(1, 100.0, 7, "p", "m", status="completed", usage=Usage(input=1000, output=10))]
    rounds = 2000
    took = min(timeit.repeat(lambda: held.settled(row, attempts, "r", "openai"), number=rounds, repeat=5)) / rounds
    assert took < 3e-6 * 5


def test_the_dashboard_asks_for_figures_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    wanted = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    wanted += [str(variable.get("query", "")) for variable in dashboard["templating"]["list"]]
    asked = {name for text in wanted for name in re.findall(r"ccproxy_\w+", text)}
    held = counting(price())
    settle(held)
    settle(held, status="failed")
    held.failed("p", Overloaded("busy"))
    held.failed_over("p")
    held.refused("api_error", 500)
    probe = Seen(is_known=True, probes={1: Probe(ok=True, checked_at=1.0, latency_ms=5, detail="")})
    text = figures.prometheus(figures.Standing(figures_of(held), probe, [endpoint(1, "openai", "http://x")])).decode()
    there = {name for name, _ in samples(text)}
    assert len(asked) > 10
    assert asked <= there


def test_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
