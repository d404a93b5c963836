"""What `manage.py check`, and every command that runs it, refuses."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import Error, register


def refusal_of_web_processes(number: int) -> str:
    """The sentence that stops a start with so many, or ""."""
    if number < 1:
        return f"{number} web processes cannot serve anybody: set WEB_CONCURRENCY or --workers to 1 or more."
    if number > 1 and not settings.REDIS_URL and not settings.ALLOW_LOCAL_STATE:
        return (
            f"{number} web processes need REDIS_URL: without it they share nothing, and whatever limit is counted over"
            f" all requests would be counted {number} times over. Set REDIS_URL, or ALLOW_LOCAL_STATE=true to accept"
            " that knowingly."
        )
    return ""


@register()
def web_processes_share_their_state(**_: Any) -> list[Error]:
    sentence = refusal_of_web_processes(settings.WEB_CONCURRENCY)
    return [Error(sentence, id="ccproxy.E001")] if sentence else []
