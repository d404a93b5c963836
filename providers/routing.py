"""Which providers may answer for a model: plain data made from the configuration, asked without a query."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from heapq import nlargest

import msgspec

from providers.balancing import STRATEGIES

# A mark of the client's own for long contexts; the upstream never sees it.
LONG_CONTEXT_MARK = "[1m]"
# Names that clients know by heart: patterns of routes are shown as those of them they match.
CLAUDE_MODELS = (
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-opus-4-5",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
)
# Names asked for are the client's choice: remember only so many.
MOST_REMEMBERED, LONGEST_NAME = 4096, 512
# Comparing names letter by letter takes 20 µs each: so many of them, and so many letters.
MOST_COMPARED, LONGEST_COMPARED = 30, 100


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds: to connect, to the first byte of an answer, between two reads, and in all."""

    connect: float = 10.0
    first_byte: float = 120.0
    idle: float = 120.0
    total: float = 600.0


class KnownModel(msgspec.Struct, frozen=True):
    """A model as its provider lists it, in its own spelling; None: not told."""

    name: str
    context_window: int | None = None
    max_output: int | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """A provider as the request path sees it. `credential` is the secret itself: never log one of these."""

    id: int
    name: str
    type: str
    base_url: str
    credential: str = ""
    auth_header: str = "authorization"
    auth_scheme: str = "Bearer "
    client_token: bool = False  # forward the client's own token in place of a credential
    timeouts: Timeouts = Timeouts()
    options: Mapping[str, object] = {}  # what the dialect reads, by the provider's field names
    models: Mapping[str, KnownModel] = {}  # what it lists, by the name in lower case

    def known(self, model: str) -> KnownModel:
        """What it tells of a model, whatever the case; just the name where it tells nothing."""
        return self.models.get(model.lower()) or KnownModel(model)

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}>"


class Candidate(msgspec.Struct, frozen=True):
    endpoint: Endpoint
    model: str
    priority: int = 1
    weight: int = 1

    @property
    def provider_id(self) -> int:
        return self.endpoint.id

    @property
    def limits(self) -> KnownModel:
        return self.endpoint.known(self.model)


class Target(msgspec.Struct, frozen=True):
    """One line of a route; `model` empty passes the client's name through."""

    endpoint: Endpoint
    model: str = ""
    priority: int = 1
    weight: int = 1

    def model_for(self, name: str) -> str:
        """What the provider calls it: names it lists are spelled its way."""
        return self.model or self.endpoint.known(name).name


class Route(msgspec.Struct, frozen=True):
    pattern: str
    targets: tuple[Target, ...]
    strategy: str = "priority"

    @property
    def is_exact(self) -> bool:
        return not any(mark in self.pattern for mark in "*?[")

    @property
    def literal_characters(self) -> int:
        return len(re.sub(r"\[[^\]]*\]|[*?]", "", self.pattern))

    @property
    def specificity(self) -> tuple[bool, int]:
        """The larger one takes a name that both match; of equals the first in order does."""
        return self.is_exact, self.literal_characters


def plain_model(name: str) -> str:
    return name.removesuffix(LONG_CONTEXT_MARK)


def matches(pattern: str, model: str) -> bool:
    """Globs as in a shell, ignoring case."""
    return fnmatch.fnmatchcase(model.lower(), pattern.lower())


class Routing:
    """All routes, the most specific first: an exact name, then the most literal characters, then their order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = sorted(routes, key=lambda route: route.specificity, reverse=True)
        self._turns: dict[str, itertools.count[int]] = {route.pattern: itertools.count() for route in self.routes}
        self._remembered: dict[str, Route | None] = {}
        # Made by whoever reads the configuration: thousands of names are too many for the event loop.
        self._listed = self._names_listed()

    @property
    def endpoints(self) -> list[Endpoint]:
        """Every provider that some route leads to, once."""
        return list({target.endpoint.id: target.endpoint for route in self.routes for target in route.targets}.values())

    def route(self, model: str) -> Route | None:
        name = plain_model(model)
        if len(name) > LONGEST_NAME:
            return None
        if name not in self._remembered:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[name] = self._find(name)
        return self._remembered[name]

    def candidates(self, model: str) -> list[Candidate]:
        """Who may answer, in the order to try them; empty where no route or no enabled provider is left."""
        route = self.route(model)
        if route is None or not route.targets:
            return []
        name = plain_model(model)
        candidates = [
            Candidate(target.endpoint, target.model_for(name), target.priority, target.weight)
            for target in route.targets
        ]
        return STRATEGIES[route.strategy](candidates, next(self._turns[route.pattern]))

    def published(self, catalogue: Sequence[str]) -> list[str]:
        """The names to list: exact routes by their name, patterns by what they match of the catalogue, and of what
        their providers list where they pass names through.
        """
        exact = [route.pattern for route in self.routes if route.is_exact and route.targets]
        known = [name for name in catalogue if (route := self.route(name)) and route.targets]
        names: dict[str, str] = {}
        for name in (*exact, *known, *self._listed):
            names.setdefault(name.lower(), name)
        return list(names.values())

    def limits(self, model: str) -> KnownModel:
        """Of the first provider that would be asked, going by priority."""
        route, name = self.route(model), plain_model(model)
        if route is None or not route.targets:
            return KnownModel(name)
        first = min(route.targets, key=lambda target: target.priority)
        return first.endpoint.known(first.model_for(name))

    def near(self, model: str, names: Sequence[str]) -> list[str]:
        """At most three, the nearest first. Comparing whole names is slow: only those are that share most pieces."""
        wanted = plain_model(model[:LONGEST_COMPARED]).lower()
        pieces = _pieces(wanted)
        likely = {name.lower(): name for name in nlargest(MOST_COMPARED, names, lambda name: _shared(pieces, name))}
        return [likely[name] for name in get_close_matches(wanted, likely, n=3, cutoff=0.4)]

    def matching(self, name: str) -> Iterator[Route]:
        """All that match, the one that takes the name first; asked without the mark for long contexts."""
        return (route for route in self.routes if matches(route.pattern, name))

    def known_names(self) -> list[str]:
        """Model names to look at routes by: those of exact routes, of Claude, and all that a provider here lists."""
        exact = [route.pattern for route in self.routes if route.is_exact]
        listed = sorted(model.name for endpoint in self.endpoints for model in endpoint.models.values())
        return list({name.lower(): name for name in (*exact, *CLAUDE_MODELS, *listed)}.values())

    def _find(self, name: str) -> Route | None:
        return next(self.matching(name), None)

    def _names_listed(self) -> list[str]:
        passing = [target.endpoint for route in self.routes for target in route.targets if not target.model]
        listed = {model.name for endpoint in passing for model in endpoint.models.values()}
        return sorted(name for name in listed if self._passes_through(name))

    def _passes_through(self, name: str) -> bool:
        """Whether the route that takes this name leads to a provider that lists it and would be asked for it."""
        route = self._find(name)
        targets = route.targets if route is not None else ()
        return any(not target.model and name.lower() in target.endpoint.models for target in targets)


def _shared(pieces: frozenset[str], name: str) -> int:
    return len(pieces & _pieces(name))


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def _pieces(name: str) -> frozenset[str]:
    """Three letters or digits in a row, whatever stands between them."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return frozenset(plain[at : at + 3] for at in range(len(plain) - 2))
