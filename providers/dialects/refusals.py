"""What an upstream's error means: read from any of its many shapes, then classified by one table, first match wins.

All dialects share it. What is told to the client says what to do next and holds neither secrets nor inner hosts.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from providers.dialects.dialect import Exchange
from providers.dialects.lessons import REASONING_DEMANDED, STATE_REFUSED, Lesson
from providers.dialects.overflow import Figures, figures_of
from providers.dialects.repairs import lesson_of
from providers.errors import (
    AccountRefused,
    BrokenStream,
    NotServed,
    Overloaded,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamError,
)
from providers.messages import Block, MessagesRequest

LONGEST_BODY = 64 * 1024
LONGEST_READ = 8000  # characters of a message that are looked at
LONGEST_MESSAGE = 2000  # and that are told
LEAST_ROOM, SPARE_ROOM = 1024, 64  # tokens: less room for an answer is none; so much is left as it is
LONGEST_WAIT = 30  # seconds: told to wait longer, clients give up at once
USUAL_WAIT = 5


class Report(msgspec.Struct, frozen=True):
    """An upstream's error in one shape, however it was told."""

    status: int
    message: str = ""
    code: str = ""
    kind: str = ""
    fields: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.code.lower(), self.kind.lower()})


class Case(msgspec.Struct, frozen=True):
    """A report, and the request that led to it where it is known."""

    report: Report
    exchange: Exchange | None = None

    @property
    def model(self) -> str:
        return self.exchange.request.model if self.exchange else ""

    def asks_with(self, kind: str) -> bool:
        return self.exchange is not None and any(block.get("type") == kind for block in blocks(self.exchange.request))


def blocks(request: MessagesRequest) -> Iterator[Block]:
    """All blocks of the conversation, those inside tool results too."""
    for message in request.messages:
        for block in message.blocks():
            yield block
            content = block.get("content")
            yield from (part for part in content if isinstance(part, dict)) if isinstance(content, list) else ()


# Reading


def read(exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """An HTTP error."""
    names = {name.lower(): value for name, value in headers.items()}
    return classify(Case(report_of(status, names, _unpacked(body)), exchange))


def in_answer(reply: object, exchange: Exchange | None = None) -> UpstreamError:
    """An error in the middle of a stream, or in a body whose status said that all was well."""
    report = _report(200, reply, {})
    if report is None:
        return BrokenStream("the provider's answer is neither a reply nor an error: ask its operator, or retry")
    return classify(Case(report, exchange))


def report_of(status: int, headers: Mapping[str, str], body: bytes) -> Report:
    text = body.decode("utf-8", "replace").strip()  # some write Latin-1, and a long one is cut anywhere
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        if text[:1] == "<" or "html" in headers.get("content-type", ""):
            text = f"the provider answered HTTP {status} with a web page instead of an API error"
        return Report(status, text[:LONGEST_READ], headers=headers)
    report = _report(status, decoded, headers)
    return report or Report(status, text[:LONGEST_READ], headers=headers)


def _unpacked(body: bytes) -> bytes:
    """Some compress their errors even where nothing else is compressed."""
    if not body.startswith(b"\x1f\x8b"):
        return body[:LONGEST_BODY]
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, LONGEST_BODY)
    except zlib.error:
        return b""


def _report(status: int, decoded: Any, headers: Mapping[str, str]) -> Report | None:
    """The known shapes: `error` as an object or a text, bare fields, `detail`, `base_resp`, any of them in a list."""
    if isinstance(decoded, list):
        decoded = next((item for item in decoded if isinstance(item, dict)), None)
    if not isinstance(decoded, dict):
        return None
    error = decoded.get("error")
    base = decoded.get("base_resp")
    if isinstance(error, dict):
        fields = error
    elif isinstance(base, dict) and base.get("status_code"):
        fields = {"message": base.get("status_msg"), "code": base["status_code"]}
        status = BASE_STATUS.get(str(base["status_code"]), status) if status < 400 else status
    elif isinstance(error, str):
        fields = {**decoded, "message": decoded.get("message") or error}
    else:
        fields = decoded
    message = _message(fields)
    if not message and error is None and "code" not in fields:
        return None
    code = next((fields[name] for name in ("code", "status") if fields.get(name) not in (None, "")), "")
    kind = fields.get("type") if isinstance(fields.get("type"), str) else ""
    status = _status(status, code, str(kind), fields)
    message, code, kind = (
        text.encode("utf-8", "replace").decode() for text in (message[:LONGEST_READ], str(code), str(kind))
    )
    return Report(status, message, code, kind, fields, headers)


def _message(fields: Mapping[str, Any]) -> str:
    """The sentence; behind a broker, that of the provider it asked."""
    metadata = fields.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    said = fields.get("message", fields.get("detail", fields.get("msg")))
    if isinstance(raw, str) and raw:
        inner = _report(200, _decoded(raw), {})
        return inner.message if inner and inner.message else f"{said or ''} {raw}".strip()
    if isinstance(said, list):
        said = "; ".join(str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in said)
    if isinstance(said, dict):
        return _message(said)
    if isinstance(said, str) and said[:1] == "{":  # a proxy put the whole body of its upstream here
        inner = _report(200, _decoded(said), {})
        return inner.message if inner and inner.message else said
    return said if isinstance(said, str) else ""


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):  # no JSON, or half of a surrogate pair in it
        return None


# MiniMax's own numbers, which come within a 200.
BASE_STATUS: Mapping[str, int] = {
    "1001": 504,
    "1002": 429,
    "1004": 401,
    "1008": 402,
    "1026": 400,
    "1027": 400,
    "1039": 429,
    "1042": 400,
    "2013": 400,
    "2049": 401,
    "2056": 429,
}
# What an error is called tells its status where HTTP said 200.
KIND_STATUS: Mapping[str, int] = {
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def _status(status: int, code: Any, kind: str, fields: Mapping[str, Any]) -> int:
    if status >= 400:
        return status
    for named in (code, fields.get("status_code"), fields.get("status")):
        if isinstance(named, int) and 400 <= named <= 599:
            return named
        if isinstance(named, str) and re.fullmatch(r"[45][0-9][0-9]", named):
            return int(named)
    return KIND_STATUS.get(kind.lower(), status)


# Classifying


class Rule(msgspec.Struct, frozen=True):
    """Matches by status, by code or type, or by text; any one suffices. `unless` looks at the text."""

    name: str
    make: Callable[[Case], UpstreamError]
    statuses: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None
    unless: re.Pattern[str] | None = None
    holding: str = ""  # a type of block that the request must hold
    not_with: frozenset[int] = frozenset()  # statuses that mean something else whatever the text
    when: Callable[[Case], bool] | None = None  # in place of all the above

    def matches(self, case: Case) -> bool:
        report = case.report
        if self.when is not None:
            return self.when(case)
        if report.status in self.not_with or (self.unless and self.unless.search(report.message)):
            return False
        named = report.status in self.statuses or bool(report.names & self.names)
        if not named and not (self.text and self.text.search(report.message)):
            return False
        return not self.holding or case.asks_with(self.holding)


def classify(case: Case) -> UpstreamError:
    make = next((rule.make for rule in RULES if rule.matches(case)), _upstream)
    return make(case)


def said(case: Case) -> str:
    """Their sentence, fit to be shown."""
    return (
        scrub(case.report.message).strip() or f"the provider answered HTTP {case.report.status} without an explanation"
    )


def _suggest(*suggestions: str, **parts: object) -> dict[str, Any]:
    return {**parts, "suggestions": list(suggestions)}


def _overflow(case: Case) -> UpstreamError:
    found = _figures(case)
    by_max_tokens = _max_tokens_overflow(case, found)
    if by_max_tokens is not None:
        return by_max_tokens
    message, requested = "prompt is too long", found.prompt or found.requested
    limit = found.limit or _known_window(case)
    if limit:
        # Nobody counted here: a guess by size, and more than the limit since it was refused.
        size = len(case.exchange.body) // 4 if case.exchange else 0
        requested = max(requested or size, limit + 1)
        message = f"prompt is too long: {requested} tokens > {limit} maximum"
    details = _suggest(
        "shorten the history: /compact, or a new session",
        "route this model to one with a larger context window",
        "lower max_tokens",
        model=case.model,
        error=said(case),
        requested=requested,
        limit=limit,
    )
    error = Refused(message, code="context_overflow", details=details)
    error.window = limit or 0
    return error


def _known_window(case: Case) -> int | None:
    """As the provider's list of models has it."""
    return case.exchange.endpoint.known(case.exchange.model).context_window if case.exchange else None


def _max_tokens_overflow(case: Case, found: Figures) -> UpstreamError | None:
    """The prompt alone fits: clients lower max_tokens by themselves when they read this."""
    asked = case.exchange.request.max_tokens if case.exchange else None
    completion = found.completion or asked
    if found.prompt is None or not completion or not found.limit:
        return None
    if not found.prompt <= found.limit < found.prompt + completion:
        return None
    message = (
        f"input length and `max_tokens` exceed context limit: {found.prompt} + {completion} > {found.limit},"
        " decrease input length or `max_tokens` and try again"
    )
    details = _suggest(
        f"lower max_tokens to {max(found.limit - found.prompt, 1)} or less",
        "shorten the history: /compact",
        model=case.model,
        error=said(case),
        requested=found.prompt + completion,
        limit=found.limit,
    )
    error = Refused(message, code="max_tokens_overflow", details=details)
    room = found.limit - found.prompt - SPARE_ROOM
    if room >= LEAST_ROOM:
        error.lesson = Lesson("max_tokens", most=room, lasts=False)
    return error


def _figures(case: Case) -> Figures:
    found = figures_of(case.report.message, case.report.fields)
    if found.prompt is None and found.requested is not None and found.limit and found.requested <= found.limit:
        return msgspec.structs.replace(found, prompt=found.requested)  # it fits, so max_tokens is the trouble
    return found


def _too_large(case: Case) -> UpstreamError:
    error = Refused(said(case), code="request_too_large", details=_suggest("send fewer or smaller files and pictures"))
    error.status, error.kind, error.elsewhere = 413, "request_too_large", True
    return error


def _lesson(case: Case) -> Lesson | None:
    report = case.report
    if case.exchange is None or report.status not in {400, 422}:
        return None
    return lesson_of(report.message, report.code, report.fields)


def _parameter(case: Case) -> UpstreamError:
    error = Refused(said(case), code="parameter_refused", details=_suggest("change the request as the message says"))
    error.lesson = _lesson(case)
    return error


def _state(case: Case) -> UpstreamError:
    """What the client carried for the provider is not taken, or was lost on the way."""
    error = Refused(said(case), code="reasoning_state_refused", details=_suggest("start a new session"))
    demanded = "reasoning_content" in case.report.message
    error.lesson = Lesson(REASONING_DEMANDED) if demanded else Lesson(STATE_REFUSED, lasts=False)
    return error


def _image(case: Case) -> UpstreamError:
    error = Refused(f"Could not process image: {said(case)}", code="image_refused")
    error.elsewhere = True
    return error


def _document(_case: Case) -> UpstreamError:
    error = Refused("This model does not support PDF input", code="document_refused")
    error.elsewhere = True
    return error


def _moderated(case: Case) -> UpstreamError:
    return Refused(said(case), code="content_filter", details=_suggest("rephrase the last message"))


def _purse(_case: Case) -> UpstreamError:
    details = _suggest("ask the gateway's administrator to look at the provider's balance", "use another model")
    return AccountRefused(
        "no provider can serve this request now: the account of the provider is used up", code="quota", details=details
    )


def _credential(_case: Case) -> UpstreamError:
    details = _suggest("ask the gateway's administrator to renew the provider's credential")
    return AccountRefused(
        "the gateway's credential for this provider was refused", code="credential_refused", details=details
    )


def _not_served(case: Case) -> UpstreamError:
    details = _suggest("choose another model", "ask the gateway's administrator to correct the route")
    return NotServed(f"the model {case.model or 'asked for'} is not available here", code="model", details=details)


def _rate_limited(case: Case) -> UpstreamError:
    wait = retry_after(case.report)
    return RateLimited(
        f"the provider is limiting its rate: try again in {wait} seconds",
        retry_after=wait,
        code="rate_limit",
        details=_suggest(f"wait {wait} seconds", "send fewer requests at once"),
    )


def _overloaded(case: Case) -> UpstreamError:
    wait = retry_after(case.report) if "retry-after" in case.report.headers else None
    return Overloaded("the provider is overloaded: try again in a moment", retry_after=wait, code="overloaded")


def _timed_out(_case: Case) -> UpstreamError:
    return TimedOut("the provider took too long to answer: try again")


def _failed(case: Case) -> UpstreamError:
    error = UpstreamError(f"the provider failed: {said(case)}")
    error.status = case.report.status if case.report.status in {500, 502, 503, 504} else 502
    return error


def _refused(case: Case) -> UpstreamError:
    return Refused(said(case), details=_suggest("change the request as the message says"))


def _conflict(case: Case) -> UpstreamError:
    error = _upstream(case)
    error.again = True
    return error


def _upstream(case: Case) -> UpstreamError:
    """Nothing we know; told with what they said."""
    return UpstreamError(f"the provider answered with an error: {said(case)}", details=_suggest("try again"))


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


# Limits of rate speak of tokens and maxima as well.
_RATES = (r"\bper (?:min(?:ute)?|sec(?:ond)?|hour|day)\b", r"\b[tr]p[mds]\b", "rate.?limit", "wait before trying")
_RATE_TEXT = _pattern(*_RATES)

RULES: tuple[Rule, ...] = (
    Rule(
        "context overflow",
        _overflow,
        names=frozenset({"context_length_exceeded", "exceed_context_size_error", "model_max_prompt_tokens_exceeded"}),
        text=_pattern(
            "maximum context length",
            "context window",
            "context size",
            "context length",
            "prompt is too long",
            "input is too long",
            r"prompt token count of [\d,]+ exceeds",
            r"input token count \(?[\d,]+\)? exceeds the maximum",
            r"maximum prompt length is",
            "maximum model length",
            "exceeded model token limit",
            "reduce the length of the messages",
            "exceeds max length",
            "range of input length",
            "too many (?:input )?tokens",
            r"(?<!_)tokens[^.]{0,80}\bexceed[^.]{0,80}\blimit",
            r"max_new_tokens.{0,4} must be <=",
            "max_seq_len",
            "exceed max message tokens",
            "prompt_too_long",
        ),
        # Bedrock says this of the answer's limit.
        unless=_pattern(*_RATES, "maximum tokens you requested"),
        not_with=frozenset({401, 402, 403, 404, 429, 529}),
    ),
    Rule(
        "request too large",
        _too_large,
        statuses=frozenset({413}),
        text=_pattern("request entity too large", "payload too large", "body exceeded"),
        unless=_RATE_TEXT,
    ),
    Rule("parameter", _parameter, when=lambda case: _lesson(case) is not None),
    Rule(
        "image",
        _image,
        text=_pattern(
            r"image.{0,200}(?:\bsize|dimension|format|could not process)",
            r"(?:\bsize|dimension|format|could not process).{0,200}image",
            r"n[o']t support (?:['`]?\w+['`]? )?['`]?image",
            r"images? (?:\w+ )?(?:is|are) not supported",
            r"unknown variant ['`]image",
            "not a multimodal model",
            "at most 0 image",
            "data required for image input",
            "image_url is only supported",
            "no endpoints found that support image input",
        ),
        holding="image",
        not_with=frozenset({401, 402, 429, 529}),
    ),
    Rule(
        "document",
        _document,
        text=_pattern(
            r"\bpdf\b.{0,200}(?:unsupported|invalid|\bnot\b)",
            r"(?:unsupported|invalid|\bnot\b).{0,200}\bpdf\b",
            "file type not supported",
        ),
        holding="document",
        not_with=frozenset({401, 402, 429, 529}),
    ),
    Rule(
        "reasoning state",
        _state,
        names=frozenset({"invalid_encrypted_content"}),
        text=_pattern(
            "encrypted content",
            "thought[_ ]signature",
            r"reasoning_content.{0,80}(?:must be passed back|missing|required)",
            r"(?:missing|must (?:contain|have|include)).{0,40}reasoning_content",
            r"provided without its required .{0,20}item",
        ),
        not_with=frozenset({401, 402, 403, 404, 429, 500, 502, 503, 504, 529}),
    ),
    Rule(
        "moderation",
        _moderated,
        names=frozenset({"content_filter", "content_policy_violation"}),
        text=_pattern("content_policy_violation", r"content management policy", r"\bflagged\b"),
        not_with=frozenset({401, 402, 429}),
    ),
    Rule(
        "purse",
        _purse,
        statuses=frozenset({402}),
        names=frozenset(
            {"insufficient_quota", "billing_hard_limit_reached", "billing_error", "billing_not_active", "arrearage"}
        ),
        text=_pattern(
            r"insufficient[_ ](?:quota|credits?|balance|funds)",
            "exceeded your current quota",
            "余额不足",
            "没有可用token",
            "credit balance is too low",
            "account is in good standing",
        ),
        # Gemini calls its limits per minute a quota, and says when they end.
        unless=_pattern(r"\bretry in [\d.]+ ?m?s\b"),
    ),
    Rule(
        "credential",
        _credential,
        statuses=frozenset({401, 403}),
        names=frozenset({"invalid_api_key", "authentication_error", "permission_error"}),
        text=_pattern("incorrect api key", "invalid api key", "api key not valid", "permission denied"),
    ),
    Rule(
        "not served",
        _not_served,
        statuses=frozenset({404}),
        names=frozenset({"model_not_found", "model_not_supported", "not_found_error"}),
        text=_pattern(r"\bmodel\b.{0,100} does(?: not|n't) exist", "无可用模型", "no endpoints found"),
    ),
    Rule(
        "rate",
        _rate_limited,
        statuses=frozenset({429}),
        names=frozenset({"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "resource_exhausted"}),
        text=_pattern("tokens per minute", "too many requests", r"rate.?limit.{0,12}\b(?:exceeded|reached|triggered)"),
    ),
    Rule(
        "overloaded",
        _overloaded,
        statuses=frozenset({529}),
        names=frozenset({"server_is_overloaded", "overloaded_error", "slow_down", "engine_overloaded_error"}),
        text=_pattern("overloaded", r"\b(?:at|over|no|out of|insufficient) capacity\b", "capacity exceeded"),
        not_with=frozenset({400, 422}),
    ),
    Rule("timed out", _timed_out, statuses=frozenset({408})),
    Rule("failed", _failed, statuses=frozenset({500, 502, 503, 504, 530, *range(520, 528)})),
    Rule("conflict", _conflict, statuses=frozenset({409, 425})),
    Rule("refused", _refused, statuses=frozenset({400, 422})),
)

_SECONDS = re.compile(r"(?:try again|retry) (?:in|after) ([\d.]+) ?(ms|s|m)(?:ec|in|\b|\d)", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def retry_after(report: Report) -> int:
    """Whole seconds, at least one; from a header, else from what they wrote, else a usual wait."""
    seconds = _told_to_wait(report)
    return USUAL_WAIT if seconds is None else min(max(math.ceil(seconds), 1), LONGEST_WAIT)


def _told_to_wait(report: Report) -> float | None:
    milliseconds = _number(report.headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    header = report.headers.get("retry-after", "")
    seconds = _number(header)
    if seconds is not None:
        return seconds
    if header:
        return _until(header, report.headers.get("date", ""))
    written = _SECONDS.search(report.message)
    value = _number(written[1]) if written else None
    return value * _UNITS[written[2].lower()] if written and value is not None else _retry_delay(report.fields)


def _retry_delay(fields: Mapping[str, Any]) -> float | None:
    """Google's way: a detail with `retryDelay: "17s"`."""
    details = fields.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            return _number(detail["retryDelay"].removesuffix("s"))
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _until(date: str, now: str) -> float | None:
    """A date is measured by the clock of the one who wrote it."""
    try:
        return max((parsedate_to_datetime(date) - parsedate_to_datetime(now)).total_seconds(), 0)
    except (ValueError, TypeError):
        return None


# Scrubbing

REMOVED = "[removed]"
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^/\s:@]*:[^/\s@]*@", re.I), rf"\1{REMOVED}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=*-]{6,}", re.I), rf"\1 {REMOVED}"),
    (
        re.compile(r"\b(?:sk|pk|rk|ak|gsk|xai|hf|ghp|gho|glpat|ccp|nvapi|fw|pplx|r8|tgp|csk)[-_][\w*.-]{6,}", re.I),
        REMOVED,
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\beyJ[\w-]{8,}(?:\.[\w-]+)*"), REMOVED),
    (
        re.compile(
            r"((?:x-)?api[-_ ]?key|access[-_]?token|client[-_]?secret|password|secret|token|key)"
            r"(['\"]?\s*[=:]\s*['\"]?)(?=[^\s'\"&,;]{0,200}\d)[^\s'\"&,;]{8,}",
            re.I,
        ),
        rf"\1\2{REMOVED}",
    ),
    (re.compile(r"(?<![\w+/=-])(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Z])(?=[\w+/=-]*[a-z])[\w+/=-]{40,}"), REMOVED),
)
_HOSTS = re.compile(
    r"(?<![\w.-])(?:"
    r"(?:10|127)(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|169\.254(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2}"
    r"|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])(?:\.\d{1,3}){2}"
    r"|\[(?:::1|f[cde][0-9a-f:]*)\]|f[cd][0-9a-f]{2}:[0-9a-f:]+|fe80:[0-9a-f:]+"
    r"|localhost"
    r"|(?:[a-z0-9_-]+\.)+(?:internal|local|lan|corp|intranet|svc|cluster|consul|home\.arpa)(?:\.[a-z0-9-]+)*"
    r")(?::\d{1,5})?(?![\w])",
    re.IGNORECASE,
)


def scrub(text: str) -> str:
    """Without keys, tokens, URL credentials and the addresses of inner hosts; at most LONGEST_MESSAGE long."""
    text = text[:LONGEST_READ]
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    text = _HOSTS.sub("[internal host]", text)
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"
