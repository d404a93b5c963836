"""The HTTP surface under /v1 and the open pages: read, decide, call one function, answer."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI, Router

from gateway import catalogue, figures, operator, runtime, usage
from gateway.counting import count_tokens
from gateway.intake import (
    Caller,
    Question,
    authenticate,
    candidates_for,
    headers_of,
    plain_body,
    query_of,
    request_id_of,
)
from gateway.relay import Relay
from providers.errors import MethodNotAllowed, NotFound, ProxyError, UpstreamError
from providers.log_events import LogEvent, about
from providers.messages import read_request

logger = logging.getLogger("ccproxy.api")

api = NinjaAPI(title="ccproxy", version="1", docs_url="/docs", openapi_url="/openapi.json")
v1 = Router(tags=["Messages"])
pages = Router(tags=["Health"])
operators = Router(tags=["Operators"])


# Bodies are decoded once, by msgspec: the schema below is for the reader of /docs.
def body_of(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


CONVERSATION: dict[str, Any] = {"model": {"type": "string"}, "messages": {"type": "array", "items": {"type": "object"}}}
MESSAGES_BODY = body_of(
    ["model", "messages", "max_tokens"],
    **CONVERSATION,
    max_tokens={"type": "integer", "minimum": 0},
    stream={"type": "boolean"},
)
COUNT_BODY = body_of(["model", "messages"], **CONVERSATION)

View = Callable[..., Any]
Response = TypeVar("Response", bound=HttpResponseBase)


def serves(router: Router, methods: list[str], path: str, **options: Any) -> Callable[[View], View]:
    """With and without a slash at the end: a redirect would drop bodies and credentials."""

    def register(view: View) -> View:
        router.api_operation(methods, path, **options)(view)
        if path != "/":
            router.api_operation(methods, path + "/", include_in_schema=False)(view)
        return view

    return register


@serves(v1, ["POST"], "/messages", openapi_extra=MESSAGES_BODY)
async def create_message(request: HttpRequest) -> Any:
    began = time.perf_counter()
    question = ask(request)
    relay = Relay(question, runtime.running(), time.perf_counter() - began)
    if not question.request.stream:
        return mark(HttpResponse(await relay.whole(), content_type="application/json"), relay)
    pieces = relay.stream()
    return mark(EventStream(await anext(pieces), pieces, lambda: relay.is_over), relay)


@serves(v1, ["POST"], "/messages/count_tokens", openapi_extra=COUNT_BODY)
async def count_message_tokens(request: HttpRequest) -> Any:
    question = ask(request, counting=True)
    return json_reply(await count_tokens(question, runtime.running()))


@serves(v1, ["GET"], "/models")
async def list_models(request: HttpRequest) -> Any:
    snapshot = runtime.running().configuration.current
    caller = authenticate(headers_of(request), snapshot)
    return json_reply(catalogue.page_of_models(caller.key, snapshot, query_of(request)))


@serves(v1, ["GET"], "/models/{path:name}")
async def get_model(request: HttpRequest, name: str) -> Any:
    snapshot = runtime.running().configuration.current
    caller = authenticate(headers_of(request), snapshot)
    return json_reply(catalogue.one_model(name.rstrip("/"), caller.key, snapshot))


@serves(v1, ["GET"], "/usage", openapi_extra=usage.DOCUMENTED)
async def get_usage(request: HttpRequest) -> Any:
    """What the calling key has used this month and today, by day and by model; `summary` fits a status line."""
    caller = authenticate(headers_of(request), runtime.running().configuration.current)
    return kept_nowhere(json_reply(await usage.reply(caller.key)))


@serves(pages, ["GET", "HEAD"], "/")
async def root(request: HttpRequest) -> Any:
    return json_reply({"status": "ok"})


@serves(pages, ["HEAD", "GET"], "/api/hello")
async def hello(request: HttpRequest) -> Any:
    return HttpResponse(status=200)


@serves(pages, ["GET", "HEAD"], "/health/live")
async def live(request: HttpRequest) -> Any:
    return json_reply({"status": "alive"})


@serves(pages, ["GET", "HEAD"], "/health/ready")
async def ready(request: HttpRequest) -> Any:
    return readiness_reply()


@serves(pages, ["GET", "HEAD"], "/health")
async def health(request: HttpRequest) -> Any:
    body, status = await operator.health(runtime.running(), request)
    return kept_nowhere(json_reply(body, status))


@serves(operators, ["GET", "HEAD"], "/metrics")
async def metrics(request: HttpRequest) -> Any:
    running = runtime.running()
    if not settings.METRICS_OPEN:
        await operator.admit(request, running)
    text = await operator.standing(running, figures.prometheus)
    return kept_nowhere(HttpResponse(text, content_type=figures.CONTENT_TYPE))


@serves(operators, ["GET"], "/v1/metrics")
async def metrics_as_json(request: HttpRequest) -> Any:
    running = runtime.running()
    await operator.admit(request, running)
    return kept_nowhere(json_reply(await operator.standing(running, figures.as_json)))


@serves(operators, ["GET"], "/providers")
async def list_providers(request: HttpRequest) -> Any:
    running = runtime.running()
    return kept_nowhere(json_reply(await operator.providers(running, await operator.admit(request, running))))


@serves(operators, ["POST"], "/providers/reload")
async def reload_providers(request: HttpRequest) -> Any:
    return json_reply(await operator.reload(await operator.admit(request, runtime.running())))


def ask(request: HttpRequest, *, counting: bool = False) -> Question:
    """Whose question it is, what it says and who may answer it; or the reason why not."""
    running = runtime.running()
    snapshot = running.configuration.current
    headers = headers_of(request)
    caller: Caller = authenticate(headers, snapshot)
    body = plain_body(request.body, headers.get("content-encoding", ""), settings.MAX_BODY_BYTES)
    decoded, body = read_request(body, running.limits, counting=counting)
    return Question(
        caller=caller,
        request=decoded,
        body=body,
        headers=headers,
        query=request.scope["query_string"].decode("latin-1"),  # type: ignore[attr-defined]
        request_id=request_id_of(request),
        candidates=running.rests.order(candidates_for(decoded.model, caller.key, snapshot), time.time()),
    )


def readiness_reply() -> HttpResponse:
    running = runtime.running()
    troubles, degradations = running.troubles(), running.degradations()
    status = "unhealthy" if troubles else "degraded" if degradations else "healthy"
    body = {
        "status": status,
        "reasons": [*troubles, *degradations],
        "spool_backlog_bytes": running.ledger.spool.backlog,
    }
    return json_reply(body, status=503 if troubles else 200)


class EventStream(StreamingHttpResponse):
    """Messages events: the piece for which the response has waited, and the rest, whose closing ends the upstream call.

    `is_over` tells whether the piece taken last is the last.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], is_over: Callable[[], bool]) -> None:
        self.first, self.rest, self.is_over = first, rest, is_over
        super().__init__(resumed(first, rest), content_type="text/event-stream; charset=utf-8")
        self["cache-control"] = "no-cache, no-transform"
        self["x-accel-buffering"] = "no"


async def resumed(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """All pieces, for Django's own handler."""
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()


def mark(response: Response, relay: Relay) -> Response:
    response["request-id"] = relay.entry.request_id
    if relay.provider and settings.EXPOSE_PROVIDER:
        response["x-ccproxy-provider"] = relay.provider
    return response


def json_reply(body: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)


def kept_nowhere(response: HttpResponse) -> HttpResponse:
    """Other keys and sessions get other figures at the same address: no cache on the way may serve them."""
    response["cache-control"] = "no-store"
    return response


# Of an upstream's error these headers go on: the client's retries obey them.
KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")


@api.exception_handler(ProxyError)
def error_reply(request: HttpRequest, error: ProxyError) -> HttpResponse:
    request_id = request_id_of(request)
    if isinstance(error, UpstreamError) and error.original is not None:
        status, headers, body = error.original
        response = HttpResponse(body, content_type="application/json", status=status)
        for name in KEPT_HEADERS:
            if name in headers:
                response[name] = headers[name]
    else:
        response = HttpResponse(error.envelope(request_id), content_type="application/json", status=error.status)
        for name, value in error.headers().items():
            response[name] = value
    response["request-id"] = request_id
    held = runtime.current()
    if held is not None:
        held.metrics.refused(error.kind, response.status_code)
    return response


@api.exception_handler(Exception)
def failure_reply(request: HttpRequest, error: Exception) -> HttpResponse:
    """Our bug: the log has the story, the client one sentence."""
    request_id = request_id_of(request)
    logger.error(
        "request %s failed inside the gateway",
        request_id,
        exc_info=error,
        extra=about(LogEvent.REQUEST_BROKE, request_id=request_id),
    )
    return error_reply(
        request, ProxyError(f"the gateway failed on this request; its log has the reason under {request_id}")
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_reply(request, NotFound(f"{request.path[:200]}: nothing is served here, see /docs for what is"))


def not_allowed(request: HttpRequest, allowed: str) -> HttpResponse:
    response = error_reply(request, MethodNotAllowed(f"{request.method} is not served here, use {allowed}"))
    response["allow"] = allowed
    return response


@api.exception_handler(Http404)
def missing(request: HttpRequest, error: Http404) -> HttpResponse:
    return not_found(request, error)


api.add_router("/v1", v1)
api.add_router("", pages)
api.add_router("", operators)
