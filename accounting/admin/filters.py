"""What keys and requests are chosen by, from the tables that name it and not from the ledger, which is too long."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter

from accounting.admin.figures import number
from accounting.models import ApiKey, CostCentre
from providers.models import Provider

Names = list[tuple[Any, str]]


class Choice(DropdownFilter):
    """Rows in which one field is what was chosen."""

    field = ""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.field: self.chosen()}) if self.value() else queryset

    def chosen(self) -> Any:
        return self.value()


class KeyFilter(Choice):
    title, parameter_name, field = "key", "key", "api_key"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Names:
        return list(ApiKey.objects.values_list("pk", "name"))

    def chosen(self) -> int:
        return number(self.value())


class OwnerFilter(Choice):
    title, parameter_name, field = "owner", "owner", "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Names:
        owners = ApiKey.objects.exclude(owner="").order_by("owner").values_list("owner", flat=True).distinct()
        return [(owner, owner) for owner in owners]


class CostCentreFilter(Choice):
    """In the ledger, where its code is copied."""

    title, parameter_name, field = "cost centre", "cost_centre", "cost_centre"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Names:
        return [(code, code) for code in CostCentre.objects.values_list("code", flat=True)]


class CostCentreOfKeyFilter(CostCentreFilter):
    field = "cost_centre__code"


class HolderFilter(Choice):
    title, parameter_name, field = "holder", "holder", "holder__username"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Names:
        held = ApiKey.objects.exclude(holder=None).order_by("holder__username")
        return [(name, name) for name in held.values_list("holder__username", flat=True).distinct()]


class ProviderFilter(Choice):
    title, parameter_name, field = "provider", "provider", "provider_ref"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Names:
        return list(Provider.objects.values_list("pk", "name"))

    def chosen(self) -> int:
        return number(self.value())
