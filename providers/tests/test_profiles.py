"""Which habits a provider has: found by its host, by name, by model, and by its own options."""

from __future__ import annotations

from typing import Any

import pytest

from providers.dialects.profiles import ANTHROPIC_ENDPOINTS, HOSTS, PROFILES, Habits, by_host, habits, problem_of
from providers.dialects.reasoning import reasons_always
from providers.dialects.settings import TRANSLATED, problem, shown
from providers.routing import Endpoint


def endpoint(base_url: str = "https://llm.corp.example/v1", **options: Any) -> Endpoint:
    return Endpoint(1, "x", "openai", base_url, options=options)


@pytest.mark.parametrize(
    ("base_url", "family"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://me.openai.azure.com/openai", "azure"),
        ("https://me.services.ai.azure.com/models", "azure"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("https://api.moonshot.cn/v1", "kimi"),
        ("https://api.moonshot.ai/v1", "kimi"),
        ("https://api.z.ai/api/paas/v4", "glm"),
        ("https://open.bigmodel.cn/api/paas/v4", "glm"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "qwen"),
        ("https://api.minimax.io/v1", "minimax"),
        ("https://api.minimaxi.com/v1", "minimax"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.x.ai/v1", "xai"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://vllm:8000/v1", "vllm"),
        ("http://sglang:30000/v1", "sglang"),
        ("http://llamacpp:8080", "llamacpp"),
        ("http://lmstudio:1234/v1", "lmstudio"),
        ("https://llm.corp.example/v1", "llm.corp.example"),
        ("https://notopenai.com/api.openai.com", "notopenai.com"),
        ("https://api.openai.com.evil.example/v1", "api.openai.com.evil.example"),
    ],
)
def test_the_host_tells_the_family(base_url: str, family: str) -> None:
    assert habits(endpoint(base_url)).family == family


def test_every_row_has_a_host_and_every_host_a_row() -> None:
    assert {name for _, name in HOSTS} == set(PROFILES) - {"generic"}
    assert set(ANTHROPIC_ENDPOINTS) <= set(PROFILES)
    for name, address in ANTHROPIC_ENDPOINTS.items():
        assert by_host(address) == name


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_row_is_legal_and_can_be_chosen_by_name(name: str) -> None:
    row = PROFILES[name]
    assert {field: problem_of(field, value) for field, value in row.items()} == dict.fromkeys(row)
    ours = habits(endpoint(dialect=name))
    assert ours.family == (name if name != "generic" else "llm.corp.example")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai", {"max_tokens_field": "max_completion_tokens", "mid_system": "developer", "pdf": True}),
        ("azure", {"max_tokens_field": "max_completion_tokens", "service_tier": False}),
        ("openrouter", {"reasoning": "openrouter", "reasoning_history": "reasoning_details", "top_k": True}),
        ("deepseek", {"prefill": "prefix", "reasoning_filler": "", "forced_choice_when_thinking": "auto"}),
        ("gemini", {"schema_profile": "gemini", "reasoning_history": "thought_signature"}),
        ("kimi", {"reasoning": "off", "reasoning_filler": " "}),
        ("glm", {"reasoning": "thinking", "reasoning_history": "reasoning_content"}),
        ("qwen", {"reasoning": "qwen", "forced_choice_when_thinking": "auto"}),
        ("minimax", {"reasoning": "off", "think_tags": "tags", "reasoning_history": "reasoning_content"}),
        ("mistral", {"tool_id_limit": 9, "assistant_after_tool": True, "forced_choice": "any", "reasoning": "off"}),
        ("groq", {"max_tokens_field": "max_completion_tokens"}),
        ("xai", {"max_tokens_field": "max_completion_tokens", "reasoning_outside": True}),
        ("ollama", {"top_k": True, "efforts": ("none", "low", "medium", "high")}),
        ("vllm", {"reasoning": "template", "prefill": "continue"}),
        ("sglang", {"reasoning": "template"}),
        ("llamacpp", {"max_tokens_field": "max_tokens"}),
        ("lmstudio", {"max_tokens_field": "max_tokens"}),
        ("generic", {"max_tokens_field": "max_tokens", "stream_usage": True, "reasoning": "effort"}),
    ],
)
def test_what_a_row_says(name: str, expected: dict[str, Any]) -> None:
    ours = habits(endpoint(dialect=name))
    assert {field: getattr(ours, field) for field in expected} == expected
    assert ours.mid_system == ("developer" if name in {"openai", "azure"} else "user")


def test_an_option_comes_before_the_row_and_nonsense_is_passed_over() -> None:
    ours = habits(endpoint("https://api.openai.com/v1", pdf=False, mid_system="shouted", vision="false", unknown=1))
    assert (ours.pdf, ours.mid_system, ours.vision) == (False, "developer", False)


def test_a_model_may_have_habits_of_its_own() -> None:
    models = {"*": {"vision": False}, "qwen3*": {"vision": True, "efforts": ["low"]}}
    ours = endpoint("https://api.openai.com/v1", models=models, efforts=["high"])
    assert habits(ours, "QWEN3-vl").vision
    assert habits(ours, "Qwen3-vl").efforts == ("low",)
    assert not habits(ours, "gpt-5.6").vision
    assert habits(ours, "o3").efforts == ("high",)  # the provider's option before the row's word on the model
    assert habits(endpoint("https://api.openai.com/v1"), "o3").efforts == ("low", "medium", "high")
    assert habits(ours).pdf


@pytest.mark.parametrize(
    ("model", "always"),
    [
        ("o3", True),
        ("o4-mini-2026-01-01", True),
        ("gpt-5", True),
        ("gpt-5.1-codex", True),
        ("GPT-6", True),
        ("gpt-5-chat-latest", False),
        ("gpt-5.1-chat-latest", False),
        ("gpt-4o", False),
        ("omni-moderation", False),
    ],
)
def test_which_models_of_openai_always_reason(model: str, always: bool) -> None:
    assert reasons_always(model, habits(endpoint("https://api.openai.com/v1"), model)) is always


def test_nobody_knows_whether_a_strangers_model_reasons() -> None:
    assert reasons_always("gpt-5", habits(endpoint())) is None


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("pdf", True, None),
        ("pdf", "perhaps", "Expected `bool`"),
        ("mid_system", "shouted", "no such choice"),
        ("efforts", ["low", "huge"], "each must be one of none, minimal"),
        ("max_output_tokens", "many", "Expected `int | null`"),
        ("models", {"a*": {"vision": False}}, None),
        ("models", {"a*": {"visoin": False}}, "a*: there is no setting visoin"),
        ("models", {"a*": {"vision": "dim"}}, "a*: vision: Expected `bool`"),
        ("models", {"a*": {"models": {}}}, "a*: there is no setting models"),
        ("models", {"a*": 3}, "Expected `object`"),
    ],
)
def test_an_illegal_value_is_told(field: str, value: Any, sentence: str | None) -> None:
    told = problem_of(field, value)
    assert told == sentence if sentence is None else (told or "").startswith(sentence)


def test_every_habit_has_a_name_and_a_sentence() -> None:
    assert set(TRANSLATED) == set(Habits.__struct_fields__)
    for setting in TRANSLATED.values():
        assert setting.label[0].isupper()
        assert setting.help.endswith(".")
        assert problem("openai", setting.name, setting.default) is None
    assert len({setting.label for setting in TRANSLATED.values()}) == len(TRANSLATED)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pdf", "switch"),
        ("mid_system", "choice"),
        ("tool_id_limit", "number"),
        ("max_output_tokens", "number"),
        ("api_version", "text"),
        ("reasoning_filler", "exact text"),
        ("efforts", "list"),
        ("reasoning_models", "list"),
        ("models", "table"),
    ],
)
def test_the_kind_of_a_setting(name: str, kind: str) -> None:
    assert TRANSLATED[name].kind == kind


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (None, "none"), (("a", "b"), "a, b"), ((), "[]"), (" ", '" "'), ("", '""'), (3, "3"), ({}, "")],
)
def test_a_value_on_a_page(value: Any, text: str) -> None:
    assert shown(value) == text
