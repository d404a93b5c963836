"""Providers and routes in the admin: what serves what, and how it is doing, without opening a row."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import DO_NOTHING, Model, QuerySet
from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminPasswordWidget

from providers.models import CredentialMode, ModelRoute, Provider, ProviderHealth, RouteTarget


class KeptForTheLedger(ModelAdmin):
    """Rows that the ledger names are disabled or revoked, not deleted: who reads an old bill must find them."""

    kept_because = "Rows of the ledger name {}."

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        to_delete, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        kept = [self.kept_because.format(chosen) for chosen in objs if is_in_the_ledger(chosen)]
        return to_delete, counts, perms_needed, [*protected, *kept]


def is_in_the_ledger(row: Model) -> bool:
    """Whether a row refers to this one that would outlive it; asked of the relations, to know no package above."""
    relations = [
        relation
        for relation in row._meta.get_fields(include_hidden=True)
        if relation.one_to_many and getattr(relation, "on_delete", None) is DO_NOTHING
    ]
    return any(
        relation.related_model._base_manager.filter(**{relation.field.name: row}).exists()  # type: ignore[union-attr]
        for relation in relations
    )


def credential_state(provider: Provider) -> str:
    if provider.credential_mode == CredentialMode.CLIENT_TOKEN:
        return "the client's"
    if provider.has_credential:
        return "set"
    return "unusable" if provider.sealed_credential else "none"


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    credential = forms.CharField(
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="It is encrypted and never shown again. Leave it empty to keep what is there.",
    )

    class Meta:
        model = Provider
        fields = (
            "name",
            "type",
            "base_url",
            "auth_type",
            "credential_mode",
            "enabled",
            "connect_timeout",
            "first_byte_timeout",
            "idle_timeout",
            "total_timeout",
            "dialect",
            "options",
        )

    def clean_options(self) -> Any:
        return self.cleaned_data["options"] or {}


@admin.register(Provider)
class ProviderAdmin(KeptForTheLedger):
    form = ProviderForm
    list_display = ("name", "type", "base_url", "credential_is", "enabled", "last_probe")
    list_filter = ("enabled", "type")
    list_select_related = ("health",)
    search_fields = ("name", "base_url")
    readonly_fields = ("credential_now", "last_probe")
    actions = ("enable", "disable", "forget_credential")
    fieldsets = (
        (None, {"fields": ("name", "type", "base_url", "enabled", "last_probe")}),
        ("Credential", {"fields": ("credential_mode", "auth_type", "credential_now", "credential")}),
        ("Timeouts", {"fields": ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout")}),
        ("Language", {"fields": ("dialect", "options")}),
    )

    @method_decorator(sensitive_post_parameters("credential"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        had_one = bool(obj.sealed_credential)
        if form.cleaned_data["credential"]:
            obj.set_credential(form.cleaned_data["credential"])
        super().save_model(request, obj, form, change)
        if had_one and not obj.sealed_credential:
            messages.warning(request, f"The credential of {obj} was dropped: it was given for another host.")

    @admin.display(description="Credential")
    def credential_is(self, provider: Provider) -> str:
        return credential_state(provider)

    @admin.display(description="At present")
    def credential_now(self, provider: Provider) -> str:
        return {
            "set": "A credential is set.",
            "the client's": "None is needed: the client's own token is forwarded.",
            "unusable": "One is stored, but it was given for another host or no key in CREDENTIAL_KEYS opens it.",
            "none": "There is none.",
        }[credential_state(provider)]

    @admin.display(description="Last probe")
    def last_probe(self, provider: Provider) -> str:
        try:
            health = provider.health
        except ProviderHealth.DoesNotExist:
            return "never"
        verdict = "well" if health.ok else f"ill: {health.detail}" if health.detail else "ill"
        return f"{verdict} at {health.checked_at:%Y-%m-%d %H:%M} UTC"

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, chosen: QuerySet[Provider]) -> None:
        messages.success(request, f"Enabled: {chosen.update(enabled=True)}.")

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, chosen: QuerySet[Provider]) -> None:
        messages.success(request, f"Disabled: {chosen.update(enabled=False)}.")

    @admin.action(description="Forget the credential", permissions=["change"])
    def forget_credential(self, request: HttpRequest, chosen: QuerySet[Provider]) -> None:
        messages.success(request, f"Credentials forgotten: {chosen.update(sealed_credential='')}.")


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
