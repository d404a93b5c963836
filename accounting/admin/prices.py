"""Prices in the admin: one's own, and those of the list that comes with the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action

from accounting import list_prices
from accounting.admin.figures import number, plain
from accounting.list_prices import RATES, Change
from accounting.models import Price
from providers.models import Provider

# Of each kind of difference; a new provider may bring two thousand.
MOST_SHOWN = 200
PER_MILLION = RATES[:-1]


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    class Meta:
        model = Price
        fields = ("model", "provider", "valid_from", "currency", "source", *RATES)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.initial.update({name: plain(self.initial[name]) for name in RATES if name in self.initial})

    def clean_currency(self) -> str:
        currency: str = self.cleaned_data["currency"].upper()
        if not (currency.isascii() and currency.isalpha() and len(currency) == 3):
            raise forms.ValidationError("Three letters are expected, such as USD.")
        return currency

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        if {"model", "provider", "valid_from"} <= values.keys():
            same = Price.objects.filter(
                model=values["model"], provider=values["provider"], valid_from=values["valid_from"], listed=False
            )
            if same.exclude(pk=self.instance.pk).exists():
                self.add_error("valid_from", "This model has a price from this very moment already: choose another.")
        return values


class OriginFilter(DropdownFilter):
    title, parameter_name = "origin", "origin"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return [("own", "Your own"), ("listed", "From the shipped list")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Price]) -> QuerySet[Price]:
        return queryset.filter(listed=self.value() == "listed") if self.value() in {"own", "listed"} else queryset


class ProviderFilter(DropdownFilter):
    title, parameter_name = "provider", "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return [("any", "Whoever serves the model"), *Provider.objects.values_list("pk", "name")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Price]) -> QuerySet[Price]:
        if not self.value():
            return queryset
        return queryset.filter(provider=None if self.value() == "any" else number(self.value()))


def rate_column(name: str) -> Callable[[Price], str]:
    @admin.display(description=name.replace("_", " "), ordering=name)
    def column(price: Price) -> str:
        return plain(getattr(price, name))

    return column


RATE_COLUMNS = {name: rate_column(name) for name in RATES}


@admin.register(Price)
class PriceAdmin(ModelAdmin):
    form = PriceForm
    list_display = (
        "model",
        "for_provider",
        "since",
        "currency",
        RATE_COLUMNS["input"],
        RATE_COLUMNS["cache_read"],
        "cache_writes",
        RATE_COLUMNS["output"],
        "origin",
    )
    list_filter = (OriginFilter, ProviderFilter)
    list_filter_submit = True
    list_select_related = ("provider",)
    list_per_page = 50
    ordering = ("listed", "model", "-valid_from")
    show_full_result_count = False
    search_fields = ("model", "provider__name", "source")
    autocomplete_fields = ("provider",)
    actions_list = ("compare",)
    fieldsets = (
        (
            None,
            {
                "fields": ("model", "provider", "valid_from", "currency", "source"),
                "description": "Prices are added, not edited: a new figure is a new row from its day on. Prices of"
                " your own win over those of the shipped list; requests keep the price they were charged at.",
            },
        ),
        ("Per million tokens", {"fields": PER_MILLION}),
        ("Per thousand", {"fields": ("web_search",)}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Price | None = None) -> Any:
        """Figures that cannot be edited are written without needless zeros."""
        if obj is None or self.has_change_permission(request, obj):
            return self.fieldsets
        return [
            (title, {**options, "fields": tuple(RATE_COLUMNS.get(name, name) for name in options["fields"])})
            for title, options in self.fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Price | None = None) -> Any:
        return tuple(RATE_COLUMNS.values())

    def has_change_permission(self, request: HttpRequest, obj: Price | None = None) -> bool:
        """Of the shipped list nothing is changed by hand: a price of one's own wins over it."""
        return not (isinstance(obj, Price) and obj.listed) and super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        free = [name.replace("_", " ") for name in PER_MILLION if not getattr(obj, name)]
        if free:
            messages.warning(request, f"Costs nothing at this price: {', '.join(free)}.")

    @admin.display(description="Provider", ordering="provider__name")
    def for_provider(self, price: Price) -> str:
        return str(price.provider or "any")

    @admin.display(description="Since", ordering="valid_from")
    def since(self, price: Price) -> str:
        return since(price)

    @admin.display(description="Cache write, 5 m / 1 h", ordering="cache_write_5m")
    def cache_writes(self, price: Price) -> str:
        return f"{plain(price.cache_write_5m)} / {plain(price.cache_write_1h)}"

    @admin.display(description="Source", ordering="source")
    def origin(self, price: Price) -> str:
        """Of a listed one only what must be said about it: the rest stands on its page."""
        if price.listed:
            _, _, notes = price.source.partition("; ")
            return f"listed{notes and ': '}{notes}"
        return f"your own{price.source and ': '}{price.source}"

    @action(  # type: ignore[untyped-decorator]
        description="Compare with the shipped list", url_path="compare", permissions=["add"], icon="difference"
    )
    def compare(self, request: HttpRequest) -> HttpResponse:
        """What the shipped list says otherwise; a POST takes it in."""
        found = list_prices.difference()
        if request.method == "POST":
            messages.success(request, f"Prices added: {found.take_in()}. Bills of before keep theirs.")
            return redirect("admin:accounting_price_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "The shipped price list",
            "opts": self.opts,
            "edition": list_prices.edition(),
            "found": found,
            "rows": len(found.new) + len(found.changed),
            "most": MOST_SHOWN,
            "changed": [(change.then, written(change)) for change in found.changed[:MOST_SHOWN]],
            "new": [
                (price, since(price), [plain(getattr(price, name)) for name in RATES])
                for price in found.new[:MOST_SHOWN]
            ],
            "rates": [name.replace("_", " ") for name in RATES],
        }
        return TemplateResponse(request, "admin/accounting/price/compare.html", context)


def since(price: Price) -> str:
    return "always" if price.valid_from <= list_prices.BEGINNING else f"{timezone.localdate(price.valid_from)}"


def written(change: Change) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {plain(now)} → {plain(then)}" for name, now, then in change.figures())
