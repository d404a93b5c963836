"""The ledger in the admin. It is for reading: its rows are written once, elsewhere."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from accounting.models import ApiKey, UsageAttempt, UsageRecord
from providers.models import Provider

# The names of the models to filter by are looked up in so many of the latest rows: the whole ledger would take minutes.
ROWS_LOOKED_AT = 5000


class KeyFilter(admin.SimpleListFilter):
    """Keys from their own table: the names in the ledger would have to be collected from all of it."""

    title, parameter_name = "key", "key"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(ApiKey.objects.values_list("pk", "name"))

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(api_key=number(self.value())) if self.value() else queryset


class ProviderFilter(admin.SimpleListFilter):
    title, parameter_name = "provider", "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(Provider.objects.values_list("pk", "name"))

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(provider_ref=number(self.value())) if self.value() else queryset


class ModelFilter(admin.SimpleListFilter):
    title, parameter_name = "model", "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        latest = UsageRecord.objects.order_by("-started_at").values_list("model", flat=True)[:ROWS_LOOKED_AT]
        return [(name, name) for name in sorted(set(latest))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(model=self.value()) if self.value() else queryset


class PricedFilter(admin.SimpleListFilter):
    title, parameter_name = "price", "priced"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return [("yes", "Priced"), ("no", "No price was known")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        if self.value() in {"yes", "no"}:
            return queryset.filter(cost__isnull=self.value() == "no")
        return queryset


def number(text: str | None) -> int:
    """What stands in an address may be anything; no row has the number 0."""
    return int(text) if text and text.isdecimal() and len(text) < 19 else 0


def price_paid(tokens: UsageRecord | UsageAttempt) -> str:
    return "unpriced" if tokens.cost is None else f"{tokens.cost.normalize():f} {tokens.currency}"


def never(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return False


class AttemptInline(TabularInline):
    model = UsageAttempt
    extra = 0
    has_add_permission = has_change_permission = has_delete_permission = never
    hide_title = True
    # What fits beside each other; export_usage --attempts has every column.
    fields = ("number", "provider", "upstream_model", "status", "reason", "tokens", "source", "price_paid")
    readonly_fields = ("tokens", "price_paid")

    @admin.display(description="Input / cache read / written / output")
    def tokens(self, attempt: UsageAttempt) -> str:
        written = attempt.cache_write_5m + attempt.cache_write_1h
        return f"{attempt.input} / {attempt.cache_read} / {written} / {attempt.output}"

    @admin.display(description="Cost")
    def price_paid(self, attempt: UsageAttempt) -> str:
        return price_paid(attempt)


@admin.register(UsageRecord)
class UsageRecordAdmin(ModelAdmin):
    has_add_permission = has_change_permission = has_delete_permission = never
    list_display = (
        "started_at",
        "key",
        "model",
        "provider",
        "status",
        "input",
        "cache_read",
        "output",
        "price_paid",
        "source",
        "attempt_count",
    )
    list_filter = ("started_at", KeyFilter, ProviderFilter, ModelFilter, "status", "source", PricedFilter)
    # Whole values, as they stand: a ledger is too long to search in the middle of words.
    search_fields = ("request_id__exact", "client_request_id__exact", "session_id__exact", "key__exact", "owner__exact")
    search_help_text = "The whole of a request id, the client's own id, a session, a key's name or an owner."
    show_full_result_count = False
    list_per_page = 50
    readonly_fields = ("price_paid", "attempts_price")
    inlines = (AttemptInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "request_id",
                    "corrects",
                    "started_at",
                    "finished_at",
                    "status",
                    "stop_reason",
                    "reason",
                    "streamed",
                    "first_byte_ms",
                )
            },
        ),
        ("Who asked", {"fields": ("key", "owner", "cost_centre", "client_request_id", "session_id")}),
        ("Who answered", {"fields": ("provider", "model", "upstream_model", "attempt_count")}),
        (
            "Tokens",
            {
                "fields": (
                    "input",
                    "cache_read",
                    "cache_write_5m",
                    "cache_write_1h",
                    "output",
                    "thinking",
                    "web_searches",
                    "source",
                    "method",
                )
            },
        ),
        ("Money", {"fields": ("price_paid", "attempts_price", "price")}),
    )

    @admin.display(description="Cost", ordering="cost")
    def price_paid(self, record: UsageRecord) -> str:
        return price_paid(record)

    @admin.display(description="Cost of all attempts")
    def attempts_price(self, record: UsageRecord) -> str:
        return "unpriced" if record.attempts_cost is None else f"{record.attempts_cost.normalize():f} {record.currency}"
