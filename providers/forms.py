"""The settings of a provider as fields of a form: each with label and help, empty where the vendor's own will do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from providers.dialects.profiles import HOSTS, PROFILES, by_host
from providers.dialects.settings import Setting, problem, settings_of, shown, value_without
from providers.models import PASSTHROUGH, ModelRoute, Provider, RouteTarget
from providers.routing import LONG_CONTEXT_MARK
from providers.vendors import PLACEHOLDER

PREFIX = "option_"
LONGEST_HINT = 60
# What belongs behind a base URL.
CALLED = ("/chat/completions", "/messages", "/responses", "/models")


def dialects() -> list[tuple[str, str]]:
    """Each with its hosts."""
    choices = [("", "Chosen by the host of the base URL")]
    for name in PROFILES:
        hosts = ", ".join(host for host, dialect in HOSTS if dialect == name)
        choices.append((name, f"{name} ({hosts})" if hosts else f"{name} (any other host)"))
    return choices


class WordsField(forms.CharField):
    """Words with commas between them; [] for none at all."""

    def prepare_value(self, value: Any) -> Any:
        return shown(value) if isinstance(value, list | tuple) else value

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        return [] if text == "[]" else [word.strip() for word in text.split(",") if word.strip()]


class ExactField(forms.CharField):
    """A text that may be empty or white space, and is then written as JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strip=False, **options)

    def prepare_value(self, value: Any) -> Any:
        return json.dumps(value) if isinstance(value, str) and (not value.strip() or value[0] == '"') else value

    def clean(self, value: Any) -> Any:
        if not (value or "").strip():
            return None
        try:
            meant = json.loads(value) if value.strip().startswith('"') else value
        except ValueError:
            raise ValidationError("A text in quotes is expected, or one without.") from None
        return str(meant)


class TableField(forms.JSONField):
    widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)

    def clean(self, value: Any) -> Any:
        table = super().clean(value)
        if table is not None and not isinstance(table, dict):
            raise ValidationError("An object is expected.")
        return table or None


def field_of(setting: Setting, without: Any) -> forms.Field:
    """For an optional setting; `without` is what holds where it is left empty."""
    told: dict[str, Any] = {"label": setting.label, "help_text": setting.help, "required": False}
    hint = shown(without) if without != "" or setting.kind == "exact text" else ""
    hint = hint if len(hint) <= LONGEST_HINT else hint[: LONGEST_HINT - 1] + "…"
    if setting.kind in {"switch", "choice"}:
        choices = ("yes", "no") if setting.kind == "switch" else setting.choices
        return forms.TypedChoiceField(
            choices=[("", f"as usual here: {hint}"), *((choice, choice) for choice in choices)],
            coerce=(lambda text: text == "yes") if setting.kind == "switch" else str,
            empty_value=None,
            widget=UnfoldAdminSelectWidget,
            **told,
        )
    hinted = {"placeholder": hint}
    if setting.kind == "number":
        return forms.IntegerField(min_value=1, widget=UnfoldAdminIntegerFieldWidget(attrs=hinted), **told)
    if setting.kind == "table":
        return TableField(**told)
    widget = UnfoldAdminTextInputWidget(attrs=hinted)
    if setting.kind == "list":
        return WordsField(widget=widget, **told)
    if setting.kind == "exact text":
        return ExactField(widget=widget, **told)
    return forms.CharField(empty_value=None, widget=widget, **told)


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """The settings are those of the saved type: a provider that is being made has none yet."""

    settings: Mapping[str, Setting] = {}
    credential = forms.CharField(
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="It is encrypted and never shown again. Leave it empty to keep what is there.",
    )
    dialect = forms.ChoiceField(
        required=False, widget=UnfoldAdminSelectWidget, help_text="Which vendor's habits apply besides the settings."
    )
    options = forms.JSONField(
        label="Other options",
        required=False,
        error_messages={"invalid": 'JSON is expected, such as {"pdf": true}.'},
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}),
        help_text="What has no field on this page, by name. A setting may stand here as well.",
    )

    class Meta:
        model = Provider
        fields = (*Provider.CONFIGURED, "options")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        named = self.instance.dialect
        strange = [(named, f"{named} (unknown)")] if named and named not in PROFILES else []
        if "dialect" in self.fields:
            self.fields["dialect"].choices = [*dialects(), *strange]  # type: ignore[attr-defined]
        stored = self.stored()
        for name, setting in self.settings.items():
            if name in stored and problem(self.instance.type, name, stored[name]) is None:
                value = stored.pop(name)
                self.initial[PREFIX + name] = shown(value) if setting.kind == "switch" else value
        self.initial["options"] = stored

    def clean_base_url(self) -> str:
        url: str = self.cleaned_data["base_url"]
        if PLACEHOLDER in url:
            raise ValidationError(f"Put your own name in place of {PLACEHOLDER}…")
        for ending in CALLED:
            if url.rstrip("/").endswith(ending):
                raise ValidationError(f"Leave out {ending}: the gateway adds what it calls.")
        return url

    def clean_credential(self) -> str:
        """It travels in a header."""
        credential: str = self.cleaned_data["credential"]
        if not (credential.isascii() and credential.isprintable()):
            raise ValidationError("It has a line break or a letter that no credential has: copy it again, and alone.")
        return credential

    def stored(self) -> dict[str, Any]:
        return dict(self.instance.options) if isinstance(self.instance.options, dict) else {}

    def clean_options(self) -> Any:
        return self.cleaned_data["options"] or {}

    def clean(self) -> dict[str, Any]:
        """The settings go into `options`, as far as they say something."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        others = cleaned.get("options")
        if isinstance(others, dict) and "options" in self.fields:
            chosen = {name: self.chosen(name) for name in self.settings}
            cleaned["options"] = {**others, **{name: value for name, value in chosen.items() if value is not None}}
        return cleaned

    def chosen(self, name: str) -> Any:
        """None where nothing was; a setting that was not on the page stays what it was."""
        field, stored = PREFIX + name, self.stored()
        if self.add_prefix(field) not in self.data:
            return stored.get(name)
        value = self.cleaned_data.get(field)
        if value is None:
            return None
        if wrong := problem(self.instance.type, name, value):
            self.add_error(field, f"{wrong[0].upper()}{wrong[1:]}.")
            return None
        return None if name not in stored and value == self.without(name) else value

    def without(self, name: str) -> Any:
        dialect = self.cleaned_data.get("dialect") or by_host(self.cleaned_data.get("base_url") or "")
        value = value_without(self.settings[name], self.instance.type, dialect)
        return list(value) if isinstance(value, tuple) else value


def form_for(provider: Provider | None) -> type[ProviderForm]:
    if provider is None or provider.pk is None:
        return ProviderForm
    settings = settings_of(provider.type)
    dialect = provider.dialect or by_host(provider.base_url)
    fields: dict[str, Any] = {
        PREFIX + name: field_of(setting, value_without(setting, provider.type, dialect))
        for name, setting in settings.items()
    }
    return type("ProviderForm", (ProviderForm,), {"settings": settings, **fields, "__doc__": ProviderForm.__doc__})


class PreviewForm(forms.Form):
    model = forms.CharField(
        label="Model at the provider",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="As the route names it; empty passes the client's name through.",
    )
    body = forms.CharField(
        label="Request of a client",
        strip=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 18, "spellcheck": "false"}),
        help_text="Anthropic Messages, as Claude Code would send it to the gateway.",
    )


class TrialForm(forms.Form):
    model = forms.CharField(
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "models"}),
        help_text="As the provider calls it.",
    )


class RouteForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    class Meta:
        model = ModelRoute
        fields = ("pattern", "strategy", "position")
        help_texts = {
            "strategy": "priority: the lowest priority is tried first, equals in the order they stand, and the next one"
            " only where it fails. round robin: each request begins one target further. random: drawn by weight, so"
            " that targets share the load; their priorities do not count."
        }

    def clean_pattern(self) -> str:
        """One that stands already may stay, however it came there."""
        pattern: str = self.cleaned_data["pattern"]
        if "pattern" not in self.changed_data:
            return pattern
        if pattern.endswith(LONG_CONTEXT_MARK):
            raise ValidationError(f"Leave out {LONG_CONTEXT_MARK}: it is taken off a name before routes are looked at.")
        others = ModelRoute.objects.filter(pattern__iexact=pattern).exclude(pk=self.instance.pk)
        if other := others.first():
            raise ValidationError(f"There is a route {other.pattern} already, and case does not matter.")
        return pattern


class TargetForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    class Meta:
        model = RouteTarget
        fields = ("provider", "upstream_model", "priority", "weight")
        help_texts = {
            "upstream_model": f"The provider's name for it; {PASSTHROUGH} keeps the client's.",
            "priority": "The lowest is tried first. Dragging numbers all lines anew; typing may give two lines the same"
            " number, and then they are tried in the order they stand.",
            "weight": "Where the strategy is random: a weight of 2 comes first twice as often as a weight of 1.",
        }

    def has_changed(self) -> bool:
        """Dragging the other lines numbers an empty one as well: it stays empty."""
        is_empty = self.instance.pk is None and not self.data.get(self.add_prefix("provider"))
        return super().has_changed() and not (is_empty and set(self.changed_data) <= {"priority", "weight"})
