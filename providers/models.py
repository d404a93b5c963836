"""Providers, routes and the version row that says when any configuration has changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models import F
from django.dispatch import Signal

from providers import credentials
from providers.addresses import is_never_called, written_in
from providers.balancing import STRATEGIES
from providers.dialects import DIALECTS
from providers.dialects import settings as settings_of_providers

PASSTHROUGH = "passthrough"

logger = logging.getLogger("ccproxy.configuration")

# Whoever changes the configuration tells this group, where a layer reaches other processes; it only saves them the
# wait for their next look at the version.
CONFIGURATION_GROUP = "ccproxy.configuration"
# The same within a process: who has just been issued a key wants to use it.
configuration_changed = Signal()


class ConfigVersion(models.Model):
    """One row. It moves in the same transaction as any change of configuration; every process watches it."""

    number = models.BigIntegerField(default=1)

    @classmethod
    def current(cls) -> int:
        """0 in a database that was never configured."""
        return cls.objects.filter(pk=1).values_list("number", flat=True).first() or 0

    @classmethod
    def bump(cls) -> None:
        if not cls.objects.filter(pk=1).update(number=F("number") + 1):
            cls.objects.create(pk=1, number=1)
        transaction.on_commit(_announce)


def _announce() -> None:
    configuration_changed.send(sender=ConfigVersion)
    layer = get_channel_layer()
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return
    try:
        async_to_sync(layer.group_send)(CONFIGURATION_GROUP, {"type": "configuration.changed"})
    except Exception as error:  # noqa: BLE001 - whatever a layer does, the change itself must stand
        logger.warning("a change of configuration could not be announced, processes see it by themselves: %s", error)


_Model = TypeVar("_Model", bound=models.Model, covariant=True)  # noqa: PLC0105


class ConfigQuerySet(models.QuerySet[_Model]):
    """Bulk changes send no signals, so the vocabulary itself moves the version."""

    def update(self, **changes: Any) -> int:
        with transaction.atomic(using=self.db):
            touched = super().update(**changes)
            ConfigVersion.bump()
        return touched

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        with transaction.atomic(using=self.db):
            deleted = super().delete()
            ConfigVersion.bump()
        return deleted

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[Any], *args: Any, **options: Any) -> list[Any]:
        with transaction.atomic(using=self.db):
            created = super().bulk_create(objs, *args, **options)
            ConfigVersion.bump()
        return created

    def bulk_update(self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None) -> int:
        with transaction.atomic(using=self.db):
            updated = super().bulk_update(objs, fields, batch_size)
            ConfigVersion.bump()
        return updated


class ConfigModel(models.Model):
    """A row that running gateways hold in memory."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            super().save(*args, **options)
            ConfigVersion.bump()

    def delete(self, *args: Any, **options: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            deleted = super().delete(*args, **options)
            ConfigVersion.bump()
        return deleted


class ProviderType(models.TextChoices):
    ANTHROPIC = "anthropic", "Anthropic Messages"
    OPENAI = "openai", "OpenAI Chat Completions"
    RESPONSES = "responses", "OpenAI Responses"


class CredentialMode(models.TextChoices):
    OWN = "own", "The provider's own credential"
    CLIENT_TOKEN = "client_token", "The token that the client brings beside its key"


def check_base_url(url: str) -> None:
    """Any host may stand in it, also one without a dot: http://ollama:11434 is what a compose file calls it."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(character.isspace() for character in url):
        raise ValidationError("A URL is expected, such as https://api.example.com/v1.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValidationError("A user, a password, a query or a fragment has no place here.")
    # What a name leads to is looked at when it is called.
    address = written_in(parts.hostname or "")
    private_is_allowed = settings.PROVIDER_PRIVATE_NETWORKS == "allow"
    if address is not None and is_never_called(address, private_is_allowed=private_is_allowed):
        raise ValidationError("This address is never called: docs/providers-and-routes.md says which are not, and why.")


def seconds(default: float, help_text: str) -> Any:
    return models.FloatField(default=default, validators=[MinValueValidator(0.1)], help_text=help_text)


class Provider(ConfigModel):
    # What a form and a file set, besides the credential and the options.
    CONFIGURED = (
        "name",
        "type",
        "base_url",
        "auth_type",
        "credential_mode",
        "enabled",
        "connect_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "total_timeout",
        "dialect",
    )

    name = models.CharField(max_length=100, unique=True)
    type = models.CharField(max_length=20, choices=ProviderType, help_text="The language the provider speaks.")
    base_url = models.CharField(
        "base URL",
        max_length=500,
        validators=[check_base_url],
        help_text="With or without /v1 at its end. A change of host drops the credential.",
    )
    auth_type = models.CharField(
        max_length=120,
        default="api_key",
        validators=[RegexValidator(r"^(api_key|bearer|header:[A-Za-z0-9-]+)$", "Say api_key, bearer or header:NAME.")],
        help_text="api_key: the header this type wants. bearer: Authorization. header:NAME: that header.",
    )
    credential_mode = models.CharField(max_length=20, choices=CredentialMode, default=CredentialMode.OWN)
    sealed_credential = models.TextField(blank=True, editable=False)
    enabled = models.BooleanField(default=True)
    connect_timeout = seconds(10.0, "Seconds to connect.")
    first_byte_timeout = seconds(120.0, "Seconds until the first byte; reasoning models are slow to start.")
    idle_timeout = seconds(120.0, "Seconds of silence in the middle of an answer.")
    total_timeout = seconds(600.0, "Seconds for the whole answer.")
    dialect = models.CharField(max_length=40, blank=True, help_text="Empty: chosen by the host of the base URL.")
    options = models.JSONField(default=dict, blank=True, help_text="Habits of this provider, by name.")
    is_demo = models.BooleanField(default=False, editable=False)

    objects = ConfigQuerySet["Provider"].as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def has_credential(self) -> bool:
        return bool(self.credential)

    @property
    def credential(self) -> str:
        """Never shown: for the one who sends it."""
        return credentials.unseal(self.sealed_credential, self.base_url)

    def set_credential(self, credential: str) -> None:
        self.sealed_credential = credentials.seal(credential, self.base_url)

    def clean(self) -> None:
        if self.type in ProviderType.values and self.type not in DIALECTS:
            raise ValidationError({"type": f"This version does not speak it yet; it speaks {', '.join(DIALECTS)}."})
        if not isinstance(self.options, dict):
            raise ValidationError({"options": 'An object is expected, such as {"pdf": true}.'})
        wrong = [
            f"{name}: {problem}."
            for name, value in self.options.items()
            if (problem := settings_of_providers.problem(self.type, name, value))
        ]
        if wrong:
            raise ValidationError({"options": wrong})

    def save(self, *args: Any, **options: Any) -> None:
        if credentials.is_for_another_host(self.sealed_credential, self.base_url) or self._goes_bare():
            self.sealed_credential = ""
            if options.get("update_fields") is not None:
                options["update_fields"] = {*options["update_fields"], "sealed_credential"}
        super().save(*args, **options)

    def _goes_bare(self) -> bool:
        """Whether a credential that was given for https would travel in clear from now on."""
        if not self.sealed_credential or not self.base_url.lower().startswith("http://"):
            return False
        before = Provider.objects.filter(pk=self.pk).values_list("base_url", "sealed_credential").first()
        if before is None:
            return False
        address, credential = before
        return address.lower().startswith("https://") and credential == self.sealed_credential


class ModelRoute(ConfigModel):
    pattern = models.CharField(
        max_length=200, unique=True, help_text="A model name, or a pattern such as *sonnet*. Case does not matter."
    )
    strategy = models.CharField(
        max_length=20, choices=[(name, name.replace("_", " ")) for name in STRATEGIES], default="priority"
    )
    position = models.PositiveIntegerField(default=0, help_text="Decides between patterns that are equally specific.")

    objects = ConfigQuerySet["ModelRoute"].as_manager()

    class Meta:
        ordering = ("position", "pk")

    def __str__(self) -> str:
        return self.pattern


class RouteTarget(ConfigModel):
    route = models.ForeignKey(ModelRoute, on_delete=models.CASCADE, related_name="targets")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="targets")
    upstream_model = models.CharField(
        max_length=200, default=PASSTHROUGH, help_text=f"The provider's name for it; {PASSTHROUGH} keeps the client's."
    )
    priority = models.PositiveSmallIntegerField(default=1, help_text="The lowest is tried first.")
    weight = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])

    objects = ConfigQuerySet["RouteTarget"].as_manager()

    class Meta:
        ordering = ("priority", "pk")
        constraints = [models.CheckConstraint(condition=models.Q(weight__gte=1), name="routetarget_weight_positive")]

    def __str__(self) -> str:
        return f"{self.provider} as {self.upstream_model}"


class ProviderHealth(models.Model):
    """What the last probe saw. Not configuration: it moves no version."""

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, related_name="health")
    checked_at = models.DateTimeField()
    ok = models.BooleanField()
    detail = models.CharField(max_length=300, blank=True)
    latency_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "provider health"


class ModelList(models.Model):
    """The models a provider lists. Another list moves the version; the same one, seen again, does not."""

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, related_name="model_list")
    base_url = models.CharField(max_length=500, help_text="Who was asked: after a move the list is another's.")
    listed = models.JSONField(default=list)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{len(self.listed)} models of {self.provider}"
