"""Keys, prices, the ledger (one row per client request, one record per attempt under it), and its sums."""

from __future__ import annotations

import datetime as dt
from typing import Any, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone

from accounting import keys
from providers.models import ConfigModel, ConfigQuerySet, Provider


class CostCentre(ConfigModel):
    code = models.CharField(max_length=50, unique=True)
    name = models.CharField(max_length=200, blank=True)

    objects = ConfigQuerySet["CostCentre"].as_manager()

    class Meta:
        ordering = ("code",)

    def __str__(self) -> str:
        return self.code


class ApiKeyQuerySet(ConfigQuerySet["ApiKey"]):
    def usable(self) -> Self:
        return self.filter(revoked_at=None).exclude(expires_at__lte=timezone.now())


class Scope(models.TextChoices):
    MESSAGES = "messages", "Ask models"
    OPERATOR = "operator", "Operate the gateway"


def default_scopes() -> list[str]:
    return [Scope.MESSAGES.value]


class ApiKey(ConfigModel):
    name = models.CharField(max_length=100, unique=True)
    owner = models.CharField(max_length=150, blank=True, help_text="The person or team that answers for its use.")
    holder = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="api_keys",
        help_text="Who sees it at /me after signing in.",
    )
    cost_centre = models.ForeignKey(CostCentre, on_delete=models.PROTECT, null=True, blank=True)
    prefix = models.CharField(max_length=16, editable=False, help_text="How it begins, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    # The token before the last rotation, which opens the key until then.
    previous_digest = models.CharField(max_length=64, unique=True, null=True, editable=False)
    previous_until = models.DateTimeField(null=True, editable=False)
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="Names or patterns; empty allows every model."
    )
    scopes = models.JSONField(default=default_scopes, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def issue(cls, name: str, **fields: Any) -> tuple[ApiKey, str]:
        """A new key and its token. The token is in no table: show it now or never."""
        key, token = cls(name=name, **fields), keys.mint()
        key.take_token(token)
        key.full_clean()
        key.save()
        return key, token

    def take_token(self, token: str) -> None:
        """From now on this token opens the key, and none before it."""
        self.prefix, self.digest = keys.prefix(token), keys.digest(token)
        self.previous_digest = self.previous_until = None

    def rotate(self, overlap: dt.timedelta) -> str:
        """A new token, to be shown now or never. The present one opens the key for so long still, none before it."""
        token, present = keys.mint(), self.digest
        self.take_token(token)
        if overlap:
            self.previous_digest, self.previous_until = present, timezone.now() + overlap
        self.save(update_fields=["prefix", "digest", "previous_digest", "previous_until"])
        return token

    def clean(self) -> None:
        for name, known in (("allowed_models", None), ("scopes", set(Scope.values))):
            entries = getattr(self, name)
            if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
                raise ValidationError({name: "A list of names is expected."})
            if known and not known.issuperset(entries):
                raise ValidationError({name: f"Known scopes are {', '.join(sorted(known))}."})

    def state(self) -> str:
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= timezone.now() else "active"


def rate(help_text: str) -> Any:
    return models.DecimalField(
        max_digits=18, decimal_places=6, default=0, validators=[MinValueValidator(0)], help_text=help_text
    )


class Price(ConfigModel):
    """What a model costs from a moment on, per million tokens. Rows are added, not edited: old bills stay true."""

    model = models.CharField(max_length=200, help_text="The provider's name for it, or a pattern.")
    provider = models.ForeignKey(
        Provider, on_delete=models.CASCADE, null=True, blank=True, help_text="Empty: whoever serves the model."
    )
    valid_from = models.DateTimeField(default=timezone.now)
    currency = models.CharField(max_length=3, default="USD")
    input = rate("Tokens read by the model and not from a cache.")
    cache_read = rate("Tokens read from a cache.")
    cache_write_5m = rate("Tokens written to a cache for five minutes.")
    cache_write_1h = rate("Tokens written to a cache for an hour.")
    output = rate("Tokens of the answer, reasoning included.")
    web_search = rate("A thousand searches made by the provider.")
    source = models.CharField(max_length=200, blank=True, help_text="Where the figures come from.")
    listed = models.BooleanField(
        default=False, editable=False, help_text="From the list that comes with the product: prices of your own win."
    )

    objects = ConfigQuerySet["Price"].as_manager()

    class Meta:
        ordering = ("model", "-valid_from")
        constraints = [
            models.UniqueConstraint(
                fields=("model", "provider", "valid_from", "listed"), name="price_once_per_provider"
            ),
            models.UniqueConstraint(
                fields=("model", "valid_from", "listed"),
                condition=models.Q(provider=None),
                name="price_once_for_all_providers",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.valid_from:%Y-%m-%d}"


class Status(models.TextChoices):
    COMPLETED = "completed", "Completed"
    CUT = "cut", "Cut: the upstream ended early"
    CANCELLED = "cancelled", "Cancelled: the client left"
    FAILED = "failed", "Failed: no answer"
    INTERRUPTED = "interrupted", "Interrupted: the process died"
    CORRECTION = "correction", "Correction of another row"


class Source(models.TextChoices):
    UPSTREAM = "upstream", "Told by the upstream"
    COUNTED = "counted", "Counted by the gateway"
    ESTIMATED = "estimated", "Estimated: the answer was cut short"


class Tokens(models.Model):
    """The usage vector and its price, on rows and on attempts alike."""

    input = models.BigIntegerField(default=0)
    cache_read = models.BigIntegerField(default=0)
    cache_write_5m = models.BigIntegerField(default=0)
    cache_write_1h = models.BigIntegerField(default=0)
    output = models.BigIntegerField(default=0)
    thinking = models.BigIntegerField(default=0, help_text="Part of output.")
    web_searches = models.BigIntegerField(default=0)
    source = models.CharField(max_length=10, choices=Source)
    method = models.CharField(max_length=40, blank=True, help_text="How it was counted or estimated.")
    cost = models.DecimalField(max_digits=30, decimal_places=12, null=True, help_text="Empty: no price was known.")
    currency = models.CharField(max_length=3, blank=True)

    class Meta:
        abstract = True


class UsageRecord(Tokens):
    """One client request. Written once; a correction is a row of its own that names the row it corrects."""

    request_id = models.CharField(max_length=40, unique=True)
    corrects = models.CharField(max_length=40, blank=True)
    client_request_id = models.CharField(max_length=100, blank=True, help_text="As the client named it; never a key.")
    session_id = models.CharField(max_length=100, blank=True)
    started_at = models.DateTimeField(db_index=True)
    finished_at = models.DateTimeField()
    # References carry no constraint and names are copied: deleting a key or provider loses nothing here.
    api_key = models.ForeignKey(ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="+")
    key = models.CharField(max_length=100)
    owner = models.CharField(max_length=150, blank=True)
    cost_centre = models.CharField(max_length=50, blank=True)
    provider_ref = models.ForeignKey(
        Provider, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="+"
    )
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200)
    upstream_model = models.CharField(max_length=200, blank=True)
    streamed = models.BooleanField(default=False)
    status = models.CharField(max_length=12, choices=Status)
    stop_reason = models.CharField(max_length=40, blank=True)
    reason = models.CharField(max_length=300, blank=True, help_text="Why it failed or was cut.")
    price = models.JSONField(null=True, help_text="The rates it was charged at.")
    attempt_count = models.PositiveSmallIntegerField(default=1)
    attempts_cost = models.DecimalField(
        max_digits=30, decimal_places=12, null=True, help_text="What all its attempts cost together."
    )
    first_byte_ms = models.PositiveIntegerField(null=True)

    class Meta:
        ordering = ("-started_at",)
        indexes = [models.Index(fields=("api_key", "started_at"), name="usage_key_started")]

    def __str__(self) -> str:
        return self.request_id


class UsageAttempt(Tokens):
    """One call to one upstream for a row. A failed one may have been billed too."""

    record = models.ForeignKey(
        UsageRecord, to_field="request_id", on_delete=models.DO_NOTHING, db_constraint=False, related_name="attempts"
    )
    number = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    provider_ref = models.ForeignKey(
        Provider, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="+"
    )
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=200)
    upstream_id = models.CharField(max_length=200, blank=True, help_text="The upstream's own id for the answer.")
    reached = models.BooleanField(default=True, help_text="Whether the upstream may have read the request.")
    status = models.CharField(max_length=12, choices=Status)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("record", "number")
        constraints = [models.UniqueConstraint(fields=("record", "number"), name="usage_attempt_once")]

    def __str__(self) -> str:
        return f"{self.record_id} attempt {self.number}"


class DirtyQuarter(models.Model):
    """A quarter hour with rows that no rollup has seen; marked in the transaction that writes the rows."""

    starts_at = models.DateTimeField(unique=True)


class DirtyDay(models.Model):
    """A day, in the books' time zone, whose quarter hours were summed anew."""

    day = models.DateField(unique=True)


class SumsState(models.Model):
    """One row: in which time zone the sums of days were made, and of which moment all that was booked is in them."""

    time_zone = models.CharField(max_length=64)
    complete_at = models.DateTimeField(null=True)


# Sums of money stand as integers of so many digits behind the point: the ledger's own, and every database adds
# integers exactly.
COST_DIGITS = 12


class Sums(models.Model):
    """What the ledger comes to for one key, model, provider, cost centre and status in a stretch of time."""

    api_key = models.ForeignKey(ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="+")
    key = models.CharField(max_length=100)
    owner = models.CharField(max_length=150, blank=True)
    cost_centre = models.CharField(max_length=50, blank=True)
    provider_ref = models.ForeignKey(
        Provider, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="+"
    )
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200)
    upstream_model = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=12, choices=Status)
    currency = models.CharField(max_length=3, blank=True)

    requests = models.BigIntegerField()
    attempts = models.BigIntegerField()
    input = models.BigIntegerField()
    cache_read = models.BigIntegerField()
    cache_write_5m = models.BigIntegerField()
    cache_write_1h = models.BigIntegerField()
    output = models.BigIntegerField()
    thinking = models.BigIntegerField()
    web_searches = models.BigIntegerField()
    cost = models.BigIntegerField(help_text="In 10^-12 of the currency.")
    attempts_cost = models.BigIntegerField(help_text="Of all attempts, in 10^-12 of the currency.")
    unpriced = models.BigIntegerField(help_text="Requests of which no price was known.")
    estimated = models.BigIntegerField(help_text="Requests whose figures are estimates.")
    first_byte_ms = models.BigIntegerField(help_text="All of them together.")
    first_bytes = models.BigIntegerField(help_text="How many requests have one.")

    class Meta:
        abstract = True


class QuarterSum(Sums):
    """Of a quarter hour, which falls into one day in every time zone."""

    starts_at = models.DateTimeField(db_index=True)


class DaySum(Sums):
    """Of a day in the books' time zone: what reports are made of."""

    day = models.DateField(db_index=True)

    class Meta:
        permissions = [("view_reports", "Can see the reports")]
        indexes = [models.Index(fields=("api_key", "day"), name="daysum_key_day")]
