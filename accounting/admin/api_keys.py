"""Keys and cost centres in the admin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextareaWidget

from accounting import keys
from accounting.models import ApiKey, CostCentre, Scope, default_scopes
from providers.admin import KeptForTheLedger


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
