"""What a request weighs for one upstream: as much of it as that upstream is shown, in the tokens of its model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from providers import tokens
from providers.dialects import DIALECTS, schemas, tools
from providers.dialects.profiles import Habits, habits
from providers.errors import BadMessage
from providers.factors import Factors
from providers.messages import MessagesRequest, Tool
from providers.routing import Endpoint
from providers.state import MARK
from providers.tokens import View

factors = Factors()

_SIGN = MARK.decode()


class Estimate(msgspec.Struct, frozen=True):
    """Input tokens by the number of characters: as they are, and as the model would bill them."""

    model: str
    plain: int
    tokens: int


def estimate(request: MessagesRequest, endpoint: Endpoint, model: str) -> Estimate:
    """Cheap enough for the event loop."""
    plain = tokens.estimate_request(request, view_of(request, endpoint, model))
    return Estimate(model, plain, math.ceil(plain * factors.of_estimates(model)))


def learn(estimated: Estimate, real: int) -> None:
    """What the model has billed in the end for what it read, cached or not."""
    factors.learn(estimated.model, estimated.plain, real)


def count(request: MessagesRequest, endpoint: Endpoint, model: str) -> int:
    """Input tokens by the vocabulary. Takes 6 ms for 100 KB that were never seen before: for another thread."""
    view = view_of(request, endpoint, model)
    counted = tokens.count_request(request, view)
    factors.compare(tokens.estimate_request(request, view), counted)
    return math.ceil(counted * factors.of_counts(model))


def count_at_once(request: MessagesRequest, endpoint: Endpoint, model: str) -> int:
    """The same for a short request on the event loop: estimated where the vocabulary is not there yet."""
    if not tokens.is_ready(encoding_of(endpoint)):
        return estimate(request, endpoint, model).tokens
    counted = tokens.count_request(request, view_of(request, endpoint, model))
    return math.ceil(counted * factors.of_counts(model))


def warm(endpoints: Iterable[Endpoint]) -> None:
    """Loads what is needed to count for those that do not count themselves. For a thread that may wait."""
    for encoding in {encoding_of(endpoint) for endpoint in endpoints if not counts_itself(endpoint)}:
        tokens.warm(encoding)


def counts_itself(endpoint: Endpoint) -> bool:
    dialect = DIALECTS.get(endpoint.type)
    return dialect is not None and dialect.count is not None


def encoding_of(endpoint: Endpoint) -> str:
    named = endpoint.options.get("encoding")
    return named if isinstance(named, str) and named in tokens.PATTERNS else tokens.DEFAULT_ENCODING


def view_of(request: MessagesRequest, endpoint: Endpoint, model: str) -> View:
    if endpoint.type == "anthropic":
        return View(model, encoding_of(endpoint), shows_thinking=_is_not_ours)
    ours = habits(endpoint, model)
    shows = _never if ours.reasoning_history == "none" else _always
    return View(model, encoding_of(endpoint), list(_offered(request, ours)), shows)


def _offered(request: MessagesRequest, ours: Habits) -> Iterable[Mapping[str, Any]]:
    """Tools as they are sent. A request that would be refused for its tools is weighed without them."""
    try:
        offered: list[Tool] = tools.offered_by(request, ours) if request.tools else []
    except BadMessage:
        return
    for tool in offered:
        yield {**tool, "input_schema": schemas.parameters(tool, ours.schema_profile)}


def _is_not_ours(block: Mapping[str, Any]) -> bool:
    """What we have signed is taken out before an Anthropic upstream sees it."""
    return not str(block.get("signature", "")).startswith(_SIGN)


def _always(_block: Mapping[str, Any]) -> bool:
    return True


def _never(_block: Mapping[str, Any]) -> bool:
    return False
