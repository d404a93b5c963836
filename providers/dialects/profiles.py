"""How providers of Chat Completions differ, as data: a row of habits for each, found by the host of the base URL.

An option of the provider with the same name comes before the row, and the row before the default below, which is
what is safe with a provider nobody knows.
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

MOST_KNOWN = 256
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Habits(msgspec.Struct, frozen=True):
    family: str = "generic"

    # Request: what it is called, what is taken
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_output_tokens: int | None = None  # more than this is refused: clamp
    system_role: Literal["system", "developer"] = "system"
    mid_system: Literal["user", "developer", "system"] = "user"  # a system message in the middle is shown as
    user_first: bool = False  # a history that begins with the assistant is refused
    assistant_after_tool: bool = False  # a user message right after a tool message is refused
    null_content: bool = True  # an assistant message with calls alone may have null for its text
    prefill: Literal["plain", "prefix", "continue", "refuse"] = "plain"
    vision: bool = True
    pdf: bool = False
    strict_media: bool = False  # refuse a picture the model cannot see, in place of saying so in the prompt
    stop: bool = True
    top_k: bool = False
    stream_usage: bool = True
    service_tier: bool = False
    prompt_cache_key: bool = False
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"

    # Tools
    tool_name_limit: int = 64
    tool_id_limit: int = 40
    most_tools: int = 128
    parallel_tool_calls: bool = True
    forced_choice: Literal["required", "any", "auto"] = "required"  # the word for `any`
    forced_choice_when_thinking: bool = True
    none_choice: bool = True

    # Reasoning
    reasoning: Literal["effort", "thinking", "thinking_effort", "openrouter", "qwen", "off"] = "effort"
    efforts: tuple[str, ...] = ("low", "medium", "high")
    # Models that reason, as patterns: the others get no effort, these no sampling parameters. None: not known.
    reasoning_models: tuple[str, ...] | None = None
    reasoning_history: Literal["none", "reasoning_content", "reasoning_details", "thought_signature", "items"] = "none"
    reasoning_filler: str | None = None  # in place of reasoning that is lost, where the key is demanded
    thinking: Literal["show", "hide"] = "show"

    # Answers
    think_tags: Literal["no", "tags", "open"] = "no"  # open: the start tag stands in the prompt already
    split_names: bool = False  # names of tools may come in pieces
    repair_args: bool = False  # hold arguments until complete, and mend what the schema shows to be wrong
    reasoning_outside: bool = False  # completion_tokens leaves reasoning out
    refusal_stop_reason: Literal["refusal", "end_turn"] = "refusal"
    empty_answer_text: str = "(The model returned no text.)"


_OPENAI: dict[str, Any] = {
    "max_tokens_field": "max_completion_tokens",
    "mid_system": "developer",
    "pdf": True,
    "service_tier": True,
    "prompt_cache_key": True,
    "efforts": EFFORTS,
    "reasoning_models": ("o[0-9]*", "gpt-[5-9]*", "codex*"),
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
    },
    "deepseek": {
        "prefill": "prefix",
        "reasoning": "thinking_effort",
        "efforts": ("low", "high", "max"),
        "reasoning_history": "reasoning_content",
        "reasoning_filler": "",
        "forced_choice_when_thinking": False,
    },
    "kimi": {
        "reasoning": "off",
        "reasoning_history": "reasoning_content",
        "reasoning_filler": " ",
        "forced_choice_when_thinking": False,
    },
    "glm": {"reasoning": "thinking", "reasoning_history": "reasoning_content", "repair_args": True},
    "qwen": {"reasoning": "qwen", "reasoning_history": "reasoning_content", "forced_choice_when_thinking": False},
    "groq": {"max_tokens_field": "max_completion_tokens"},
    "xai": {"max_tokens_field": "max_completion_tokens", "reasoning_outside": True},
    "gemini": {"reasoning_outside": True, "reasoning_history": "thought_signature"},
    "ollama": {"top_k": True},
    "vllm": {"top_k": True, "prefill": "continue"},
    "generic": {},
}

HOSTS: tuple[tuple[str, str], ...] = (
    ("api.openai.com", "openai"),
    ("*.azure.com", "azure"),
    ("openrouter.ai", "openrouter"),
    ("api.deepseek.com", "deepseek"),
    ("api.moonshot.*", "kimi"),
    ("*.z.ai", "glm"),
    ("*.bigmodel.cn", "glm"),
    ("dashscope*", "qwen"),
    ("api.groq.com", "groq"),
    ("api.x.ai", "xai"),
    ("generativelanguage.googleapis.com", "gemini"),
    ("*:11434", "ollama"),
)


def habits_of(exchange: Exchange) -> Habits:
    """Those of the provider, and what its refusals have taught since."""
    ours = habits(exchange.endpoint)
    taught = {lesson.field for lesson in exchange.lessons}
    if REASONING_DEMANDED in taught:
        return msgspec.structs.replace(
            ours, reasoning_history="reasoning_content", reasoning_filler=ours.reasoning_filler or " "
        )
    return msgspec.structs.replace(ours, reasoning_history="none") if STATE_REFUSED in taught else ours


_known: dict[int, tuple[Endpoint, Habits]] = {}


def habits(endpoint: Endpoint) -> Habits:
    """Worked out once for each row of the configuration."""
    known = _known.get(id(endpoint))
    if known is not None and known[0] is endpoint:
        return known[1]
    if len(_known) >= MOST_KNOWN:
        _known.clear()
    found = _habits(endpoint)
    _known[id(endpoint)] = (endpoint, found)
    return found


def _habits(endpoint: Endpoint) -> Habits:
    name, options = profile_name(endpoint), endpoint.options
    row = {"family": name if name != "generic" else urlsplit(endpoint.base_url).hostname or "", **PROFILES[name]}
    given = {field: options[field] for field in options if field in _FIELDS}
    try:
        return msgspec.convert({**row, **given}, Habits, strict=False)
    except msgspec.ValidationError:
        return msgspec.convert({**row, **{f: v for f, v in given.items() if is_legal(f, v)}}, Habits, strict=False)


def profile_name(endpoint: Endpoint) -> str:
    named = endpoint.options.get("dialect")
    if isinstance(named, str) and named in PROFILES:
        return named
    return _by_host(endpoint.base_url)


@functools.lru_cache(maxsize=1024)
def _by_host(base_url: str) -> str:
    url = urlsplit(base_url)
    host = (url.hostname or "").lower()
    for pattern, name in HOSTS:
        if fnmatch.fnmatchcase(url.netloc.lower() if ":" in pattern else host, pattern):
            return name
    return "generic"


_FIELDS = frozenset(Habits.__struct_fields__)


def is_legal(field: str, value: object) -> bool:
    """Whether a provider's option has a value its name allows; one that has not is passed over."""
    try:
        msgspec.convert({field: value}, Habits, strict=False)
    except msgspec.ValidationError:
        return False
    return True
