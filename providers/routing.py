"""Which providers may answer for a model: plain data made from the configuration, asked without a query."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import msgspec

from providers.balancing import STRATEGIES

# A mark of the client's own for long contexts; the upstream never sees it.
LONG_CONTEXT_MARK = "[1m]"
# Names asked for are the client's choice: remember only so many.
MOST_REMEMBERED = 4096


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds: to connect, to the first byte of an answer, between two reads, and in all."""

    connect: float = 10.0
    first_byte: float = 120.0
    idle: float = 120.0
    total: float = 600.0


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

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}>"


class Candidate(msgspec.Struct, frozen=True):
    endpoint: Endpoint
    model: str
    priority: int = 1
    weight: int = 1


class Target(msgspec.Struct, frozen=True):
    """One line of a route; `model` empty passes the client's name through."""

    endpoint: Endpoint
    model: str = ""
    priority: int = 1
    weight: int = 1


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


def plain_model(name: str) -> str:
    return name.removesuffix(LONG_CONTEXT_MARK)


def matches(pattern: str, model: str) -> bool:
    """Globs as in a shell, ignoring case."""
    return fnmatch.fnmatchcase(model.lower(), pattern.lower())


class Routing:
    """All routes, the most specific first: an exact name, then the most literal characters, then their order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = sorted(routes, key=lambda route: (not route.is_exact, -route.literal_characters))
        self._turns: dict[str, itertools.count[int]] = {route.pattern: itertools.count() for route in self.routes}
        self._remembered: dict[str, Route | None] = {}

    def route(self, model: str) -> Route | None:
        name = plain_model(model)
        if name not in self._remembered:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[name] = next((route for route in self.routes if matches(route.pattern, name)), None)
        return self._remembered[name]

    def candidates(self, model: str) -> list[Candidate]:
        """Who may answer, in the order to try them; empty where no route or no enabled provider is left."""
        route = self.route(model)
        if route is None or not route.targets:
            return []
        name = plain_model(model)
        candidates = [
            Candidate(target.endpoint, target.model or name, target.priority, target.weight) for target in route.targets
        ]
        return STRATEGIES[route.strategy](candidates, next(self._turns[route.pattern]))

    def published(self, catalogue: Sequence[str]) -> list[str]:
        """The names to list: exact routes by their name, patterns by what they match of the catalogue."""
        exact = [route.pattern for route in self.routes if route.is_exact and route.targets]
        known = [name for name in catalogue if (route := self.route(name)) and route.targets]
        return list(dict.fromkeys([*exact, *known]))

    def near(self, model: str, names: Sequence[str]) -> list[str]:
        return get_close_matches(plain_model(model).lower(), names, n=3, cutoff=0.4)
