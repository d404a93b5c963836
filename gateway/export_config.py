"""The configuration of the database as a file that `apply` reads: the same file makes the same configuration again.

No credential and no token is in it, nor what belongs to the product itself: the demo and the prices it comes with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import yaml

from accounting.models import ApiKey, CostCentre, Price
from gateway.apply import FILE_NAMES, RATES
from providers.models import ModelRoute, Provider, RouteTarget

HEAD = """\
# What `manage.py export_config` found; `manage.py apply FILE` puts it into a database. No secret is in it.
# Keys: their tokens are kept nowhere. A key that another database does not have yet gets a new token there, and apply
# shows it once; whoever used the old one needs the new one. People who sign in, and whose key is whose, are not in it.
"""
CREDENTIALS = """\
# Credentials: set these variables, each to the credential of the provider that names it, and apply takes them in.
"""


def export() -> str:
    # Sorted here: databases differ in how they sort texts.
    providers = sorted(Provider.objects.filter(is_demo=False), key=lambda provider: provider.name)
    variables = credential_variables([provider.name for provider in providers if provider.sealed_credential])
    told = "".join(f"#   {variable}\n" for variable in variables.values())
    sections = {
        "cost_centres": [cost_centre(row) for row in sorted(CostCentre.objects.all(), key=lambda row: row.code)],
        "providers": [described(provider, variables.get(provider.name)) for provider in providers],
        "model_routes": routes(),
        "keys": [key(row) for row in sorted(ApiKey.objects.select_related("cost_centre"), key=lambda row: row.name)],
        "prices": prices(),
    }
    written = yaml.dump(sections, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120)
    return f"{HEAD}{CREDENTIALS if told else ''}{told}\n{written}"


def credential_variables(names: Iterable[str]) -> dict[str, str]:
    """By the provider's name; two names that differ in punctuation alone get two variables."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") or "UNNAMED"
        number, variable = 1, f"PROVIDER_{plain}_CREDENTIAL"
        while variable in found.values():
            number += 1
            variable = f"PROVIDER_{plain}_{number}_CREDENTIAL"
        found[name] = variable
    return found


def cost_centre(row: CostCentre) -> dict[str, Any]:
    return {"code": literal(row.code), "name": literal(row.name)}


def described(provider: Provider, variable: str | None) -> dict[str, Any]:
    fields = {name: literal(getattr(provider, name)) for name in Provider.CONFIGURED}
    if variable:
        fields["auth_value"] = f"${{{variable}}}"
    # Null takes an option away, so it says nothing here.
    options = {name: value for name, value in provider.options.items() if value is not None}
    return {**fields, "options": literal(options)}


def routes() -> dict[str, Any]:
    """Without the demo's own. A position is told where it is not the route's place in the file."""
    found: dict[str, Any] = {}
    for route in ModelRoute.objects.prefetch_related("targets__provider").order_by("position", "pk"):
        targets = sorted(route.targets.all(), key=lambda target: target.pk)
        kept = [target_of(target) for target in targets if not target.provider.is_demo]
        if kept or not targets:
            place = {} if route.position == len(found) else {"position": route.position}
            found[route.pattern] = {"strategy": route.strategy, **place, "targets": kept}
    return found


def target_of(target: RouteTarget) -> dict[str, Any]:
    return {
        "provider": literal(target.provider.name),
        "model": literal(target.upstream_model),
        "priority": target.priority,
        "weight": target.weight,
    }


def key(row: ApiKey) -> dict[str, Any]:
    fields = {
        "name": row.name,
        "owner": row.owner,
        "cost_centre": row.cost_centre.code if row.cost_centre else None,
        FILE_NAMES["allowed_models"]: row.allowed_models,
        "scopes": row.scopes,
        FILE_NAMES["expires_at"]: row.expires_at and row.expires_at.isoformat(),
    }
    literally = {name: literal(value) for name, value in fields.items()}
    return {**literally, **({"revoked": True} if row.revoked_at else {})}


def prices() -> list[dict[str, Any]]:
    rows = Price.objects.filter(listed=False).exclude(provider__is_demo=True).select_related("provider")
    return [price(row) for row in sorted(rows, key=lambda row: (row.model, seller(row), row.valid_from))]


def price(row: Price) -> dict[str, Any]:
    named = {"provider": literal(seller(row))} if row.provider else {}
    return {
        "model": literal(row.model),
        **named,
        "valid_from": row.valid_from.isoformat(),
        "currency": literal(row.currency),
        **{name: getattr(row, name) for name in RATES},
        "source": literal(row.source),
    }


def seller(row: Price) -> str:
    return row.provider.name if row.provider else ""


def literal(value: Any) -> Any:
    """As it must be written so that nothing in it is taken for a variable; objects in an order of their own."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {name: literal(value[name]) for name in sorted(value)}
    if isinstance(value, Sequence):
        return [literal(item) for item in value]
    return value


class Plain(yaml.SafeDumper):
    """Every value where it stands, and money as people write it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """YAML folds line breaks, of which it knows more than one would think, unless they are escaped."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


def _money(dumper: yaml.SafeDumper, amount: Decimal) -> yaml.ScalarNode:
    whole, _, part = f"{amount:f}".partition(".")
    part = part.rstrip("0")
    if not part:
        return dumper.represent_scalar("tag:yaml.org,2002:int", whole)
    return dumper.represent_scalar("tag:yaml.org,2002:float", f"{whole}.{part}")


Plain.add_representer(str, _text)
Plain.add_representer(Decimal, _money)
