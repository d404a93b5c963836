"""Routes in the admin: what serves what, without opening a row."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from providers.models import ModelRoute, RouteTarget


class TargetInline(TabularInline):
    model = RouteTarget
    extra = 1
    hide_title = True
    autocomplete_fields = ("provider",)


@admin.register(ModelRoute)
class ModelRouteAdmin(ModelAdmin):
    list_display = ("pattern", "strategy", "served_by", "position")
    list_filter = ("strategy",)
    search_fields = ("pattern", "targets__provider__name", "targets__upstream_model")
    inlines = (TargetInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelRoute]:
        routes: QuerySet[ModelRoute] = super().get_queryset(request)
        return routes.prefetch_related("targets__provider")

    @admin.display(description="Served by")
    def served_by(self, route: ModelRoute) -> str:
        return ", ".join(named(target) for target in route.targets.all()) or "nobody"


def named(target: RouteTarget) -> str:
    return f"{target.priority}. {target}{'' if target.provider.enabled else ' (disabled)'}"
