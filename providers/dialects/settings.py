"""What each setting of a provider is called, what it does and which values it takes: for the admin and the docs."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec

from providers.dialects.anthropic_options import OPTIONS
from providers.dialects.profiles import PROFILES, Habits, problem_of
from providers.dialects.responses_request import OURS as RESPONSES

Kind = Literal["switch", "choice", "number", "text", "exact text", "list", "table"]


class Setting(msgspec.Struct, frozen=True):
    """`exact text` may be empty or white space, and means it; a list is of words."""

    name: str
    group: str
    label: str
    help: str
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()


class _Words(msgspec.Struct, frozen=True):
    label: str
    help: str


def _(label: str, help_text: str) -> _Words:
    return _Words(label, help_text)


WORDS: Mapping[str, Mapping[str, _Words]] = {
    "Parameters": {
        "max_tokens_field": _("Name of the output limit", "What the provider calls the most tokens it may answer."),
        "max_output_tokens": _(
            "Most output tokens", "A client that asks for more gets this many; clients ask for 32,000 to 128,000."
        ),
        "stop": _("Takes stop sequences", "Without it the gateway itself ends the answer at a stop sequence."),
        "top_k": _("Takes top_k", "Without it top_k is left out."),
        "stream_usage": _(
            "Asks for usage in streams", "Sends stream_options.include_usage, so that the stream ends with the bill."
        ),
        "service_tier": _("Takes service tiers", "The client's standard_only becomes the tier default."),
        "fast_tier": _(
            "Fast mode is priority", "The client's speed: fast becomes the tier priority, which costs more."
        ),
        "safety_identifier": _(
            "Names the user as", "Sends a keyed digest of the gateway key under this name, so that abuse can be traced."
        ),
        "prompt_cache_key": _("Takes a cache key", "Sends a digest of the session, which keeps it on one warm cache."),
        "cache_marks": _(
            "Cache marks",
            "The client's marks are dropped, kept as cache_control, or sent as prompt_cache_breakpoint"
            " (OpenAI's gpt-5.6 and later).",
        ),
        "structured": _(
            "Structured output", "How an answer after a schema is asked for; below json_schema the prompt says it."
        ),
        "structured_with_tools": _(
            "Structured output beside tools", "Without it the prompt alone asks for the schema when there are tools."
        ),
        "api_version": _("API version", "Goes into the address as api-version; Azure's older addresses need one."),
    },
    "Conversation": {
        "system_role": _("Role of the system prompt", "OpenAI's newer models call it developer."),
        "mid_system": _(
            "System messages in the middle",
            "As a reminder in the user's turn, or under that role where the provider takes it in the middle.",
        ),
        "user_first": _("User comes first", "A history that begins with the assistant gets a user message before it."),
        "assistant_after_tool": _(
            "Assistant after tool results", "Puts a word of the assistant's between tool results and the user."
        ),
        "null_content": _("Takes empty content", "Without it an assistant message with calls alone has an empty text."),
        "prefill": _(
            "Beginning of the answer",
            "A conversation that ends with the assistant: sent as it is, as prefix, continued (vLLM), or refused.",
        ),
        "vision": _("Sees images", "Without it a text says that an image was left out."),
        "strict_media": _(
            "Refuses images", "Refuses an image the model cannot see, in place of saying so in the prompt."
        ),
        "pdf": _("Reads PDF", "Without it a PDF is refused, in words that let the client take it out."),
        "document_addresses": _(
            "Fetches documents", "The address of a document is sent as a file (Responses); else it is told as text."
        ),
    },
    "Tools": {
        "tool_name_limit": _("Longest tool name", "Longer names are shortened, and restored in the answer."),
        "tool_id_limit": _("Longest call id", "Longer ids are replaced, on the call and on its result."),
        "tool_id_form": _("Form of call ids", "alphanumeric: letters and digits only, exactly as many as the longest."),
        "most_tools": _("Most tools", "Tools beyond this number are left out, from the end."),
        "max_tool_description": _("Longest tool description", "Longer ones are cut after a sentence."),
        "tool_examples": _("Tool examples", "Puts a tool's examples of input at the end of its description."),
        "needs_tools": _("Calls need tools", "Offers a tool that does nothing where only the history has calls."),
        "schema_profile": _(
            "Schemas of tools", "What the provider takes of JSON Schema: nearly all, Gemini's part, or little."
        ),
        "parallel_tool_calls": _(
            "Takes parallel_tool_calls", "Without it a client's wish for one call at a time is lost."
        ),
        "strict_parallel": _("One call means one", "Keeps only the first call where the client wants one at a time."),
        "forced_choice": _("Word for a forced call", "What stands for “call any tool”."),
        "forced_choice_when_thinking": _(
            "Forced call while thinking", "Sent all the same, left to the model, or thinking is switched off for it."
        ),
        "none_choice": _("Takes the choice none", "Without it the tools are left out where none may be called."),
        "web_search": _(
            "Own web search",
            "native: the provider searches, by OpenRouter's plugin or the tool of Responses; that may cost extra.",
        ),
        "computer_use": _(
            "Computer tool", "Describes Anthropic's computer tool to the model; without it that is refused."
        ),
    },
    "Reasoning": {
        "reasoning": _(
            "How thinking is asked for",
            "reasoning_effort; thinking on or off (GLM), also with effort (DeepSeek); OpenRouter's reasoning;"
            " Qwen's enable_thinking; chat_template_kwargs (vLLM, SGLang); or not at all.",
        ),
        "efforts": _("Levels of effort", "Those the provider takes; others become the nearest below."),
        "reasoning_models": _(
            "Models that always reason",
            "Patterns; they get no sampling parameters, all others no effort. Empty: not known. ! excludes.",
        ),
        "reasoning_history": _(
            "Thinking in the history", "Under which name earlier thinking is given back, if at all."
        ),
        "reasoning_filler": _(
            "In place of lost thinking", 'Stands where thinking is demanded and none is known; "" for an empty text.'
        ),
        "reasoning_summary": _(
            "Summaries of thinking", "When Responses is asked for them; some accounts must be verified first."
        ),
        "thinking": _("Thinking is", "Shown to the client or hidden from it."),
        "family": _("Family", "Thinking goes back only to providers of the family it came from."),
    },
    "Answers": {
        "think_tags": _(
            "Tags around thinking", "Text between <think> tags is thinking; open: the first tag is missing."
        ),
        "split_names": _("Tool names in pieces", "The name of a tool may come in several pieces."),
        "repair_args": _("Mends arguments", "Holds the arguments of a call until they are whole, and mends them."),
        "reasoning_outside": _("Thinking counted apart", "The tokens of the answer leave those of thinking out."),
        "refusal_stop_reason": _("A refusal ends with", "The reason to stop that the client reads."),
        "refusal_as_answer": _(
            "Moderation is an answer", "What moderation stopped is a turn that ends in a refusal, and no error."
        ),
        "empty_answer_text": _("For an empty answer", "What the client reads where the model said nothing."),
    },
    "Models": {
        "models": _(
            "For some models only",
            'By pattern of the provider\'s model names, as {"qwen3*": {"vision": false}}. The last match counts most.',
        ),
    },
}


def settings_of(provider_type: str) -> Mapping[str, Setting]:
    """By name, in the order and groups of the admin's page."""
    return FORWARDED if provider_type == "anthropic" else TRANSLATED


def value_without(setting: Setting, provider_type: str, dialect: str) -> Any:
    """What holds where the provider has no such option."""
    row = {"family": dialect, **PROFILES.get(dialect, {})} if provider_type != "anthropic" else {}
    if provider_type == "responses" and setting.name in RESPONSES:
        return RESPONSES[setting.name]
    return row.get(setting.name, setting.default)


def shown(value: Any) -> str:
    """A value as it is written on a page."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return msgspec.json.encode(value).decode() if value else ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "[]"
    return str(value) if str(value).strip() else f'"{value}"'


def problem(provider_type: str, name: str, value: object) -> str | None:
    """What is wrong with an option's value; options nobody knows may have any."""
    setting = settings_of(provider_type).get(name)
    if setting is None or value is None:
        return None
    if setting.choices and value not in setting.choices:
        return f"say one of {', '.join(setting.choices)}"
    if provider_type != "anthropic":
        return problem_of(name, value)
    try:
        msgspec.convert(value, OPTIONS[name].type, strict=False)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _kind(hint: Any) -> tuple[Kind, tuple[str, ...]]:
    """Of an annotation of Habits."""
    if get_origin(hint) is Literal:
        return "choice", get_args(hint)
    inner = [part for part in get_args(hint) if part is not NoneType]
    if NoneType in get_args(hint):
        kind, choices = _kind(inner[0])
        return ("exact text" if kind == "text" else kind), choices
    kinds: dict[Any, Kind] = {bool: "switch", int: "number", str: "text"}
    if hint in kinds:
        return kinds[hint], ()
    return ("list" if get_origin(hint) in {tuple, list} else "table"), ()


def _translated() -> dict[str, Setting]:
    hints = typing.get_type_hints(Habits)
    settings = {}
    for group, words in WORDS.items():
        for name, told in words.items():
            kind, choices = _kind(hints[name])
            default = getattr(_DEFAULTS, name)
            settings[name] = Setting(name, group, told.label, told.help, kind, default, choices)
    return settings


def _forwarded() -> dict[str, Setting]:
    settings = {}
    for name, option in OPTIONS.items():
        kind, choices = _kind(option.type)
        label = name.replace("_", " ").capitalize()
        settings[name] = Setting(name, "Forwarding", label, option.help, kind, option.default, choices)
    return settings


_DEFAULTS = Habits()
TRANSLATED: Mapping[str, Setting] = _translated()
FORWARDED: Mapping[str, Setting] = _forwarded()
