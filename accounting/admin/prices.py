"""Prices in the admin."""

from __future__ import annotations

from django.contrib import admin
from unfold.admin import ModelAdmin

from accounting.models import Price


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
