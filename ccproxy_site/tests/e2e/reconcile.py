"""The ledger against the bills of the mocks: call by call, and to the token."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ccproxy_site.tests.e2e.family import Installation, Mock

FIGURES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking")
# What the gateway had from the upstream itself; "counted" and "estimated" are its own figures.
TOLD = "upstream"

Row = dict[str, Any]


@dataclass
class Report:
    """What was compared, and every way in which the two differ."""

    calls: int = 0
    attempts: int = 0
    records: int = 0
    exact: int = 0
    counted: int = 0
    estimated: int = 0
    tokens: Counter[str] = field(default_factory=Counter)  # of the exact ones
    unbooked: list[str] = field(default_factory=list)  # billed, and not in the ledger
    unbilled: list[str] = field(default_factory=list)  # in the ledger as billed, and on no bill
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        return [*self.unbooked, *self.unbilled, *self.twice, *self.wrong]


def reconcile(installation: Installation, *mocks: Mock) -> Report:
    """Fails with every difference; figures that the gateway estimated or counted by itself need only be there."""
    installation.wait_until_booked()
    calls = [call for mock in mocks for call in mock.bill()]
    with ThreadPoolExecutor() as both:  # each is a process that mostly starts
        attempts, records = both.submit(installation.ledger, "--attempts"), both.submit(installation.ledger)
        report = compare(calls, attempts.result(), records.result())
    assert not report.differences, "\n".join(report.differences)
    return report


def compare(calls: list[Row], attempts: list[Row], records: list[Row]) -> Report:
    report = Report(calls=len(calls), attempts=len(attempts), records=len(records))
    billed, booked = by_request(calls), by_request(attempts)
    for request_id in {**billed, **booked}:
        compare_request(request_id, billed[request_id], booked[request_id], report)
    compare_records(booked, records, report)
    return report


def by_request(rows: list[Row]) -> defaultdict[str, list[Row]]:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["request_id"]].append(row)
    return groups


def compare_request(request_id: str, calls: list[Row], attempts: list[Row], report: Report) -> None:
    """One request's calls and attempts, which follow one another and so agree in their order."""
    numbers = Counter(attempt["number"] for attempt in attempts)
    report.twice += [f"{request_id}: attempt {number} stands {n} times" for number, n in numbers.items() if n > 1]
    report.counted += sum(attempt["source"] == "counted" for attempt in attempts)
    report.estimated += sum(attempt["source"] == "estimated" for attempt in attempts)
    calls = sorted(calls, key=lambda call: (call["started_at"], call["call"]))
    met = those_that_were_made(sorted(attempts, key=lambda attempt: attempt["number"]), len(calls))
    report.unbooked += [f"{request_id}: {told(call)} has no attempt" for call in calls[len(met) :]]
    report.unbilled += [f"{request_id}: {told(attempt)} is on no bill" for attempt in met[len(calls) :]]
    for call, attempt in zip(calls, met, strict=False):
        if attempt["source"] != TOLD:
            continue
        billed, booked = figures(call), figures(attempt)
        if billed == booked:
            report.exact += 1
            report.tokens.update(billed)
        else:
            report.wrong.append(f"{request_id}: billed {told(call)}, booked {told(attempt)}")


def those_that_were_made(attempts: list[Row], calls: int) -> list[Row]:
    """Of more attempts than calls those go that never reached a provider, or of which nobody can know."""
    met = list(attempts)
    for in_doubt in (lambda row: not row["reached"], lambda row: row["source"] == "estimated"):
        surplus = len(met) - calls
        dropped = [row for row in reversed(met) if in_doubt(row)][: max(surplus, 0)]
        met = [row for row in met if row not in dropped]
    return met


def compare_records(booked: defaultdict[str, list[Row]], records: list[Row], report: Report) -> None:
    rows = by_request(records)
    report.twice += [f"{request_id}: {len(same)} rows" for request_id, same in rows.items() if len(same) > 1]
    report.wrong += [f"{request_id}: attempts without a row" for request_id in booked.keys() - rows.keys()]
    for request_id, (row, *_) in rows.items():
        attempts = booked[request_id]
        if row["attempt_count"] != len(attempts):
            report.wrong.append(f"{request_id}: {row['attempt_count']} attempts by its row, {len(attempts)} are there")
        served = [attempt for attempt in attempts if attempt["status"] == "completed"]
        if row["status"] == "completed" and (len(served) != 1 or figures(row) != figures(served[0])):
            report.wrong.append(f"{request_id}: the row says {told(row)}, its answer was {[told(a) for a in served]}")


def figures(row: Row) -> dict[str, int]:
    return {name: row[name] for name in FIGURES}


def told(row: Row) -> str:
    state = row.get("outcome") or row.get("status")
    used = ", ".join(f"{name} {number}" for name, number in figures(row).items() if number)
    return f"{row.get('upstream_model') or row['model']} {state} ({used or 'nothing'})"
