"""Keys and cost centres in the admin."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.debug import sensitive_variables
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminTextareaWidget,
)

from accounting import keys, reports
from accounting.admin.figures import minute, moment, money, unbroken
from accounting.admin.filters import CostCentreOfKeyFilter, HolderFilter, OwnerFilter
from accounting.models import ApiKey, CostCentre, Scope, Status, UsageRecord, default_scopes
from providers.admin import KeptForTheLedger

# A key's last errors are looked for among so many of its latest requests: the whole ledger would take seconds.
ROWS_LOOKED_AT = 5000
ERRORS_SHOWN = 10


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
        fields = ("name", "owner", "holder", "cost_centre", "allowed_models", "scopes", "expires_at")

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if ApiKey.objects.filter(name=name).exclude(pk=self.instance.pk).exists():
            raise ValidationError("A key of this name already exists, revoked or not: choose another name.")
        return name

    def clean_expires_at(self) -> dt.datetime | None:
        expires_at: dt.datetime | None = self.cleaned_data["expires_at"]
        if expires_at and expires_at <= timezone.now() and self.instance.pk is None:
            raise ValidationError("This moment has passed: a key that expires then would never work.")
        return expires_at


class StateFilter(DropdownFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return [("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        expired = Q(revoked_at=None, expires_at__lte=timezone.now())
        chosen = {
            "active": Q(revoked_at=None) & ~expired,
            "expired": expired,
            "revoked": Q(revoked_at__isnull=False),
        }
        return queryset.filter(chosen.get(self.value() or "", Q()))


class RotationForm(forms.Form):
    OVERLAPS = {
        "0": "At once: whoever still uses it is refused",
        "1": "After an hour",
        "24": "After 24 hours",
        "168": "After 7 days",
    }

    overlap = forms.ChoiceField(
        label="When does the present token end?",
        choices=list(OVERLAPS.items()),
        initial="24",
        widget=UnfoldAdminRadioSelectWidget,
    )
    # Which token is replaced: a page that is sent twice must not end the token it has just shown.
    present = forms.CharField(widget=forms.HiddenInput)


@admin.register(ApiKey)
class ApiKeyAdmin(KeptForTheLedger):
    form = ApiKeyForm
    list_display = (
        "name",
        "state",
        "owner",
        "cost_centre",
        "starts_with",
        "last_use",
        "month_requests",
        "month_cost",
        "expires",
    )
    list_filter = (StateFilter, OwnerFilter, CostCentreOfKeyFilter, HolderFilter)
    list_filter_submit = True
    list_select_related = ("cost_centre",)
    list_per_page = 50
    search_fields = ("name", "owner", "prefix", "cost_centre__code", "holder__username")
    autocomplete_fields = ("cost_centre", "holder")
    readonly_fields = ("state", "starts_with", "previous_token", "last_use", "created_at", "revoked_at")
    actions = ("revoke",)
    actions_detail = ("rotate", "revoke_one")
    change_form_after_template = "admin/accounting/apikey/after.html"
    kept_because = "Rows of the ledger name {}: revoke it instead."

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        used = UsageRecord.objects.filter(api_key=OuterRef("pk")).order_by("-started_at").values("started_at")
        keys_used: QuerySet[ApiKey] = super().get_queryset(request).annotate(used_at=Subquery(used[:1]))
        return keys_used

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With what the keys on this page used this month, asked at once."""
        page = super().get_changelist_instance(request)
        month = reports.month_of(reports.today())
        figures = reports.by("api_key", month, api_key__in=[key.pk for key in page.result_list])
        for key in page.result_list:
            key.this_month = figures.get(key.pk, reports.Figures())
        return page

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*ApiKeyForm.Meta.fields, *(self.readonly_fields if obj else ()))

    @sensitive_variables("token")
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            token = keys.mint()
            obj.take_token(token)
            request.issued_token = token  # type: ignore[attr-defined]
        elif obj.state() == "expired" and "expires_at" in form.changed_data:
            messages.warning(request, f"The key {obj} expires in the past: it is refused from now on.")
        # Only what the form changed: who rotates or revokes the key meanwhile must not be undone.
        obj.save(update_fields=form.changed_data if change else None)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        return self.token_page(request, obj, request.issued_token, "Key issued")  # type: ignore[attr-defined]

    @sensitive_variables("token")
    def token_page(self, request: HttpRequest, key: ApiKey, token: str, title: str) -> HttpResponse:
        """What shows a token, and no redirect to it: a message would lie in a cookie or a session."""
        gateway = request.build_absolute_uri("/").rstrip("/")
        context = {"original": key, "token": token, "snippets": snippets(gateway, token)}
        return self.page(request, "issued", title, **context)

    def page(self, request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
        known = {**self.admin_site.each_context(request), "title": title, "opts": self.opts}
        return TemplateResponse(request, f"admin/accounting/apikey/{template}.html", {**known, **context})

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        key = self.get_object(request, object_id) if object_id and request.method == "GET" else None
        more = {"last_errors": last_errors(key), "report": report_path(key)} if key else {}
        return super().changeform_view(request, object_id, form_url, {**more, **(extra_context or {})})

    @action(description="Rotate", url_path="rotate", permissions=["change"], icon="autorenew")  # type: ignore[untyped-decorator]
    @sensitive_variables("token")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with transaction.atomic():
            key = self.locked(object_id)
            form = RotationForm(request.POST or None, initial={"present": key.prefix})
            refusal = refusal_to_rotate(key, form)
            if not form.is_bound or not form.is_valid() or refusal:
                return self.page(request, "rotate", f"Rotate {key}", original=key, form=form, refusal=refusal)
            token = key.rotate(dt.timedelta(hours=int(form.cleaned_data["overlap"])))
            self.log_change(request, key, f"Rotated; the token before ends {moment(key.previous_until) or 'at once'}.")
        return self.token_page(request, key, token, "Key rotated")

    def locked(self, object_id: str) -> ApiKey:
        """Held until the transaction ends: of two rotations at once, the second sees the first."""
        key = ApiKey.objects.select_for_update().filter(pk=object_id).first() if object_id.isdecimal() else None
        if key is None:
            raise Http404
        return key

    @action(description="Revoke", url_path="revoke", permissions=["change"], icon="block", variant="danger")  # type: ignore[untyped-decorator]
    def revoke_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with transaction.atomic():
            key = self.locked(object_id)
            if request.method != "POST":
                return self.confirmation(request, ApiKey.objects.filter(pk=key.pk))
            self.revoke_now(request, ApiKey.objects.filter(pk=key.pk))
        return redirect("admin:accounting_apikey_change", key.pk)

    @admin.action(description="Revoke", permissions=["change"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> HttpResponse | None:
        if request.POST.get("post") != "yes":
            return self.confirmation(request, chosen)
        self.revoke_now(request, chosen)
        return None

    def confirmation(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> HttpResponse:
        context = {"chosen": chosen.order_by("name"), "checkbox": ACTION_CHECKBOX_NAME}
        return self.page(request, "revoke", "Revoke for good?", **context)

    def revoke_now(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        usable = chosen.filter(revoked_at=None)
        for key in usable:
            self.log_change(request, key, "Revoked.")
        revoked = usable.update(revoked_at=timezone.now())
        messages.success(request, f"Revoked: {revoked}. Running gateways refuse them within two seconds.")

    @admin.display(description="State")
    def state(self, key: ApiKey) -> str:
        return key.state()

    @admin.display(description="Begins with", ordering="prefix")
    def starts_with(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @admin.display(description="Token before")
    def previous_token(self, key: ApiKey) -> str:
        if key.previous_until and key.previous_until > timezone.now() and not key.revoked_at:
            return f"works until {moment(key.previous_until)}"
        return "none that works"

    @admin.display(description="Last use", ordering=F("used_at").desc(nulls_last=True))
    def last_use(self, key: Any) -> str:
        return unbroken(minute(key.used_at) or "never")

    @admin.display(description="Requests, month")
    def month_requests(self, key: Any) -> str:
        return f"{key.this_month.requests:,}"

    @admin.display(description="Cost, month")
    def month_cost(self, key: Any) -> str:
        return money(key.this_month.cost)

    @admin.display(description="Expires", ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        return unbroken(minute(key.expires_at) or "never")


def refusal_to_rotate(key: ApiKey, form: RotationForm) -> str:
    if key.revoked_at:
        return "This key was revoked, which is final: issue another instead."
    if form.is_bound and form.data.get("present") != key.prefix:
        return "This key was rotated a moment ago, and its new token was shown then: rotate it again if that is lost."
    return ""


def last_errors(key: ApiKey) -> QuerySet[UsageRecord]:
    latest = UsageRecord.objects.filter(api_key=key).order_by("-started_at").values("pk")[:ROWS_LOOKED_AT]
    ill = UsageRecord.objects.filter(pk__in=latest, status__in=(Status.FAILED, Status.CUT, Status.INTERRUPTED))
    return ill.order_by("-started_at")[:ERRORS_SHOWN]


def report_path(key: ApiKey) -> str:
    return f"{reverse('admin:index')}reports/keys/?{urlencode({'key': key.name})}"


def snippets(gateway: str, token: str) -> list[Mapping[str, str]]:
    """What a person pastes, by where."""
    pairs = {"ANTHROPIC_BASE_URL": gateway, "ANTHROPIC_AUTH_TOKEN": token}
    return [
        {
            "id": "shell",
            "name": "Shell (bash, zsh)",
            "text": "\n".join([*(f"export {name}={value}" for name, value in pairs.items()), "claude"]),
        },
        {
            "id": "settings",
            "name": "~/.claude/settings.json",
            "text": json.dumps({"env": pairs}, indent=2),
        },
        {
            "id": "powershell",
            "name": "Windows PowerShell",
            "text": "\n".join([*(f'$env:{name} = "{value}"' for name, value in pairs.items()), "claude"]),
        },
        {
            "id": "cmd",
            "name": "Windows cmd",
            "text": "\n".join([*(f'set "{name}={value}"' for name, value in pairs.items()), "claude"]),
        },
    ]
