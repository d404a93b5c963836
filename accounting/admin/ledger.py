"""The ledger in the admin. It is for reading: its rows are written once, elsewhere."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter, RangeDateFilter
from unfold.decorators import display
from unfold.views import ChangeList

from accounting.admin.figures import moment, number, plain, unbroken
from accounting.admin.filters import Choice, CostCentreFilter, KeyFilter, OwnerFilter, ProviderFilter
from accounting.models import Price, Status, UsageAttempt, UsageRecord
from accounting.prices import MILLION, THOUSAND

# Of the days and the key that were chosen, so many of the latest rows are looked at: no filter on a ledger of millions
# may take seconds.
ROWS_READ = 20_000
# Names of models to filter by, and corrections of a row, are looked for in so many.
ROWS_LOOKED_AT = 5000

KINDS = {
    "input": "Input",
    "cache_read": "Cache read",
    "cache_write_5m": "Cache write, 5 minutes",
    "cache_write_1h": "Cache write, 1 hour",
    "output": "Output",
}


class Days(RangeDateFilter):
    """Whole days of the books' time zone, the last one included."""

    def __init__(self, field: Any, request: HttpRequest, *rest: Any, **named: Any) -> None:
        super().__init__(field, request, *rest, **named)
        self.title = "day"
        self.first, self.last = self.day(request, "from"), self.day(request, "to")

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        if self.first:
            queryset = queryset.filter(started_at__gte=midnight(self.first))
        if self.last and self.last < dt.date.max:
            queryset = queryset.filter(started_at__lt=midnight(self.last + dt.timedelta(days=1)))
        return queryset

    def day(self, request: HttpRequest, end: str) -> dt.date | None:
        text = self.used_parameters.get(f"{self.parameter_name}_{end}")
        try:
            day = parse_date(text) if text else None
        except ValueError:
            day = None
        if text and day is None:
            messages.warning(request, f"{text[:40]!r} is no day: write it like {timezone.localdate()}.")
        return day


def midnight(day: dt.date) -> dt.datetime:
    return timezone.make_aware(dt.datetime.combine(day, dt.time()))


class ModelFilter(Choice):
    title, parameter_name, field = "model", "model", "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        latest = UsageRecord.objects.order_by("-started_at").values_list("model", flat=True)[:ROWS_LOOKED_AT]
        return [(name, name) for name in sorted(set(latest))]


class PricedFilter(DropdownFilter):
    title, parameter_name = "price", "priced"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return [("yes", "Priced"), ("no", "No price was known")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        if self.value() in {"yes", "no"}:
            return queryset.filter(cost__isnull=self.value() == "no")
        return queryset


class Latest(ChangeList):
    """The latest rows of the days and the key that were chosen, found by an index; every other choice is among them.
    A request that is asked for by its id is found however old it is."""

    read_since: dt.datetime | None = None

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[UsageRecord]:
        found: QuerySet[UsageRecord] = super().get_queryset(request, exclude_parameters)
        if self.query and UsageRecord.objects.filter(request_id=self.query).exists():
            return found.filter(request_id=self.query)
        chosen = UsageRecord.objects.order_by("-started_at")
        for spec in self.filter_specs:
            if isinstance(spec, KeyFilter | Days):
                chosen = spec.queryset(request, chosen)
        self.read_since = chosen.values_list("started_at", flat=True)[ROWS_READ : ROWS_READ + 1].first()
        return found.filter(started_at__gt=self.read_since) if self.read_since else found


def price_paid(tokens: UsageRecord | UsageAttempt) -> str:
    return "unpriced" if tokens.cost is None else f"{plain(tokens.cost)} {tokens.currency}"


def never(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return False


class AttemptInline(TabularInline):
    model = UsageAttempt
    extra = 0
    has_add_permission = has_change_permission = has_delete_permission = never
    hide_title = True
    # What fits beside each other; export_usage --attempts has every column.
    fields = ("number", "provider", "upstream_model", "outcome", "took", "reason", "tokens", "source", "price_paid")
    readonly_fields = ("outcome", "took", "tokens", "price_paid")

    @admin.display(description="Status")
    def outcome(self, attempt: UsageAttempt) -> str:
        return attempt.status if attempt.reached else f"{attempt.status}, never reached"

    @admin.display(description="Took")
    def took(self, attempt: UsageAttempt) -> str:
        return seconds(attempt.finished_at - attempt.started_at)

    @admin.display(description="Input / cache read / written / output")
    def tokens(self, attempt: UsageAttempt) -> str:
        written = attempt.cache_write_5m + attempt.cache_write_1h
        return f"{attempt.input:,} / {attempt.cache_read:,} / {written:,} / {attempt.output:,}"

    @admin.display(description="Cost")
    def price_paid(self, attempt: UsageAttempt) -> str:
        return price_paid(attempt)


def seconds(span: dt.timedelta) -> str:
    return f"{span.total_seconds():.2f} s"


@admin.register(UsageRecord)
class UsageRecordAdmin(ModelAdmin):
    has_add_permission = has_change_permission = has_delete_permission = never
    list_display = (
        "began",
        "key",
        "model",
        "provider",
        "outcome",
        "input_tokens",
        "cache_tokens",
        "output_tokens",
        "price_paid",
        "source_word",
        "attempts",
    )
    list_filter = (
        ("started_at", Days),
        KeyFilter,
        OwnerFilter,
        CostCentreFilter,
        ModelFilter,
        ProviderFilter,
        ("status", ChoicesDropdownFilter),
        ("source", ChoicesDropdownFilter),
        PricedFilter,
    )
    list_filter_submit = True
    show_facets = admin.ShowFacets.NEVER
    list_before_template = "admin/accounting/usagerecord/read_since.html"
    # Whole values, as they stand: a ledger is too long to search in the middle of words.
    search_fields = ("request_id__exact", "client_request_id__exact", "session_id__exact", "key__exact", "owner__exact")
    search_help_text = "The whole of a request id, the client's own id, a session, a key's name or an owner."
    show_full_result_count = False
    list_per_page = 50
    readonly_fields = ("began", "took", "first_byte", "corrected", "corrections", "figures", "bill", "attempts_price")
    inlines = (AttemptInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "request_id",
                    "status",
                    "stop_reason",
                    "reason",
                    "began",
                    "took",
                    "first_byte",
                    "streamed",
                    "corrected",
                    "corrections",
                )
            },
        ),
        ("Who asked", {"fields": ("key", "owner", "cost_centre", "client_request_id", "session_id")}),
        ("Who answered", {"fields": ("provider", "model", "upstream_model", "attempt_count")}),
        ("Tokens and money", {"fields": ("bill", "figures", "attempts_price")}),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Latest

    @admin.display(description="Started", ordering="started_at")
    def began(self, record: UsageRecord) -> str:
        return unbroken(moment(record.started_at))

    @admin.display(description="Took")
    def took(self, record: UsageRecord) -> str:
        return seconds(record.finished_at - record.started_at)

    @admin.display(description="First byte")
    def first_byte(self, record: UsageRecord) -> str:
        return "none came" if record.first_byte_ms is None else f"after {record.first_byte_ms / 1000:.2f} s"

    @display(  # type: ignore[untyped-decorator]
        description="Status",
        ordering="status",
        label={
            Status.COMPLETED.value: "success",
            Status.CANCELLED.value: "info",
            Status.CUT.value: "warning",
            Status.INTERRUPTED.value: "warning",
            Status.FAILED.value: "danger",
        },
    )
    def outcome(self, record: UsageRecord) -> str:
        return record.status

    @admin.display(description="Input", ordering="input")
    def input_tokens(self, record: UsageRecord) -> str:
        return f"{record.input:,}"

    @admin.display(description="Cache read", ordering="cache_read")
    def cache_tokens(self, record: UsageRecord) -> str:
        return f"{record.cache_read:,}"

    @admin.display(description="Output", ordering="output")
    def output_tokens(self, record: UsageRecord) -> str:
        return f"{record.output:,}"

    @admin.display(description="Cost", ordering="cost")
    def price_paid(self, record: UsageRecord) -> str:
        return unbroken(price_paid(record))

    @admin.display(description="Figures", ordering="source")
    def source_word(self, record: UsageRecord) -> str:
        return record.source

    @admin.display(description="Attempts", ordering="attempt_count")
    def attempts(self, record: UsageRecord) -> int:
        return record.attempt_count

    @admin.display(description="Corrects")
    def corrected(self, record: UsageRecord) -> str:
        row = UsageRecord.objects.filter(request_id=record.corrects).first() if record.corrects else None
        return link(row) if row else record.corrects or "no other row"

    @admin.display(description="Corrected by")
    def corrections(self, record: UsageRecord) -> str:
        """Of the same key and not before it, which an index finds; looked for among the next rows."""
        later = UsageRecord.objects.filter(api_key=record.api_key_id, started_at__gte=record.started_at)
        looked_at = later.order_by("started_at").values("pk")[:ROWS_LOOKED_AT]
        rows = UsageRecord.objects.filter(pk__in=looked_at, corrects=record.request_id)
        return format_html_join(", ", "{}", ((link(row),) for row in rows)) or "no other row"

    @admin.display(description="Where the figures come from")
    def figures(self, record: UsageRecord) -> str:
        return f"{record.get_source_display()}{record.method and ' by '}{record.method}"

    @admin.display(description="Bill")
    def bill(self, record: UsageRecord) -> str:
        return render_to_string("admin/accounting/usagerecord/bill.html", bill_of(record))

    @admin.display(description="Cost of all attempts")
    def attempts_price(self, record: UsageRecord) -> str:
        return "unpriced" if record.attempts_cost is None else f"{plain(record.attempts_cost)} {record.currency}"


def link(record: UsageRecord) -> str:
    address = reverse("admin:accounting_usagerecord_change", args=[record.pk])
    return format_html('<a class="cc-link" href="{}">{}</a>', address, record.request_id)


def bill_of(record: UsageRecord) -> dict[str, Any]:
    """Each kind of token with the rate it was charged at; without a rate where no price was known."""
    price = record.price if isinstance(record.price, dict) else {}
    counts = {name: getattr(record, name) for name in KINDS}
    lines = [(KINDS[name], f"{count:,}", *charge(price, name, count, MILLION)) for name, count in counts.items()]
    if record.web_searches:
        searches = charge(price, "web_search", record.web_searches, THOUSAND)
        lines.append(("Web searches (rate per thousand)", f"{record.web_searches:,}", *searches))
    known = Price.objects.filter(pk=number(price.get("id"))).first() if price else None
    return {"record": record, "lines": lines, "price": price, "known": known, "total": price_paid(record)}


def charge(price: dict[str, str], name: str, count: int, per: Decimal) -> tuple[str, str]:
    """The rate, and what so many cost at it."""
    if name not in price:
        return "", ""
    rate = Decimal(price[name])
    return plain(rate), plain(rate * count / per)
