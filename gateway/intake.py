"""From HTTP to a question we may ask upstream: whose key, which request. Refuses before anything is called."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping

import msgspec
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest

from accounting import keys
from accounting.snapshot import KeyCard
from gateway.catalogue import unknown_model
from gateway.configuration import Snapshot
from providers import identity
from providers.dialects import Exchange
from providers.dialects.anthropic import is_plain
from providers.dialects.lessons import Lesson
from providers.errors import (
    BadMessage,
    KeyRefused,
    NoProvider,
    NotAllowed,
    NotFound,
    TokenMissing,
    TooLarge,
    UnsupportedEncoding,
)
from providers.messages import MessagesRequest
from providers.routing import Candidate
from providers.upstream import plain_headers

MESSAGES_SCOPE = "messages"
# A gzip may have several members. What follows one is copied for the next: many would take minutes.
MOST_MEMBERS = 100


class Caller(msgspec.Struct, frozen=True):
    """Who asks. `token_headers` are credentials that are no key of ours, for providers that want the client's own."""

    key: KeyCard
    token_headers: Mapping[str, str]


class Question(msgspec.Struct, frozen=True):
    """A decoded request that its key may ask, and who may answer it."""

    caller: Caller
    request: MessagesRequest
    body: bytes
    headers: Mapping[str, str]
    query: str
    request_id: str
    candidates: list[Candidate]

    def towards(self, candidate: Candidate, secret: bytes, lessons: tuple[Lesson, ...] = ()) -> Exchange:
        """The same question as one candidate's dialect needs it."""
        return Exchange(
            request=self.request,
            body=self.body,
            headers=self.headers,
            query=self.query,
            endpoint=candidate.endpoint,
            model=candidate.model,
            request_id=self.request_id,
            key_id=str(self.caller.key.id),
            secret=secret,
            lessons=lessons,
        )

    def headers_for(self, candidate: Candidate) -> dict[str, str]:
        """Our id and the credential; one of our keys is never among them."""
        endpoint = candidate.endpoint
        headers = {"x-request-id": self.request_id}
        if endpoint.client_token:
            if not self.caller.token_headers:
                raise TokenMissing(
                    "this model's provider wants your own token: send it in `authorization` and the gateway's key"
                    " in `x-api-key`"
                )
            headers.update(self.caller.token_headers)
        elif endpoint.credential:
            headers[endpoint.auth_header] = endpoint.auth_scheme + endpoint.credential
        return headers


def request_id_of(request: HttpRequest) -> str:
    """Ours, one per request; an id that a client sends is never used as one."""
    known = getattr(request, "ccproxy_id", None)
    if known is None:
        known = identity.request_id()
        request.ccproxy_id = known  # type: ignore[attr-defined]
    return str(known)


def query_of(request: HttpRequest) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in request.GET.items()}
    except SuspiciousOperation:
        raise BadMessage("the query has too many fields") from None


def headers_of(request: HttpRequest) -> dict[str, str]:
    return plain_headers(request.scope["headers"])  # type: ignore[attr-defined]


def authenticate(headers: Mapping[str, str], snapshot: Snapshot, scope: str = MESSAGES_SCOPE) -> Caller:
    """The key in `x-api-key` or the bearer; the first of them that is one."""
    tokens = {name: _token(name, headers[name]) for name in ("x-api-key", "authorization") if name in headers}
    if not any(tokens.values()):
        raise KeyRefused(
            "no key was sent: set ANTHROPIC_AUTH_TOKEN (or ANTHROPIC_API_KEY) to the key your administrator issued"
        )
    for token in tokens.values():
        card = snapshot.books.keys.get(keys.digest(token))
        if card is not None:
            _check_state(card, scope)
            # Whatever holds a key of ours, in any form, stays here.
            foreign = {
                name: headers[name]
                for name, other in tokens.items()
                if other and keys.MARK not in headers[name] and is_plain(headers[name])
            }
            return Caller(card, foreign)
    if any(map(keys.is_well_formed, tokens.values())):
        raise KeyRefused("this key is unknown here: ask your administrator for another")
    raise KeyRefused("this is no key of this gateway, they begin with ccp_: check that it was copied whole")


def _token(name: str, value: str) -> str:
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if name == "authorization" and scheme.lower() == "bearer" else value.strip()


def _check_state(card: KeyCard, scope: str) -> None:
    if card.revoked:
        raise KeyRefused(f"the key {card.name!r} was revoked: ask your administrator for another")
    if card.expires_at is not None and card.expires_at <= time.time():
        raise KeyRefused(f"the key {card.name!r} has expired: ask your administrator for another")
    if scope not in card.scopes:
        may_not = "ask models" if scope == MESSAGES_SCOPE else "read this"
        raise NotAllowed(f"the key {card.name!r} may not {may_not}: its scopes lack {scope!r}")


def plain_body(body: bytes, encoding: str, most: int) -> bytes:
    """The body as JSON text, whatever it travelled as; the limit counts what it unpacks to."""
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "deflate"}:
        raise UnsupportedEncoding(
            f"content-encoding: {encoding[:40]!r} is not read here, send gzip, deflate or nothing"
        )
    plain, members = b"", 0
    try:
        while body:
            members += 1
            if members > MOST_MEMBERS:
                raise BadMessage(f"body: its {encoding} has more than {MOST_MEMBERS} members")
            # 47: gzip or zlib, whichever it turns out to be.
            inflater = zlib.decompressobj(wbits=47)
            plain += inflater.decompress(body, most + 1 - len(plain))
            if len(plain) > most:
                raise TooLarge(f"the body unpacks to more than {most} bytes: shorten the conversation or compact it")
            if not inflater.eof:
                raise BadMessage("body: its compressed form ends too early")
            body = inflater.unused_data
    except zlib.error:
        raise BadMessage(f"body: it is not the {encoding} that content-encoding says") from None
    return plain


def candidates_for(model: str, card: KeyCard, snapshot: Snapshot) -> list[Candidate]:
    """Who may answer this key for this model, in the order to try them."""
    route = snapshot.routing.route(model)
    if route is None:
        raise NotFound(unknown_model(model, card, snapshot))
    if not card.allows(model):
        raise NotAllowed(f"the key {card.name!r} may not use {model!r}: GET /v1/models lists what it may")
    candidates = snapshot.routing.candidates(model)
    if not candidates:
        raise NoProvider(f"no provider is enabled for {model!r}: tell the administrator of this gateway", retry_after=5)
    return candidates
