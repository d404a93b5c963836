"""The languages of the upstreams: one module each, all with the same few functions; one line each in the table."""

from __future__ import annotations

from collections.abc import Mapping

from providers.dialects import anthropic, chat, responses
from providers.dialects.dialect import Answer, Dialect, Exchange, Outbound

__all__ = ["DIALECTS", "Answer", "Dialect", "Exchange", "Outbound"]

DIALECTS: Mapping[str, Dialect] = {
    "anthropic": anthropic.DIALECT,
    "openai": chat.DIALECT,
    "responses": responses.DIALECT,
}
