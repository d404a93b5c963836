"""The models a key may use, as `GET /v1/models` lists them."""

from __future__ import annotations

from typing import Any

from accounting.snapshot import KeyCard
from gateway.configuration import Snapshot
from providers.errors import BadMessage, NotFound
from providers.routing import CLAUDE_MODELS, plain_model

MOST, DEFAULT = 1000, 20
# The gateway does not know when a model was made; the field must be there and must not change.
SINCE = "2025-01-01T00:00:00Z"


def usable_models(card: KeyCard, snapshot: Snapshot) -> list[str]:
    return [name for name in snapshot.routing.published(CLAUDE_MODELS) if card.allows(name)]


def page_of_models(card: KeyCard, snapshot: Snapshot, query: dict[str, str]) -> dict[str, Any]:
    names = usable_models(card, snapshot)
    limit = _limit(query.get("limit"))
    if "after_id" in query:
        start = _position(names, query["after_id"]) + 1
        page = names[start : start + limit]
        more = start + limit < len(names)
    elif "before_id" in query:
        end = _position(names, query["before_id"])
        page = names[max(0, end - limit) : end]
        more = end > limit
    else:
        page, more = names[:limit], len(names) > limit
    return {
        "data": [describe(name, snapshot) for name in page],
        "has_more": more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }


def one_model(name: str, card: KeyCard, snapshot: Snapshot) -> dict[str, Any]:
    """Any name that a route would take, listed or not."""
    if snapshot.routing.route(name) is None or not card.allows(name):
        raise NotFound(unknown_model(name, card, snapshot))
    plain = plain_model(name)
    listed = {published.lower(): published for published in usable_models(card, snapshot)}
    return describe(listed.get(plain.lower(), plain), snapshot)


def describe(name: str, snapshot: Snapshot) -> dict[str, Any]:
    limits = snapshot.routing.limits(name)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": SINCE,
        "lifecycle": "active",
        "max_input_tokens": limits.context_window,
        "max_tokens": limits.max_output,
        "capabilities": None,
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
    }


def unknown_model(model: str, card: KeyCard, snapshot: Snapshot) -> str:
    near = snapshot.routing.near(model, usable_models(card, snapshot))
    hint = f"near to it: {', '.join(near)}" if near else "GET /v1/models lists what this key may use"
    return f"model: {model[:200]!r} is not routed here; {hint}"


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not 1 <= int(text) <= MOST:
        raise BadMessage(f"limit: expected a number from 1 to {MOST}")
    return int(text)


def _position(names: list[str], name: str) -> int:
    if name not in names:
        raise BadMessage(f"{name[:100]!r} is not in this list: page with an id from it")
    return names.index(name)
