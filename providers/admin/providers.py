"""Providers in the admin: how each is doing, and what it would be sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import Case, F, Func, IntegerField, QuerySet, When
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import action, display

from providers import demo
from providers.admin.kept import KeptForTheLedger
from providers.admin.previewing import Change, PreviewsChanges, is_preview, provider_changes
from providers.admin.states import credential_state, state_of
from providers.dialects import DIALECTS
from providers.dialects.lessons import LEARNT
from providers.dialects.preview import preview, sample
from providers.dialects.profiles import ANTHROPIC_ENDPOINTS, by_host
from providers.dialects.settings import settings_of
from providers.forms import PREFIX, PreviewForm, ProviderForm, TrialForm, form_for
from providers.health import probe_now
from providers.models import PASSTHROUGH, ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.routing import CLAUDE_MODELS, Endpoint, KnownModel
from providers.snapshot import endpoint_of, model_lists
from providers.trial import SECONDS, try_out
from providers.upstream import url_for
from providers.vendors import VENDORS

# On one page.
MOST_MODELS, MOST_ROUTES = 500, 3


TIMEOUTS_AND_LANGUAGE: Any = (
    ("Timeouts", {"fields": ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout")}),
    ("Language", {"fields": ("dialect", "options")}),
)


class ArrayLength(Func):
    """Of a JSON array, without reading it: some providers list thousands of models."""

    function = "JSON_ARRAY_LENGTH"
    output_field = IntegerField()

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        return self.as_sql(compiler, connection, function="JSONB_ARRAY_LENGTH")


@admin.register(Provider)
class ProviderAdmin(PreviewsChanges, KeptForTheLedger):
    form = ProviderForm
    list_display = ("called", "type", "enabled", "last_probe", "latency", "model_total", "routes", "credential_is")
    list_filter = ("enabled", "type", "health__ok")
    list_select_related = ("health",)
    search_fields = ("name", "base_url", "targets__route__pattern")
    readonly_fields = ("credential_now", "last_probe", "learnt", "suggestion")
    actions = ("enable", "disable", "forget_credential")
    actions_detail = ("test_connection", "list_models", "preview")
    kept_because = "Rows of the ledger name {}: disable it instead, so that an old bill still leads to it."
    add_fieldsets: Any = (
        (None, {"fields": ("name", "type", "base_url", "enabled")}),
        ("Credential", {"fields": ("credential_mode", "auth_type", "credential")}),
        *TIMEOUTS_AND_LANGUAGE,
    )
    fieldsets: Any = (
        (None, {"fields": ("name", "type", "base_url", "enabled", "last_probe")}),
        ("Credential", {"fields": ("credential_mode", "auth_type", "credential_now", "credential")}),
        *TIMEOUTS_AND_LANGUAGE,
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        providers: QuerySet[Provider] = super().get_queryset(request)
        listed = When(model_list__base_url=F("base_url"), then=ArrayLength("model_list__listed"))
        return providers.annotate(listed=Case(listed)).prefetch_related("targets__route")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What was learnt and the settings of its type belong to a provider that there is already."""
        if obj is None:
            return self.add_fieldsets
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

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What a vendor that was chosen fills in; single fields of the address come before it."""
        name = request.GET.get("vendor", "")
        given: dict[str, Any] = super().get_changeform_initial_data(request)
        vendor = VENDORS.get(name)
        if vendor is None:
            return given
        known = {"name": unused(name), "type": vendor.type, "base_url": vendor.base_url, "dialect": vendor.dialect}
        return {**known, **given}

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        chosen = request.GET.get("vendor", "")
        more = {"vendors": VENDORS, "vendor": VENDORS.get(chosen), "vendor_name": chosen}
        return super().add_view(request, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    @method_decorator(sensitive_post_parameters("credential"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        had_one = bool(obj.sealed_credential)
        if form.cleaned_data["credential"]:
            obj.set_credential(form.cleaned_data["credential"])
        super().save_model(request, obj, form, change)
        if is_preview(request):
            return
        if had_one and not obj.sealed_credential:
            messages.warning(request, f"The credential of {obj} was dropped: it was given for another host.")
        if not change and demo.leave():
            messages.info(request, "The demo has left, and its route with it.")
        if not change and (suggestion := suggestion_for(obj)):
            messages.info(request, suggestion)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        response = super().response_add(request, obj, post_url_continue)
        test = reverse("admin:providers_provider_test_connection", args=[obj.pk])
        messages.info(request, format_html('Next: <a class="cc-link" href="{}">test the connection</a>.', test))
        return response

    def changes_of(self, before: Any, after: Any) -> list[Change]:
        return provider_changes(before, after)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """A target is shown as what the administrator knows: a route that leads to the provider."""
        to_delete, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        targets = RouteTarget.objects.filter(provider__in=objs).select_related("provider", "route")
        as_django_says = {f"Route target: {target}" for target in targets}
        patterns: dict[str, list[str]] = {}
        for target in targets:
            patterns.setdefault(str(target.provider), []).append(str(target.route))
        sentences = [
            f"{name} stands in {', '.join(dict.fromkeys(routes))}: take it out of there first, or disable it instead."
            for name, routes in patterns.items()
        ]
        return (
            to_delete,
            counts,
            perms_needed,
            [*sentences, *(each for each in protected if each not in as_django_says)],
        )

    # The list

    @display(description="Name", ordering="name", header=True)  # type: ignore[untyped-decorator]
    def called(self, provider: Provider) -> list[str]:
        return [provider.name, provider.base_url]

    @admin.display(description="Credential")
    def credential_is(self, provider: Provider) -> str:
        return credential_state(provider)

    @admin.display(description="Last probe", ordering="health__checked_at")
    def last_probe(self, provider: Provider) -> str:
        return state_of(provider)

    @admin.display(description="Latency", ordering="health__latency_ms")
    def latency(self, provider: Provider) -> str:
        try:
            milliseconds = provider.health.latency_ms
        except ProviderHealth.DoesNotExist:
            milliseconds = None
        return "" if milliseconds is None else f"{milliseconds} ms"

    @admin.display(description="Models", ordering="listed")
    def model_total(self, provider: Any) -> int | str:
        return "" if provider.listed is None else provider.listed

    @admin.display(description="Routes")
    def routes(self, provider: Provider) -> str:
        patterns = list(dict.fromkeys(target.route.pattern for target in provider.targets.all()))
        more = f" and {len(patterns) - MOST_ROUTES} more" if len(patterns) > MOST_ROUTES else ""
        return ", ".join(patterns[:MOST_ROUTES]) + more or "none"

    # The page

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
        description="Preview a request", url_path="preview", permissions=["view"], icon="visibility"
    )
    def preview(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The request a provider would get, before any is sent."""
        provider = self._existing(request, object_id)
        return self._page(request, provider, "preview", f"Preview of {provider}", previewed(request, provider))

    @action(  # type: ignore[untyped-decorator]
        description="Test connection", url_path="test", permissions=["change"], icon="network_check"
    )
    def test_connection(self, request: HttpRequest, object_id: str) -> HttpResponse:
        provider = self._existing(request, object_id)
        return self._page(request, provider, "trial", f"Test the connection to {provider}", tried(request, provider))

    @action(  # type: ignore[untyped-decorator]
        description="List its models", url_path="models", permissions=["change"], icon="list"
    )
    def list_models(self, request: HttpRequest, object_id: str) -> HttpResponse:
        provider = self._existing(request, object_id)
        may_route = request.user.has_perm("providers.add_modelroute")
        context = {**listed(request, provider), "may_route": may_route}
        return self._page(request, provider, "models", f"Models of {provider}", context)

    def _existing(self, request: HttpRequest, object_id: str) -> Provider:
        provider: Provider | None = self.get_object(request, object_id)
        if provider is None:
            raise Http404
        return provider

    def _page(
        self, request: HttpRequest, provider: Provider, name: str, title: str, more: dict[str, Any]
    ) -> HttpResponse:
        common = {**self.admin_site.each_context(request), "title": title, "original": provider, "opts": self.opts}
        return TemplateResponse(request, f"admin/providers/provider/{name}.html", {**common, **more})

    # Actions on several

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, chosen: QuerySet[Provider]) -> None:
        messages.success(request, f"Enabled: {chosen.update(enabled=True)}.")

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, chosen: QuerySet[Provider]) -> None:
        messages.success(request, f"Disabled: {chosen.update(enabled=False)}.")

    @admin.action(description="Forget the credential", permissions=["change"])
    def forget_credential(self, request: HttpRequest, chosen: QuerySet[Provider]) -> None:
        messages.success(request, f"Credentials forgotten: {chosen.update(sealed_credential='')}.")


def unused(name: str) -> str:
    """The name, or with a number behind it where there is such a provider already."""
    taken = set(Provider.objects.filter(name__startswith=name).values_list("name", flat=True))
    numbered = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(each for each in numbered if each not in taken)


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


def endpoint_now(provider: Provider) -> Endpoint:
    """As the request path would see it, disabled or not."""
    return endpoint_of(provider, model_lists().get((provider.pk, provider.base_url), {}))


def previewed(request: HttpRequest, provider: Provider) -> dict[str, Any]:
    form = PreviewForm(request.POST or None, initial={"body": sample()})
    if provider.type not in DIALECTS or not form.is_valid():
        return {"form": form}
    endpoint = endpoint_now(provider)
    seen = preview(endpoint, form.cleaned_data["body"].encode("utf-8", "replace"), form.cleaned_data["model"])
    return {"form": form, "seen": seen, "url": url_for(endpoint.base_url, seen.path)}


def tried(request: HttpRequest, provider: Provider) -> dict[str, Any]:
    """Only a POST asks the provider."""
    endpoint = endpoint_now(provider)
    names = [model.name for model in endpoint.models.values()]
    form = TrialForm(request.POST or None, initial={"model": usual_model(provider, names)})
    context: dict[str, Any] = {"form": form, "models": names[:MOST_MODELS], "seconds": int(SECONDS)}
    if provider.type in DIALECTS and form.is_valid():
        context["trial"] = try_out(endpoint, form.cleaned_data["model"])
    return context


def usual_model(provider: Provider, names: Sequence[str]) -> str:
    """One that a route asks it for, or one it lists."""
    targets = provider.targets.exclude(upstream_model=PASSTHROUGH)
    asked = targets.values_list("upstream_model", flat=True).first()
    return asked or next((name for name in CLAUDE_MODELS if name in names), next(iter(names), ""))


def listed(request: HttpRequest, provider: Provider) -> dict[str, Any]:
    """A POST asks the provider; what it answered is kept as a probe would keep it."""
    finding = probe_now(provider) if request.method == "POST" else None
    wanted = request.GET.get("q", "").strip()
    known = list(endpoint_now(provider).models.values())
    found = [model for model in known if wanted.lower() in model.name.lower()]
    return {
        "finding": finding,
        "wanted": wanted,
        "total": len(known),
        "more": max(len(found) - MOST_MODELS, 0),
        "rows": list(rows(provider, found[:MOST_MODELS])),
    }


def rows(provider: Provider, models: Sequence[KnownModel]) -> Iterator[tuple[KnownModel, str, str]]:
    """Each with the route that has its very name, or the address of a form that makes one."""
    exact = {pattern.lower(): pk for pk, pattern in ModelRoute.objects.values_list("pk", "pattern")}
    add = reverse("admin:providers_modelroute_add")
    for model in models:
        pk = exact.get(model.name.lower())
        fields = {"pattern": model.name, "provider": str(provider.pk), "upstream_model": model.name}
        there = reverse("admin:providers_modelroute_change", args=[pk]) if pk else ""
        yield model, there, f"{add}?{urlencode(fields)}"
