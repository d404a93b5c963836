"""The finance reader's pages. Whoever may see reports reads sums here, and nothing else: no key, address or prompt."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeAlias

import msgspec
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from accounting import reports, rollups
from accounting.models import Status
from accounting.report_choice import FIELDS, Choice, chosen_by, compared_with, file_part, offered, told
from accounting.report_files import MOST_IN_A_FILE, File, as_csv, as_xlsx, sheet
from accounting.report_lines import Line, by_date, charts_of, currencies_of, cut, folded, ranked, summed, within
from accounting.reports import Figures, Period

MAY_READ = "accounting.view_reports"
FORMATS: Mapping[str, Callable[[File], HttpResponse]] = {"csv": as_csv, "xlsx": as_xlsx}
MOST_ON_A_PAGE = 1000
MOST_ON_TOP = 10
# The names to choose from are looked up among so many different lines.
MOST_NAMES = 5000
KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking", "web_searches")

View: TypeAlias = Callable[..., HttpResponse]


class Division(msgspec.Struct, frozen=True):
    """What the lines of a table stand for."""

    field: str
    singular: str
    plural: str


# By the last part of the address.
DIVISIONS: Mapping[str, Division] = {
    "keys": Division("key", "key", "Keys"),
    "models": Division("model", "model", "Models"),
    "cost-centres": Division("cost_centre", "cost centre", "Cost centres"),
    "providers": Division("provider", "provider", "Providers"),
    "owners": Division("owner", "owner", "Owners"),
    "days": Division("day", "day", "Days"),
}
TOP = ("keys", "models", "cost-centres")


def for_readers(view: View) -> View:
    """Staff with the permission to see reports; others are told whom to ask, and nothing is ever changed here."""

    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest, **named: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path(), reverse("admin:login"))
        if not (admin.site.has_permission(request) and request.user.has_perm(MAY_READ)):
            context = {**admin.site.each_context(request), "title": "Reports are not open to you"}
            return TemplateResponse(request, "accounting/reports/refused.html", context, status=403)
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"])
        return view(request, **named)

    return guarded


@for_readers
def overview(request: HttpRequest) -> HttpResponse:
    choice = chosen_by(request.GET, reports.today())
    before, compared = choice.period.before(), compared_with(choice.period, reports.today())
    days = reports.by("day", Period(before.start, choice.period.end), **choice.chosen)
    divided = reports.by_all(tuple(DIVISIONS[part].field for part in TOP), choice.period, **choice.chosen)
    these_days = within(days, choice.period)
    now, then = summed(these_days.values()), summed(within(days, compared).values())
    currencies = currencies_of([*divided.values(), then])
    tops = {part: ranked(folded(divided, place), {}, currencies) for place, part in enumerate(TOP)}
    if as_file := _wanted(request, choice):
        total = Line(told(choice.period), now, then)
        sheets = [sheet("Total", "period", [total], currencies), sheet("Days", "day", by_date(these_days), currencies)]
        sheets += [
            sheet(DIVISIONS[part].plural, DIVISIONS[part].field, lines, currencies) for part, lines in tops.items()
        ]
        return as_file(
            File(f"ccproxy-overview-{file_part(choice.period)}", _head("Overview", choice, compared), sheets)
        )
    context = {
        "now": now,
        "then": then,
        "kinds": [(kind.replace("_", " "), getattr(now, kind), getattr(then, kind)) for kind in KINDS],
        "before": before,
        "before_query": choice.with_period(before).query(),
        "whole_before": summed(within(days, before).values()) if before != compared else None,
        "compared": compared,
        "currencies": currencies,
        "charts": charts_of(these_days, choice.period, currencies),
        "tops": [(part, DIVISIONS[part], lines[:MOST_ON_TOP], len(lines)) for part, lines in tops.items()],
        "unpriced": [line for line in tops["models"] if line.figures.unpriced],
        "may_price": request.user.has_perm("accounting.add_price"),
    }
    return _page(request, choice, now, "overview", "Overview", context)


@for_readers
def table(request: HttpRequest, part: str) -> HttpResponse:
    choice, division = chosen_by(request.GET, reports.today()), DIVISIONS[part]
    compared = None if division.field == "day" else compared_with(choice.period, reports.today())
    found = reports.by(division.field, choice.period, **choice.chosen)
    before = reports.by(division.field, compared, **choice.chosen) if compared else {}
    currencies = currencies_of([*found.values(), *before.values()])
    lines = ranked(found, before, currencies) if compared else by_date(found)
    total = Line("Total", summed(found.values()), summed(before.values()))
    if as_file := _wanted(request, choice):
        name = f"ccproxy-by-{division.singular.replace(' ', '-')}-{file_part(choice.period)}"
        made = sheet(division.plural, division.field, lines, currencies, total, compares=compared is not None)
        return as_file(File(name, _head(f"By {division.singular}", choice, compared), [made]))
    context = {
        "division": division,
        "lines": cut(lines, MOST_ON_A_PAGE),
        "line_total": len(lines),
        "most_on_a_page": MOST_ON_A_PAGE,
        "most_in_a_file": MOST_IN_A_FILE,
        "total": total,
        "currencies": currencies,
        "compared": compared,
        "charts": [] if compared else charts_of(found, choice.period, currencies),
    }
    return _page(request, choice, total.figures, part, f"By {division.singular}", context)


def _wanted(request: HttpRequest, choice: Choice) -> Callable[[File], HttpResponse] | None:
    """No file is made of what was asked for wrongly: it would be taken for what was meant."""
    return None if choice.faults else FORMATS.get(request.GET.get("format", ""))


def _head(title: str, choice: Choice, compared: Period | None) -> list[tuple[str, str]]:
    """What stands above the lines of a spreadsheet."""
    head = [
        ("Report", title),
        ("Period", f"{choice.period.start} to {choice.last}, both included"),
        *([("Compared with", f"{compared.start} to {compared.end - dt.timedelta(days=1)}")] if compared else []),
        *((FIELDS[field].capitalize(), value or "(none)") for field, value in choice.chosen.items()),
        ("Time zone of the days", settings.BOOKS_TIME_ZONE.key),
        ("Figures up to", f"{figures_reach():%Y-%m-%d %H:%M}"),
    ]
    return head if choice.chosen else [*head, ("Filter", "none: everything")]


def figures_reach() -> dt.datetime:
    """Until when all that was booked is in the sums, in the books' time zone."""
    return timezone.localtime() - dt.timedelta(seconds=rollups.lag() or 0)


def _page(
    request: HttpRequest, choice: Choice, total: Figures, part: str, title: str, context: Mapping[str, Any]
) -> HttpResponse:
    names = _names(choice.period)
    faults = {**_not_found(choice, total, names), **choice.faults}
    wanted = request.GET.get("format", "")
    if wanted and wanted not in FORMATS:
        faults["format"] = f"There is no such format: say one of {', '.join(FORMATS)}."
    around = {
        "title": f"{title}: {told(choice.period)}",
        "choice": choice,
        "told": told(choice.period),
        "part": part,
        "tabs": [("overview", "Overview"), *((part, division.plural) for part, division in DIVISIONS.items())],
        "periods": [
            (name, choice.with_period(period).query(), period == choice.period)
            for name, period in offered(reports.today()).items()
        ],
        "chips": [(FIELDS[field], value, choice.widened(field).query()) for field, value in choice.chosen.items()],
        "fields": [
            (field, label, choice.chosen.get(field, ""), names[field], faults.get(field, ""))
            for field, label in FIELDS.items()
        ],
        "without": [field for field, value in choice.chosen.items() if not value],
        "faults": faults,
        "formats": [(name.upper(), choice.query(format=name)) for name in FORMATS],
        "zone": settings.BOOKS_TIME_ZONE.key,
        "up_to": figures_reach(),
    }
    template = f"accounting/reports/{'overview' if part == 'overview' else 'table'}.html"
    # Whoever asked for a file must not take this page for it.
    status = 400 if wanted and faults else 200
    everything = {**admin.site.each_context(request), **around, **context}
    return TemplateResponse(request, template, everything, status=status)


def _names(period: Period) -> Mapping[str, Sequence[str]]:
    """What there is to choose from in these days, by field."""
    fields = [field for field in FIELDS if field != "status"]
    found = list(reports.lines(period).order_by().values_list(*fields).distinct()[:MOST_NAMES])
    names = {field: sorted({row[place] for row in found} - {""}) for place, field in enumerate(fields)}
    return {**names, "status": Status.values}


def _not_found(choice: Choice, total: Figures, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A sentence for each field that may be why there are no figures."""
    if total.requests:
        return {}
    return {
        field: f"Nothing of this {FIELDS[field]} in these days: choose another one, or other days."
        for field, value in choice.chosen.items()
        if value and value not in names[field]
    }
