"""The version that running gateways watch: it moves with every kind of configuration, however it is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from accounting.models import ApiKey, CostCentre, Price
from providers.models import ConfigModel, ConfigVersion, ModelRoute, Provider, RouteTarget

pytestmark = pytest.mark.django_db


def provider(name: str) -> Provider:
    return Provider(name=name, type="anthropic", base_url="https://api.example.com")


def cost_centre(name: str) -> CostCentre:
    return CostCentre(code=name)


def key(name: str) -> ApiKey:
    made = ApiKey(name=name)
    made.take_token(f"a token for {name}")
    return made


def price(name: str) -> Price:
    return Price(model=name)


def route(name: str) -> ModelRoute:
    return ModelRoute(pattern=name)


def target(name: str) -> RouteTarget:
    pattern, _ = ModelRoute.objects.get_or_create(pattern="*")
    known = Provider.objects.first() or provider("first")
    known.save()
    return RouteTarget(route=pattern, provider=known, upstream_model=name)


# How to make one of each, and a field that may change.
KINDS: list[tuple[Callable[[str], Any], str, Any]] = [
    (provider, "enabled", False),
    (route, "position", 7),
    (target, "priority", 3),
    (cost_centre, "name", "Research"),
    (key, "owner", "alice"),
    (price, "source", "a list"),
]
every_kind = pytest.mark.parametrize(("make", "field", "value"), KINDS, ids=[make.__name__ for make, _, _ in KINDS])


def test_every_kind_of_configuration_is_tried_here() -> None:
    made = {type(make("x")) for make, _, _ in KINDS}
    assert made == set(ConfigModel.__subclasses__())


@every_kind
def test_save_and_delete_move_the_version(make: Callable[[str], Any], field: str, value: Any) -> None:
    row = make("a")
    seen = [ConfigVersion.current()]

    row.save()
    seen.append(ConfigVersion.current())
    setattr(row, field, value)
    row.save(update_fields=[field])
    seen.append(ConfigVersion.current())
    row.delete()
    seen.append(ConfigVersion.current())

    assert seen == sorted(set(seen))


@every_kind
def test_bulk_changes_move_the_version(make: Callable[[str], Any], field: str, value: Any) -> None:
    rows = [make("a"), make("b")]
    kind = type(rows[0])
    seen = [ConfigVersion.current()]

    made = kind.objects.bulk_create(rows)
    seen.append(ConfigVersion.current())
    kind.objects.filter(pk=made[0].pk).update(**{field: value})
    seen.append(ConfigVersion.current())
    setattr(made[1], field, value)
    kind.objects.bulk_update(made, [field])
    seen.append(ConfigVersion.current())
    kind.objects.filter(pk__in=[row.pk for row in made]).delete()
    seen.append(ConfigVersion.current())

    assert seen == sorted(set(seen))


@every_kind
def test_a_change_and_its_version_are_undone_together(make: Callable[[str], Any], field: str, value: Any) -> None:
    row = make("a")
    row.save()
    before = ConfigVersion.current()

    with transaction.atomic():
        type(row).objects.update(**{field: value})
        assert ConfigVersion.current() > before
        transaction.set_rollback(True)

    assert ConfigVersion.current() == before
    row.refresh_from_db()
    assert getattr(row, field) != value


def test_targets_changed_through_their_route_move_the_version() -> None:
    target("m").save()
    before = ConfigVersion.current()
    ModelRoute.objects.get().targets.all().delete()
    assert ConfigVersion.current() > before
