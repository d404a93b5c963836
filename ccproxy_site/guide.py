"""The way from an empty gateway to its first answer of a real provider, in four steps."""

from __future__ import annotations

import msgspec

from accounting.models import ApiKey, DaySum, Status, UsageRecord
from providers.models import Provider, RouteTarget

# A row is summed some seconds after it was booked; somebody who has just tried looks among the newest.
NEWEST = 200


class Step(msgspec.Struct, frozen=True):
    title: str
    what: str
    button: str
    path: str
    is_done: bool


def steps() -> list[Step]:
    """Empty once all are done."""
    found = [
        Step(
            "Add a provider",
            "Who answers: a vendor, or a model server of your own.",
            "Add a provider",
            "/admin/providers/provider/add/",
            Provider.objects.filter(is_demo=False, enabled=True).exists(),
        ),
        Step(
            "Route a model to it",
            "Which provider is asked for which model name, and by which name of its own.",
            "Add a route",
            "/admin/providers/modelroute/add/",
            RouteTarget.objects.filter(provider__is_demo=False, provider__enabled=True).exists(),
        ),
        Step(
            "Issue a key",
            "Who may ask. Its token is shown once, with the lines that point Claude Code at this gateway.",
            "Issue a key",
            "/admin/accounting/apikey/add/",
            ApiKey.objects.usable().exists(),
        ),
        Step(
            "Ask something",
            "Start Claude Code with those lines and say hello. Done as soon as a provider of yours has answered.",
            "Show the lines again",
            "/me",
            answered(),
        ),
    ]
    return [] if all(step.is_done for step in found) else found


def answered() -> bool:
    """Whether a provider other than the demo has completed an answer."""
    if DaySum.objects.filter(status=Status.COMPLETED, provider_ref__is_demo=False).exists():
        return True
    newest = UsageRecord.objects.order_by("-pk").values_list("status", "provider_ref__is_demo")[:NEWEST]
    return (Status.COMPLETED, False) in set(newest)
