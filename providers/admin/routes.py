"""Routes in the admin: what serves what, without opening a row."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.admin import TabularInline
from unfold.decorators import action

from providers.admin.previewing import PreviewsChanges
from providers.admin.which import asked
from providers.forms import RouteForm, TargetForm
from providers.models import ModelRoute, ProviderHealth, RouteTarget
from providers.snapshot import read_routing

MOST_EXAMPLES = 3


class TargetInline(TabularInline):
    model = RouteTarget
    form = TargetForm
    extra = 1
    hide_title = True
    autocomplete_fields = ("provider",)
    ordering_field = "priority"


@admin.register(ModelRoute)
class ModelRouteAdmin(PreviewsChanges):
    form = RouteForm
    # The theme would add the field that is dragged to both at the first look at the list; the checks run before.
    list_display = ("pattern", "strategy", "served_by", "takes", "position")
    list_editable = ("position",)
    list_filter = ("strategy", "targets__provider")
    search_fields = ("pattern", "targets__provider__name", "targets__upstream_model")
    # Dragging numbers the rows of one page.
    ordering_field = "position"
    list_per_page = 500
    inlines = (TargetInline,)
    actions_list = ("which",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelRoute]:
        routes: QuerySet[ModelRoute] = super().get_queryset(request)
        targets = RouteTarget.objects.select_related("provider__health")
        return routes.prefetch_related(Prefetch("targets", targets))

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With the names that each route takes, of those that are known here."""
        changes = super().get_changelist_instance(request)
        routing = read_routing()
        taken: dict[str, list[str]] = {}
        for name in routing.known_names():
            if route := routing.route(name):
                taken.setdefault(route.pattern, []).append(name)
        for row in changes.result_list:
            row.taken = taken.get(row.pattern, [])
        return changes

    def get_formset_kwargs(self, request: HttpRequest, obj: Any, inline: Any, prefix: str) -> dict[str, Any]:
        """A new route may be asked for together with its first target."""
        kwargs: dict[str, Any] = super().get_formset_kwargs(request, obj, inline, prefix)
        if request.method == "GET" and request.GET.get("provider", "").isdecimal():
            wanted = {name: request.GET[name] for name in ("provider", "upstream_model") if name in request.GET}
            kwargs["initial"] = [wanted]
        return kwargs

    @admin.display(description="Served by")
    def served_by(self, route: ModelRoute) -> str:
        return ", ".join(named(target) for target in route.targets.all()) or "nobody"

    @admin.display(description="Takes, for example")
    def takes(self, route: Any) -> str:
        more = f" and {len(route.taken) - MOST_EXAMPLES} more" if len(route.taken) > MOST_EXAMPLES else ""
        return ", ".join(route.taken[:MOST_EXAMPLES]) + more or "no name that is known here"

    @action(  # type: ignore[untyped-decorator]
        description="Which route would a model take?", url_path="which", permissions=["view"], icon="alt_route"
    )
    def which(self, request: HttpRequest) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "title": "Which route would this model take?"}
        return TemplateResponse(
            request, "admin/providers/modelroute/which.html", {**context, "opts": self.opts, **asked(request)}
        )


def named(target: RouteTarget) -> str:
    return f"{target.priority}. {target}{state(target)}"


def state(target: RouteTarget) -> str:
    if not target.provider.enabled:
        return " (disabled)"
    try:
        return "" if target.provider.health.ok else " (ill)"
    except ProviderHealth.DoesNotExist:
        return ""
