"""Keys, prices and the ledger in the admin. The ledger is for reading: its rows are written once, elsewhere."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextareaWidget

from accounting import keys
from accounting.models import ApiKey, CostCentre, Price, Scope, UsageAttempt, UsageRecord, default_scopes
from providers.admin import KeptForTheLedger
from providers.models import Provider

# The names of the models to filter by are looked up in so many of the latest rows: the whole ledger would take minutes.
ROWS_LOOKED_AT = 5000


@admin.register(CostCentre)
class CostCentreAdmin(ModelAdmin):
    list_display = ("code", "name", "key_total")
    search_fields = ("code", "name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CostCentre]:
        return super().get_queryset(request).annotate(key_count=Count("apikey"))  # type: ignore[no-any-return]

    @admin.display(description="Keys", ordering="key_count")
    def key_total(self, cost_centre: Any) -> int:
        return int(cost_centre.key_count)


class LinesField(forms.CharField):
    """A list of names, one per line."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.clean(data) != (initial or [])


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    allowed_models = LinesField(
        required=False, help_text="Names or patterns such as *haiku*, one per line; empty allows every model."
    )
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices, initial=default_scopes, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = ApiKey
        fields = ("name", "owner", "cost_centre", "allowed_models", "scopes", "expires_at")


@admin.register(ApiKey)
class ApiKeyAdmin(KeptForTheLedger):
    form = ApiKeyForm
    list_display = ("name", "state", "owner", "cost_centre", "starts_with", "expires_at", "created_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "cost_centre")
    list_select_related = ("cost_centre",)
    search_fields = ("name", "owner", "prefix", "cost_centre__code")
    autocomplete_fields = ("cost_centre",)
    readonly_fields = ("state", "starts_with", "created_at", "revoked_at")
    actions = ("revoke",)
    kept_because = "Rows of the ledger name {}: revoke it instead."

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*ApiKeyForm.Meta.fields, *(self.readonly_fields if obj else ()))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            token = keys.mint()
            obj.take_token(token)
            request.issued_token = token  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """The one page that shows the token, and no redirect to it: a message would lie in a cookie or a session."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Key issued",
            "key": obj,
            "token": request.issued_token,  # type: ignore[attr-defined]
            "gateway": request.build_absolute_uri("/").rstrip("/"),
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/accounting/apikey/issued.html", context)

    @admin.display(description="State")
    def state(self, key: ApiKey) -> str:
        return key.state()

    @admin.display(description="Begins with", ordering="prefix")
    def starts_with(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @admin.action(description="Revoke", permissions=["change"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        revoked = chosen.filter(revoked_at=None).update(revoked_at=timezone.now())
        messages.success(request, f"Revoked: {revoked}. Running gateways refuse them within two seconds.")


@admin.register(Price)
class PriceAdmin(ModelAdmin):
    list_display = ("model", "for_provider", "valid_from", "currency", "input", "cache_read", "output", "source")
    list_filter = ("provider", "currency")
    list_select_related = ("provider",)
    search_fields = ("model", "provider__name")
    autocomplete_fields = ("provider",)
    date_hierarchy = "valid_from"
    fieldsets = (
        (None, {"fields": ("model", "provider", "valid_from", "currency", "source")}),
        ("Per million tokens", {"fields": ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")}),
        ("Per thousand", {"fields": ("web_search",)}),
    )

    @admin.display(description="Provider", ordering="provider__name")
    def for_provider(self, price: Price) -> str:
        return str(price.provider or "any")


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
