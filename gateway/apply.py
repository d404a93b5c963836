"""A configuration file put into the database: all of it or nothing, and a second time without effect.

What the file names is made or changed; what it does not name stays as it is, field by field. Only the targets of a
route are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models, transaction
from django.utils import timezone

from accounting import dates, keys
from accounting.models import ApiKey, CostCentre, Price
from gateway.yaml_lines import BadFile, Entry, Mistake, Value, near, read_yaml
from providers import demo
from providers.balancing import STRATEGIES
from providers.models import PASSTHROUGH, CredentialMode, ModelRoute, Provider, RouteTarget

CREDENTIAL_NAMES = ("auth_value", "credential")
# Of the Provider Balancer's files, without a counterpart here.
PROVIDER_IDLE = ("proxy", "streaming_mode")
PROVIDER_NAMES = (*Provider.CONFIGURED, *CREDENTIAL_NAMES, *PROVIDER_IDLE, "options")
# The Provider Balancer's words for how a credential travels.
AUTH_TYPES = {"auth_token": "bearer", "oauth": "bearer"}
TARGET_NAMES = ("provider", "model", "priority", "weight", "enabled")
KEY_NAMES = ("name", "owner", "cost_centre", "models", "scopes", "expires", "revoked", "token")
RATES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
PRICE_NAMES = ("model", "provider", "valid_from", "currency", *RATES, "source")
# What a model calls otherwise than the file does.
FILE_NAMES = {
    "upstream_model": "model",
    "allowed_models": "models",
    "expires_at": "expires",
    "digest": "token",
    "prefix": "token",
}


class Report(msgspec.Struct):
    """What was done, what was accepted without effect, and the tokens that can be shown only now."""

    changes: list[str] = []
    notices: list[str] = []
    issued: list[tuple[str, str]] = []


def apply(text: str, environ: Mapping[str, str], *, dry_run: bool = False) -> Report:
    """Raises BadFile, with every mistake of the file, when anything in it is wrong."""
    mistakes: list[Mistake] = []
    tree = read_yaml(text, environ, mistakes)
    with transaction.atomic():
        applying = Applying(mistakes)
        applying.file(tree)
        if mistakes:
            raise BadFile(mistakes)
        if Provider.objects.filter(is_demo=False).exists() and demo.leave():
            applying.report.changes.append("the demo has left, and its route with it")
        transaction.set_rollback(dry_run)
    if dry_run:
        applying.report.issued.clear()
    return applying.report


class Applying:
    """One run over a file. It goes on after a mistake, to find them all; the transaction around it is then undone."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        self.report = Report()
        self.strategy = ""  # of the routes that name none
        # By name; None where the file names it and something about it is wrong.
        self.providers: dict[str, Provider | None] = {row.name: row for row in Provider.objects.all()}
        self.cost_centres: dict[str, CostCentre | None] = {row.code: row for row in CostCentre.objects.all()}
        # In this order, wherever they stand in the file: what others refer to comes first.
        self.sections: dict[str, Callable[[Value], None]] = {
            "cost_centres": self.read_cost_centres,
            "providers": self.read_providers,
            "settings": self.read_settings,
            "model_routes": self.read_routes,
            "keys": self.read_keys,
            "prices": self.read_prices,
            "auth": self.read_auth,
        }

    def file(self, tree: Value | None) -> None:
        if tree is None or not isinstance(tree.data, dict):
            if tree is None or not tree.unknown:
                self.mistake(1, f"one or more of {', '.join(self.sections)} is expected, each with a colon")
            return
        for name, part in tree.data.items():
            if name not in self.sections:
                self.mistake(part.line, f"{name} is unknown{near(name, self.sections)}")
        for name, read in self.sections.items():
            named = tree.data.get(name)
            if named and not named.unknown and named.data is not None:
                read(named)

    # What every section needs

    def mistake(self, line: int, reason: str) -> None:
        self.mistakes.append(Mistake(line, reason))

    def entries(self, part: Value, noun: str, identity: str) -> list[Entry]:
        """The mappings of a list, each of which must name itself."""
        if not isinstance(part.data, list):
            self.mistake(part.line, f"a list is expected, each entry with its {identity}")
            return []
        found = []
        for item in part.data:
            name = item.data.get(identity) if isinstance(item.data, dict) else None
            if item.unknown or (name and name.unknown):
                continue
            if name and isinstance(name.data, str) and name.data.strip():
                found.append(Entry(f"{noun} {name.data.strip()}", item, self.mistakes))
            else:
                self.mistake(item.line, f"a {noun} needs a {identity}")
        return found

    def once(self, entries: Iterable[Entry]) -> list[Entry]:
        first: dict[str, Entry] = {}
        for entry in entries:
            if entry.label in first:
                self.mistake(entry.line, f"{entry.label} stands in line {first[entry.label].line} already")
            first.setdefault(entry.label, entry)
        return list(first.values())

    def differing(
        self, row: models.Model, entry: Entry, values: Mapping[str, Any], exclude: Sequence[str] = ()
    ) -> list[str] | None:
        """Sets the fields; which of them differ, as the file calls them, or None where the row is not sound."""
        before = {name: getattr(row, name) for name in values}
        for name, value in values.items():
            setattr(row, name, value)
        try:
            row.full_clean(exclude=exclude)
        except ValidationError as error:
            for field, errors in error.error_dict.items():
                name = FILE_NAMES.get(field, field)
                # A variable that is not set was told already; that its field is now empty goes without saying.
                if not entry.is_unknown(name):
                    self.mistakes += [judged(entry, name, one, choices(row, field)) for one in errors]
            return None
        return [FILE_NAMES.get(name, name) for name in values if getattr(row, name) != before[name]]

    def save(self, row: models.Model, label: str, changed: list[str]) -> None:
        if row._state.adding:
            row.save()
            self.report.changes.append(f"{label}: made")
        elif changed:
            row.save()
            self.report.changes.append(f"{label}: changed {', '.join(dict.fromkeys(changed))}")

    def referred(self, entry: Entry, name: str, known: Mapping[str, Any]) -> Any:
        """The row that is named there; None, and a mistake told, where there is none."""
        named = entry.text(name)
        if named not in known and not entry.is_unknown(name):
            noun = name.replace("_", " ")
            entry.mistake(name, f"there is no {noun} {named}{near(named, known)}" if named else f"{name} is missing")
        return known.get(named)

    # The sections

    def read_settings(self, part: Value) -> None:
        if not isinstance(part.data, dict):
            self.mistake(part.line, "settings: names with values are expected")
            return
        entry = Entry("settings", part, self.mistakes)
        self.strategy = entry.text("selection_strategy")
        if self.strategy and self.strategy not in STRATEGIES:
            entry.mistake("selection_strategy", f"selection_strategy: say one of {', '.join(STRATEGIES)}")
            self.strategy = ""
        idle = [name for name in part.data if name != "selection_strategy"]
        if idle:
            self.report.notices.append(f"settings: accepted without effect: {', '.join(idle)}")

    def read_auth(self, part: Value) -> None:
        self.report.notices.append(
            "auth: accepted without effect: here clients have keys, from issue_key, the admin or keys: in this file"
        )

    def read_cost_centres(self, part: Value) -> None:
        if isinstance(part.data, list):  # a code alone will do
            whole = [Value(item.line, {"code": item}) if isinstance(item.data, str) else item for item in part.data]
            part = Value(part.line, whole)
        for entry in self.once(self.entries(part, "cost centre", "code")):
            entry.known_only(("code", "name"))
            code = entry.text("code")
            row = self.cost_centres.get(code) or CostCentre(code=code)
            changed = self.differing(row, entry, {"name": entry.text("name")} if "name" in entry else {})
            self.cost_centres[code] = None if changed is None else row
            if changed is not None:
                self.save(row, entry.label, changed)

    def read_providers(self, part: Value) -> None:
        for entry in self.once(self.entries(part, "provider", "name")):
            name = entry.text("name")
            self.providers[name] = self.provider(entry, self.providers.get(name) or Provider(name=name))

    def provider(self, entry: Entry, row: Provider) -> Provider | None:
        held_one = bool(row.sealed_credential)
        changed = self.differing(row, entry, self.provider_values(entry, row))
        if changed is None:
            return None
        credential = said_credential(entry)
        if credential and credential.lower() != PASSTHROUGH and credential != row.credential:
            row.set_credential(credential)
            changed.append("credential")
        self.save(row, entry.label, changed)
        if held_one and not row.sealed_credential:
            self.report.notices.append(f"{entry.label}: its credential was dropped: it was given for another host")
        elif not row.sealed_credential and row.credential_mode == CredentialMode.OWN:
            self.report.notices.append(f"{entry.label}: has no credential: name auth_value, or enter one in the admin")
        return row

    def provider_values(self, entry: Entry, row: Provider) -> dict[str, Any]:
        texts = [name for name in Provider.CONFIGURED if name in entry and name not in {"name", "enabled"}]
        values: dict[str, Any] = {name: entry.text(name) for name in texts}
        if "enabled" in entry:
            values["enabled"] = entry.truth("enabled", True)
        if "auth_type" in values:
            if values["auth_type"] == "oauth":
                values["enabled"] = False
                self.report.notices.append(f"{entry.label}: oauth is not offered: accepted, but disabled")
            values["auth_type"] = AUTH_TYPES.get(values["auth_type"], values["auth_type"])
        if "credential_mode" not in values and (credential := said_credential(entry)):
            forwards = credential.lower() == PASSTHROUGH
            values["credential_mode"] = CredentialMode.CLIENT_TOKEN if forwards else CredentialMode.OWN
        values["options"] = self.options(entry, row)
        values["is_demo"] = False  # what a file names is meant
        return values

    def options(self, entry: Entry, row: Provider) -> dict[str, Any]:
        """`options` as a whole, then every name that is no field of ours; null takes one away."""
        options = dict(row.options)
        if given := entry.fields.get("options"):
            if given.data is not None and not isinstance(given.data, dict):
                entry.mistake("options", "options: names with values are expected")
            options = dict(given.meaning) if isinstance(given.data, dict) else {}
        for name in [name for name in entry.fields if name not in PROVIDER_NAMES]:
            # A slip of the pen must not pass for an option.
            if get_close_matches(name, PROVIDER_NAMES, n=1, cutoff=0.8) or not name.isidentifier():
                entry.mistake(name, f"{name} is unknown{near(name, PROVIDER_NAMES)}")
            options[name] = entry.fields[name].meaning
        for name in [name for name in PROVIDER_IDLE if name in entry]:
            self.report.notices.append(f"{entry.label}: {name} is accepted without effect")
        return {name: value for name, value in options.items() if value is not None}

    def read_routes(self, part: Value) -> None:
        if not isinstance(part.data, dict):
            self.mistake(part.line, "model_routes: patterns with their targets are expected")
            return
        for position, (pattern, value) in enumerate(part.data.items()):
            if value.data == []:
                self.mistake(value.line, f"route {pattern}: a list of targets is expected")
            elif not value.unknown:
                whole = value if isinstance(value.data, dict) else Value(value.line, {"targets": value})
                self.route(pattern, Entry(f"route {pattern}", whole, self.mistakes), position)

    def route(self, pattern: str, entry: Entry, position: int) -> None:
        entry.known_only(("strategy", "position", "targets"))
        row = ModelRoute.objects.filter(pattern=pattern).first() or ModelRoute(pattern=pattern)
        strategy = entry.text("strategy") or self.strategy or row.strategy
        changed = self.differing(row, entry, {"position": entry.text("position") or position, "strategy": strategy})
        targets = self.targets(entry)
        if changed is None:
            return
        held = [] if row._state.adding else [figures(target) for target in row.targets.order_by("pk")]
        replaced = held != [figures(target) for target in targets]
        self.save(row, entry.label, [*changed, "targets"] if replaced else changed)
        if replaced:
            row.targets.all().delete()
            for target in targets:
                target.route = row
            RouteTarget.objects.bulk_create(targets)

    def targets(self, entry: Entry) -> list[RouteTarget]:
        given = entry.fields.get("targets")
        if given is None or not isinstance(given.data, list):
            entry.mistake("targets", "a list of targets is expected")
            return []
        found = [self.target(Entry(entry.label, item, self.mistakes), item) for item in given.data if not item.unknown]
        return [target for target in found if target]

    def target(self, entry: Entry, item: Value) -> RouteTarget | None:
        if not isinstance(item.data, dict):
            self.mistake(item.line, f"{entry.label}: a target needs at least a provider")
            return None
        entry.known_only(TARGET_NAMES)
        if not entry.truth("enabled", True):
            self.report.notices.append(f"{entry.label}: the target in line {entry.line} is disabled, so it is left out")
            return None
        provider = self.referred(entry, "provider", self.providers)
        values: dict[str, Any] = {name: entry.text(name) for name in ("priority", "weight") if name in entry}
        row = RouteTarget(provider=provider)
        values["upstream_model"] = entry.text("model") or PASSTHROUGH
        sound = self.differing(row, entry, values, exclude=("route", "provider"))
        return row if provider and sound is not None else None

    def read_keys(self, part: Value) -> None:
        for entry in self.once(self.entries(part, "key", "name")):
            entry.known_only(KEY_NAMES)
            # Locked: who rotates or revokes it meanwhile must not be undone.
            row = ApiKey.objects.select_for_update().filter(name=entry.text("name")).first()
            self.key(entry, row or ApiKey(name=entry.text("name")))

    def key(self, entry: Entry, row: ApiKey) -> None:
        values = self.key_values(entry, row)
        token = entry.text("token")
        if token and not keys.is_well_formed(token):
            entry.mistake("token", f"token: no issued key looks like this; one begins with {keys.MARK}")
        elif token and keys.digest(token) != row.digest:
            # As take_token does it: no token from before opens the key any longer.
            values |= {"prefix": keys.prefix(token), "digest": keys.digest(token)}
            row.previous_digest = row.previous_until = None
        elif row._state.adding and not entry.is_unknown("token"):
            token = keys.mint()
            row.take_token(token)
            self.report.issued.append((row.name, token))
        changed = self.differing(row, entry, values)
        if changed is not None:
            self.save(row, entry.label, changed)

    def key_values(self, entry: Entry, row: ApiKey) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if "owner" in entry:
            values["owner"] = entry.text("owner")
        if "cost_centre" in entry:
            named = entry.text("cost_centre")
            values["cost_centre"] = self.referred(entry, "cost_centre", self.cost_centres) if named else None
        if "models" in entry:
            values["allowed_models"] = entry.texts("models")
        if "scopes" in entry:
            values["scopes"] = entry.texts("scopes")
        if "expires" in entry:
            values["expires_at"] = entry.moment("expires", dates.end)
        if entry.truth("revoked", False):
            values["revoked_at"] = row.revoked_at or timezone.now()
        elif "revoked" in entry and row.revoked_at:
            self.report.notices.append(f"{entry.label}: is revoked and stays so: issue a new one instead")
        return values

    def read_prices(self, part: Value) -> None:
        first: dict[tuple[Any, ...], int] = {}
        for entry in self.entries(part, "price", "model"):
            entry.known_only(PRICE_NAMES)
            names_provider = bool(entry.text("provider"))
            provider = self.referred(entry, "provider", self.providers) if names_provider else None
            if names_provider and provider is None:
                continue
            moment = entry.moment("valid_from", dates.beginning)
            identity = (entry.text("model"), provider and provider.pk, moment)
            if identity in first:
                entry.mistake("model", f"the same price stands in line {first[identity]} already")
                continue
            first[identity] = entry.line
            self.price(entry, provider, moment)

    def price(self, entry: Entry, provider: Provider | None, moment: Any) -> None:
        """With a date: that row. Without: a row from now on, where the figures differ from those valid now."""
        rows = Price.objects.filter(model=entry.text("model"), provider=provider, listed=False)
        at = moment or timezone.now()
        rows = rows.filter(valid_from=at) if moment else rows.filter(valid_from__lte=at)
        row = rows.order_by("-valid_from").first()
        rates = {name: entry.text(name) for name in ("currency", *RATES, "source") if name in entry}
        fresh = row is None
        row = row or Price(model=entry.text("model"), provider=provider, valid_from=at)
        changed = self.differing(row, entry, rates)
        if changed is None:
            return
        if changed and not fresh and not moment:
            row.pk, row.valid_from, row._state.adding = None, at, True
        self.save(row, entry.label, changed)


def choices(row: models.Model, field: str) -> list[str]:
    known = getattr(row._meta.get_field(field), "flatchoices", ()) if field != NON_FIELD_ERRORS else ()
    return [str(value) for value, _ in known]


def judged(entry: Entry, name: str, error: ValidationError, known: Sequence[str]) -> Mistake:
    """The model's own words without the value, which may have come from a secret variable."""
    if error.code in {"blank", "null", "required"} and name not in entry:
        return Mistake(entry.line, f"{entry.label}: {name} is missing")
    if error.code == "invalid_choice" and known:
        return Mistake(entry.line_of(name), f"{entry.label}: {name}: say one of {', '.join(known)}")
    params = error.params if isinstance(error.params, dict) else {}
    reason = str(error.message % {**params, "value": "…"} if params else error.message)
    where = "" if name == NON_FIELD_ERRORS else f"{name}: "
    return Mistake(entry.line_of(name), f"{entry.label}: {where}{reason}")


def said_credential(entry: Entry) -> str:
    return next((said for name in CREDENTIAL_NAMES if (said := entry.text(name))), "")


def figures(target: RouteTarget) -> tuple[Any, ...]:
    return target.provider_id, target.upstream_model, target.priority, target.weight
