"""What is disabled or revoked, and not deleted."""

from __future__ import annotations

from typing import Any

from django.db.models import DO_NOTHING, Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin


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
