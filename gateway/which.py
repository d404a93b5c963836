"""What only the gateway knows about a route's decision: which models a key may use, and who rests in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from accounting.models import ApiKey
from accounting.snapshot import card_of
from gateway import runtime
from providers.admin.which import Question
from providers.routing import Candidate


def of_the_key(question: Question, candidates: Sequence[Candidate]) -> list[str]:
    if not question.key:
        return []
    if not question.user.has_perm("accounting.view_apikey"):
        return ["You may not look at keys: ask for the permission, or leave the key out."]
    key = ApiKey.objects.select_related("cost_centre").filter(name=question.key).first()
    if key is None:
        return [f"There is no key {question.key!r}: its name has to be written as the list of keys has it."]
    card = card_of(key)
    if not card.allows(question.model):
        return [f"The key {key.name} may not use it, a client gets 403. It may use {', '.join(card.allowed_models)}."]
    state = key.state()
    may = f"The key {key.name} may use it"
    return [f"{may}." if state == "active" else f"{may}, but is {state}: a client gets 401."]


def of_rests(question: Question, candidates: Sequence[Candidate]) -> list[str]:
    """A provider that said it is spent is asked last."""
    held, now = runtime.current(), time.time()
    if held is None:
        return []
    return [
        f"{candidate.endpoint.name} has said that {candidate.model} is spent: this process asks it last for a while."
        for candidate in candidates
        if held.rests.rests(candidate, now)
    ]
