"""Anthropic Messages: a pass-through. The client's bytes go up, the upstream's bytes come down, read on the side.

Decoding and encoding again would drop the field a client invented last week, and would break the caches and
signatures that depend on the very bytes. Options of the provider take things out of a request; they are listed in
anthropic_options, and what goes with a beta in betas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from providers import splice
from providers.dialects import betas, refusals
from providers.dialects.anthropic_answer import PassThrough, RecentIds, usage_of
from providers.dialects.anthropic_options import OPTIONS, is_vendor, option, takes_effort_without_thinking
from providers.dialects.dialect import Dialect, Exchange, Outbound
from providers.errors import AccountRefused, BadMessage, UpstreamError
from providers.messages import Block, Message
from providers.state import MARK

__all__ = ["DIALECT", "OPTIONS", "PassThrough", "RecentIds", "count", "encode", "is_plain", "refusal", "usage_of"]

# What is forwarded of the client's headers, besides everything that begins with one of the prefixes.
FORWARDED = frozenset({"accept", "content-type", "x-app"})
FORWARDED_PREFIXES = ("anthropic-", "x-stainless-")
OAUTH_BETA = "oauth-2025-04-20"
SIGN = MARK.decode()


def encode(exchange: Exchange) -> Outbound:
    return Outbound(_path("/messages", exchange), _body(exchange), _headers(exchange))


def count(exchange: Exchange) -> Outbound:
    return Outbound(_path("/messages/count_tokens", exchange), _body(exchange), _headers(exchange))


def _path(path: str, exchange: Exchange) -> str:
    return f"{path}?{exchange.query}" if exchange.query and is_plain(exchange.query) else path


def is_plain(text: str) -> bool:
    """Whether it may stand in a header or an address; whatever else a client put there is its own and stays here."""
    return text.isascii() and text.isprintable()


def _body(exchange: Exchange) -> bytes:
    """Raises BadMessage where an edit is due and some name is no text, such as half of a surrogate pair."""
    try:
        return _edited(exchange)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadMessage("body: one of its names is no valid text") from None


def _edited(exchange: Exchange) -> bytes:
    body, messages = exchange.body, exchange.request.messages
    if exchange.model != exchange.request.model:
        body = splice.replace_members(body, {"model": msgspec.json.encode(exchange.model)})
    unwanted = _is_ours_or_unsigned if option(exchange.endpoint, "strip_unsigned_thinking") else _is_our_thinking
    if any(_has(message, unwanted) for message in messages):
        body = without_blocks(body, messages, unwanted)
    removed = option(exchange.endpoint, "remove_fields")
    if removed:
        body = splice.remove_members(body, removed)
    if _has_idle_effort(exchange):
        body = _without_effort(body)
    for beta in _removed_betas(exchange):
        body = betas.without_what_needs(beta, body)
    return body


def _has_idle_effort(exchange: Exchange) -> bool:
    request = exchange.request
    if not request.output_config or "effort" not in request.output_config:
        return False
    is_off = request.thinking is not None and request.thinking.get("type") == "disabled"
    return is_off and not takes_effort_without_thinking(exchange.endpoint)


def _without_effort(body: bytes) -> bytes:
    spans = splice.member_spans(body)
    if spans is None or "output_config" not in spans:
        return body
    rest = splice.remove_members(body[slice(*spans["output_config"])], ["effort"])
    return splice.replace_members(body, {"output_config": rest})


# Headers


def _headers(exchange: Exchange) -> dict[str, str]:
    endpoint = exchange.endpoint
    forwarded = FORWARDED | {"user-agent"} if option(endpoint, "forward_user_agent") else FORWARDED
    prefixes: tuple[str, ...] = FORWARDED_PREFIXES
    if option(endpoint, "forward_claude_code_headers"):
        prefixes += ("x-claude-code-",)
    connection = exchange.headers.get("connection")
    of_the_connection = betas.listed(connection.lower()) if connection else []
    kept = {
        name: value
        for name, value in exchange.headers.items()
        if (name in forwarded or name.startswith(prefixes)) and name not in of_the_connection and is_plain(value)
    }
    kept.setdefault("anthropic-version", "2023-06-01")
    kept.setdefault("content-type", "application/json")
    return _with_betas(kept, _removed_betas(exchange), oauth=option(endpoint, "oauth"))


def _removed_betas(exchange: Exchange) -> list[str]:
    """Those the client sent: both halves go, the value and what needs it, or neither."""
    removed = option(exchange.endpoint, "remove_betas")
    if not removed:
        return []
    return [beta for beta in betas.listed(exchange.headers.get("anthropic-beta", "")) if beta in removed]


def _with_betas(headers: dict[str, str], removed: Sequence[str], *, oauth: bool) -> dict[str, str]:
    """As the client wrote them, unless one goes or comes."""
    if not removed and not oauth:
        return headers
    told = betas.listed(headers.get("anthropic-beta", ""))
    wanted = [beta for beta in told if beta not in removed]
    if oauth and OAUTH_BETA not in wanted:
        wanted.append(OAUTH_BETA)
    if wanted == told:
        return headers
    rest = {name: value for name, value in headers.items() if name != "anthropic-beta"}
    return {**rest, "anthropic-beta": ",".join(wanted)} if wanted else rest


# Thinking that this upstream must not see


def without_blocks(body: bytes, messages: Sequence[Message], unwanted: Callable[[Block], bool]) -> bytes:
    """An Anthropic upstream refuses, for the rest of the session, signatures that are not its own."""
    spans = splice.member_spans(body)
    if spans is None or "messages" not in spans:
        return body
    text = body[slice(*spans["messages"])]
    kept = []
    for span, message in zip(splice.element_spans(text), messages, strict=True):
        rest = _message_without(text[slice(*span)], message, unwanted)
        if rest is not None:
            kept.append(rest)
    return splice.replace_members(body, {"messages": b"[" + b",".join(kept) + b"]"})


def _message_without(text: bytes, message: Message, unwanted: Callable[[Block], bool]) -> bytes | None:
    """The message as it was, or without those blocks, or None when nothing else was in it."""
    spans = splice.member_spans(text) if _has(message, unwanted) else None
    if spans is None:
        return text
    content = text[slice(*spans["content"])]
    blocks = zip(splice.element_spans(content), message.blocks(), strict=True)
    kept = [span for span, block in blocks if not unwanted(block)]
    return splice.replace_members(text, {"content": splice.keep_elements(content, kept)}) if kept else None


def _has(message: Message, unwanted: Callable[[Block], bool]) -> bool:
    return isinstance(message.content, list) and any(map(unwanted, message.content))


def _is_our_thinking(block: Block) -> bool:
    return block.get("type") == "thinking" and str(block.get("signature", "")).startswith(SIGN)


def _is_ours_or_unsigned(block: Block) -> bool:
    return block.get("type") == "thinking" and (not block.get("signature") or _is_our_thinking(block))


# Refusals


def refusal(exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """Goes back byte for byte, since clients act on its wording; what is no envelope or tells a secret does not."""
    error = refusals.read(exchange, status, headers, body)
    ours = isinstance(error, AccountRefused) and not exchange.endpoint.client_token
    hidden = option(exchange.endpoint, "hide_errors") and not is_vendor(exchange.endpoint)
    if not ours and not hidden and 400 <= status <= 599 and _is_clean_envelope(body):
        error.original = (status, headers, body)
    return error


def _is_clean_envelope(body: bytes) -> bool:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(told, dict) or told.get("type") != "error" or not isinstance(told.get("error"), dict):
        return False
    kind, message, text = told["error"].get("type"), told["error"].get("message"), body.decode()
    says_something = isinstance(kind, str) and kind and isinstance(message, str) and message.strip()
    return bool(says_something) and refusals.scrub(message) == message and refusals.scrub(text) == text


DIALECT = Dialect(encode=encode, answer=PassThrough, refusal=refusal, count=count)
