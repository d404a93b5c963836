"""Secrets planted in every place that holds one are found in no answer, no log line, no spool and no admin page."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from accounting.models import ApiKey, UsageAttempt, UsageRecord
from ccproxy_site.logs import JsonLines
from gateway.tests.conftest import OWNER_TOKEN, Gateway, endpoint, gateway, question
from gateway.tests.test_metrics import figures_of, text_of
from gateway.tests.test_operator import OPERATOR_TOKEN, in_database, install
from gateway.tests.test_relay import route_to
from providers.dialects import DIALECTS
from providers.models import ModelRoute, Provider, RouteTarget
from providers.tests.hostile import read_request, serving

CANARY = "sk-canary-4f9Qz81LmPtRw27xKd03"
__all__ = ["gateway"]  # the fixture

# How upstreams have been seen to give away what they were sent.
ECHOES = {
    "sentence": json.dumps({"error": {"message": f"Incorrect API key provided: {CANARY}. Find yours online."}}),
    "bearer": json.dumps({"error": {"message": f"got Authorization: Bearer {CANARY}", "type": "auth"}}),
    "detail": json.dumps({"detail": [{"loc": ["header"], "msg": f"api_key={CANARY} is invalid"}]}),
    "envelope": json.dumps({"type": "error", "error": {"type": "api_error", "message": f"x-api-key: {CANARY}"}}),
    "page": f"<html><body>proxy error for http://user:{CANARY}@10.0.0.7/v1</body></html>",
    "text": f"denied for {CANARY}",
}


def answered(status: int, body: str, kind: str = "application/json") -> Any:
    async def script(reader: Any, writer: Any) -> None:
        await read_request(reader)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        writer.write(f"{head}x-seen-key: {CANARY}\r\nset-cookie: key={CANARY}\r\n\r\n{body}".encode())
        await writer.drain()

    return script


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
@pytest.mark.parametrize("kind", list(DIALECTS))
async def test_what_an_upstream_gives_away_goes_no_further(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, kind: str, status: int, stream: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    for echo in ECHOES.values():
        async with serving(answered(status, echo, "text/html" if echo[0] == "<" else "application/json")) as server:
            gateway.route(route_to(endpoint(1, kind, server.url, credential=CANARY)))
            reply = await gateway.ask(question(stream=stream))
        assert reply.status >= 400
        told = reply.body.decode() + json.dumps(reply.headers)
        assert CANARY not in told
        assert CANARY not in caplog.text
        assert OWNER_TOKEN not in told + caplog.text
    lines = "".join(map(JsonLines().format, caplog.records))
    counted = text_of(figures_of(gateway.runtime.metrics))
    assert CANARY not in lines + counted
    assert OWNER_TOKEN not in lines + counted
    spool = b"".join(gateway.runtime.ledger.spool.unread()[0])
    assert CANARY.encode() not in spool
    assert OWNER_TOKEN.encode() not in spool


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics", "/providers", "/health"])
async def test_what_operators_read_holds_no_secret(gateway: Gateway, transactional_db: None, path: str) -> None:
    secrets = await in_database(planted)
    install(gateway, endpoint(1, "openai", "https://api.example.com/v1", name="planted", credential=CANARY))
    reply = await gateway.ask(b"", method="GET", path=path, token=OPERATOR_TOKEN)
    told = reply.body.decode() + str(reply.headers)
    assert reply.status == 200
    assert not [secret for secret in [*secrets, OPERATOR_TOKEN, OWNER_TOKEN] if secret in told]


def planted() -> list[str]:
    """A provider, a key and rows about them; what may be found nowhere."""
    provider = Provider(name="planted", type="openai", base_url="https://api.example.com/v1")
    provider.set_credential(CANARY)
    provider.save()
    route = ModelRoute.objects.create(pattern="claude-*")
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="m")
    key, token = ApiKey.issue("planted", owner="alice")
    now = timezone.now()
    row: dict[str, Any] = {"started_at": now, "finished_at": now, "status": "failed", "source": "upstream"}
    UsageRecord.objects.create(request_id="req_1", key="planted", api_key=key, model="m", provider="planted", **row)
    UsageAttempt.objects.create(record_id="req_1", number=1, provider="planted", upstream_model="m", **row)
    return [CANARY, base64.b64encode(CANARY.encode()).decode(), provider.sealed_credential, token, key.digest]


def pages() -> Iterator[str]:
    """Every list, every form and every row's own page that the admin has."""
    yield reverse("admin:index")
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield reverse(f"{name}_changelist")
        yield reverse(f"{name}_add")
        for row in model._default_manager.all()[:3]:
            for kind in ("change", "delete", "history"):
                yield reverse(f"{name}_{kind}", args=[row.pk])
            try:
                yield reverse(f"{name}_preview", args=[row.pk])
            except NoReverseMatch:
                continue


@pytest.mark.django_db
def test_no_admin_page_shows_a_secret(admin_client: Client) -> None:
    secrets = planted()
    seen = 0
    for page in pages():
        answer = admin_client.get(page, follow=True)
        if answer.status_code == 403:  # the ledger's rows are added by nobody
            continue
        assert answer.status_code == 200, page
        shown = answer.content.decode()
        assert not [secret for secret in secrets if secret in shown], page
        seen += 1
    assert seen > 20


@pytest.mark.django_db
def test_the_preview_of_a_request_hides_the_credential(admin_client: Client) -> None:
    secrets = planted()
    page = reverse("admin:providers_provider_preview", args=[Provider.objects.get(name="planted").pk])
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]})
    shown = admin_client.post(page, {"model": "m", "body": body}, follow=True).content.decode()
    assert "Hello" in shown
    assert "•••" in shown
    assert not [secret for secret in secrets if secret in shown]
