"""Which route a model would take, step by step, by the functions that serve requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from django import forms
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminTextInputWidget

from providers.admin.states import state_of
from providers.models import ModelRoute, Provider
from providers.routing import CLAUDE_MODELS, LONGEST_NAME, Candidate, Route, Routing, plain_model
from providers.snapshot import live, read_routing

ORDERS = {
    "priority": "The lowest priority is tried first, equals in their order; the next one only where it fails.",
    "round_robin": "Each request begins one target further: this is the order of one of them.",
    "random": "At random by weight: this is the order of one request.",
}


class Question(msgspec.Struct, frozen=True):
    """What an administrator wants to know; `key` may be empty."""

    user: User | AnonymousUser
    model: str
    key: str


# What is known further up in the house: whether a key may use a model, and who rests in this process. Each is given
# the candidates in the order of the route and returns sentences.
REMARKS: list[Callable[[Question, Sequence[Candidate]], Sequence[str]]] = []


class WhichForm(forms.Form):
    model = forms.CharField(
        max_length=LONGEST_NAME,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": CLAUDE_MODELS[0], "list": "models"}),
        help_text="As a client would name it.",
    )
    key = forms.CharField(
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="The name of a key, where it matters which models it may use.",
    )


class Match(msgspec.Struct, frozen=True):
    """A route whose pattern takes the name, and its place among those."""

    pattern: str
    takes_it: bool
    why: str


class Line(msgspec.Struct, frozen=True):
    """A target of the route; `place` is 0 where it is no candidate."""

    place: int
    provider: Provider
    model: str
    priority: int
    weight: int
    state: str


class Explanation(msgspec.Struct, frozen=True):
    model: str
    plain: str
    matches: list[Match]
    near: list[str]
    route: ModelRoute | None
    order: str
    lines: list[Line]
    remarks: list[str]

    @property
    def has_candidates(self) -> bool:
        return any(line.place for line in self.lines)


def asked(request: HttpRequest) -> dict[str, Any]:
    """The form, and the explanation where a model was named."""
    form = WhichForm(request.GET if "model" in request.GET else None)
    routing = read_routing()
    found = {"form": form, "models": routing.known_names()[:1000]}
    if form.is_valid():
        question = Question(request.user, form.cleaned_data["model"], form.cleaned_data["key"])
        found["explanation"] = explain(routing, question)
    return found


def explain(routing: Routing, question: Question) -> Explanation:
    model = question.model
    route = routing.route(model)
    candidates = routing.candidates(model)
    rows = ModelRoute.objects.prefetch_related("targets__provider__health")
    row = rows.filter(pattern=route.pattern).first() if route else None
    return Explanation(
        model=model,
        plain=plain_model(model),
        matches=list(matches(list(routing.matching(plain_model(model))))),
        near=[] if route else routing.near(model, routing.published(CLAUDE_MODELS)),
        route=row,
        order=ORDERS.get(route.strategy, "") if route and len(candidates) > 1 else "",
        lines=[*tried(row, candidates), *left_out(row)] if row else [],
        remarks=[sentence for remark in REMARKS for sentence in remark(question, candidates)],
    )


def matches(routes: Sequence[Route]) -> Iterator[Match]:
    """In the order in which they would take it."""
    for place, route in enumerate(routes):
        ahead = routes[place - 1] if place else None
        yield Match(route.pattern, place == 0, _why(route, ahead))


def _why(route: Route, ahead: Route | None) -> str:
    """What decides its place, against the one before it."""
    if route.is_exact:
        return "the exact name comes before every pattern"
    letters = f"{route.literal_characters} letters outside its wildcards"
    if ahead is not None and ahead.specificity == route.specificity:
        return f"{letters}, as many as {ahead.pattern}, which stands before it in the list of routes"
    return letters


def tried(row: ModelRoute, candidates: Sequence[Candidate]) -> Iterator[Line]:
    providers = {target.provider_id: target.provider for target in row.targets.all()}
    for place, candidate in enumerate(candidates, 1):
        provider = providers[candidate.endpoint.id]
        yield Line(place, provider, candidate.model, candidate.priority, candidate.weight, state_of(provider))


def left_out(row: ModelRoute) -> Iterator[Line]:
    """Targets that stand in the route and are not asked."""
    enabled = {provider.pk for provider in live(list(Provider.objects.all()))}
    for target in row.targets.all():
        if target.provider_id not in enabled:
            why = "the demo, which steps back for any other provider" if target.provider.is_demo else "disabled"
            yield Line(0, target.provider, target.upstream_model, target.priority, target.weight, why)
