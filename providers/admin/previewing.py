"""A form shows what saving it would change: it is saved as always, looked at, and rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin

from providers.balancing import by_priority
from providers.dialects.profiles import by_host
from providers.dialects.settings import settings_of, shown, value_without
from providers.models import Provider
from providers.routing import Routing, Target
from providers.snapshot import read_routing

PREVIEW = "_preview"
BUTTON = {"action_name": PREVIEW, "description": "Preview", "icon": "difference"}
MOST_SHOWN = 100


class Change(msgspec.Struct, frozen=True):
    what: str
    before: str
    after: str


class Changes(msgspec.Struct, frozen=True):
    """What would be routed otherwise, and what would be different about the row itself."""

    names_looked_at: int
    moves: Sequence[Change]
    fields: Sequence[Change] = ()

    @property
    def shown(self) -> Sequence[Change]:
        return self.moves[:MOST_SHOWN]

    @property
    def not_shown(self) -> int:
        return len(self.moves) - len(self.shown)


class Previewed(Exception):
    """The row is saved and nothing went wrong: enough is known, and the transaction must end without it."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes


class StaysOpen:
    """A form that was looked at and is to be shown again: it is never valid."""

    def is_valid(self: Any) -> bool:
        if super().is_valid() and self.cleaned_data.get("credential"):  # type: ignore[misc]
            self.add_error("credential", "Type it again before you save: no page keeps what was typed here.")
        return False


class PreviewsChanges(ModelAdmin):
    class Media:
        css = {"all": ("providers/admin.css",)}

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        if not is_preview(request):
            return super().changeform_view(request, object_id, form_url, extra_context)
        before = read_routing()
        known = self.get_object(request, object_id) if object_id else None
        request.before = before, known  # type: ignore[attr-defined]
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except Previewed as seen:
            request.stays_open = True  # type: ignore[attr-defined]
            extra_context = {**(extra_context or {}), "changes": seen.changes}
            return super().changeform_view(request, object_id, form_url, extra_context)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (StaysOpen, form), {}) if hasattr(request, "stays_open") else form

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        self._end_a_preview(request, obj)
        return super().response_add(request, obj, post_url_continue)  # type: ignore[no-any-return]

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        self._end_a_preview(request, obj)
        return super().response_change(request, obj)  # type: ignore[no-any-return]

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        obj = kwargs.get("obj")
        may_save = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        if may_save:
            context["actions_submit_line"] = [BUTTON]
        return super().render_change_form(request, context, *args, **kwargs)

    def _end_a_preview(self, request: HttpRequest, obj: Model) -> None:
        if is_preview(request):
            before, known = request.before  # type: ignore[attr-defined]
            names, moved = moves(before, read_routing())
            raise Previewed(Changes(names, moved, self.changes_of(known, obj)))

    def changes_of(self, before: Any, after: Any) -> list[Change]:
        """Of the row itself; `before` is None where it is new."""
        return []


def is_preview(request: HttpRequest) -> bool:
    return request.method == "POST" and PREVIEW in request.POST


def moves(before: Routing, after: Routing) -> tuple[int, list[Change]]:
    """How many known names were looked at, and those that would be routed otherwise."""
    names = {name.lower(): name for name in (*before.known_names(), *after.known_names())}.values()
    decisions = [Change(name, decision(before, name), decision(after, name)) for name in names]
    return len(decisions), [each for each in decisions if each.before != each.after]


def decision(routing: Routing, name: str) -> str:
    """Who answers for a model, and which route says so, in one line."""
    route = routing.route(name)
    if route is None:
        return "no route takes it"
    if not route.targets:
        return f"{route.pattern}: nobody is enabled"
    if route.strategy == "random":
        return f"{route.pattern}: " + " or ".join(f"{_named(each, name)} ({each.weight})" for each in route.targets)
    if route.strategy == "round_robin":
        return f"{route.pattern}: by turns " + ", ".join(_named(each, name) for each in route.targets)
    return f"{route.pattern}: " + ", then ".join(_named(each, name) for each in by_priority(route.targets, 0))


def _named(target: Target, name: str) -> str:
    return f"{target.endpoint.name} as {target.model_for(name)}"


def provider_changes(before: Provider | None, after: Provider) -> list[Change]:
    """Its fields, and what holds for each setting, whether it was chosen or comes with the vendor."""
    if before is None:
        return []
    changed = [
        Change(name.replace("_", " "), shown(old), shown(new))
        for name in Provider.CONFIGURED
        if (old := getattr(before, name)) != (new := getattr(after, name))
    ]
    if before.sealed_credential != after.sealed_credential:
        kept = "another one" if after.sealed_credential else "none: it was given for another host"
        changed.append(Change("credential", "the one stored" if before.sealed_credential else "none", kept))
    if before.type == after.type:
        old_settings, new_settings = effective(before), effective(after)
        changed += [
            Change(name, old, new)
            for name in sorted(old_settings.keys() | new_settings.keys())
            if (old := old_settings.get(name, "none")) != (new := new_settings.get(name, "none"))
        ]
    return changed


def effective(provider: Provider) -> dict[str, str]:
    """What holds for each setting, as it is written on a page."""
    options = provider.options if isinstance(provider.options, dict) else {}
    dialect = provider.dialect or by_host(provider.base_url)
    usual = {
        setting.label: shown(options.get(name, value_without(setting, provider.type, dialect)))
        for name, setting in settings_of(provider.type).items()
    }
    others = {name: shown(value) for name, value in options.items() if name not in settings_of(provider.type)}
    return {**usual, **others}
