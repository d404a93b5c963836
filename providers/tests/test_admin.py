"""Providers and routes as an administrator edits them."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone

from accounting.models import UsageRecord
from providers.dialects.lessons import LEARNT, Lesson
from providers.dialects.profiles import by_host
from providers.models import ConfigVersion, ModelList, ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.vendors import PLACEHOLDER, VENDORS

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

SECRET = "sk-canary-7f3a"
FORM = {
    "name": "first",
    "type": "openai",
    "base_url": "https://api.example.com",
    "auth_type": "api_key",
    "credential_mode": "own",
    "enabled": "on",
    "connect_timeout": "10",
    "first_byte_timeout": "120",
    "idle_timeout": "120",
    "total_timeout": "600",
    "dialect": "",
    "options": "{}",
    "credential": "",
}
ADD, LIST = "admin:providers_provider_add", "admin:providers_provider_changelist"


@pytest.fixture
def admin_client(db: None, client: Client) -> Client:
    """Signed in without a password, which takes long to make."""
    client.force_login(User.objects.create(username="admin", is_staff=True, is_superuser=True))
    return client


def provider(credential: str = "", **fields: Any) -> Provider:
    made = Provider(**{"name": "first", "type": "openai", "base_url": "https://api.example.com", **fields})
    made.set_credential(credential)
    made.save()
    return made


def change(row: Any) -> str:
    return reverse(f"admin:providers_{row._meta.model_name}_change", args=[row.pk])


def saved(client: Client, url: str, form: dict[str, str]) -> str:
    """The page after saving, once the version was seen to move."""
    before = ConfigVersion.current()
    answer = client.post(url, form, follow=True)
    assert answer.redirect_chain, answer.context["errors"]
    assert ConfigVersion.current() > before
    return str(answer.content.decode())


def acted(client: Client, url: str, action: str, *rows: Any, **more: str) -> str:
    before = ConfigVersion.current()
    answer = client.post(url, {"action": action, "_selected_action": [row.pk for row in rows], **more}, follow=True)
    assert ConfigVersion.current() > before
    return str(answer.content.decode())


def test_a_provider_is_made_with_its_credential(admin_client: Client) -> None:
    page = saved(admin_client, reverse(ADD), {**FORM, "credential": SECRET})
    assert Provider.objects.get().credential == SECRET
    assert SECRET not in page


def test_a_credential_is_on_no_page_and_in_no_history(admin_client: Client) -> None:
    known = provider(SECRET)
    saved(admin_client, change(known), {**FORM, "credential": SECRET + "2"})
    pages = [
        admin_client.get(url).content.decode()
        for url in (change(known), reverse(LIST), reverse("admin:providers_provider_history", args=[known.pk]))
    ]
    refused = admin_client.post(change(known), {**FORM, "credential": SECRET, "name": ""}).content.decode()
    told = "".join(LogEntry.objects.values_list("change_message", flat=True))
    for text in (*pages, refused, told):
        assert SECRET not in text
        assert known.sealed_credential not in text
    assert "A credential is set." in pages[0]


def test_an_empty_field_keeps_the_credential(admin_client: Client) -> None:
    known = provider(SECRET)
    saved(admin_client, change(known), {**FORM, "total_timeout": "60"})
    known.refresh_from_db()
    assert (known.credential, known.total_timeout) == (SECRET, 60)


def test_a_change_of_host_drops_the_credential_and_says_so(admin_client: Client) -> None:
    known = provider(SECRET)
    page = saved(admin_client, change(known), {**FORM, "base_url": "https://elsewhere.example.com"})
    known.refresh_from_db()
    assert known.sealed_credential == ""
    assert "The credential of first was dropped" in page
    assert "There is none." in admin_client.get(change(known)).content.decode()


def test_a_credential_given_together_with_another_host_is_for_that_host(admin_client: Client) -> None:
    known = provider(SECRET)
    page = saved(
        admin_client, change(known), {**FORM, "base_url": "https://elsewhere.example.com", "credential": "new"}
    )
    known.refresh_from_db()
    assert known.credential == "new"
    assert "was dropped" not in page


def test_a_credential_that_cannot_be_opened_is_told(admin_client: Client) -> None:
    known = provider(SECRET)
    Provider.objects.update(base_url="https://elsewhere.example.com")
    assert "One is stored, but" in admin_client.get(change(known)).content.decode()


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("base_url", "example.com", "A URL is expected"),
        ("base_url", "https://api.example.com/v1/chat/completions", "Leave out /chat/completions"),
        ("base_url", "https://YOUR-RESOURCE.openai.azure.com/openai/v1", "Put your own name in place of YOUR-"),
        ("credential", "sk-one\nsk-two", "It has a line break"),
        ("credential", "sk-…", "It has a line break or a letter"),
        ("auth_type", "header:", "Say api_key"),
        ("total_timeout", "-1", "greater than or equal to 0.1"),
        ("total_timeout", "nan", "Enter a number"),
        ("options", "{", "JSON is expected"),
        ("options", "[1]", "An object is expected"),
        ("auth_type", "magic", "Say api_key"),
        ("idle_timeout", "0", "greater than or equal to 0.1"),
    ],
)
def test_a_field_that_will_not_do_is_told(admin_client: Client, field: str, value: str, sentence: str) -> None:
    answer = admin_client.post(reverse(ADD), {**FORM, field: value})
    assert sentence in " ".join(answer.context["adminform"].form.errors[field])
    assert html.escape(sentence) in answer.content.decode()
    assert not Provider.objects.exists()


def test_the_demo_cannot_be_edited_into_or_out_of_one(admin_client: Client) -> None:
    saved(admin_client, reverse(ADD), {**FORM, "is_demo": "on"})
    assert not Provider.objects.get().is_demo


def test_actions_enable_disable_and_forget(admin_client: Client) -> None:
    known, other = provider(SECRET), provider(name="second")
    acted(admin_client, reverse(LIST), "disable", known, other)
    assert not Provider.objects.filter(enabled=True).exists()
    acted(admin_client, reverse(LIST), "enable", known)
    acted(admin_client, reverse(LIST), "forget_credential", known)
    known.refresh_from_db()
    assert (known.enabled, known.sealed_credential) == (True, "")


def test_the_list_tells_how_a_provider_is_doing(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    now = timezone.now()
    for number in range(50):
        made = provider(name=f"p{number}")
        ProviderHealth.objects.create(provider=made, checked_at=now, ok=False, detail="refused", latency_ms=12)
    provider(name="new")
    listing = Provider.objects.get(name="p0")
    ModelList.objects.create(
        provider=listing, base_url=listing.base_url, listed=[["a", None, None], ["b", 1, 1]], seen_at=timezone.now()
    )
    moved = Provider.objects.get(name="p1")
    ModelList.objects.create(provider=moved, base_url="https://before.example.com", listed=[["a", 1, 1]], seen_at=now)
    for number in range(100):
        route = ModelRoute.objects.create(pattern=f"r{number}")
        RouteTarget.objects.create(route=route, provider=listing if number < 4 else moved)
    with django_assert_max_num_queries(12):
        answer = admin_client.get(reverse(LIST))
    page = answer.content.decode()
    assert page.count("ill: refused at") == 50
    assert "never probed" in page
    assert "12 ms" in page
    shown = {row.name: row.listed for row in answer.context["cl"].result_list}
    assert (shown["p0"], shown["p1"], shown["new"]) == (2, None, None)
    assert "r0, r1, r2 and 1 more" in page


def test_a_provider_that_serves_nothing_can_be_deleted(admin_client: Client) -> None:
    known, other = provider(), provider(name="second")
    saved(admin_client, reverse("admin:providers_provider_delete", args=[known.pk]), {"post": "yes"})
    acted(admin_client, reverse(LIST), "delete_selected", other, post="yes")
    assert not Provider.objects.exists()


def test_a_provider_that_serves_a_route_cannot(admin_client: Client) -> None:
    known = provider()
    RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="*"), provider=known)
    url = reverse("admin:providers_provider_delete", args=[known.pk])
    page = admin_client.get(url).content.decode()
    assert "first stands in *: take it out of there first, or disable it instead." in page
    assert "Route target" not in page
    admin_client.post(url, {"post": "yes"})
    several = {"action": "delete_selected", "_selected_action": [known.pk], "post": "yes"}
    page = admin_client.post(reverse(LIST), several).content.decode()
    assert "None of these providers is deleted." in page
    assert "first stands in *" in page
    assert Provider.objects.exists()


def test_a_provider_that_the_ledger_names_cannot(admin_client: Client) -> None:
    known, now = provider(), timezone.now()
    UsageRecord.objects.create(
        request_id="req_1", model="m", status="completed", started_at=now, finished_at=now, provider_ref=known
    )
    page = admin_client.get(reverse("admin:providers_provider_delete", args=[known.pk])).content.decode()
    assert "Rows of the ledger name first: disable it instead" in page
    admin_client.post(reverse("admin:providers_provider_delete", args=[known.pk]), {"post": "yes"})
    several = {"action": "delete_selected", "_selected_action": [known.pk], "post": "yes"}
    assert "Rows of the ledger name first" in admin_client.post(reverse(LIST), several).content.decode()
    assert Provider.objects.exists()


# Settings


def settings_form(client: Client, row: Provider, **chosen: str) -> dict[str, str]:
    """What a browser would send of a provider's page, with some fields filled in otherwise."""
    form = client.get(change(row)).context["adminform"].form
    sent = {name: form[name].value() for name in form.fields}
    sent = {name: "" if value is None or value is False else value for name, value in sent.items()}
    assert set(chosen) <= set(sent)
    return {**sent, **({"enabled": "on"} if row.enabled else {}), **chosen}


def test_what_apply_wrote_survives_a_page_that_is_saved_untouched(admin_client: Client) -> None:
    options = {
        "pdf": True,
        "vision": False,
        "mid_system": "user",
        "max_output_tokens": 8192,
        "efforts": ["low", "high"],
        "reasoning_models": [],
        "reasoning_filler": "",
        "models": {"a*": {"vision": True}},
        "encoding": "o200k",
        "own": {"x": [1]},
    }
    known = provider(base_url="https://api.openai.com/v1", options=options, dialect="azure")
    saved(admin_client, change(known), settings_form(admin_client, known))
    known.refresh_from_db()
    assert known.options == options
    assert known.dialect == "azure"


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("pdf", "no", {"pdf": False}),
        ("pdf", "yes", {}),  # as the row of the vendor has it
        ("mid_system", "system", {"mid_system": "system"}),
        ("mid_system", "developer", {}),
        ("max_output_tokens", "8192", {"max_output_tokens": 8192}),
        ("efforts", "low, high", {"efforts": ["low", "high"]}),
        ("efforts", "[]", {"efforts": []}),
        ("reasoning_filler", '" "', {"reasoning_filler": " "}),
        ("reasoning_filler", "hm", {"reasoning_filler": "hm"}),
        ("api_version", "2025-04-01", {"api_version": "2025-04-01"}),
        ("models", '{"o3*": {"vision": false}}', {"models": {"o3*": {"vision": False}}}),
        ("models", "", {}),
    ],
)
def test_a_setting_is_stored_where_it_differs_from_the_vendors(
    admin_client: Client, field: str, value: str, stored: dict[str, Any]
) -> None:
    known = provider(base_url="https://api.openai.com/v1", options={"own": 1})
    saved(admin_client, change(known), settings_form(admin_client, known, **{f"option_{field}": value}))
    known.refresh_from_db()
    assert known.options == {"own": 1, **stored}


def test_a_setting_that_is_emptied_goes(admin_client: Client) -> None:
    known = provider(options={"pdf": True, "max_output_tokens": 5, "own": 1})
    form = settings_form(admin_client, known, option_pdf="", option_max_output_tokens="")
    saved(admin_client, change(known), form)
    known.refresh_from_db()
    assert known.options == {"own": 1}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("option_efforts", "low, huge", "Each must be one of none"),
        ("option_tool_id_limit", "many", "Enter a whole number."),
        ("option_tool_id_limit", "0", "greater than or equal to 1"),
        ("option_mid_system", "shouted", "Select a valid choice."),
        ("option_models", "[1]", "An object is expected."),
        ("option_models", '{"a*": {"visoin": true}}', "A*: there is no setting visoin."),
        ("option_reasoning_filler", '"open', "A text in quotes is expected"),
        ("options", '{"pdf": "perhaps"}', "pdf: Expected `bool`"),
        ("options", '{"mid_system": "shouted"}', "mid_system: say one of user, developer, system"),
    ],
)
def test_what_is_wrong_with_a_setting_stands_beside_it(
    admin_client: Client, field: str, value: str, sentence: str
) -> None:
    known = provider()
    answer = admin_client.post(change(known), settings_form(admin_client, known, **{field: value}))
    [told] = answer.context["adminform"].form.errors[field]
    assert sentence in told
    known.refresh_from_db()
    assert known.options == {}


def test_an_illegal_value_that_is_stored_already_is_shown_as_it_is(admin_client: Client) -> None:
    known = provider(options={"pdf": "perhaps"})
    assert "perhaps" in admin_client.get(change(known)).content.decode()


def test_a_setting_may_stand_among_the_other_options(admin_client: Client) -> None:
    saved(admin_client, reverse(ADD), {**FORM, "options": '{"pdf": true, "own": 1}'})
    assert Provider.objects.get().options == {"pdf": True, "own": 1}


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [
        ("openai", "option_pdf", "option_normalise"),
        ("responses", "option_reasoning_summary", "option_normalise"),
        ("anthropic", "option_normalise", "option_pdf"),
    ],
)
def test_a_page_has_the_settings_of_its_language(admin_client: Client, kind: str, there: str, absent: str) -> None:
    known = provider(type=kind)
    fields = admin_client.get(change(known)).context["adminform"].form.fields
    assert there in fields
    assert absent not in fields
    assert all(field.help_text and field.label for name, field in fields.items() if name.startswith("option_"))


def test_options_of_the_forwarding_language(admin_client: Client) -> None:
    known = provider(type="anthropic")
    form = settings_form(admin_client, known, option_normalise="no", option_remove_fields="a, b")
    saved(admin_client, change(known), form)
    known.refresh_from_db()
    assert known.options == {"normalise": False, "remove_fields": ["a", "b"]}


def test_an_empty_field_tells_what_holds_for_the_vendor(admin_client: Client) -> None:
    page = admin_client.get(change(provider(base_url="https://api.mistral.ai/v1"))).content.decode()
    assert "as usual here: any" in page
    assert 'placeholder="9"' in page


def test_a_dialect_is_chosen_by_name_and_host(admin_client: Client) -> None:
    known = provider(dialect="strange")
    page = admin_client.get(change(known)).content.decode()
    assert "mistral (*.mistral.ai)" in page
    assert "strange (unknown)" in page
    assert "Select a valid choice" in admin_client.post(reverse(ADD), {**FORM, "dialect": "gone"}).content.decode()


def test_the_format_without_translation_is_suggested(admin_client: Client) -> None:
    page = saved(admin_client, reverse(ADD), {**FORM, "base_url": "https://api.deepseek.com/v1"})
    assert "https://api.deepseek.com/anthropic" in page
    assert "https://api.deepseek.com/anthropic" in admin_client.get(change(Provider.objects.get())).content.decode()
    other = provider(name="second")
    assert "Suggestion" not in admin_client.get(change(other)).content.decode()


def test_what_ollama_does_in_silence_is_told(admin_client: Client) -> None:
    known = provider(base_url="http://localhost:11434/v1")
    assert "raise num_ctx" in admin_client.get(change(known)).content.decode()


def test_what_refusals_taught_is_shown(admin_client: Client) -> None:
    known = provider()
    assert "nothing" in admin_client.get(change(known)).content.decode()
    LEARNT.learn(known.pk, "<b>gpt</b>", Lesson("temperature"))
    page = admin_client.get(change(known)).content.decode()
    assert "&lt;b&gt;gpt&lt;/b&gt;: temperature is left out" in page
    assert "<b>gpt" not in page


# A known vendor


def test_a_vendor_that_is_chosen_fills_in_the_form(admin_client: Client) -> None:
    page = admin_client.get(reverse(ADD)).content.decode()
    assert all(f'href="?vendor={name}"' in page for name in VENDORS)
    answer = admin_client.get(reverse(ADD), {"vendor": "deepseek"})
    form = answer.context["adminform"].form
    values = {name: form[name].value() for name in ("name", "type", "base_url", "dialect", "auth_type")}
    assert values == {
        "name": "deepseek",
        "type": "anthropic",
        "base_url": "https://api.deepseek.com/anthropic",
        "dialect": "",
        "auth_type": "api_key",
    }
    assert "platform.deepseek.com" in answer.content.decode()


@pytest.mark.parametrize("name", list(VENDORS))
def test_what_a_vendor_fills_in_can_be_saved_as_it_is(admin_client: Client, name: str) -> None:
    form = admin_client.get(reverse(ADD), {"vendor": name}).context["adminform"].form
    sent = {field: form[field].value() for field in form.fields}
    sent = {field: "" if value is None else value for field, value in sent.items()}
    sent |= {"options": "{}", "enabled": "on", "base_url": sent["base_url"].replace(PLACEHOLDER, "our-")}
    saved(admin_client, reverse(ADD) + f"?vendor={name}", sent)
    made = Provider.objects.get()
    assert (made.name, made.dialect or by_host(made.base_url)) == (name, VENDORS[name].profile)


def test_a_second_provider_of_a_vendor_gets_a_name_of_its_own(admin_client: Client) -> None:
    for name in ("groq", "groq-2"):
        provider(name=name)
    assert admin_client.get(reverse(ADD), {"vendor": "groq"}).context["adminform"].form["name"].value() == "groq-3"


def test_a_vendor_nobody_knows_fills_in_nothing(admin_client: Client) -> None:
    answer = admin_client.get(reverse(ADD), {"vendor": "<script>", "name": "mine"})
    assert answer.context["adminform"].form["name"].value() == "mine"
    assert "<script>&" not in answer.content.decode()


# Preview


def preview(row: Provider) -> str:
    return reverse("admin:providers_provider_preview", args=[row.pk])


def test_a_preview_shows_what_a_provider_would_get(admin_client: Client) -> None:
    known = provider(SECRET, base_url="https://api.openai.com/v1", options={"max_output_tokens": 777})
    assert (
        reverse("admin:providers_provider_preview", args=[known.pk]) in admin_client.get(change(known)).content.decode()
    )
    body = admin_client.get(preview(known)).context["form"]["body"].value()
    page = html.unescape(admin_client.post(preview(known), {"body": body, "model": "gpt-5.6"}).content.decode())
    assert "POST https://api.openai.com/v1/chat/completions" in page
    assert "authorization: Bearer •••" in page
    assert '"max_completion_tokens": 777' in page
    assert '"model": "gpt-5.6"' in page
    assert '"reasoning_effort": "medium"' in page
    assert SECRET not in page


@pytest.mark.parametrize("kind", ["openai", "responses", "anthropic"])
def test_every_language_has_a_preview(admin_client: Client, kind: str) -> None:
    known = provider(type=kind, base_url="https://llm.example.com")
    body = admin_client.get(preview(known)).context["form"]["body"].value()
    seen = admin_client.post(preview(known), {"body": body, "model": ""}).context["seen"]
    assert json.loads(seen.body)["model"] == "claude-sonnet-5-5"
    assert seen.refusal == ""


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "body: not valid JSON"),
        ('{"model": "m", "messages": []}', "messages: at least one message"),
        (
            '{"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "mcp_servers": [{}]}',
            "mcp_servers: not available",
        ),
    ],
)
def test_a_preview_tells_why_a_request_would_be_refused(admin_client: Client, body: str, sentence: str) -> None:
    page = admin_client.post(preview(provider()), {"body": body, "model": ""}).content.decode()
    assert sentence in page
    assert "What the provider would get" not in page


def test_hostile_text_in_a_preview_stays_text(admin_client: Client) -> None:
    known = provider(name="<script>a</script>")
    body = (
        '{"model": "<script>b</script>", "max_tokens": 1, "messages": [{"role": "user", "content": "</pre><script>"}]}'
    )
    page = admin_client.post(preview(known), {"body": body, "model": "<script>c</script>"}).content.decode()
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert not any(f"<script>{letter}" in page for letter in "abc")
    assert "</pre><script>" not in page


def test_who_may_only_look_may_look_at_a_preview_too(client: Client) -> None:
    known = provider(SECRET, options={"pdf": True})
    person = User.objects.create_user("viewer", password="x", is_staff=True)
    client.force_login(person)
    assert client.get(preview(known)).status_code == 403
    person.user_permissions.add(Permission.objects.get(codename="view_provider"))
    assert client.get(preview(known)).status_code == 200
    page = client.get(change(known)).content.decode()
    assert "pdf" in page
    assert "option_pdf" not in page


def test_there_is_no_preview_of_a_provider_that_is_gone(admin_client: Client) -> None:
    known = provider()
    url = preview(known)
    known.delete()
    assert admin_client.get(url).status_code == 404


# Routes


def route_form(*targets: dict[str, Any], initial: int = 0) -> dict[str, str]:
    form = {"pattern": "*sonnet*", "strategy": "priority", "position": "0"}
    form |= {"targets-TOTAL_FORMS": str(len(targets)), "targets-INITIAL_FORMS": str(initial)}
    for number, target in enumerate(targets):
        values = {"upstream_model": "passthrough", "priority": "1", "weight": "1", **target}
        form |= {f"targets-{number}-{name}": str(value) for name, value in values.items()}
    return form


def test_a_route_is_edited_together_with_its_targets(admin_client: Client) -> None:
    first, second = provider(), provider(name="second", enabled=False)
    url = reverse("admin:providers_modelroute_add")
    saved(admin_client, url, route_form({"provider": first.pk}, {"provider": second.pk, "priority": 2}))
    made = ModelRoute.objects.get()
    page = admin_client.get(reverse("admin:providers_modelroute_changelist")).content.decode()
    assert "1. first as passthrough, 2. second as passthrough (disabled)" in page

    [one, other] = made.targets.all()
    form = route_form(
        {"id": one.pk, "route": made.pk, "provider": first.pk, "upstream_model": "gpt-5"},
        {"id": other.pk, "route": made.pk, "provider": second.pk, "DELETE": "on"},
        initial=2,
    )
    saved(admin_client, change(made), form)
    assert [(target.provider.name, target.upstream_model) for target in made.targets.all()] == [("first", "gpt-5")]


def test_a_target_without_weight_is_refused(admin_client: Client) -> None:
    form = route_form({"provider": provider().pk, "weight": 0})
    page = admin_client.post(reverse("admin:providers_modelroute_add"), form).content.decode()
    assert "greater than or equal to 1" in page
    assert not ModelRoute.objects.exists()


def test_a_route_can_be_deleted(admin_client: Client) -> None:
    made, other = ModelRoute.objects.create(pattern="a"), ModelRoute.objects.create(pattern="b")
    RouteTarget.objects.create(route=made, provider=provider())
    saved(admin_client, reverse("admin:providers_modelroute_delete", args=[made.pk]), {"post": "yes"})
    acted(admin_client, reverse("admin:providers_modelroute_changelist"), "delete_selected", other, post="yes")
    assert not ModelRoute.objects.exists()
    assert not RouteTarget.objects.exists()


def test_the_list_of_routes_takes_a_few_queries(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(50):
        provider(name=f"p{number}")
    for number, known in enumerate([*Provider.objects.all(), *Provider.objects.all()]):
        RouteTarget.objects.create(route=ModelRoute.objects.create(pattern=f"r{number}"), provider=known)
    with django_assert_max_num_queries(12):
        answer = admin_client.get(reverse("admin:providers_modelroute_changelist"))
    assert len(answer.context["cl"].result_list) == 100


def test_an_empty_line_that_dragging_has_numbered_stays_empty(admin_client: Client) -> None:
    first, second = provider(), provider(name="second")
    made = ModelRoute.objects.create(pattern="*sonnet*")
    one = RouteTarget.objects.create(route=made, provider=first, priority=1)
    two = RouteTarget.objects.create(route=made, provider=second, priority=2)
    form = route_form(
        {"id": one.pk, "route": made.pk, "provider": first.pk, "priority": 1},
        {"id": two.pk, "route": made.pk, "provider": second.pk, "priority": 0},
        {"provider": "", "priority": 2},
        initial=2,
    )
    saved(admin_client, change(made), form)
    assert [target.provider.name for target in made.targets.all()] == ["second", "first"]


@pytest.mark.parametrize("more", [{"upstream_model": "gpt-5.1"}, {"upstream_model": "x", "priority": 7}])
def test_a_line_with_a_model_and_no_provider_is_told(admin_client: Client, more: dict[str, Any]) -> None:
    form = route_form({"provider": provider().pk}, {"provider": "", **more})
    answer = admin_client.post(reverse("admin:providers_modelroute_add"), form)
    assert "This field is required." in answer.content.decode()
    assert not ModelRoute.objects.exists()


def test_equal_priorities_stay_possible_and_are_explained(admin_client: Client) -> None:
    first, second = provider(), provider(name="second")
    form = route_form({"provider": first.pk, "weight": 2}, {"provider": second.pk})
    saved(admin_client, reverse("admin:providers_modelroute_add"), {**form, "strategy": "random"})
    made = ModelRoute.objects.get()
    assert list(made.targets.values_list("priority", "weight")) == [(1, 2), (1, 1)]
    page = admin_client.get(change(made)).content.decode()
    assert "drawn by weight" in page
    assert "typing may give two lines the same number" in page


def test_the_order_of_routes_is_dragged_in_their_list(admin_client: Client) -> None:
    first, second = ModelRoute.objects.create(pattern="a*"), ModelRoute.objects.create(pattern="*a")
    url = reverse("admin:providers_modelroute_changelist")
    page = admin_client.get(url).content.decode()
    assert 'data-ordering-field="position"' in page
    form = {"form-TOTAL_FORMS": "2", "form-INITIAL_FORMS": "2", "_save": "Save"}
    for number, row in enumerate((second, first)):
        form |= {f"form-{number}-id": str(row.pk), f"form-{number}-position": str(number)}
    saved(admin_client, url, form)
    assert list(ModelRoute.objects.values_list("pattern", flat=True)) == ["*a", "a*"]


def test_the_list_of_routes_shows_what_each_takes_and_who_is_ill(admin_client: Client) -> None:
    first = provider()
    ProviderHealth.objects.create(provider=first, checked_at=timezone.now(), ok=False)
    ModelList.objects.create(
        provider=first, base_url=first.base_url, listed=[["zeta-opus", None, None]], seen_at=timezone.now()
    )
    for pattern in ("*opus*", "claude-opus-5-5", "nothing*"):
        RouteTarget.objects.create(route=ModelRoute.objects.create(pattern=pattern), provider=first)
    answer = admin_client.get(reverse("admin:providers_modelroute_changelist"))
    shown = {row.pattern: row.taken for row in answer.context["cl"].result_list}
    assert shown == {
        "*opus*": ["claude-opus-4-5", "zeta-opus"],
        "claude-opus-5-5": ["claude-opus-5-5"],
        "nothing*": [],
    }
    assert "1. first as passthrough (ill)" in answer.content.decode()


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [("claude-opus[1m]", "Leave out [1m]"), ("*HAIKU*", "There is a route *haiku* already"), ("", "required")],
)
def test_a_pattern_that_will_not_do_is_told_beside_it(admin_client: Client, pattern: str, sentence: str) -> None:
    ModelRoute.objects.create(pattern="*haiku*")
    form = {**route_form({"provider": provider().pk}), "pattern": pattern}
    answer = admin_client.post(reverse("admin:providers_modelroute_add"), form)
    assert sentence in " ".join(answer.context["adminform"].form.errors["pattern"])


def test_a_search_finds_a_provider_by_its_route_once(admin_client: Client) -> None:
    known, _ = provider(), provider(name="second")
    for pattern in ("*opus*", "opus-1"):
        RouteTarget.objects.create(route=ModelRoute.objects.create(pattern=pattern), provider=known)
    answer = admin_client.get(reverse(LIST), {"q": "opus"})
    assert [row.name for row in answer.context["cl"].result_list] == ["first"]
