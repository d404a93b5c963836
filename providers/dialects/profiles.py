"""How providers differ, as data: a row of habits for each, found by the host of the base URL.

An option of the provider with the same name comes before the row, and the row before the default below, which is
what is safe with a provider nobody knows. What each habit means stands in settings.py, in words.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from providers.dialects.dialect import Exchange
from providers.dialects.lessons import REASONING_DEMANDED, STATE_REFUSED
from providers.routing import Endpoint

MOST_KNOWN = 1024
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Habits(msgspec.Struct, frozen=True):
    family: str = "generic"

    # Parameters
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_output_tokens: int | None = None
    stop: bool = True
    top_k: bool = False
    stream_usage: bool = True
    service_tier: bool = False
    fast_tier: bool = False
    safety_identifier: Literal["none", "safety_identifier", "user"] = "none"
    prompt_cache_key: bool = False
    cache_marks: Literal["drop", "cache_control", "breakpoint"] = "drop"
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    structured_with_tools: bool = True
    api_version: str = ""

    # Conversation
    system_role: Literal["system", "developer"] = "system"
    mid_system: Literal["user", "developer", "system"] = "user"
    user_first: bool = False
    assistant_after_tool: bool = False
    null_content: bool = True
    prefill: Literal["plain", "prefix", "continue", "refuse"] = "plain"
    vision: bool = True
    strict_media: bool = False
    pdf: bool = False
    document_addresses: bool = False

    # Tools
    tool_name_limit: int = 64
    tool_id_limit: int = 40
    tool_id_form: Literal["free", "alphanumeric"] = "free"
    most_tools: int = 128
    max_tool_description: int | None = None
    tool_examples: bool = False
    needs_tools: bool = False
    schema_profile: Literal["openai", "gemini", "minimal"] = "openai"
    parallel_tool_calls: bool = True
    strict_parallel: bool = False
    forced_choice: Literal["required", "any", "auto"] = "required"
    forced_choice_when_thinking: Literal["send", "auto", "stop_thinking"] = "send"
    none_choice: bool = True
    web_search: Literal["no", "native"] = "no"
    computer_use: bool = False

    # Reasoning
    reasoning: Literal["effort", "thinking", "thinking_effort", "openrouter", "qwen", "template", "off"] = "effort"
    efforts: tuple[str, ...] = ("low", "medium", "high")
    reasoning_models: tuple[str, ...] | None = None
    reasoning_history: Literal["none", "reasoning_content", "reasoning_details", "thought_signature", "items"] = "none"
    reasoning_filler: str | None = None
    reasoning_summary: Literal["asked", "always", "never"] = "asked"
    thinking: Literal["show", "hide"] = "show"

    # Answers
    think_tags: Literal["no", "tags", "open"] = "no"
    split_names: bool = False
    repair_args: bool = False
    reasoning_outside: bool = False
    refusal_stop_reason: Literal["refusal", "end_turn"] = "refusal"
    refusal_as_answer: bool = False  # moderation's error is told as a turn that ends in a refusal
    empty_answer_text: str = "(The model returned no text.)"

    # By patterns of the upstream's model names; the last one that matches counts most.
    models: Mapping[str, Mapping[str, Any]] = {}


_LOW_TO_HIGH = ("low", "medium", "high")
_GPT = EFFORTS[:-2]
# The newest take every level. Those named here take fewer.
_OPENAI: dict[str, Any] = {
    "max_tokens_field": "max_completion_tokens",
    "mid_system": "developer",
    "pdf": True,
    "service_tier": True,
    "prompt_cache_key": True,
    "efforts": EFFORTS,
    "reasoning_models": ("!gpt-*-chat*", "o[0-9]*", "gpt-[5-9]*", "codex*"),
    "models": {
        "o[0-9]*": {"efforts": _LOW_TO_HIGH},
        "gpt-5": {"efforts": _GPT[1:]},
        "gpt-5-*": {"efforts": _GPT[1:]},
        "gpt-5-pro*": {"efforts": ("high",)},
        "gpt-5.1*": {"efforts": ("none", *_LOW_TO_HIGH)},
    },
}
_MARKED = {"cache_marks": "cache_control"}
_CONTENT_REQUIRED = {"reasoning_history": "reasoning_content", "forced_choice_when_thinking": "auto"}
_LOCAL = {
    "top_k": True,
    "prefill": "continue",
    "reasoning": "template",
    "models": {"*gpt-oss*": {"reasoning": "effort"}},
}

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "openai": _OPENAI,
    "azure": {**_OPENAI, "service_tier": False},
    "openrouter": {
        "pdf": True,
        "top_k": True,
        "reasoning": "openrouter",
        "efforts": EFFORTS,
        "reasoning_history": "reasoning_details",
        "models": {"*claude*": _MARKED, "google/gemini*": _MARKED, "qwen/*": _MARKED},
    },
    "deepseek": {
        **_CONTENT_REQUIRED,
        "prefill": "prefix",
        "reasoning": "thinking_effort",
        "efforts": ("low", "high", "max"),
        "reasoning_filler": "",
    },
    "gemini": {
        "schema_profile": "gemini",
        "structured_with_tools": False,
        "efforts": ("minimal", *_LOW_TO_HIGH),
        "reasoning_outside": True,
        "reasoning_history": "thought_signature",
        "models": {
            "*gemini-1*": {"efforts": ()},
            "*gemini-2.0*": {"efforts": ()},
            "*gemini-2.5-flash*": {"efforts": ("none", *_LOW_TO_HIGH)},
        },
    },
    "kimi": {**_CONTENT_REQUIRED, "reasoning": "off", "reasoning_filler": " "},
    "glm": {"reasoning": "thinking", "reasoning_history": "reasoning_content", "repair_args": True},
    "qwen": {**_CONTENT_REQUIRED, "reasoning": "qwen"},
    "minimax": {"reasoning": "off", "reasoning_history": "reasoning_content", "think_tags": "tags"},
    "mistral": {
        "prefill": "prefix",
        "stream_usage": False,
        "assistant_after_tool": True,
        "tool_id_limit": 9,
        "tool_id_form": "alphanumeric",
        "forced_choice": "any",
        "reasoning": "off",
    },
    "groq": {
        "max_tokens_field": "max_completion_tokens",
        "structured_with_tools": False,
        "efforts": (),
        "models": {"*gpt-oss*": {"efforts": _LOW_TO_HIGH}, "*qwen3*": {"efforts": ("none",)}},
    },
    "xai": {
        "max_tokens_field": "max_completion_tokens",
        "reasoning_outside": True,
        "efforts": ("low", "high"),
        "reasoning_models": ("!*non-reasoning*", "grok-3-mini*", "grok-[4-9]*", "grok-code*"),
        "models": {
            "grok-4": {"efforts": ()},
            "grok-4-*": {"efforts": ()},
            "grok-4.[5-9]*": {"efforts": _LOW_TO_HIGH},
            "grok-code*": {"efforts": ()},
        },
    },
    "ollama": {"top_k": True, "efforts": ("none", *_LOW_TO_HIGH)},
    "vllm": _LOCAL,
    "sglang": _LOCAL,
    "llamacpp": {"top_k": True},
    "lmstudio": {"top_k": True},
    "generic": {},
}

# Names alone are what a compose file calls them.
HOSTS: tuple[tuple[str, str], ...] = (
    ("api.openai.com", "openai"),
    ("*.openai.azure.com", "azure"),
    ("*.services.ai.azure.com", "azure"),
    ("*.cognitiveservices.azure.com", "azure"),
    ("openrouter.ai", "openrouter"),
    ("api.deepseek.com", "deepseek"),
    ("generativelanguage.googleapis.com", "gemini"),
    ("api.moonshot.*", "kimi"),
    ("*.z.ai", "glm"),
    ("*.bigmodel.cn", "glm"),
    ("dashscope*", "qwen"),
    ("api.minimax*", "minimax"),
    ("*.mistral.ai", "mistral"),
    ("api.groq.com", "groq"),
    ("api.x.ai", "xai"),
    ("*:11434", "ollama"),
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("llamacpp", "llamacpp"),
    ("lmstudio", "lmstudio"),
)

# Where these take requests in Anthropic's own format, which need no translation.
ANTHROPIC_ENDPOINTS: Mapping[str, str] = {
    "deepseek": "https://api.deepseek.com/anthropic",
    "kimi": "https://api.moonshot.ai/anthropic",
    "glm": "https://api.z.ai/api/anthropic",
    "minimax": "https://api.minimax.io/anthropic",
    "qwen": "https://dashscope-intl.aliyuncs.com/apps/anthropic",
}


def habits_of(exchange: Exchange) -> Habits:
    """Those of the provider and the model, and what refusals have taught since."""
    ours = habits(exchange.endpoint, exchange.model)
    if not exchange.lessons:
        return ours
    changes: dict[str, Any] = {}
    for lesson in exchange.lessons:
        if lesson.field == STATE_REFUSED:
            changes["reasoning_history"] = "none"
        elif lesson.field == REASONING_DEMANDED:
            changes.update(reasoning_history="reasoning_content", reasoning_filler=ours.reasoning_filler or " ")
        elif lesson.field == "response_format":
            changes["structured"] = "none"  # the wanted schema is told in the prompt then
    return msgspec.structs.replace(ours, **changes)


_known: dict[tuple[int, str], tuple[Endpoint, Habits]] = {}


def habits(endpoint: Endpoint, model: str = "") -> Habits:
    """Worked out once for each row of the configuration and each model."""
    key = id(endpoint), model
    known = _known.get(key)
    if known is not None and known[0] is endpoint:
        return known[1]
    if len(_known) >= MOST_KNOWN:
        _known.clear()
    found = _habits(endpoint, model)
    _known[key] = (endpoint, found)
    return found


def _habits(endpoint: Endpoint, model: str) -> Habits:
    name, options = profile_name(endpoint), endpoint.options
    row = {"family": name if name != "generic" else urlsplit(endpoint.base_url).hostname or "", **PROFILES[name]}
    given = {field: options[field] for field in options if field in _FIELDS}
    legal = {field: value for field, value in given.items() if is_legal(field, value)}
    chosen = {**row, **_for_model(row, model), **legal, **_for_model(legal, model)}
    return msgspec.convert(chosen, Habits, strict=False)


def _for_model(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pattern, habits in row.get("models", {}).items():
        if fnmatch.fnmatchcase(model.lower(), pattern.lower()):
            found.update(habits)
    return found


def profile_name(endpoint: Endpoint) -> str:
    named = endpoint.options.get("dialect")
    if isinstance(named, str) and named in PROFILES:
        return named
    return by_host(endpoint.base_url)


@functools.lru_cache(maxsize=1024)
def by_host(base_url: str) -> str:
    try:
        url = urlsplit(base_url)
    except ValueError:
        return "generic"
    host = (url.hostname or "").lower()
    for pattern, name in HOSTS:
        if fnmatch.fnmatchcase(url.netloc.lower() if ":" in pattern else host, pattern):
            return name
    return "generic"


_FIELDS = frozenset(Habits.__struct_fields__)


def is_legal(field: str, value: object) -> bool:
    """Whether a provider's option has a value its name allows; one that has not is passed over."""
    return problem_of(field, value) is None


def problem_of(field: str, value: object) -> str | None:
    """What is wrong with an option's value, in a few words; without the value, which may have been a secret."""
    try:
        converted = msgspec.convert({field: value}, Habits, strict=False)
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at ")[0]
        return "no such choice" if problem.startswith("Invalid enum value") else problem
    if field == "efforts" and not set(converted.efforts) <= set(EFFORTS):
        return f"each must be one of {', '.join(EFFORTS)}"
    if field == "models":
        return _problem_of_models(converted.models)
    return None


def _problem_of_models(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    for pattern, habits in models.items():
        for field, value in habits.items():
            if field not in _FIELDS or field == "models":
                return f"{pattern}: there is no setting {field}"
            if problem := problem_of(field, value):
                return f"{pattern}: {field}: {problem}"
    return None
