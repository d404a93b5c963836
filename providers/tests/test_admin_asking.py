"""Pages of the admin that ask a provider: does it answer, and which models does it list."""

from __future__ import annotations

import html
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounting.models import UsageRecord
from providers.admin import providers as pages
from providers.models import (
    ConfigVersion,
    CredentialMode,
    ModelList,
    ModelRoute,
    Provider,
    ProviderHealth,
    RouteTarget,
)
from providers.tests.test_admin import SECRET, admin_client, provider

__all__ = ["admin_client"]  # the fixture
pytestmark = [pytest.mark.django_db, pytest.mark.urls("providers.tests.test_admin")]

LISTED = {"data": [{"id": "zeta-1", "context_length": 128000, "max_output_tokens": 8192}, {"id": "<b>alpha</b>"}]}


class Upstream(socketserver.ThreadingTCPServer):
    """Answers every request the same way, from a thread of its own."""

    daemon_threads = True
    status = 200
    reply: Any = {}

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[tuple[str, str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Upstream

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, body))
        reply = self.server.reply
        text = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "text/html" if text[:1] == b"<" else "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def said(text: str) -> dict[str, Any]:
    return {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7},
    }


def page_of(row: Provider, name: str) -> str:
    return reverse(f"admin:providers_provider_{name}", args=[row.pk])


# Test connection


def test_a_provider_that_answers_is_shown_with_its_answer_and_its_bill(
    admin_client: Client, upstream: Upstream
) -> None:
    upstream.reply = said("<script>alert(1)</script> Hello.")
    known = provider(SECRET, base_url=upstream.url)
    answer = admin_client.post(page_of(known, "test_connection"), {"model": "gpt-5.1"})
    page = answer.content.decode()
    assert "It answers" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; Hello." in page
    assert "<script>alert" not in page
    assert SECRET not in page
    assert '<div class="cc-figure" id="read">11</div>' in page
    assert '<div class="cc-figure" id="written">7</div>' in page
    [(method, path, body)] = upstream.asked
    assert (method, path, json.loads(body)["model"]) == ("POST", "/v1/chat/completions", "gpt-5.1")


def test_a_trial_is_booked_to_nobody_and_changes_nothing(admin_client: Client, upstream: Upstream) -> None:
    upstream.reply = said("Hello.")
    known, before = provider(SECRET, base_url=upstream.url), ConfigVersion.current()
    page = admin_client.post(page_of(known, "test_connection"), {"model": "m"}).content.decode()
    assert "is booked to no key" in page
    assert not UsageRecord.objects.exists()
    assert not ProviderHealth.objects.exists()
    assert ConfigVersion.current() == before


def test_a_refusal_is_shown_in_words_with_what_to_do(admin_client: Client, upstream: Upstream) -> None:
    upstream.status, upstream.reply = 401, {"error": {"message": f"Incorrect API key: {SECRET}<img src=x onerror=a()>"}}
    known = provider(SECRET, base_url=upstream.url)
    page = admin_client.post(page_of(known, "test_connection"), {"model": "m"}).content.decode()
    assert "HTTP 401" in page
    assert "Enter the credential again" in page
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
    assert SECRET not in page


def test_looking_at_the_page_asks_nobody(admin_client: Client, upstream: Upstream) -> None:
    known = provider(base_url=upstream.url)
    for name in ("test_connection", "list_models"):
        assert admin_client.get(page_of(known, name)).status_code == 200
    assert admin_client.post(page_of(known, "test_connection"), {"model": ""}).status_code == 200
    assert upstream.asked == []


def test_a_disabled_provider_can_be_tried_before_it_is_enabled(admin_client: Client, upstream: Upstream) -> None:
    upstream.reply = said("Hello.")
    known = provider(base_url=upstream.url, enabled=False)
    assert "It answers" in admin_client.post(page_of(known, "test_connection"), {"model": "m"}).content.decode()


def test_a_provider_that_wants_the_clients_token_is_told_apart(admin_client: Client) -> None:
    known = provider(credential_mode=CredentialMode.CLIENT_TOKEN)
    page = admin_client.post(page_of(known, "test_connection"), {"model": "m"}).content.decode()
    assert "token that each client brings" in page


@pytest.mark.parametrize(
    ("target", "names", "usual"),
    [
        ("gpt-5.1", ["a"], "gpt-5.1"),
        ("passthrough", ["a", "claude-opus-5-5"], "claude-opus-5-5"),
        (None, ["b", "c"], "b"),
        (None, [], ""),
    ],
)
def test_the_model_to_try_is_one_that_is_asked_for_or_listed(
    admin_client: Client, target: str | None, names: list[str], usual: str
) -> None:
    known = provider()
    if target:
        RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="*"), provider=known, upstream_model=target)
    ModelList.objects.create(
        provider=known,
        base_url=known.base_url,
        listed=[[name, None, None] for name in names],
        seen_at=timezone.now(),
    )
    answer = admin_client.get(page_of(known, "test_connection"))
    assert answer.context["form"]["model"].value() == usual


# List its models


def test_the_models_of_a_provider_are_asked_for_shown_and_kept(admin_client: Client, upstream: Upstream) -> None:
    upstream.reply = LISTED
    known = provider(SECRET, base_url=upstream.url)
    page = admin_client.post(page_of(known, "list_models")).content.decode()
    assert [path for _, path, _ in upstream.asked] == ["/v1/models"]
    assert "zeta-1" in page
    assert '<td class="cc-number">128000</td>' in page
    assert '<td class="cc-number">8192</td>' in page
    assert "&lt;b&gt;alpha&lt;/b&gt;" in page
    assert "<b>alpha" not in page
    assert known.model_list.listed == [["<b>alpha</b>", None, None], ["zeta-1", 128000, 8192]]
    assert known.health.ok


def test_a_list_that_was_asked_for_is_kept_however_young_the_last_one_is(
    admin_client: Client, upstream: Upstream
) -> None:
    known = provider(base_url=upstream.url)
    ModelList.objects.create(provider=known, base_url=upstream.url, listed=[], seen_at=timezone.now())
    upstream.reply, before = LISTED, ConfigVersion.current()
    admin_client.post(page_of(known, "list_models"))
    known.model_list.refresh_from_db()
    assert len(known.model_list.listed) == 2
    assert ConfigVersion.current() > before


@pytest.mark.parametrize(("status", "reply"), [(401, {"error": "no"}), (404, b"<html>no</html>"), (200, b"<html>hm")])
def test_a_provider_that_lists_nothing_is_told_and_loses_nothing(
    admin_client: Client, upstream: Upstream, status: int, reply: Any
) -> None:
    upstream.status, upstream.reply = status, reply
    known = provider(base_url=upstream.url)
    ModelList.objects.create(
        provider=known, base_url=upstream.url, listed=[["kept", None, None]], seen_at=timezone.now()
    )
    page = admin_client.post(page_of(known, "list_models")).content.decode()
    assert f"It listed no models: HTTP {status}" in page
    assert "kept" in page
    assert known.model_list.listed == [["kept", None, None]]


def test_each_model_leads_to_a_form_that_routes_it(admin_client: Client) -> None:
    known = provider()
    names = ["vendor/a model&x=1", "gpt-5.1"]
    ModelList.objects.create(
        provider=known, base_url=known.base_url, listed=[[name, None, None] for name in names], seen_at=timezone.now()
    )
    route = ModelRoute.objects.create(pattern="GPT-5.1")
    answer = admin_client.get(page_of(known, "list_models"))
    rows = {model.name: (there, add) for model, there, add in answer.context["rows"]}
    assert rows["gpt-5.1"][0] == reverse("admin:providers_modelroute_change", args=[route.pk])
    there, add = rows["vendor/a model&x=1"]
    assert there == ""
    assert html.escape(add) in answer.content.decode()
    fields = parse_qs(urlsplit(add).query)
    assert fields == {
        "pattern": ["vendor/a model&x=1"],
        "provider": [str(known.pk)],
        "upstream_model": ["vendor/a model&x=1"],
    }
    form = admin_client.get(add)
    assert form.context["adminform"].form["pattern"].value() == "vendor/a model&x=1"
    [first] = [inline.formset.forms[0] for inline in form.context["inline_admin_formsets"]]
    assert first["upstream_model"].value() == "vendor/a model&x=1"
    assert str(first["provider"].value()) == str(known.pk)


def test_a_long_list_is_cut_and_can_be_searched(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST_MODELS", 3)
    known = provider()
    listed = [[f"model-{number}", None, None] for number in range(10)]
    ModelList.objects.create(provider=known, base_url=known.base_url, listed=listed, seen_at=timezone.now())
    page = admin_client.get(page_of(known, "list_models")).content.decode()
    assert "And 7 more" in page
    page = admin_client.get(page_of(known, "list_models"), {"q": "EL-9"}).content.decode()
    assert "model-9" in page
    assert "model-8" not in page
    assert "has &lt;i&gt; in its name" in admin_client.get(page_of(known, "list_models"), {"q": "<i>"}).content.decode()


# Who may


@pytest.mark.parametrize("name", ["test_connection", "list_models"])
def test_only_who_may_change_a_provider_has_it_asked(client: Client, upstream: Upstream, name: str) -> None:
    known = provider(SECRET, base_url=upstream.url)
    url = page_of(known, name)
    assert client.post(url, {"model": "m"}).status_code == 302
    person = User.objects.create(username="viewer", is_staff=True)
    person.user_permissions.add(Permission.objects.get(codename="view_provider"))
    client.force_login(person)
    assert client.get(url).status_code == 403
    assert client.post(url, {"model": "m"}).status_code == 403
    assert upstream.asked == []


@pytest.mark.parametrize("name", ["test_connection", "list_models"])
def test_another_site_cannot_have_a_provider_asked(admin_client: Client, upstream: Upstream, name: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = admin_client.cookies
    known = provider(base_url=upstream.url)
    assert strict.post(page_of(known, name), {"model": "m"}).status_code == 403
    assert upstream.asked == []


@pytest.mark.parametrize("name", ["test_connection", "list_models", "preview"])
def test_a_provider_that_is_gone_has_no_pages(admin_client: Client, name: str) -> None:
    known = provider()
    url = page_of(known, name)
    known.delete()
    assert admin_client.get(url).status_code == 404
    assert admin_client.post(url, {"model": "m"}).status_code == 404


def test_a_new_provider_leads_to_its_trial(admin_client: Client) -> None:
    from providers.tests.test_admin import ADD, FORM, saved

    page = saved(admin_client, reverse(ADD), {**FORM, "credential": SECRET})
    assert page_of(Provider.objects.get(), "test_connection") in page
