"""The demo leaves with everything that was only its own."""

from __future__ import annotations

import pytest

from providers import demo
from providers.models import ModelRoute, Provider, RouteTarget

pytestmark = pytest.mark.django_db


def test_it_takes_along_the_routes_that_lead_nowhere_else() -> None:
    stands_in = Provider.objects.create(name="demo", type="anthropic", base_url="http://127.0.0.1:1", is_demo=True)
    real = Provider.objects.create(name="real", type="anthropic", base_url="https://api.example.com")
    own, shared, empty = (ModelRoute.objects.create(pattern=name) for name in ("claude-*", "*opus*", "empty"))
    RouteTarget.objects.create(route=own, provider=stands_in)
    RouteTarget.objects.create(route=shared, provider=stands_in)
    RouteTarget.objects.create(route=shared, provider=real)

    assert demo.leave()

    assert list(Provider.objects.all()) == [real]
    assert set(ModelRoute.objects.all()) == {shared, empty}
    assert [target.provider for target in shared.targets.all()] == [real]


def test_where_it_is_not_nothing_leaves() -> None:
    ModelRoute.objects.create(pattern="empty")
    assert not demo.leave()
    assert ModelRoute.objects.exists()
