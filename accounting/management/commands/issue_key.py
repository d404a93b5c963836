"""A new key from the command line; its token is the last line of standard output, alone."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from accounting import dates
from accounting.models import ApiKey, CostCentre, Scope


class Command(BaseCommand):
    help = "Issues a key and prints its token, which is shown this once: KEY=$(python manage.py issue_key alice)"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="Names the key on reports; unique.")
        parser.add_argument("--owner", default="", help="The person or team that answers for its use.")
        parser.add_argument("--cost-centre", metavar="CODE", help="Made when there is none with this code.")
        parser.add_argument(
            "--model",
            metavar="PATTERN",
            action="extend",
            nargs="+",
            default=[],
            help="A model the key may use, or a pattern such as *haiku*; none given: every model.",
        )
        parser.add_argument(
            "--scope",
            action="extend",
            nargs="+",
            choices=Scope.values,
            default=[],
            help="What the key may do; messages when none is given.",
        )
        parser.add_argument("--expires", metavar="DATE", help="A day, its end included, or a moment; UTC by default.")

    @sensitive_variables("token")
    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"].strip()
        if ApiKey.objects.filter(name=name).exists():
            raise CommandError(f"A key named {name!r} exists already, revoked or not: choose another name.")
        fields: dict[str, Any] = {"owner": options["owner"], "allowed_models": options["model"]}
        if options["scope"]:
            fields["scopes"] = list(dict.fromkeys(options["scope"]))
        if options["expires"]:
            fields["expires_at"] = expiry(options["expires"])
        try:
            with transaction.atomic():
                cost_centre = self.cost_centre(options["cost_centre"]) if options["cost_centre"] else None
                _, token = ApiKey.issue(name, cost_centre=cost_centre, **fields)
        except ValidationError as error:
            raise CommandError(sentences(error)) from None
        self.stderr.write(f"{name} was issued. This is the only time its token is shown:")
        self.stdout.write(token)

    def cost_centre(self, code: str) -> CostCentre:
        known = CostCentre.objects.filter(code=code).first()
        if known:
            return known
        made = CostCentre(code=code)
        made.full_clean()
        made.save()
        self.stderr.write(f"There was no cost centre {code}: it was made.")
        return made


def expiry(text: str) -> Any:
    try:
        moment = dates.end(text)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if moment <= timezone.now():
        raise CommandError(f"{text} has passed: a key that expires then would never work.")
    return moment


def sentences(error: ValidationError) -> str:
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(f"{field.replace('_', ' ')}: {' '.join(texts)}" for field, texts in error.message_dict.items())
