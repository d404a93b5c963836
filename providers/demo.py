"""The built-in demo: a provider that stands in until there is a real one, and leaves with its route."""

from __future__ import annotations

from django.db import transaction

from providers.models import ModelRoute, Provider


@transaction.atomic
def leave() -> bool:
    """Whether it was there. With the routes that lead nowhere else: their patterns are free for those that come."""
    demo = Provider.objects.filter(is_demo=True).first()
    if demo is None:
        return False
    served = list(demo.targets.values_list("route", flat=True).distinct())
    demo.targets.all().delete()
    for route in ModelRoute.objects.filter(pk__in=served, targets=None):
        route.delete()
    demo.delete()
    return True
