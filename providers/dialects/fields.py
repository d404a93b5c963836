"""Every field of a request and what becomes of it in each language: the encoders, the log and the docs read this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

Kind = Literal["forwarded", "sent", "kept", "dropped", "refused"]


class Fate(msgspec.Struct, frozen=True):
    """`sent` to a place of the upstream's body (`*` is any item of a list), where `options` are set; `kept` is done
    by the gateway itself.
    """

    kind: Kind
    to: str = ""
    options: Mapping[str, Any] = {}


class Field(msgspec.Struct, frozen=True):
    part: Literal["request", "content", "tool"]
    name: str
    note: str
    openai: Fate
    responses: Fate
    anthropic: Fate = Fate("forwarded")


DROPPED, REFUSED, KEPT = Fate("dropped"), Fate("refused"), Fate("kept")


def to(place: str, **options: Any) -> Fate:
    return Fate("sent", place, options)


def _request(name: str, note: str, openai: Fate, responses: Fate | None = None) -> Field:
    return Field("request", name, note, openai, responses or openai)


def _content(name: str, note: str, openai: Fate, responses: Fate | None = None) -> Field:
    return Field("content", name, note, openai, responses or openai)


def _tool(name: str, note: str, openai: Fate, responses: Fate | None = None) -> Field:
    return Field("tool", name, note, openai, responses or openai)


_FUNCTION, _FLAT = "tools.*.function", "tools.*"
_TEXT = (to("messages.*.content"), to("input.*.content.*.text"))

FIELDS: tuple[Field, ...] = (
    Field("request", "model", "The route's name for it.", to("model"), to("model"), to("model")),
    _request(
        "max_tokens",
        "Never more than the model's output limit, where that is known; at least 16 in Responses.",
        to("max_tokens"),
        to("max_output_tokens"),
    ),
    _request("max_tokens: 0", "It would only fill a cache that these providers do not have.", REFUSED),
    _request("messages", "See below.", to("messages.*.content"), to("input.*.content.*.text")),
    _request(
        "system",
        "One message in front, without the client's billing line.",
        to("messages.*.content"),
        to("instructions"),
    ),
    _request("stream", "With a wish for usage at the end.", to("stream")),
    _request("temperature", "Not for models that reason, nor while thinking is on.", to("temperature")),
    _request("top_p", "Not for models that reason, nor while thinking is on.", to("top_p")),
    _request("top_k", "Where top_k is taken.", to("top_k", top_k=True), DROPPED),
    _request(
        "stop_sequences",
        "At most four, and none for models that reason; the gateway keeps what it cannot send.",
        to("stop"),
        KEPT,
    ),
    _request("tools", "See below.", to("tools.*.function.name"), to("tools.*.name")),
    _request("tool_choice", "any becomes required.", to("tool_choice")),
    _request("tool_choice.disable_parallel_tool_use", "Only beside tools.", to("parallel_tool_calls")),
    _request(
        "thinking",
        "Its budget becomes a level of effort, in the words of the vendor.",
        to("reasoning_effort"),
        to("reasoning.effort"),
    ),
    _request(
        "output_config.effort",
        "The nearest level the model takes; the last system message that names one counts.",
        to("reasoning_effort"),
        to("reasoning.effort"),
    ),
    _request("output_config.format", "A JSON schema.", to("response_format"), to("text.format")),
    _request("output_config.task_budget", "", DROPPED),
    _request("output_format", "The older name of output_config.format.", to("response_format"), to("text.format")),
    _request("metadata", "It names devices and accounts, and never leaves in this form.", DROPPED),
    _request(
        "service_tier",
        "standard_only becomes default, where tiers are taken.",
        to("service_tier", service_tier=True),
    ),
    _request("speed", "fast becomes the tier priority, where that is allowed.", to("service_tier", fast_tier=True)),
    _request("cache_control", "The mark for the whole request; marks on content are below.", DROPPED),
    _request("context_management", "It spares work on Anthropic's own servers.", DROPPED),
    _request("compaction", "The configuration; a compaction in the history is told as text.", DROPPED),
    *(
        _request(name, "", DROPPED)
        for name in (
            "container",
            "diagnostics",
            "inference_geo",
            "user_profile_id",
            "workspace_id",
            "billing_policy",
            "fallbacks",
            "fallback_credit_token",
            "tags",
            "betas",
        )
    ),
    _request("thread", "Anything but a new thread.", REFUSED),
    _request("mcp_servers", "The model would lack their tools.", REFUSED),
    _request("safeguards", "The client asks again without it.", REFUSED),
    _content("text", "", *_TEXT),
    _content("text.citations", "", DROPPED),
    _content(
        "cache_control",
        "Where the cache should reach.",
        to("messages.*.content.*.cache_control", cache_marks="cache_control"),
        DROPPED,
    ),
    _content(
        "image (base64 or url)",
        "Where the model sees images; else a text says that one was left out.",
        to("messages.*.content.*.image_url.url"),
        to("input.*.content.*.image_url"),
    ),
    _content("image (file)", "The file lies with Anthropic.", REFUSED),
    _content("document (text, content)", "Between document tags.", *_TEXT),
    _content(
        "document (url)",
        "Its address as text; as a file in Responses.",
        to("messages.*.content"),
        to("input.*.content.*.file_url"),
    ),
    _content(
        "document (PDF)",
        "Where PDF is read; else refused in words that let the client take it out.",
        to("messages.*.content.*.file.file_data", pdf=True),
        to("input.*.content.*.file_data", pdf=True),
    ),
    _content("document (file)", "The file lies with Anthropic.", REFUSED),
    _content("search_result", "Title, source and text.", *_TEXT),
    _content("tool_use", "", to("messages.*.tool_calls.*.function.arguments"), to("input.*.arguments")),
    _content(
        "tool_result",
        "In the order of the calls; images come after, except in Responses, where they stay inside.",
        to("messages.*.content"),
        to("input.*.output"),
    ),
    _content("tool_result.is_error", "The text begins with “Error:”.", to("messages.*.content"), to("input.*.output")),
    _content("thinking", "Of others: dropped. A provider's own goes back to it, where it wants it back.", DROPPED),
    _content("redacted_thinking", "", DROPPED),
    _content("server_tool_use", "What Anthropic's servers did, and what came of it, is told.", *_TEXT),
    _content("tool_reference", "The tool it names joins the tools.", to("tools.*.function.name"), to("tools.*.name")),
    _content("compaction", "Told by the user.", *_TEXT),
    _content("any other block", "One line with its type, title, name and text.", *_TEXT),
    _tool("name", "Shortened to 64 characters, restored in the answer.", to(f"{_FUNCTION}.name"), to(f"{_FLAT}.name")),
    _tool("description", "", to(f"{_FUNCTION}.description"), to(f"{_FLAT}.description")),
    _tool(
        "input_schema",
        "Cleaned for the provider's part of JSON Schema; names of properties never change.",
        to(f"{_FUNCTION}.parameters"),
        to(f"{_FLAT}.parameters"),
    ),
    _tool("strict", "Where the schema fits strict mode.", to(f"{_FUNCTION}.strict"), to(f"{_FLAT}.strict")),
    _tool(
        "input_examples",
        "At the end of the description, where that is wanted.",
        to(f"{_FUNCTION}.description", tool_examples=True),
        DROPPED,
    ),
    _tool("cache_control, eager_input_streaming, allowed_callers", "", DROPPED),
    _tool("defer_loading", "The tool is left out until something names it.", DROPPED),
    _tool("bash, text_editor, memory", "Spelled out as functions.", to(f"{_FUNCTION}.name"), to(f"{_FLAT}.name")),
    _tool("computer", "A function, where the computer tool is on; else refused.", REFUSED),
    _tool("computer_toolset, browser_toolset", "", REFUSED),
    _tool("web_search", "The provider's own, where it is on; else dropped, and refused as the only tool.", REFUSED),
    _tool("web_fetch, code_execution, any other server tool", "Dropped; refused as the only tool.", REFUSED),
    _tool("tool_search_tool", "Every deferred tool is offered then.", DROPPED),
)
_TOP: Mapping[str, Field] = {field.name: field for field in FIELDS if field.part == "request"}


# What must not be dropped in silence: the field, when, and the sentence.
REFUSALS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("mcp_servers", bool, "not available on this route: the model would lack their tools"),
    ("safeguards", bool, "not available on this route"),
    (
        "thread",
        lambda thread: thread is not None and (not isinstance(thread, dict) or thread.get("type") != "create"),
        "only new threads are available on this route",
    ),
    ("max_tokens", lambda most: most == 0, "0 is not available on this route"),
)


def dropped(body: bytes, language: str) -> list[str]:
    """Top-level fields of a request that an upstream of this language never hears of; a pass-through drops none."""
    if language not in {"openai", "responses"}:
        return []
    try:
        names = [*msgspec.json.decode(body, type=dict[str, msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []  # one of them is no text, which nobody else looks at
    return [name for name in names if name not in _TOP or getattr(_TOP[name], language).kind == "dropped"]
