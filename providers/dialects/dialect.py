"""What every dialect offers the relay, and what it is given.

The inner language is Anthropic Messages. In each dialect `encode` writes a request in the upstream's language,
`answer` makes the machine that reads what comes back, `refusal` reads an HTTP error, `count` writes a count_tokens
request where the upstream has such a thing. All of it is pure: no I/O, no clock, no Django.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from providers.dialects.lessons import Lesson
from providers.errors import UpstreamError
from providers.messages import MessagesRequest
from providers.routing import Endpoint
from providers.usage import Usage


class Exchange(msgspec.Struct, frozen=True):
    """One client request on its way to one candidate."""

    request: MessagesRequest
    body: bytes  # as the client sent it, for those who forward bytes
    headers: Mapping[str, str]  # the client's, names in lower case
    query: str
    endpoint: Endpoint
    model: str  # the upstream's name for it
    request_id: str
    key_id: str  # who asks: only ever used inside a keyed digest
    secret: bytes  # signs state that travels through the client
    lessons: tuple[Lesson, ...] = ()  # what this provider's refusals have taught

    @property
    def streams(self) -> bool:
        return bool(self.request.stream)

    def option(self, name: str, default: object = None) -> object:
        return self.endpoint.options.get(name, default)


class Outbound(msgspec.Struct, frozen=True):
    """What to send: a path below the provider's base URL (which may or may not end in /v1), headers, body."""

    path: str
    body: bytes
    headers: Mapping[str, str] = {}


class Answer(Protocol):
    """Reads one upstream answer; fed bytes, returns what the client should get, and knows the bill so far."""

    message_id: str
    usage: Usage | None  # as the upstream reported it, None while it has not
    output_is_told: bool  # False while only a first guess of the output is known
    stop_reason: str | None
    upstream_id: str | None  # the upstream's own id for the answer
    began: bool  # content has been returned: from here on no other candidate can answer
    ended: bool  # what was returned last holds the ending (a stop reason, message_stop or an error)
    complete: bool  # nothing more will be returned: there is no need to read on
    finishing: bool  # the reason to stop is known and only usage may follow: the wait for it can be short
    count: Callable[[], Usage] | None  # asked once where the ending must name a usage that no upstream told
    error: UpstreamError | None  # what was returned before it is sound; nothing after it counts

    @property
    def output_characters(self) -> int:
        """Text, thinking and arguments seen, for an answer that was cut before its usage."""
        ...

    @property
    def output_sample(self) -> str:
        """The beginning of the same, up to 8 KB."""
        ...

    @property
    def notes(self) -> set[str]:
        """Oddities of the upstream's that are worth a line in the log."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Bytes of an event stream in, Messages events out; empty while there is nothing to tell."""
        ...

    def finish(self) -> bytes:
        """The upstream closed its stream: the rest, or `error` when the answer was cut."""
        ...

    def whole(self, body: bytes) -> bytes:
        """A complete answer in one piece: a Messages reply as JSON, or `error` and b""."""
        ...


class Dialect(msgspec.Struct, frozen=True):
    """What the relay needs to know of a language."""

    encode: Callable[[Exchange], Outbound]
    answer: Callable[[Exchange, str], Answer]  # the upstream's content type, for the sentence about a wrong one
    refusal: Callable[[Exchange, int, Mapping[str, str], bytes], UpstreamError]
    count: Callable[[Exchange], Outbound] | None = None  # None: the gateway counts
