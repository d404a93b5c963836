"""The table of request fields against the encoders: what it says of each field is what happens to it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from providers.dialects import DIALECTS, compatibility
from providers.dialects.fields import FIELDS, REFUSALS, Fate, Field, dropped
from providers.dialects.refusals import RULES
from providers.errors import BadMessage
from providers.messages import MessagesRequest
from providers.tests.exchanges import exchange, tool

CANARY = "canary"
TRANSLATED = ("openai", "responses")
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo" + CANARY}
SCHEMA = {"type": "json_schema", "schema": {"type": "object", "properties": {CANARY: {"type": "string"}}}}
CALL: Any = {"type": "tool_use", "id": "A", "name": "Read", "input": {}}


def said(*content: Any) -> Any:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *content]}]}


def answered(*content: Any) -> Any:
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": list(content)}]
    return {"messages": [*history, {"role": "user", "content": "y"}]}


def brought(**result: Any) -> Any:
    block = {"type": "tool_result", "tool_use_id": "A", **result}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [CALL]}]
    return {"messages": [*history, {"role": "user", "content": [block]}], "tools": [tool()]}


def has(**fields: Any) -> Any:
    return {"tools": [{**tool(), **fields}]}


def server(kind: str) -> Any:
    return {"tools": [{"type": f"{kind}_20990101", "name": kind}]}


# For each row a request that has the field, and something to look for in what is sent.
SAMPLES: dict[str, tuple[dict[str, Any], Any]] = {
    "model": ({}, "upstream-model"),
    "max_tokens": ({"max_tokens": 4321}, 4321),
    "max_tokens: 0": ({"max_tokens": 0}, None),
    "messages": ({"messages": [{"role": "user", "content": CANARY}]}, CANARY),
    "system": ({"system": CANARY}, CANARY),
    "stream": ({"stream": True}, True),
    "temperature": ({"temperature": 0.25}, 0.25),
    "top_p": ({"top_p": 0.25}, 0.25),
    "top_k": ({"top_k": 4321}, 4321),
    "stop_sequences": ({"stop_sequences": [CANARY]}, CANARY),
    "tools": ({"tools": [tool(CANARY)]}, CANARY),
    "tool_choice": ({"tools": [tool()], "tool_choice": {"type": "any"}}, "required"),
    "tool_choice.disable_parallel_tool_use": (
        {"tools": [tool()], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        False,
    ),
    "thinking": ({"thinking": {"type": "enabled", "budget_tokens": 4000}, "max_tokens": 9000}, "low"),
    "output_config.effort": ({"output_config": {"effort": "low"}}, "low"),
    "output_config.format": ({"output_config": {"format": SCHEMA}}, CANARY),
    "output_config.task_budget": ({"output_config": {"task_budget": {"total": CANARY}}}, CANARY),
    "output_format": ({"output_format": SCHEMA}, CANARY),
    "metadata": ({"metadata": {"user_id": CANARY}}, CANARY),
    "service_tier": ({"service_tier": "standard_only"}, "default"),
    "speed": ({"speed": "fast"}, "priority"),
    "cache_control": ({"cache_control": {"type": "ephemeral", "ttl": CANARY}}, CANARY),
    "thread": ({"thread": {"type": "continue"}}, None),
    "mcp_servers": ({"mcp_servers": [{}]}, None),
    "safeguards": ({"safeguards": {"x": 1}}, None),
    "text": (said({"type": "text", "text": CANARY}), CANARY),
    "text.citations": (answered({"type": "text", "text": "y", "citations": [{"cited_text": CANARY}]}), CANARY),
    "image (base64 or url)": (said({"type": "image", "source": PNG}), CANARY),
    "image (file)": (said({"type": "image", "source": {"type": "file", "file_id": "f"}}), "file sources"),
    "document (text, content)": (said({"type": "document", "source": {"type": "text", "data": CANARY}}), CANARY),
    "document (url)": (
        said({"type": "document", "source": {"type": "url", "url": f"https://{CANARY}.example/a.pdf"}}),
        CANARY,
    ),
    "document (PDF)": (
        said({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": CANARY}}),
        CANARY,
    ),
    "document (file)": (said({"type": "document", "source": {"type": "file", "file_id": "f"}}), "file sources"),
    "search_result": (said({"type": "search_result", "title": CANARY, "source": "s", "content": []}), CANARY),
    "tool_use": (answered({**CALL, "input": {"path": CANARY}}), CANARY),
    "tool_result": (brought(content=CANARY), CANARY),
    "tool_result.is_error": (brought(content="no", is_error=True), "Error: no"),
    "thinking (content)": (answered({"type": "thinking", "thinking": CANARY, "signature": CANARY}), CANARY),
    "redacted_thinking": (
        answered({"type": "redacted_thinking", "data": CANARY}, {"type": "text", "text": "y"}),
        CANARY,
    ),
    "server_tool_use": (
        answered({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": CANARY}}),
        CANARY,
    ),
    "tool_reference": (
        {
            **brought(content=[{"type": "tool_reference", "tool_name": CANARY}]),
            "tools": [{**tool(CANARY), "defer_loading": True}],
        },
        CANARY,
    ),
    "compaction (content)": (answered({"type": "compaction", "content": CANARY}), CANARY),
    "any other block": (said({"type": "brand_new", "title": CANARY}), CANARY),
    "cache_control (content)": (
        said({"type": "text", "text": "y", "cache_control": {"type": "ephemeral", "ttl": CANARY}}),
        CANARY,
    ),
    "name": ({"tools": [tool(CANARY)]}, CANARY),
    "description": (has(description=CANARY), CANARY),
    "input_schema": (has(input_schema={"type": "object", "properties": {CANARY: {}}}), CANARY),
    "strict": (
        has(
            strict=True,
            input_schema={"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        ),
        True,
    ),
    "input_examples": (has(input_examples=[{"path": CANARY}]), CANARY),
    "cache_control, eager_input_streaming, allowed_callers": (
        has(cache_control={"type": CANARY}, eager_input_streaming=CANARY, allowed_callers=[CANARY]),
        CANARY,
    ),
    "defer_loading": ({"tools": [tool(), {**tool(CANARY), "defer_loading": True}]}, CANARY),
    "bash, text_editor, memory": ({"tools": [{"type": "bash_20250124", "name": CANARY}]}, CANARY),
    "computer": (server("computer"), "computer_20990101"),
    "computer_toolset, browser_toolset": (server("browser_toolset"), "browser_toolset"),
    "web_search": (server("web_search"), "web_search is not available on this route"),
    "web_fetch, code_execution, any other server tool": (server("web_fetch"), "web_fetch"),
    "tool_search_tool": ({"tools": [tool(), {"type": f"tool_search_tool_{CANARY}", "name": CANARY}]}, CANARY),
}


def sample(field: Field) -> tuple[dict[str, Any], Any]:
    named = f"{field.name} (content)"
    if field.part == "content" and named in SAMPLES:
        return SAMPLES[named]
    return SAMPLES.get(field.name, ({field.name: {"type": CANARY}}, CANARY))


ROWS = [
    pytest.param(field, language, id=f"{language} {field.part} {field.name}")
    for language in DIALECTS
    for field in FIELDS
]


def sent(language: str, request: dict[str, Any], fate: Fate) -> Any:
    made = exchange(options={"models": {}, **fate.options}, **request)
    endpoint = msgspec.structs.replace(made.endpoint, type=language)
    return json.loads(DIALECTS[language].encode(msgspec.structs.replace(made, endpoint=endpoint)).body)


def at(place: str, value: Any) -> list[Any]:
    """What stands there; `*` is any item of a list."""
    found = [value]
    for step in place.split("."):
        if step == "*":
            found = [item for value in found if isinstance(value, list) for item in value]
        else:
            found = [value[step] for value in found if isinstance(value, dict) and step in value]
    return found


@pytest.mark.parametrize(("field", "language"), ROWS)
def test_what_the_table_says_of_a_field_is_what_happens_to_it(field: Field, language: str) -> None:
    request, sign = sample(field)
    fate: Fate = getattr(field, language)
    if fate.kind == "refused":
        with pytest.raises(BadMessage, match=sign or field.name.partition(":")[0]):
            sent(language, request, fate)
        return
    body = sent(language, request, fate)
    if fate.kind == "forwarded":
        assert {name: body[name] for name in request} == request
    elif fate.kind == "sent":
        assert any(sign == found or str(sign) in json.dumps(found) for found in at(fate.to, body)), body
    else:
        assert str(sign) not in json.dumps(body)
        assert field.part != "request" or field.name not in body


@pytest.mark.parametrize("language", TRANSLATED)
def test_what_is_sent_only_where_an_option_says_so_is_otherwise_dropped(language: str) -> None:
    for field in FIELDS:
        fate: Fate = getattr(field, language)
        request, sign = sample(field)
        if fate.kind == "sent" and fate.options and field.name != "document (PDF)":
            assert str(sign) not in json.dumps(sent(language, request, Fate("dropped")))


def test_every_field_we_decode_is_in_the_table() -> None:
    told = {field.name.partition(".")[0] for field in FIELDS if field.part == "request"}
    assert set(MessagesRequest.__struct_fields__) <= told
    refused = {
        field.name.partition(":")[0] for field in FIELDS if field.part == "request" and field.openai.kind == "refused"
    }
    assert {name for name, _, _ in REFUSALS} == refused


def test_every_sentence_of_the_table_ends() -> None:
    assert [field.name for field in FIELDS if field.note and not field.note.endswith(".")] == []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"model": "m", "messages": [], "max_tokens": 1}, []),
        (
            {"metadata": {}, "top_k": 1, "context_management": {}, "brand_new": 1},
            ["metadata", "context_management", "brand_new"],
        ),
        ({"mcp_servers": []}, []),
    ],
)
def test_the_names_of_what_is_dropped(body: Any, names: list[str]) -> None:
    assert dropped(json.dumps(body).encode(), "openai") == names


def test_the_page_of_the_docs_is_in_step() -> None:
    """Written by `python -m providers.dialects.compatibility`."""
    assert compatibility.PAGE.read_text(encoding="utf-8") == compatibility.page()


def test_every_class_of_refusals_is_told() -> None:
    assert {rule.name for rule in RULES} == set(compatibility.CLASSES)


def test_responses_have_no_top_k() -> None:
    assert dropped(b'{"top_k": 1}', "responses") == ["top_k"]
