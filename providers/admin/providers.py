"""Providers in the admin: how each is doing, and what it would be sent."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.utils.html import format_html_join
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import action

from providers.admin.kept import KeptForTheLedger
from providers.dialects import DIALECTS
from providers.dialects.lessons import LEARNT
from providers.dialects.profiles import ANTHROPIC_ENDPOINTS, by_host
from providers.dialects.settings import settings_of
from providers.forms import PREFIX, PreviewForm, ProviderForm, form_for
from providers.models import CredentialMode, Provider, ProviderHealth


def credential_state(provider: Provider) -> str:
    if provider.credential_mode == CredentialMode.CLIENT_TOKEN:
        return "the client's"
    if provider.has_credential:
        return "set"
    return "unusable" if provider.sealed_credential else "none"


@admin.register(Provider)
class ProviderAdmin(KeptForTheLedger):
    form = ProviderForm
    list_display = ("name", "type", "base_url", "credential_is", "enabled", "last_probe")
    list_filter = ("enabled", "type")
    list_select_related = ("health",)
    search_fields = ("name", "base_url")
    readonly_fields = ("credential_now", "last_probe", "learnt", "suggestion")
    actions = ("enable", "disable", "forget_credential")
    actions_detail = ("preview",)
    fieldsets: Any = (
        (None, {"fields": ("name", "type", "base_url", "enabled", "last_probe")}),
        ("Credential", {"fields": ("credential_mode", "auth_type", "credential_now", "credential")}),
        ("Timeouts", {"fields": ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout")}),
        ("Language", {"fields": ("dialect", "options")}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What was learnt and the settings of its type belong to a provider that there is already."""
        if obj is None:
            return self.fieldsets
        identity, *others = self.fieldsets
        first = identity[1]["fields"]
        if suggestion_for(obj):
            first = (*first, "suggestion")
        shown = [(None, {"fields": (*first, "learnt")}), *others]
        if not self.has_change_permission(request, obj):
            return shown
        groups: dict[str, list[str]] = {}
        for setting in settings_of(obj.type).values():
            groups.setdefault(setting.group, []).append(PREFIX + setting.name)
        return [*shown, *((group, {"fields": fields, "classes": ("collapse",)}) for group, fields in groups.items())]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **{"form": form_for(obj), **kwargs})

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
        if not change and (suggestion := suggestion_for(obj)):
            messages.info(request, suggestion)

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

    @admin.display(description="Learnt in the last hour")
    def learnt(self, provider: Provider) -> str:
        """By this process alone: each learns for itself."""
        learnt = LEARNT.of_provider(provider.pk)
        lines = [(model, ", ".join(map(str, lessons))) for model, lessons in sorted(learnt.items())]
        return format_html_join("; ", "{}: {}", lines) or "nothing"

    @admin.display(description="Suggestion")
    def suggestion(self, provider: Provider) -> str:
        return suggestion_for(provider)

    @action(  # type: ignore[untyped-decorator]
        description="Preview", url_path="preview", permissions=["view"], icon="visibility"
    )
    def preview(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The request a provider would get, before any is sent."""
        provider = self.get_object(request, object_id)
        if provider is None:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "title": f"Preview of {provider}",
            "original": provider,
            "opts": self.opts,
            **previewed(request, provider),
        }
        return TemplateResponse(request, "admin/providers/provider/preview.html", context)

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


def suggestion_for(provider: Provider) -> str:
    """Where a translation could be spared, or where a vendor is known to surprise."""
    vendor = provider.dialect or by_host(provider.base_url)
    if vendor == "ollama":
        return (
            "Ollama cuts what is longer than its context window in silence: raise num_ctx, or"
            " OLLAMA_CONTEXT_LENGTH, to what the clients need."
        )
    if provider.type == "anthropic" or vendor not in ANTHROPIC_ENDPOINTS:
        return ""
    return (
        f"{vendor} also answers in Anthropic's own format, which loses less than any translation: a provider of the"
        f" type Anthropic Messages at {ANTHROPIC_ENDPOINTS[vendor]} or the address its documentation names."
    )


def previewed(request: HttpRequest, provider: Provider) -> dict[str, Any]:
    from providers.dialects.preview import preview, sample
    from providers.snapshot import endpoint_of, model_lists
    from providers.upstream import url_for

    form = PreviewForm(request.POST or None, initial={"body": sample()})
    if provider.type not in DIALECTS or not form.is_valid():
        return {"form": form}
    endpoint = endpoint_of(provider, model_lists().get((provider.pk, provider.base_url), {}))
    seen = preview(endpoint, form.cleaned_data["body"].encode("utf-8", "replace"), form.cleaned_data["model"])
    return {"form": form, "seen": seen, "url": url_for(endpoint.base_url, seen.path)}
