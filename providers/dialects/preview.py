"""What a provider would be sent for a request, without sending it: for a look before the first real one."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from providers.dialects import DIALECTS, Exchange
from providers.dialects.lessons import LEARNT
from providers.errors import ProxyError
from providers.messages import Limits, read_request
from providers.routing import Endpoint, plain_model

HIDDEN = "•••"
CLIENT = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
SAMPLE = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 32000,
    "stream": True,
    "system": [{"type": "text", "text": "You are helpful.", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "medium"},
    "tools": [
        {
            "name": "Read",
            "description": "Read a file.",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"path": {"type": "string"}},
                "required": ["path"],
            },
        }
    ],
    "messages": [{"role": "user", "content": "What does README.md say?"}],
}


class Preview(msgspec.Struct, frozen=True):
    """`path` is below the base URL; `refusal` stands alone where the gateway would refuse the request itself."""

    path: str = ""
    headers: Mapping[str, str] = {}
    body: str = ""
    refusal: str = ""


def sample() -> str:
    return json.dumps(SAMPLE, indent=2)


def preview(endpoint: Endpoint, body: bytes, model: str) -> Preview:
    """`model` is the upstream's name for it; empty passes the request's own on. No credential is in what comes back."""
    try:
        request, body = read_request(body, Limits())
        model = model or plain_model(request.model)
        exchange = Exchange(
            request=request,
            body=body,
            headers=CLIENT,
            query="",
            endpoint=msgspec.structs.replace(endpoint, credential=""),
            model=model,
            request_id="req_preview",
            key_id="preview",
            secret=b"of no conversation",
            lessons=LEARNT.of(endpoint.id, model),
        )
        outbound = DIALECTS[endpoint.type].encode(exchange)
    except ProxyError as error:
        return Preview(refusal=error.message)
    credential = {endpoint.auth_header: endpoint.auth_scheme + HIDDEN}
    return Preview(outbound.path, {**outbound.headers, **credential}, _printed(outbound.body))


def _printed(body: bytes) -> str:
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
