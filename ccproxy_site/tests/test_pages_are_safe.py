"""Every address of the product, by every role and method, and with names that somebody chose to do harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import unfold
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.test import AsyncClient, Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from accounting.models import ApiKey, CostCentre, DaySum, Price, QuarterSum, UsageAttempt, UsageRecord
from accounting.prices import PriceList
from accounting.snapshot import Books
from ccproxy_site.safety import ADMIN, STRICT
from ccproxy_site.tests.test_home import figures
from gateway import runtime
from gateway.configuration import Snapshot
from providers.models import ConfigVersion, ModelList, ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.routing import Routing

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

ROLES = ("anonymous", "developer", "staff", "finance", "superuser")
METHODS = ("get", "post", "put", "delete")

# Open to everybody who comes: what asks for a key instead, what says whether the gateway lives, and the sign-in.
OPEN = re.compile(
    r"/(admin/login/|me(/.*)?|docs|openapi\.json|v1/(?!metrics).*|health.*|api/hello/?)?$",
)
# Open to whoever may enter the admin at all.
STAFF = re.compile(r"/admin/((logout|password_change|password_change/done|jsi18n|search)/)?$")
FINANCE = re.compile(r"/admin/reports/.*$")
# Nothing was shown and nothing was done.
REFUSALS = {401, 403, 404, 405}

MARK = "zq<script>alert(1)</script>\"><img src=x onerror=alert(1)>'+alert(1)+'{{7*7}}zq"
# What must not come out: the mark as markup, or worked out by a template.
RAW = ("<script>alert(1)", "<img src=x", "}49zq", "'49zq")


@pytest.fixture(autouse=True)
def gateway() -> Iterator[None]:
    """A runtime that knows nobody, so that no page starts one."""
    held = runtime.Runtime()
    held.configuration.install(Snapshot(1, Routing([]), Books({}, PriceList([]))))
    before = runtime.replace(held)
    yield
    runtime.replace(before)
    held.ledger.close()


@pytest.fixture(autouse=True)
def rows() -> None:
    """One of everything, under hostile names wherever a name can stand."""
    now = timezone.now()
    provider = Provider.objects.create(name=MARK, type="anthropic", base_url="https://api.example.com", dialect="")
    ProviderHealth.objects.create(provider=provider, ok=False, detail=MARK, checked_at=now, latency_ms=5)
    ModelList.objects.create(provider=provider, base_url=provider.base_url, listed=[{"id": MARK}], seen_at=now)
    route = ModelRoute.objects.create(pattern=MARK)
    RouteTarget.objects.create(route=route, provider=provider, upstream_model=MARK)
    centre = CostCentre.objects.create(code=MARK[:50], name=MARK)
    person = User.objects.create_user(MARK, first_name=MARK, email="a@example.org", is_staff=True)
    key = ApiKey.objects.create(
        name=MARK,
        owner=MARK,
        holder=person,
        cost_centre=centre,
        allowed_models=[MARK],
        prefix="ccp_abcd",
        digest="d" * 64,
        expires_at=now + timezone.timedelta(days=2),  # type: ignore[attr-defined]
    )
    Price.objects.create(model=MARK, source=MARK, provider=provider)
    names = {"key": MARK, "owner": MARK, "cost_centre": MARK[:50], "provider": MARK, "model": MARK}
    names |= {"upstream_model": MARK}
    record = UsageRecord.objects.create(
        request_id="req_1",
        api_key=key,
        provider_ref=provider,
        status="failed",
        source="upstream",
        method=MARK[:40],
        reason=MARK,
        stop_reason=MARK[:40],
        session_id=MARK[:100],
        client_request_id=MARK[:100],
        started_at=now,
        finished_at=now,
        **names,
    )
    UsageAttempt.objects.create(
        record=record,
        number=1,
        started_at=now,
        finished_at=now,
        provider=MARK,
        upstream_model=MARK,
        upstream_id=MARK,
        status="failed",
        reason=MARK,
        source="upstream",
    )
    summed = figures(3, api_key=key, provider_ref=provider, unpriced=1, **names)
    DaySum.objects.create(day=timezone.localdate(), **summed)
    QuarterSum.objects.create(starts_at=now.replace(minute=0, second=0, microsecond=0), **summed)
    group = Group.objects.create(name=MARK)
    person.groups.add(group)


def addresses() -> list[str]:
    """Every path the resolver knows, with the row of its model where it names one."""
    return sorted({example(path) for path in walked(get_resolver().url_patterns, "/")})


def walked(patterns: list[Any], prefix: str) -> Iterator[str]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from walked(pattern.url_patterns, path)
        else:
            assert isinstance(pattern, URLPattern)
            yield path


def example(path: str) -> str:
    for model in admin.site._registry:
        if path.startswith(f"/admin/{model._meta.label_lower.replace('.', '/')}/"):
            row = model._default_manager.order_by("pk").first()
            path = re.sub(r"<(path:)?(object_)?id>", str(row.pk if row else 1), path)
    path = path.replace("^(?P<app_label>providers|accounting|auth)/$", "accounting/").replace("(?P<url>.*)$", "nowhere")
    return re.sub(r"<[^>]*>", "1", path)


def person(role: str) -> User | None:
    if role == "anonymous":
        return None
    is_staff, is_superuser = role != "developer", role == "superuser"
    user = User.objects.create_user(role, is_staff=is_staff, is_superuser=is_superuser)
    if role == "finance":
        user.user_permissions.add(Permission.objects.get(codename="view_reports"))
    return user


def client_of(user: User | None, client: Client | None = None) -> Client:
    """Signed in again where a page has ended the session."""
    client = client or Client(raise_request_exception=False)
    if user and "_auth_user_id" not in client.session:
        client.force_login(user)
    return client


def may(role: str, path: str) -> bool:
    rules = [OPEN]
    if role in {"staff", "finance"}:
        rules.append(STAFF)
    if role == "finance":
        rules.append(FINANCE)
    return role == "superuser" or any(rule.match(path) for rule in rules)


def answer(client: Client, method: str, path: str) -> Any:
    """The API's own paths as an ASGI server brings them."""
    if path == "/me" or path.startswith(("/admin/", "/me/")):
        return getattr(client, method)(path)
    asgi = AsyncClient(raise_request_exception=False)
    asgi.cookies = client.cookies
    return async_to_sync(getattr(asgi, method))(path)


@pytest.mark.parametrize("role", ROLES)
def test_nobody_gets_further_than_his_role_allows(role: str) -> None:
    user, client, wrong = person(role), None, []
    kept = footprint()
    for path in addresses():
        for method in METHODS:
            client = client_of(user, client)
            reply = answer(client, method, path)
            if reply.status_code >= 500 and not (path.startswith("/health") and reply.status_code == 503):
                wrong.append(f"{method} {path}: {reply.status_code}")
            elif not may(role, path) and not is_refused(reply):
                wrong.append(f"{method} {path}: {reply.status_code} {reply.headers.get('location', '')}")
    assert wrong == []
    if role != "superuser":
        assert footprint() == kept, "something was changed"


def is_refused(reply: Any) -> bool:
    """Also by being sent to sign in, or to where one is refused."""
    if reply.status_code in {301, 302}:
        location = reply.headers["location"]
        return location.startswith("/admin/login/") or is_refused(reply.client.get(location))
    return reply.status_code in REFUSALS


def footprint() -> list[Any]:
    """Whatever an administrator could have changed."""
    models: list[Any] = [*admin.site._registry, RouteTarget, UsageAttempt]
    rows = [list(model._default_manager.exclude(pk=0).order_by("pk").values()) for model in models if model is not User]
    return [*rows, User.objects.exclude(username__in=ROLES).count(), ConfigVersion.current()]


REACHED = {
    "anonymous": ["/", "/admin/login/", "/docs", "/openapi.json", "/me"],
    "developer": ["/me"],
    "staff": ["/admin/", "/admin/password_change/"],
    "finance": ["/admin/", "/admin/reports/", "/admin/reports/keys/"],
    "superuser": ["/admin/live/", "/metrics", "/v1/metrics", "/providers", "/admin/reports/"],
}


@pytest.mark.parametrize("role", ROLES)
def test_every_role_reaches_what_it_is_for(role: str) -> None:
    """The matrix above would also be content with a gateway that refuses everybody everything."""
    client = client_of(person(role))
    sections = [f"/admin/{model._meta.label_lower.replace('.', '/')}/" for model in admin.site._registry]
    for path in (*REACHED[role], *(sections if role == "superuser" else ())):
        assert answer(client, "get", path).status_code == 200, path


class Reader(HTMLParser):
    """What of a page a browser would run."""

    # Attributes whose text Alpine and htmx run.
    RUN = re.compile(r"^(x-|:|@|hx-on|hx-vals|on)")

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.injected: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "script":
            self.scripts += 1
            if "src" not in given and given.get("type") not in {"application/json", "application/ld+json"}:
                self.inline.append("a script without src")
        for name, value in attributes:
            if name.startswith("on"):
                self.inline.append(f"{tag} {name}={value}")
            if self.RUN.match(name) and "zq" in (value or ""):
                self.injected.append(f"{tag} {name}={value}")
            if name in {"href", "src", "action"} and (value or "").lstrip().lower().startswith("javascript:"):
                self.injected.append(f"{tag} {name}={value}")
        if (tag, given.get("src")) == ("img", "x"):
            self.injected.append("the image")


def pages() -> list[str]:
    """What an administrator opens, and what a name in a query could do."""
    named = [
        "/admin/accounting/usagerecord/?q=" + "zq%3Cscript%3Ealert(1)%3C/script%3E",
        "/admin/accounting/price/add/?model=%3Cscript%3Ealert(1)%3C/script%3E",
        "/admin/providers/provider/add/?name=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
        "/admin/providers/modelroute/which/?model=%3Cscript%3Ealert(1)%3C/script%3E",
        "/admin/reports/?key=%3Cscript%3Ealert(1)%3C/script%3E&from=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
        "/admin/search/?s=zq&extended=1",
        "/admin/login/?next=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
    ]
    return [*addresses(), *named]


def test_a_name_stays_text_on_every_page_and_no_page_may_run_a_script_of_its_own() -> None:
    user = person("superuser")
    client, wrong, told, number = client_of(user), [], 0, 0
    for path in pages():
        reply = answer(client_of(user, client), "get", path)
        wrong += [f"{path}: {fault}" for fault in faults_of_headers(path, reply.headers)]
        if reply.headers.get("content-type", "").startswith("text/html"):
            text = reply.content.decode()
            number += 1
            told += "zq&lt;script&gt;" in text
            wrong += [f"{path}: {fault}" for fault in faults_of(text)]

    assert wrong == []
    assert number > 40, "most addresses are pages"
    assert told > 20, "the names were there to be seen"


def faults_of(text: str) -> list[str]:
    reader = Reader()
    reader.feed(text)
    return [*reader.inline, *reader.injected, *(f"{raw} unescaped" for raw in RAW if raw in text)]


def faults_of_headers(path: str, headers: Any) -> list[str]:
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    wanted = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "same-origin"}
    wanted["cross-origin-opener-policy"] = "same-origin"
    found = [f"{name} is {headers.get(name)}" for name, value in wanted.items() if headers.get(name) != value]
    if policy != (ADMIN if path.startswith("/admin/") else STRICT) or "unsafe-inline" in policy["script-src"]:
        found.append(f"the policy is {policy}")
    return found


def test_a_developer_and_a_finance_reader_see_hostile_names_as_text() -> None:
    reports = [path for path in addresses() if path.startswith("/admin/reports")]
    for user, paths in ((person("finance"), reports), (User.objects.get(username=MARK), ["/me", "/admin/"])):
        for path in paths:
            assert faults_of(client_of(user).get(path).content.decode()) == [], path


def test_the_parts_of_unfold_that_no_page_shows_yet_have_no_script_of_their_own_either() -> None:
    """After an upgrade: an inline script would be dead under the policy, and something would quietly not work."""
    folder = Path(unfold.__file__).parent
    templates = [path for path in folder.rglob("*.html") if "crispy" not in path.as_posix()]
    assert len(templates) > 100

    found = [
        f"{path.relative_to(folder)}: {tag}"
        for path in templates
        for tag in re.findall(r"<script\b[^>]*>|\son[a-z]+=\"[^\"]*\"", path.read_text())
        if "src=" not in tag and "json" not in tag
    ]

    assert found == []
