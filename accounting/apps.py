"""Here for those who read reports: their group is made with the tables."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

FINANCE = "Finance"


class AccountingConfig(AppConfig):
    name = "accounting"

    def ready(self) -> None:
        post_migrate.connect(make_finance_group, sender=self)


def make_finance_group(using: str, **_: Any) -> None:
    """Its members see reports and nothing else. One that is there is left as its administrator wants it."""
    from django.contrib.auth.models import Group, Permission

    permission = Permission.objects.using(using).filter(content_type__app_label="accounting", codename="view_reports")
    if permission.exists():
        group, made = Group.objects.using(using).get_or_create(name=FINANCE)
        if made:
            group.permissions.set(permission)
