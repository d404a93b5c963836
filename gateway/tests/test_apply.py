"""A configuration file: what it does, what it leaves alone, and how its mistakes are told."""

from __future__ import annotations

import datetime as dt
import io
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounting import keys
from accounting.models import ApiKey, CostCentre, Price
from accounting.snapshot import read_books
from gateway.apply import Report, apply
from gateway.yaml_lines import BadFile
from providers.models import ConfigVersion, ModelRoute, Provider, RouteTarget

pytestmark = pytest.mark.django_db

SECRET = "sk-canary-7f3a"
ENVIRON = {"SECRET": SECRET, "TOKEN": keys.mint(), "HOST": "api.example.com", "OFF": "false", "EMPTY": ""}

# The shape of the Provider Balancer, as its users have it.
BALANCER = """
providers:
  - name: "Official"
    type: "anthropic"
    base_url: "https://api.anthropic.com"
    auth_type: "auth_token"
    auth_value: "passthrough"
    proxy: "http://127.0.0.1:10808"
    enabled: false
  - name: "GAC"
    type: "anthropic"
    base_url: "https://gac.example/claudecode"
    auth_type: "api_key"
    auth_value: "sk-canary-7f3a"
    streaming_mode: "auto"
    enabled: true
  - name: "OpenRouter"
    type: "openai"
    base_url: "https://openrouter.ai/api/v1"
    auth_type: "api_key"
    auth_value: ""
    enabled: true
model_routes:
  "*sonnet*":
    - {provider: "GAC", model: "passthrough", priority: 1}
    - {provider: "OpenRouter", model: "google/gemini-2.5-pro", priority: 2}
  "*haiku*":
    - {provider: "OpenRouter", model: "anthropic/claude-3.5-haiku", priority: 1}
    - {provider: "Official", model: "passthrough", priority: 2, enabled: false}
settings:
  selection_strategy: "round_robin"
  failure_cooldown: 180
  timeouts: {streaming: {read_timeout: 120}}
auth:
  enabled: true
  api_key: "sk-canary-7f3a"
  exempt_paths: ["/health"]
"""

OURS = """
cost_centres:
  - R&D
  - {code: OPS, name: Operations}
providers:
  - name: deepseek
    type: openai
    base_url: https://${HOST}/v1
    auth_type: header:X-Key
    auth_value: ${SECRET}
    enabled: ${OFF}
    dialect: deepseek
    normalise: true
    pdf: false
    idle_timeout: 30
    options: {max_tool_description: 1024}
model_routes:
  "*":
    strategy: random
    targets:
      - {provider: deepseek, model: deepseek-chat, weight: 3}
      - {provider: deepseek, weight: 1, priority: 2}
  claude-x: [{provider: deepseek}]
keys:
  - {name: alice, owner: Alice, cost_centre: R&D, models: ["*haiku*"], scopes: [messages, operator]}
  - {name: bob, token: "${TOKEN}", models: deepseek-chat, expires: 2999-12-31}
  - {name: carol, revoked: yes}
prices:
  - {model: deepseek-chat, provider: deepseek, valid_from: 2026-01-01, input: 0.27, cache_read: 0.07, output: 1.1}
  - {model: "deepseek-*", input: 0.1, currency: EUR, source: a list}
"""


def run(text: str, **options: Any) -> Report:
    return apply(text, ENVIRON, **options)


def mistakes(text: str) -> list[str]:
    with pytest.raises(BadFile) as caught:
        run(text)
    assert SECRET not in str(caught.value)
    return [str(mistake) for mistake in caught.value.mistakes]


def targets(pattern: str) -> list[tuple[str, str, int, int]]:
    found = RouteTarget.objects.filter(route__pattern=pattern).select_related("provider").order_by("pk")
    return [(target.provider.name, target.upstream_model, target.priority, target.weight) for target in found]


def test_the_balancers_file_is_taken_as_it_is() -> None:
    report = run(BALANCER)

    official, gac = Provider.objects.get(name="Official"), Provider.objects.get(name="GAC")
    assert (official.credential_mode, official.auth_type, official.enabled) == ("client_token", "bearer", False)
    assert (gac.credential, gac.credential_mode, gac.auth_type) == (SECRET, "own", "api_key")
    assert targets("*sonnet*") == [("GAC", "passthrough", 1, 1), ("OpenRouter", "google/gemini-2.5-pro", 2, 1)]
    assert targets("*haiku*") == [("OpenRouter", "anthropic/claude-3.5-haiku", 1, 1)]
    assert set(ModelRoute.objects.values_list("strategy", flat=True)) == {"round_robin"}
    assert "settings: accepted without effect: failure_cooldown, timeouts" in report.notices
    assert any(notice.startswith("auth: accepted without effect") for notice in report.notices)
    assert any("proxy" in notice for notice in report.notices)
    assert any(notice.startswith("provider OpenRouter: has no credential") for notice in report.notices)
    assert any("the target in line 29 is disabled" in notice for notice in report.notices)
    assert SECRET not in str(report)


def test_everything_of_ours_is_taken_too() -> None:
    run(OURS)

    deepseek = Provider.objects.get()
    assert (deepseek.base_url, deepseek.credential) == ("https://api.example.com/v1", SECRET)
    assert (deepseek.enabled, deepseek.dialect, deepseek.idle_timeout) == (False, "deepseek", 30)
    assert deepseek.options == {"max_tool_description": 1024, "normalise": True, "pdf": False}
    assert targets("*") == [("deepseek", "deepseek-chat", 1, 3), ("deepseek", "passthrough", 2, 1)]
    assert [(route.pattern, route.strategy) for route in ModelRoute.objects.all()] == [
        ("*", "random"),
        ("claude-x", "priority"),
    ]

    alice, bob, carol = ApiKey.objects.all()
    assert (alice.owner, str(alice.cost_centre), alice.allowed_models) == ("Alice", "R&D", ["*haiku*"])
    assert alice.scopes == ["messages", "operator"]
    assert bob.expires_at == dt.datetime(3000, 1, 1, tzinfo=dt.UTC)
    assert (bob.digest, bob.allowed_models) == (keys.digest(ENVIRON["TOKEN"]), ["deepseek-chat"])
    assert carol.state() == "revoked"
    assert list(CostCentre.objects.values_list("code", "name")) == [("OPS", "Operations"), ("R&D", "")]

    wide, narrow = Price.objects.all()
    assert (wide.model, wide.provider, wide.input, wide.currency) == ("deepseek-*", None, Decimal("0.1"), "EUR")
    assert (narrow.provider, narrow.output) == (deepseek, Decimal("1.1"))
    assert narrow.valid_from == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_a_new_key_is_told_once_and_one_of_your_own_never() -> None:
    report = run(OURS)
    assert [name for name, _ in report.issued] == ["alice", "carol"]
    assert all(keys.is_well_formed(token) for _, token in report.issued)
    assert ENVIRON["TOKEN"] not in str(report)
    assert run(OURS).issued == []


@pytest.mark.parametrize("text", [BALANCER, OURS])
def test_a_second_time_nothing_changes(text: str) -> None:
    run(text)
    before = ConfigVersion.current()
    assert run(text).changes == []
    assert ConfigVersion.current() == before


@pytest.mark.parametrize("text", [BALANCER, OURS])
def test_a_dry_run_says_the_same_and_changes_nothing(text: str) -> None:
    report = run(text, dry_run=True)
    assert ConfigVersion.current() == 0
    assert not Provider.objects.exists()
    assert not ApiKey.objects.exists()
    assert report.issued == []
    assert run(text).changes == report.changes


def test_what_the_file_does_not_name_stays() -> None:
    run(OURS)
    other = Provider.objects.create(name="other", type="openai", base_url="https://other.example")
    Provider.objects.filter(name="deepseek").update(total_timeout=77)
    kept = ModelRoute.objects.create(pattern="mine")
    RouteTarget.objects.create(route=kept, provider=other)

    report = run("providers: [{name: deepseek, idle_timeout: 31, pdf: null}]\nmodel_routes: {'*': [{provider: other}]}")

    deepseek = Provider.objects.get(name="deepseek")
    assert (deepseek.total_timeout, deepseek.idle_timeout, deepseek.credential) == (77, 31, SECRET)
    assert deepseek.options == {"max_tool_description": 1024, "normalise": True}
    assert targets("*") == [("other", "passthrough", 1, 1)]
    assert targets("mine") == [("other", "passthrough", 1, 1)]
    assert ModelRoute.objects.get(pattern="*").strategy == "random"
    assert report.changes == ["provider deepseek: changed idle_timeout, options", "route *: changed targets"]


def test_a_change_of_host_drops_the_credential_aloud() -> None:
    run(OURS)
    report = run("providers: [{name: deepseek, base_url: 'https://elsewhere.example'}]")
    assert Provider.objects.get().credential == ""
    assert report.notices == ["provider deepseek: its credential was dropped: it was given for another host"]


def test_a_credential_and_its_host_may_change_together() -> None:
    run(OURS)
    run("providers: [{name: deepseek, base_url: 'https://elsewhere.example', auth_value: other}]")
    assert Provider.objects.get().credential == "other"


def test_an_empty_credential_keeps_what_is_there() -> None:
    run(OURS)
    assert run("providers: [{name: deepseek, auth_value: ''}]").changes == []
    assert Provider.objects.get().credential == SECRET


def test_a_provider_that_logs_in_by_oauth_is_taken_but_disabled() -> None:
    report = run("providers: [{name: a, type: anthropic, base_url: 'https://a.example', auth_type: oauth}]")
    assert not Provider.objects.get().enabled
    assert any("oauth is not offered" in notice for notice in report.notices)


def test_the_demo_leaves_with_the_first_provider_of_a_file() -> None:
    stand_in = Provider.objects.create(name="stand-in", type="anthropic", base_url="http://127.0.0.1:1", is_demo=True)
    RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="claude-*"), provider=stand_in)
    report = run("providers: [{name: real, type: anthropic, base_url: 'https://a.example'}]")
    assert [provider.name for provider in Provider.objects.all()] == ["real"]
    assert not ModelRoute.objects.exists()
    assert "the demo has left, and its route with it" in report.changes


def test_a_demo_that_a_file_names_is_no_demo_any_more() -> None:
    Provider.objects.create(name="demo", type="anthropic", base_url="http://127.0.0.1:1", is_demo=True)
    run("providers: [{name: demo, base_url: 'https://a.example'}]")
    assert not Provider.objects.get().is_demo


def test_a_token_from_the_file_ends_those_before_it() -> None:
    key, _ = ApiKey.issue("bob")
    key.rotate(dt.timedelta(days=7))
    run("keys: [{name: bob, token: '${TOKEN}'}]")
    key.refresh_from_db()
    assert (key.previous_digest, key.previous_until) == (None, None)


def test_the_token_that_a_key_had_before_can_be_given_back_for_good() -> None:
    run("keys: [{name: bob, token: '${TOKEN}'}]")
    ApiKey.objects.get().rotate(dt.timedelta(days=7))
    run("keys: [{name: bob, token: '${TOKEN}'}]")
    [card] = read_books().keys.values()
    assert card.expires_at is None


def test_the_present_token_in_a_file_leaves_the_one_before_its_time() -> None:
    run("keys: [{name: bob, token: '${TOKEN}'}]")
    key = ApiKey.objects.get()
    key.previous_digest, key.previous_until = "before", timezone.now() + dt.timedelta(days=7)
    key.save()
    run("keys: [{name: bob, owner: Bob, token: '${TOKEN}'}]")
    assert ApiKey.objects.get().previous_digest == "before"


def test_a_revoked_key_stays_revoked() -> None:
    run("keys: [{name: alice, revoked: true}]")
    revoked_at = ApiKey.objects.get().revoked_at
    report = run("keys: [{name: alice, revoked: false}]")
    assert ApiKey.objects.get().revoked_at == revoked_at
    assert report.notices == ["key alice: is revoked and stays so: issue a new one instead"]


def test_a_key_may_get_another_token_of_your_own() -> None:
    first, _ = ApiKey.issue("bob")
    report = run("keys: [{name: bob, token: '${TOKEN}'}]")
    assert ApiKey.objects.get().digest == keys.digest(ENVIRON["TOKEN"]) != first.digest
    assert report.changes == ["key bob: changed token"]


def test_a_price_without_a_date_holds_from_now_and_leaves_the_old_one() -> None:
    run("prices: [{model: m, input: 1}]")
    run("prices: [{model: m, input: 1.0}]")
    assert Price.objects.count() == 1
    run("prices: [{model: m, input: 2}]")
    assert [price.input for price in Price.objects.order_by("valid_from")] == [1, 2]


def test_a_price_with_a_date_is_that_row() -> None:
    run("prices: [{model: m, valid_from: 2026-01-01, input: 1}]")
    run("prices: [{model: m, valid_from: 2026-01-01, input: 0.000001}]")
    assert Price.objects.get().input == Decimal("0.000001")


def test_the_order_of_the_file_decides_between_equals() -> None:
    run(
        "providers: [{name: a, type: openai, base_url: 'https://a.example'}]\n"
        "model_routes:\n  '*b*': [{provider: a}]\n  '*a*': [{provider: a}]"
    )
    assert [route.pattern for route in ModelRoute.objects.all()] == ["*b*", "*a*"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${SECRET}", SECRET),
        ("a${HOST}b", "aapi.example.comb"),
        ("${MISSING:-there}", "there"),
        ("${EMPTY:-there}", "there"),
        ("x${EMPTY:-}y", "xy"),
        ("$${SECRET}", "${SECRET}"),
        ("$SECRET", "$SECRET"),
        ("0123", "0123"),
        ("on", "on"),
        ("1e3", "1e3"),
    ],
)
def test_texts_are_taken_as_written_and_variables_filled_in(written: str, read: str) -> None:
    run(f"keys: [{{name: alice, owner: {written if '$' not in written else repr(written)}}}]")
    assert ApiKey.objects.get().owner == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("true", True),
        ("7", 7),
        ("0.5", 0.5),
        ("'7'", "7"),
        ("${OFF}", False),
        ("2026-01-01", "2026-01-01"),
        (".nan", ".nan"),
    ],
)
def test_options_mean_what_they_mean_in_yaml(written: str, read: object) -> None:
    run(f"providers:\n- name: a\n  type: openai\n  base_url: https://a.example\n  habit: {written}")
    [value] = Provider.objects.get().options.values()
    assert value == read
    assert type(value) is type(read)


def test_aliases_and_merged_mappings_work() -> None:
    run(
        "providers:\n"
        "- &a {name: a, type: openai, base_url: 'https://a.example', idle_timeout: 5}\n"
        "- {<<: *a, name: b, idle_timeout: 6}\n"
    )
    assert list(Provider.objects.values_list("name", "idle_timeout")) == [("a", 5), ("b", 6)]


P = "providers:\n- {name: p, type: openai, base_url: 'https://p.example'}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: one or more of cost_centres, providers"),
        ("- a", "line 1: one or more of"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("\tproviders:", "line 1: found character"),
        ("model_routes:\n  *sonnet*: []", "line 2: .*a pattern that begins with \\* needs quotes"),
        ("\x00", "line 1: this is no YAML text"),
        ("--- {}\n--- {}", "line 2: but found another document"),
        ("a: &a [*a]\nproviders: !!python/object:os.system {}", "line 1: this refers to itself"),
        ("providers: !!python/object:os.system {}", "line 1: the tag .* has no meaning here|line 1: a list"),
        ("\nprovider: []", "line 2: provider is unknown; did you mean providers\\?"),
        ("providers: []\nproviders: []", "line 2: providers stands here a second time; the first is in line 1"),
        ("providers: {}", "line 1: a list is expected, each entry with its name"),
        ("providers: [a]", "line 1: a provider needs a name"),
        ("providers:\n- name: ''", "line 2: a provider needs a name"),
        (P + "- {name: p}", "line 3: provider p stands in line 2 already"),
        ("providers:\n- name: p\n  type: openai", "line 2: provider p: base_url is missing"),
        ("providers:\n- name: p\n  base_url: ''\n  type: openai", "line 3: provider p: base_url: .*cannot be blank"),
        (
            "providers:\n- {name: p, base_url: 'https://p.example',\n  type: '${SECRET}'}",
            "line 3: .*type: say one of anthropic, openai",
        ),
        ("providers:\n- {name: p, type: openai, base_url: 'https://u:${SECRET}@p.example'}", "line 2: .*a password"),
        (P + "  \n- {name: q, type: openai, base_url: p.example}", "line 4: provider q: base_url: A URL is expected"),
        (
            P.replace("'https", "\n  'https").replace("}", ", auth_type: magic}"),
            "line 3: provider p: auth_type: Say api_key",
        ),
        (P.replace("}", ", enabeld: false}"), "line 2: provider p: enabeld is unknown; did you mean enabled\\?"),
        (P.replace("}", ", enabled: perhaps}"), "line 2: provider p: enabled: true or false is expected"),
        (P.replace("}", ", idle_timeout: '${SECRET}'}"), "line 2: provider p: idle_timeout: “…” value must be a float"),
        (P.replace("}", ", idle_timeout: 0}"), "line 2: provider p: idle_timeout: .*greater than or equal to 0.1"),
        (P.replace("}", ", options: [a]}"), "line 2: provider p: options: names with values are expected"),
        (P.replace("}", ", auth_value: [a]}"), "line 2: provider p: auth_value: a text is expected"),
        (P.replace("}", ", auth_value: '${MISSING}'}"), "line 2: the environment variable MISSING is not set"),
        (P.replace("}", ", auth_value: '${EMPTY}'}"), "line 2: the environment variable EMPTY is not set"),
        ("providers:\n- name: ${MISSING}", "line 2: the environment variable MISSING is not set"),
        ("model_routes: []", "line 1: model_routes: patterns with their targets are expected"),
        ("model_routes:\n  a:\n  - provider: q", "line 3: route a: there is no provider q"),
        (P + "model_routes: {a: [{provider: P}]}", "line 3: route a: there is no provider P"),
        (P + "model_routes: {a: [{model: m}]}", "line 3: route a: provider is missing"),
        (P + "model_routes: {a: []}", "line 3: route a: a list of targets is expected"),
        (P + "model_routes: {a: [p]}", "line 3: route a: a target needs at least a provider"),
        (P + "model_routes: {a: [{provider: p, weight: 0}]}", "line 3: route a: weight: .*greater than or equal to 1"),
        (
            P + "model_routes: {a: [{provider: p, wieght: 1}]}",
            "line 3: route a: wieght is unknown; did you mean weight",
        ),
        (
            P + "model_routes: {a: {strategy: luck, targets: [{provider: p}]}}",
            "line 3: route a: strategy: say one of priority",
        ),
        (
            "settings: {selection_strategy: luck}",
            "line 1: settings: selection_strategy: say one of priority, round_robin",
        ),
        ("keys: [{name: a, cost_centre: x}]", "line 1: key a: there is no cost centre x"),
        ("keys: [{name: a, scopes: [root]}]", "line 1: key a: scopes: Known scopes are messages, operator"),
        ("keys: [{name: a, models: [[]]}]", "line 1: key a: models: a list of names is expected"),
        ("keys: [{name: a, expires: soon}]", "line 1: key a: expires: a day or a moment is expected"),
        ("keys: [{name: a, token: '${SECRET}'}]", "line 1: key a: token: no issued key looks like this"),
        (
            "keys: [{name: a, token: '${TOKEN}'}, {name: b,\n  token: '${TOKEN}'}]",
            "line 2: key b: token: .*already exists",
        ),
        ("prices: [{model: m, input: -1}]", "line 1: price m: input: .*greater than or equal to 0"),
        ("prices: [{model: m, input: 0.0000001}]", "line 1: price m: input: .*no more than 6 decimal places"),
        ("prices: [{model: m, provider: q}]", "line 1: price m: there is no provider q"),
        ("prices:\n- {model: m}\n- {model: m}", "line 3: price m: the same price stands in line 2 already"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, expected: str) -> None:
    told = mistakes(text)
    assert any(re.search(expected, line) for line in told), told
    assert ConfigVersion.current() == 0


def test_every_mistake_is_told_at_once_and_none_twice() -> None:
    text = (
        "providers:\n"
        "- {name: p, type: magic, base_url: 'https://p.example'}\n"
        "- {name: q, type: openai, base_url: 'https://q.example', auth_value: '${MISSING}'}\n"
        "model_routes:\n"
        "  a: [{provider: p}, {provider: r}]\n"
        "keys:\n"
        "- {name: k, owner: '${MISSING}', expires: soon}\n"
    )
    assert [line.split(":")[0] for line in mistakes(text)] == ["line 2", "line 3", "line 5", "line 7", "line 7"]
    assert not Provider.objects.exists()


def test_a_bad_file_undoes_what_stood_before_the_mistake() -> None:
    run(OURS)
    before = ConfigVersion.current()
    mistakes(OURS.replace("idle_timeout: 30", "idle_timeout: 99") + "\nnonsense: 1")
    assert ConfigVersion.current() == before
    assert Provider.objects.get().idle_timeout == 30


def command(path: Path, *arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("apply", str(path), *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_command_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "ccproxy.yaml"
    path.write_text(OURS)

    dry, _ = command(path, "--dry-run")
    out, err = command(path)
    again, _ = command(path)

    assert out.startswith(dry)
    assert "provider deepseek: made\n" in dry
    token = next(line.removeprefix("alice: ") for line in out.splitlines() if line.startswith("alice: "))
    assert ApiKey.objects.get(name="alice").digest == keys.digest(token)
    assert token not in dry + err + again
    assert again == "nothing to change\n"
    assert SECRET not in dry + out + err + again


def test_the_command_names_the_file_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "ccproxy.yaml"
    path.write_text("nonsense: 1\nmore: 2")
    with pytest.raises(CommandError) as caught:
        command(path)
    assert str(caught.value) == (
        f"{path}: nothing was changed.\n  line 1: nonsense is unknown\n  line 2: more is unknown"
    )


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        command(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    with pytest.raises(CommandError, match="no text in UTF-8"):
        command(tmp_path / "latin.yaml")


def test_the_example_of_the_documentation_works() -> None:
    page = (Path(__file__).parents[2] / "docs" / "apply.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    report = apply(example, {"ANTHROPIC_API_KEY": SECRET, "OPENROUTER_API_KEY": SECRET})
    assert [name for name, _ in report.issued] == ["alice", "build"]
    assert report.notices == []
    assert apply(example, {"ANTHROPIC_API_KEY": SECRET, "OPENROUTER_API_KEY": SECRET}).changes == []
