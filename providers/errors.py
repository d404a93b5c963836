"""What can go wrong, and what it means.

ProxyError
+ ClientError           the request is at fault; never tried elsewhere
|   - BadMessage, TooLarge, TooSlow, HeadTooLarge, UnsupportedEncoding
|   - KeyRefused, TokenMissing, NotAllowed, NotFound, MethodNotAllowed
+ GatewayError          this gateway is at fault or has nobody to ask
|   - LedgerUnavailable, NoProvider, Busy
+ UpstreamError         the provider is at fault; the next one may answer
    - Unreachable       no connection, or one that died before an answer: `reached` tells which
    - TimedOut, Overloaded, RateLimited, BrokenStream, NotServed
    - BrokenOff         this gateway ends its calls, since it is ending itself
    - AccountRefused    our credential or our purse: the developer cannot mend it
    - Refused           the provider found the request itself at fault; the next one would too

Every error is one sentence that says what to do next and holds no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from providers.dialects.lessons import Lesson


class ProxyError(Exception):
    status = 500
    kind = "api_error"  # the `error.type` a Messages client understands
    code: str | None = None
    # When all candidates failed, the most useful failure is told: the lowest rank wins.
    rank = 1
    should_retry: bool | None = None  # said in `x-should-retry`, which clients put above their own rules

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.retry_after = retry_after
        self.details = details

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers

    def envelope(self, request_id: str) -> bytes:
        """The body every Messages client understands."""
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        details = dict(self.details or {})
        if self.code:
            details["code"] = self.code
        if self.retry_after is not None:
            details["retry_after"] = self.retry_after
        if details:
            error["details"] = details
        return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})

    def event(self, request_id: str) -> bytes:
        """The same as the last event of a stream whose headers have left."""
        return b"event: error\ndata: " + self.envelope(request_id) + b"\n\n"


class ClientError(ProxyError):
    status, kind = 400, "invalid_request_error"


class BadMessage(ClientError):
    pass


class TooLarge(ClientError):
    status, kind, code = 413, "request_too_large", "request_too_large"


class TooSlow(ClientError):
    status, kind = 408, "timeout_error"


class HeadTooLarge(ClientError):
    status = 431


class UnsupportedEncoding(ClientError):
    status = 415


class KeyRefused(ClientError):
    # Without the header Claude Code retries a 401 for minutes in silence.
    status, kind, should_retry = 401, "authentication_error", False


class TokenMissing(KeyRefused):
    """The client could mend it; but another candidate's passing trouble is the better news."""

    rank = 8


class NotAllowed(ClientError):
    status, kind = 403, "permission_error"


class NotFound(ClientError):
    status, kind = 404, "not_found_error"


class MethodNotAllowed(ClientError):
    status = 405


class GatewayError(ProxyError):
    status = 503


class LedgerUnavailable(GatewayError):
    """Nothing is called that could not be booked."""

    code = "ledger_unavailable"


class NoProvider(GatewayError):
    code = "PROVIDER_UNAVAILABLE"


class Busy(GatewayError):
    """Refused before anything was done for it: trying again costs nobody anything."""

    status, kind, code = 529, "overloaded_error", "gateway_busy"


class UpstreamError(ProxyError):
    """`reached` says whether the request may have been read upstream: then it may be billed."""

    status = 502
    code: str | None = "PROVIDER_UNAVAILABLE"
    elsewhere = True  # worth trying the next candidate
    rank = 5
    reached = True
    again = False  # worth one more try with the same provider
    preview = ""  # how an answer began that was none, for the log
    # An Anthropic-format refusal goes back byte for byte: clients act on its wording.
    original: tuple[int, Mapping[str, str], bytes] | None = None


class Unreachable(UpstreamError):
    """`again`: a kept connection had died before, a fresh one may do."""

    rank = 4

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


class TimedOut(UpstreamError):
    status, kind, rank = 504, "timeout_error", 4


class Overloaded(UpstreamError):
    status, kind, rank = 529, "overloaded_error", 3


class BrokenOff(Overloaded):
    elsewhere = False


class RateLimited(UpstreamError):
    status, kind, rank = 429, "rate_limit_error", 2


class BrokenStream(UpstreamError):
    """The answer is not what the language allows: cut, empty, a web page, an error in its middle."""


class NotServed(UpstreamError):
    status, kind, rank = 404, "not_found_error", 7


class AccountRefused(UpstreamError):
    status, rank = 503, 6


class Refused(UpstreamError):
    lesson: Lesson | None = None  # what to change before the same provider is asked again
    window: int | None = None  # the prompt was too long for this one: a larger one may take it

    status, kind, code, rank, elsewhere = 400, "invalid_request_error", None, 1, False
