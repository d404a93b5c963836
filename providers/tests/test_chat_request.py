from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.dialects.chat import DIALECT
from providers.dialects.history import INTERRUPTED
from providers.dialects.names import CallIds, ToolNames
from providers.dialects.reasoning import nearest
from providers.errors import BadMessage
from providers.snapshot import credential_header
from providers.state import State, seal
from providers.tests.conversations import PDF, PNG, assistant, result, system, text, use, user
from providers.tests.exchanges import SECRET, exchange, tool
from providers.upstream import url_for

PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAA"}}


def encoded(**request: Any) -> Any:
    return json.loads(DIALECT.encode(exchange(**request)).body)


def messages(*history: Any, **request: Any) -> Any:
    return encoded(messages=list(history), **request)["messages"]


def sent_call(id: str, name: str = "Read", arguments: str = "{}") -> Any:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def sent_result(id: str, content: str) -> Any:
    return {"role": "tool", "tool_call_id": id, "content": content}


# The whole request


def test_a_plain_request() -> None:
    outbound = DIALECT.encode(exchange(metadata={"user_id": "secret"}, temperature=0, top_p=0.5, top_k=3))
    assert outbound.path == "/chat/completions"
    assert outbound.headers == {"content-type": "application/json", "accept": "text/event-stream"}
    assert json.loads(outbound.body) == {
        "model": "upstream-model",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1000,
        "temperature": 0.0,
        "top_p": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_answer_in_one_piece_is_asked_for_as_json() -> None:
    outbound = DIALECT.encode(exchange(stream=False))
    assert outbound.headers["accept"] == "application/json"
    assert "stream" not in json.loads(outbound.body)


def test_two_turns_of_a_session_share_their_bytes_up_to_the_first_new_message() -> None:
    history = [user("a"), system("env"), assistant(text("b"), use("toolu_1")), user(result("toolu_1"))]
    request: Any = {
        "system": "s",
        "tools": [tool()],
        "thinking": {"type": "adaptive"},
        "base_url": "https://api.openai.com",
    }
    first = DIALECT.encode(exchange(messages=history, **request)).body
    second = DIALECT.encode(exchange(messages=[*history, assistant("c"), user("d")], **request)).body
    shared = first[: first.index(b'],"tools"')]
    assert second.startswith(shared)
    assert second[len(shared) :].startswith(b',{"role":"assistant"')
    assert DIALECT.encode(exchange(messages=history, **request)).body == first


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"max_tokens": 128_000, "options": {"max_output_tokens": 8192}}, {"max_tokens": 8192}),
        ({"base_url": "https://api.openai.com/v1"}, {"max_completion_tokens": 1000}),
        ({"base_url": "https://x.openai.azure.com/openai"}, {"max_completion_tokens": 1000}),
        ({"options": {"max_tokens_field": "max_completion_tokens"}}, {"max_completion_tokens": 1000}),
        ({"options": {"max_tokens_field": "nonsense"}}, {"max_tokens": 1000}),
        ({"stop_sequences": ["a", "", " ", "b", "c", "d", "e"]}, {"stop": ["a", "b", "c", "d"]}),
        ({"stop_sequences": ["\n"]}, {"stop": None}),
        ({"temperature": 1, "thinking": {"type": "enabled", "budget_tokens": 2000}}, {"temperature": None}),
        ({"top_k": 5, "options": {"top_k": True}}, {"top_k": 5}),
        ({"service_tier": "standard_only"}, {"service_tier": None}),
        ({"service_tier": "auto", "base_url": "https://api.openai.com/v1"}, {"service_tier": None}),
        ({"speed": "fast"}, {"service_tier": None}),
        ({"speed": "fast", "options": {"fast_tier": True}}, {"service_tier": "priority"}),
        ({"base_url": "https://api.mistral.ai/v1"}, {"stream_options": None}),
        ({"service_tier": "standard_only", "base_url": "https://api.openai.com/v1"}, {"service_tier": "default"}),
        ({"options": {"stream_usage": False}}, {"stream_options": None}),
        ({"context_management": {"edits": []}, "container": "c", "diagnostics": {}}, {"container": None}),
    ],
)
def test_parameters(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    body = encoded(**fields)
    assert {name: body.get(name) for name in sent} == sent


def test_models_that_always_reason_get_no_sampling_parameters() -> None:
    fields: Any = {"base_url": "https://api.openai.com/v1", "temperature": 0.2, "top_p": 0.9, "stop_sequences": ["x"]}
    assert not {"temperature", "top_p", "stop"} & set(encoded(upstream_model="gpt-5.1", **fields))
    assert {"temperature", "top_p", "stop"} <= set(encoded(upstream_model="gpt-4o", **fields))


def test_the_cache_key_is_stable_in_a_session_and_sent_where_it_is_known() -> None:
    openai: Any = {"base_url": "https://api.openai.com/v1"}
    one, other = ({"x-claude-code-session-id": name} for name in ("one", "two"))
    key = encoded(headers=one, **openai)["prompt_cache_key"]
    assert len(key) == 32
    assert encoded(headers=one, messages=[user("x")], **openai)["prompt_cache_key"] == key
    assert encoded(headers=other, **openai)["prompt_cache_key"] != key
    assert encoded(system="a", **openai)["prompt_cache_key"] != encoded(system="b", **openai)["prompt_cache_key"]
    assert "prompt_cache_key" not in encoded(headers=one)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"safeguards": {"x": 1}}, "safeguards"),
        ({"thread": {"type": "continue"}}, "thread"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [user(PDF)]}, "This model does not support PDF input"),
        ({"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]}, "file sources"),
        ({"messages": [user(PNG)], "options": {"vision": False, "strict_media": True}}, "Could not process image"),
        ({"messages": [assistant("So")], "options": {"prefill": "refuse"}}, "prefill"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search is not available"),
        ({"tools": [{"type": "computer_toolset_20260801"}]}, "computer_toolset_20260801"),
        ({"tool_choice": {"type": "tool", "name": "Gone"}}, "Gone"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_dropped_in_silence_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadMessage, match=named):
        encoded(**fields)


# System


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Be kind.", "Be kind."),
        ([text("a"), text("b")], "a\n\nb"),
        ([text("x-anthropic-billing-header: cc_version=1; cc_entrypoint=cli"), text("b")], "b"),
        ("x-anthropic-billing-header: cc_version=1\nBe kind.", "Be kind."),
        ([text("Say x-anthropic-billing-header: no")], "Say x-anthropic-billing-header: no"),
        ([{**text("a"), "cache_control": {"type": "ephemeral"}}], "a"),
        ("", None),
        ([text("x-anthropic-billing-header: x")], None),
    ],
)
def test_the_system_prompt_is_one_message_in_front(given: Any, sent: str | None) -> None:
    expected = [{"role": "system", "content": sent}] if sent else []
    assert messages(user("x"), system=given) == [*expected, {"role": "user", "content": "x"}]


def test_a_users_text_is_never_taken_for_a_billing_line() -> None:
    line = "x-anthropic-billing-header: mine"
    assert messages(user(line)) == [{"role": "user", "content": line}]


def test_a_system_message_in_the_middle_is_a_reminder_in_its_place() -> None:
    assert messages(user("a"), system("env"), system(text("b")), assistant("c"), user("d")) == [
        {
            "role": "user",
            "content": "a\n\n<system-reminder>\nenv\n</system-reminder>\n\n<system-reminder>\nb\n</system-reminder>",
        },
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]


@pytest.mark.parametrize("role", ["developer", "system"])
def test_where_it_is_taken_a_system_message_keeps_its_role(role: str) -> None:
    sent = messages(user("a"), system("env"), user("b"), options={"mid_system": role})
    assert [(message["role"], message["content"]) for message in sent] == [("user", "a"), (role, "env"), ("user", "b")]


def test_a_system_message_never_parts_a_call_from_its_result() -> None:
    history = [user("a"), assistant(use("toolu_1")), system("env"), user(result("toolu_1"), text("go on"))]
    for role in ("user", "developer"):
        sent = messages(*history, options={"mid_system": role})
        assert [message["role"] for message in sent][:3] == ["user", "assistant", "tool"]


def test_a_system_message_that_only_carries_effort_or_is_over_is_not_shown() -> None:
    silent = {"role": "system", "content": [], "output_config": {"effort": "high"}}
    over = system("once", clear_at="next_user_message")
    assert messages(user("a"), silent, over, user("b")) == [{"role": "user", "content": "a\n\nb"}]
    assert "once" in str(messages(user("a"), over))


# Content


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (PNG, PNG_PART),
        ({**PNG, "source": {**PNG["source"], "media_type": "image/jpeg"}}, PNG_PART),  # type: ignore[dict-item]
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ),
    ],
)
def test_images_are_parts(block: Any, part: Any) -> None:
    assert messages(user(text("see"), block)) == [{"role": "user", "content": [text("see"), part]}]


def test_an_image_nobody_can_see_is_named_as_such() -> None:
    sent = messages(user(text("see"), PNG), options={"vision": False})
    assert sent[0]["content"] == "see\n\n[image omitted: the model on this route cannot see images]"


def test_a_pdf_is_a_file_where_it_is_taken() -> None:
    sent = messages(user({**PDF, "title": "A"}), base_url="https://api.openai.com/v1")
    file = {"filename": "A", "file_data": "data:application/pdf;base64,JVBERi0="}
    assert sent == [{"role": "user", "content": [{"type": "file", "file": file}]}]


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        (
            {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "D"}},
            '<document title="T">\nC\nD\n</document>',
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [text("D"), text("E")]}},
            "<document>\nD\nE\n</document>",
        ),
        ({"type": "document", "source": {"type": "content", "content": "D"}}, "<document>\nD\n</document>"),
        (
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
            "<document>\nhttps://x/y.pdf\n</document>",
        ),
        ({"type": "search_result", "title": "T", "source": "S", "content": [text("a"), text("b")]}, "T\nS\na\nb"),
        ({"type": "container_upload", "file_id": "f", "title": "notes.txt"}, "[container_upload: notes.txt]"),
        ({"type": "brand_new", "content": [text("readable")]}, "[brand_new: readable]"),
        ({"type": "compaction", "content": "what was"}, "[compaction: what was]"),
    ],
)
def test_other_blocks_of_a_user_are_told_as_text(block: Any, shown: str) -> None:
    assert messages(user(block)) == [{"role": "user", "content": shown}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([text("a"), use("toolu_1"), text("b")], "a\n\nb"),
        ([text(" "), text(""), text("b")], "b"),
        ([{"type": "redacted_thinking", "data": "x"}, text("b")], "b"),
        ([{"type": "thinking", "thinking": "hm", "signature": "x"}, text("b")], "b"),
        ([{"type": "brand_new"}, text("b")], "b"),
        (
            [
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "cats"}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "s",
                    "content": [
                        {"type": "web_search_result", "title": "Cats", "url": "https://c", "encrypted_content": "e"}
                    ],
                },
                text("b"),
            ],
            "[web_search: cats]\n\n- Cats: https://c\n\nb",
        ),
        (
            [
                {
                    "type": "web_fetch_tool_result",
                    "tool_use_id": "s",
                    "content": {"url": "https://c", "content": {"source": {"type": "text", "data": "page"}}},
                }
            ],
            "page",
        ),
        (
            [
                {
                    "type": "bash_code_execution_tool_result",
                    "tool_use_id": "s",
                    "content": {"stdout": "out", "stderr": "err", "return_code": 1},
                }
            ],
            "out\nerr",
        ),
    ],
)
def test_what_an_assistant_said_is_one_text(content: list[Any], told: str) -> None:
    assert messages(user("x"), assistant(*content), user("y"))[1]["content"] == told


def test_a_compacted_past_is_told_by_the_user() -> None:
    sent = messages(assistant({"type": "compaction", "content": "what was"}, text("a")), user("b"))
    assert sent[:2] == [{"role": "user", "content": "what was"}, {"role": "assistant", "content": "a"}]


# Order


def test_results_follow_their_calls_in_the_order_of_the_calls() -> None:
    history = [
        user("go"),
        assistant(text("a"), use("A"), use("B", "Look"), text("b")),
        user(text("also this"), result("B", [text("seen"), PNG]), result("A", "bad", is_error=True)),
    ]
    assert messages(*history)[1:] == [
        {"role": "assistant", "content": "a\n\nb", "tool_calls": [sent_call("A"), sent_call("B", "Look")]},
        sent_result("A", "Error: bad"),
        sent_result("B", "seen"),
        {"role": "user", "content": [text("[image returned by Look]"), PNG_PART, text("also this")]},
    ]


def test_an_interrupted_call_gets_a_result_that_says_so() -> None:
    assert messages(user("go"), assistant(use("A")), user("stop, do that instead"))[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [sent_call("A")]},
        sent_result("A", INTERRUPTED),
        {"role": "user", "content": "stop, do that instead"},
    ]


def test_a_call_at_the_very_end_gets_one_too() -> None:
    assert messages(user("go"), assistant(use("A")))[-1] == sent_result("A", INTERRUPTED)


def test_a_result_of_no_call_before_it_is_told_as_text() -> None:
    sent = messages(user("go"), assistant(use("A")), user(result("A")), assistant("ok"), user(result("A", "late")))
    assert sent[-1] == {"role": "user", "content": "[result of an earlier tool call Read]\n\nlate"}
    assert messages(user(result("X")))[0]["content"] == "[result of an earlier tool call X]\n\ndone"


def test_of_two_results_the_last_counts() -> None:
    sent = messages(user("go"), assistant(use("A")), user(result("A", "one"), result("A", "two")))
    assert sent[2:] == [sent_result("A", "two")]


def test_split_messages_of_one_side_are_one_turn() -> None:
    sent = messages(user("a"), user("b"), assistant("c"), assistant(use("A")), user("d"), user(result("A")))
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "user"]
    assert sent[1]["content"] == "c"


def test_an_assistant_who_said_nothing_is_left_out() -> None:
    empty = assistant({"type": "redacted_thinking", "data": "x"})
    assert messages(user("a"), empty, user("b")) == [{"role": "user", "content": "a\n\nb"}]


@pytest.mark.parametrize(
    ("content", "fields", "sent"),
    [
        ("plain", {}, "plain"),
        ([text("a"), text("b")], {}, "a\nb"),
        ("", {}, "(no output)"),
        ([], {}, "(no output)"),
        (None, {}, "(no output)"),
        ("", {"is_error": True}, "Error: (no output)"),
        ("boom", {"is_error": True}, "Error: boom"),
        ("boom", {"is_error": False}, "boom"),
        ("Error: boom", {"is_error": True}, "Error: boom"),
        ("<tool_use_error>boom", {"is_error": True}, "<tool_use_error>boom"),
        ({"a": [1]}, {}, '{"a":[1]}'),
        (7, {}, "7"),
        ([PNG], {}, "(attached below)"),
        ([{"type": "tool_reference", "tool_name": "Grep"}], {}, "Tool Grep is now available."),
        ([{"type": "search_result", "title": "T", "source": "S", "content": [text("x")]}], {}, "T\nS\nx"),
        (["loose", 3], {}, "loose\n3"),
    ],
)
def test_the_text_of_a_result(content: Any, fields: Any, sent: str) -> None:
    assert messages(user("x"), assistant(use("A")), user(result("A", content, **fields)))[2] == sent_result("A", sent)


UNPARSED = [
    (given, json.dumps({"__unparsedToolInput": {"raw": raw, "len": len(raw)}}, separators=(",", ":")))
    for given, raw in (("raw", "raw"), ('{"a": ', '{"a": '), ([1], "[1]"))
]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [({"b": 1, "a": [2]}, '{"b":1,"a":[2]}'), (None, "{}"), ({}, "{}"), ("", "{}"), ('{"b": 1}', '{"b":1}'), *UNPARSED],
)
def test_arguments_are_a_compact_string(given: Any, arguments: str) -> None:
    block = {"type": "tool_use", "id": "A", "name": "Read", "input": given}
    assert messages(user("x"), assistant(block))[1]["tool_calls"][0]["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("options", "roles"),
    [
        ({}, ["assistant", "tool", "user"]),
        ({"user_first": True}, ["user", "assistant", "tool", "user"]),
        ({"assistant_after_tool": True}, ["assistant", "tool", "assistant", "user"]),
    ],
)
def test_upstreams_that_insist_on_an_order_get_it(options: Any, roles: list[str]) -> None:
    sent = messages(assistant(use("A")), user(result("A"), text("x")), options=options)
    assert [message["role"] for message in sent] == roles


@pytest.mark.parametrize(
    ("prefill", "last", "fields"),
    [
        ("plain", {}, {}),
        ("prefix", {"prefix": True}, {}),
        ("continue", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_a_prefill_is_sent_as_the_upstream_wants_it(prefill: str, last: Any, fields: Any) -> None:
    body = encoded(messages=[user("a"), assistant("So \n")], options={"prefill": prefill})
    assert body["messages"][-1] == {"role": "assistant", "content": "So", **last}
    assert {name: body[name] for name in fields} == fields


# Ids and names


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (["toolu_1", "toolu_2"], ["toolu_1", "toolu_2"]),
        (["call_0", "call_0", "call_0"], ["call_0", "call_0_2", "call_0_3"]),
        (["call_0", "call_0_2", "call_0"], ["call_0", "call_0_2", "call_0_3"]),
    ],
)
def test_ids_that_are_legal_and_distinct_stay(given: list[str], sent: list[str]) -> None:
    ids = CallIds()
    assert [ids.next(name) for name in given] == sent


@given(st.lists(st.one_of(st.text(max_size=50), st.sampled_from(["", "a", "a_2", "x" * 40, "x" * 41, "call|1"]))))
def test_sent_ids_are_legal_distinct_and_always_the_same(given_ids: list[str]) -> None:
    first, second = CallIds(), CallIds()
    sent = [first.next(name) for name in given_ids]
    assert sent == [second.next(name) for name in given_ids]
    assert len(set(sent)) == len(sent)
    assert all(0 < len(name) <= 40 and name.replace("_", "a").replace("-", "a").isalnum() for name in sent)
    assert all(name.isascii() for name in sent)


def test_the_same_id_in_two_turns_pairs_with_its_own_result() -> None:
    sent = messages(
        user("x"),
        assistant(use("call_0", path="a")),
        user(result("call_0", "one")),
        assistant(use("call_0", path="b"), use("call_0", path="c")),
        user(result("call_0", "two"), result("call_0", "three")),
    )
    pairs = [(message["tool_call_id"], message["content"]) for message in sent if message["role"] == "tool"]
    assert pairs == [("call_0", "one"), ("call_0_2", "two"), ("call_0_3", "three")]
    assert [made["id"] for made in sent[3]["tool_calls"]] == ["call_0_2", "call_0_3"]


LONG = "mcp__" + "a" * 80


def test_names_come_back_as_they_were() -> None:
    full = ["Read", LONG, LONG + "b", "a.b", "a_b", "naïve", ""]
    names = ToolNames(full)
    sent = [names.sent(name) for name in full]
    assert sent[0] == "Read"
    assert sent[4] == "a_b"
    assert len(set(sent)) == len(full)
    assert all(len(name) <= 64 for name in sent)
    assert [names.full(name) for name in sent] == full


@pytest.mark.parametrize(("sent", "full"), [("Read", "Read"), ("READ", "Read"), ("grep", "grep"), ("Other", "Other")])
def test_a_name_that_was_not_sent_is_guessed_by_case_alone(sent: str, full: str) -> None:
    assert ToolNames(["Read", "Grep", "GREP"]).full(sent) == full


def test_long_names_are_shortened_everywhere_alike() -> None:
    body = encoded(
        messages=[user("x"), assistant(use("A", LONG)), user(result("A"))],
        tools=[tool(LONG)],
        tool_choice={"type": "tool", "name": LONG},
    )
    short = body["tools"][0]["function"]["name"]
    assert len(short) == 64
    assert body["tool_choice"]["function"]["name"] == short
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == short


# Tools


def test_a_tool_is_a_function_without_what_only_the_vendor_knows() -> None:
    given = {**tool(), "cache_control": {}, "input_examples": [], "eager_input_streaming": True, "strict": True}
    parameters = {"type": "object", "properties": {}}
    assert encoded(tools=[given])["tools"] == [
        {"type": "function", "function": {"name": "Read", "description": "Read it", "parameters": parameters}}
    ]


def offered(tools: list[Any], *history: Any, **request: Any) -> list[str]:
    body = encoded(tools=tools, messages=list(history) or [user("x")], **request)
    return [made["function"]["name"] for made in body.get("tools", [])]


def test_deferred_tools_wait_until_they_are_named() -> None:
    tools = [tool("A"), {**tool("B"), "defer_loading": True}, tool("C")]
    found = result("t", [{"type": "tool_reference", "tool_name": "B"}])
    addition = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "B"}}
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "B"}}
    assert offered(tools) == ["A", "C"]
    assert offered(tools, user("x"), assistant(use("t", "A")), user(found)) == ["A", "B", "C"]
    assert offered(tools, user("x"), system(addition)) == ["A", "B", "C"]
    assert offered(tools, user("x"), system(addition), system(removal)) == ["A", "C"]
    assert offered(tools, user("x"), system(removal), system(addition)) == ["A", "B", "C"]


def test_tools_come_and_go_in_the_conversation() -> None:
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "A"}}
    inline = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool("D")}}
    assert offered([tool("A"), tool("B")], user("x"), system(removal, inline)) == ["B", "D"]


def test_a_vendors_tool_search_opens_all_deferred_tools() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search"}
    assert offered([search, tool("A"), {**tool("B"), "defer_loading": True}]) == ["A", "B"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], []),
        ([{"type": "bash_20250124", "name": "bash"}], ["bash"]),
        ([{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}], ["str_replace_based_edit_tool"]),
        ([{"type": "memory_20250818", "name": "memory"}], ["memory"]),
        ([{"type": "web_search_20250305", "name": "web_search"}, tool("A")], ["A"]),
        ([tool("A"), tool("A"), tool("B")], ["A", "B"]),
        ([{**tool("A"), "type": "custom"}], ["A"]),
        ([tool(f"T{n}") for n in range(200)], [f"T{n}" for n in range(128)]),
    ],
)
def test_which_tools_are_offered(given: Any, names: list[str]) -> None:
    assert offered(given) == names


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("text_editor_20250124", ["view", "create", "str_replace", "insert", "undo_edit"]),
        ("text_editor_20250728", ["view", "create", "str_replace", "insert"]),
        ("memory_20250818", ["view", "create", "str_replace", "insert", "delete", "rename"]),
    ],
)
def test_tools_the_vendors_models_know_by_heart_are_spelled_out(kind: str, commands: list[str]) -> None:
    function = encoded(tools=[{"type": kind, "name": "t"}])["tools"][0]["function"]
    assert function["parameters"]["properties"]["command"]["enum"] == commands


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "Read"}, {"tool_choice": {"type": "function", "function": {"name": "Read"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choice(given: Any, sent: Any) -> None:
    body = encoded(tools=[tool()], **({"tool_choice": given} if given else {}))
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == sent


def test_where_no_call_can_be_forced_the_model_chooses() -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "Read"}):
        assert encoded(tools=[tool()], tool_choice=choice, options={"forced_choice": "auto"})["tool_choice"] == "auto"


def test_a_choice_without_tools_is_left_out() -> None:
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(
        encoded(tool_choice={"type": "auto", "disable_parallel_tool_use": True}, tools=[])
    )


def test_where_none_is_refused_the_tools_are_left_out() -> None:
    request: Any = {"tools": [tool()], "tool_choice": {"type": "none"}, "options": {"none_choice": False}}
    assert not {"tools", "tool_choice"} & set(encoded(**request))
    history = [user("x"), assistant(use("A")), user(result("A"))]
    assert "tools" in encoded(messages=history, **request)


def test_structured_output() -> None:
    schema = {"$schema": "s", "type": "object", "properties": {}, "additionalProperties": False}
    wanted: Any = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    clean = {"type": "object", "properties": {}, "additionalProperties": False}
    sent = {"type": "json_schema", "json_schema": {"name": "output", "schema": clean, "strict": True}}
    assert encoded(**wanted)["response_format"] == sent
    plain = encoded(**wanted, options={"structured": "json_object"}, system="Be kind.")
    assert plain["response_format"] == {"type": "json_object"}
    assert '"additionalProperties":false' in plain["messages"][0]["content"]
    assert "response_format" not in encoded(**wanted, options={"structured": "none"})


# Reasoning

ADAPTIVE: Any = {"thinking": {"type": "adaptive"}}
OFF: Any = {"thinking": {"type": "disabled"}}
EFFORT: Any = {"output_config": {"effort": "medium"}}


def budget(tokens: int) -> Any:
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


@pytest.mark.parametrize(
    ("request_fields", "host", "model", "sent"),
    [
        ({}, "x.example", "m", None),
        (ADAPTIVE, "x.example", "m", None),
        ({**ADAPTIVE, **EFFORT}, "x.example", "m", "medium"),
        ({**ADAPTIVE, "output_config": {"effort": "max"}}, "x.example", "m", "high"),
        (OFF, "x.example", "m", None),
        ({**OFF, **EFFORT}, "api.openai.com", "gpt-5.1", "none"),
        ({"thinking": {"type": "between_tools"}}, "api.openai.com", "gpt-5.1", "none"),
        (budget(1024), "api.openai.com", "gpt-5.6", "minimal"),
        (budget(4096), "api.openai.com", "gpt-5.6", "low"),
        (budget(16384), "api.openai.com", "gpt-5.6", "medium"),
        (budget(32768), "api.openai.com", "gpt-5.6", "high"),
        (budget(60000), "api.openai.com", "gpt-5.6", "xhigh"),
        (budget(1024), "x.example", "m", "low"),
        (budget(1024), "api.openai.com", "o3", "low"),
        (budget(1024), "api.openai.com", "gpt-5-mini", "minimal"),
        ({"output_config": {"effort": "max"}}, "api.openai.com", "o3", "high"),
        ({"output_config": {"effort": "low"}}, "api.openai.com", "gpt-5-pro", "high"),
        (EFFORT, "api.openai.com", "gpt-4o", None),
        (EFFORT, "api.openai.com", "gpt-5-chat-latest", None),
        (EFFORT, "api.x.ai", "grok-3-mini", "low"),
        (EFFORT, "api.x.ai", "grok-4", None),
        (EFFORT, "api.groq.com", "openai/gpt-oss-120b", "medium"),
        (EFFORT, "api.groq.com", "llama-3.3-70b", None),
        (OFF, "api.groq.com", "qwen/qwen3-32b", "none"),
        (EFFORT, "generativelanguage.googleapis.com", "gemini-2.5-pro", "medium"),
        (OFF, "generativelanguage.googleapis.com", "gemini-2.5-flash", "none"),
        (OFF, "generativelanguage.googleapis.com", "gemini-3-pro", "minimal"),
        (EFFORT, "generativelanguage.googleapis.com", "gemini-2.0-flash", None),
        (EFFORT, "vllm", "openai/gpt-oss-20b", "medium"),
        (EFFORT, "vllm", "Qwen/Qwen3-32B", None),
        (EFFORT, "api.mistral.ai", "mistral-large", None),
    ],
)
def test_effort_is_sent_where_it_was_named(request_fields: Any, host: str, model: str, sent: str | None) -> None:
    body = encoded(base_url=f"https://{host}/v1", upstream_model=model, max_tokens=64000, **request_fields)
    assert body.get("reasoning_effort") == sent


def test_the_last_word_on_effort_counts() -> None:
    history = [user("a"), system("x", output_config={"effort": "low"}), user("b"), system("y"), user("c")]
    assert encoded(messages=history, **EFFORT)["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("wanted", "levels", "level"),
    [
        ("high", ("low", "high"), "high"),
        ("max", ("low", "high"), "high"),
        ("minimal", ("none", "low"), "low"),
        ("none", ("minimal", "low"), "minimal"),
        ("none", ("low",), None),
        (None, ("low",), None),
        ("high", (), None),
    ],
)
def test_a_level_nobody_has_is_rounded_down(wanted: str | None, levels: tuple[str, ...], level: str | None) -> None:
    assert nearest(wanted, levels) == level


@pytest.mark.parametrize(
    ("dialect", "request_fields", "sent"),
    [
        ("deepseek", {**ADAPTIVE, **EFFORT}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ("deepseek", OFF, {"thinking": {"type": "disabled"}}),
        ("glm", ADAPTIVE, {"thinking": {"type": "enabled"}}),
        ("openrouter", EFFORT, {"reasoning": {"effort": "medium"}}),
        ("openrouter", budget(5000), {"reasoning": {"max_tokens": 5000}}),
        ("openrouter", OFF, {"reasoning": {"enabled": False}}),
        ("qwen", budget(5000), {"enable_thinking": True, "thinking_budget": 5000}),
        ("qwen", OFF, {"enable_thinking": False}),
        ("qwen", {**ADAPTIVE, "stream": False}, {"enable_thinking": False}),
        ("kimi", {**ADAPTIVE, **EFFORT}, {}),
        ("vllm", ADAPTIVE, {"chat_template_kwargs": {"enable_thinking": True}}),
        ("sglang", OFF, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("sglang", EFFORT, {}),
    ],
)
def test_every_vendor_is_asked_to_think_in_its_own_words(dialect: str, request_fields: Any, sent: Any) -> None:
    body = encoded(options={"dialect": dialect}, max_tokens=64000, **request_fields)
    fields = ("reasoning_effort", "reasoning", "thinking", "enable_thinking", "thinking_budget", "chat_template_kwargs")
    assert {name: body[name] for name in fields if name in body} == sent


def thought(state: State | None, shown: str = "") -> Any:
    return {"type": "thinking", "thinking": shown, "signature": seal(state, SECRET) if state else "theirs"}


def test_reasoning_goes_back_to_whom_it_came_from() -> None:
    mine = State("openai", "deepseek", "m", "I thought", [])
    deepseek: Any = {"options": {"dialect": "deepseek"}, **ADAPTIVE}
    history = [user("x"), assistant(thought(mine), use("A")), user(result("A"))]
    assert messages(*history, **deepseek)[1]["reasoning_content"] == "I thought"
    assert "reasoning_content" not in messages(*history)[1]
    others = [user("x"), assistant(thought(State("openai", "kimi", "m", "no"), "shown"), use("A"))]
    assert messages(*others, **deepseek)[1]["reasoning_content"] == "shown"


def test_where_reasoning_is_demanded_and_lost_a_filler_stands() -> None:
    history = [user("x"), assistant(text("a"), use("A")), user(result("A")), assistant("b"), user("c")]
    deepseek = messages(*history, options={"dialect": "deepseek"}, **ADAPTIVE)
    assert deepseek[1]["reasoning_content"] == ""
    assert "reasoning_content" not in deepseek[3]
    assert messages(*history, options={"dialect": "kimi"}, **ADAPTIVE)[1]["reasoning_content"] == " "
    assert messages(*history, options={"dialect": "kimi"})[1]["reasoning_content"] == " "
    assert "reasoning_content" not in messages(*history, options={"dialect": "deepseek"}, **OFF)[1]


def test_reasoning_details_go_back_exactly_as_they_came() -> None:
    items = [{"type": "reasoning.encrypted", "data": "x", "index": 0}]
    history = [user("x"), assistant(thought(State("openai", "openrouter", "m", "", items)), text("a")), user("b")]
    assert messages(*history, options={"dialect": "openrouter"})[1]["reasoning_details"] == items


# Habits that few have


def test_ids_of_nine_letters_agree_on_call_and_result() -> None:
    history = [
        user("x"),
        assistant(use("toolu_01", path="a"), use("toolu_02")),
        user(result("toolu_01", "one"), result("toolu_02", "two")),
        assistant(use("aB3456789"), use("aB3456789")),
    ]
    sent = messages(*history, base_url="https://api.mistral.ai/v1")
    made = [call["id"] for message in sent for call in message.get("tool_calls", ())]
    assert made == [message["tool_call_id"] for message in sent if message["role"] == "tool"]
    assert len(set(made)) == 4
    assert all(len(name) == 9 and name.isascii() and name.isalnum() for name in made)
    assert made[2] == "aB3456789"


def test_the_least_order_of_mistral() -> None:
    sent = messages(user("x"), assistant(use("A")), user(result("A"), text("y")), base_url="https://api.mistral.ai/v1")
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "assistant", "user"]
    body = encoded(tools=[tool()], tool_choice={"type": "any"}, base_url="https://api.mistral.ai/v1")
    assert body["tool_choice"] == "any"


@pytest.mark.parametrize(
    ("habit", "choice", "thinking"),
    [
        ("send", "required", {"type": "enabled"}),
        ("auto", "auto", {"type": "enabled"}),
        ("stop_thinking", "required", {"type": "disabled"}),
    ],
)
def test_a_forced_call_while_the_model_thinks(habit: str, choice: str, thinking: Any) -> None:
    options = {"dialect": "deepseek", "forced_choice_when_thinking": habit}
    body = encoded(tools=[tool()], tool_choice={"type": "any"}, options=options, **ADAPTIVE)
    assert (body["tool_choice"], body["thinking"]) == (choice, thinking)


def test_calls_of_the_past_without_tools_get_a_stand_in_where_tools_are_needed() -> None:
    history = [user("x"), assistant(use("A")), user(result("A"))]
    body = encoded(messages=history, options={"needs_tools": True})
    assert [made["function"]["name"] for made in body["tools"]] == ["no_tool"]
    assert body["tool_choice"] == "none"
    assert "tools" not in encoded(messages=history)
    assert "tools" not in encoded(options={"needs_tools": True})


@pytest.mark.parametrize(
    ("description", "most", "sent"),
    [
        ("One. Two. Three.", 16, "One. Two. Three."),
        ("One. Two. Three.", 10, "One. Two."),
        ("One. Two. Three.", 9, "One. Two."),
        ("One. Two. Three.", 8, "One."),
        ("Oneword", 3, "One"),
        ("Version 1.5 of it! More", 18, "Version 1.5 of it!"),
        ("", 3, ""),
    ],
)
def test_a_long_description_is_cut_after_a_sentence(description: str, most: int, sent: str) -> None:
    body = encoded(tools=[{**tool(), "description": description}], options={"max_tool_description": most})
    assert body["tools"][0]["function"]["description"] == sent


def test_examples_of_a_tool_stand_in_its_description_where_that_is_wanted() -> None:
    given = {**tool(), "input_examples": [{"path": "a"}, {"path": "b"}]}
    [made] = encoded(tools=[given], options={"tool_examples": True})["tools"]
    assert made["function"]["description"] == 'Read it\n\nExamples of its input:\n{"path":"a"}\n{"path":"b"}'
    assert encoded(tools=[given])["tools"][0]["function"]["description"] == "Read it"


SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}


def test_a_search_of_the_providers_own_stands_in_for_the_vendors() -> None:
    native: Any = {"options": {"web_search": "native"}}
    alone = encoded(tools=[SEARCH], tool_choice={"type": "tool", "name": "web_search"}, **native)
    assert alone["plugins"] == [{"id": "web"}]
    assert not {"tools", "tool_choice"} & set(alone)
    beside = encoded(tools=[SEARCH, tool()], tool_choice={"type": "tool", "name": "web_search"}, **native)
    assert (beside["tool_choice"], len(beside["tools"])) == ("auto", 1)
    assert "plugins" not in encoded(tools=[tool()], **native)


def test_the_computer_is_a_function_where_that_is_wanted() -> None:
    computer = {"type": "computer_20251124", "name": "computer", "display_width_px": 1024}
    assert offered([computer], options={"computer_use": True}) == ["computer"]
    with pytest.raises(BadMessage, match="computer_toolset_20260801"):
        offered([{"type": "computer_toolset_20260801"}], options={"computer_use": True})


def test_a_schema_beside_tools_is_told_in_the_prompt_where_both_are_refused() -> None:
    wanted: Any = {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    body = encoded(tools=[tool()], system="Be kind.", options={"structured_with_tools": False}, **wanted)
    assert "response_format" not in body
    assert body["messages"][0]["content"].startswith("Be kind.\n\nAnswer with JSON")
    assert "response_format" in encoded(tools=[tool()], **wanted)
    assert "response_format" in encoded(options={"structured_with_tools": False}, **wanted)


MARK: Any = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("fields", "mark"),
    [
        ({"base_url": "https://openrouter.ai/api/v1", "upstream_model": "anthropic/claude-sonnet-4.5"}, MARK),
        ({"base_url": "https://openrouter.ai/api/v1", "upstream_model": "google/gemini-3-pro"}, MARK),
        ({"options": {"cache_marks": "cache_control"}}, MARK),
        ({"options": {"cache_marks": "breakpoint"}}, {"prompt_cache_breakpoint": {"mode": "explicit"}}),
    ],
)
def test_marks_of_the_cache_are_kept_where_they_are_understood(fields: Any, mark: Any) -> None:
    history = [user("x"), assistant(use("A")), user({**result("A"), **MARK}, text("y"), {**text("z"), **MARK})]
    billing = text("x-anthropic-billing-header: x")
    sent = messages(*history, system=[billing, {**text("a"), **MARK}, text("b")], **fields)
    assert sent[0]["content"] == [{**text("a"), **mark}, text("b")]
    assert sent[1]["content"] == "x"
    assert sent[3]["content"] == [{**text("done"), **mark}]
    assert sent[4]["content"] == [text("y"), {**text("z"), **mark}]


def test_marks_are_dropped_everywhere_else() -> None:
    body = encoded(
        messages=[user({**text("x"), **MARK})],
        system=[{**text("a"), **MARK}],
        base_url="https://openrouter.ai/api/v1",
        upstream_model="openai/gpt-5.1",
    )
    assert [message["content"] for message in body["messages"]] == ["a", "x"]


def test_the_user_is_named_by_a_digest_where_that_is_wanted() -> None:
    body = encoded(options={"safety_identifier": "safety_identifier"})
    assert re.fullmatch(r"u_[0-9a-f]{32}", body["safety_identifier"])
    assert encoded(options={"safety_identifier": "user"})["user"] == body["safety_identifier"]
    assert not {"user", "safety_identifier"} & set(encoded())


@pytest.mark.parametrize(
    ("base_url", "version", "url"),
    [
        ("https://x.openai.azure.com/openai/v1", "", "https://x.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://x.openai.azure.com/openai/deployments/gpt-5",
            "2025-04-01",
            "https://x.openai.azure.com/openai/deployments/gpt-5/chat/completions?api-version=2025-04-01",
        ),
        (
            "https://x.services.ai.azure.com/models/",
            "2024-05-01-preview",
            "https://x.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
    ],
)
def test_an_api_version_goes_into_the_address(base_url: str, version: str, url: str) -> None:
    path = DIALECT.encode(exchange(base_url=base_url, options={"api_version": version})).path
    assert url_for(base_url, path) == url


@pytest.mark.parametrize(
    ("auth_type", "kind", "dialect", "header"),
    [
        ("api_key", "openai", "azure", ("api-key", "")),
        ("bearer", "openai", "azure", ("authorization", "Bearer ")),
        ("api_key", "openai", "openai", ("authorization", "Bearer ")),
        ("api_key", "anthropic", "azure", ("x-api-key", "")),
    ],
)
def test_a_key_of_azure_has_a_header_of_its_own(auth_type: str, kind: str, dialect: str, header: Any) -> None:
    assert credential_header(auth_type, kind, dialect) == header


# Whatever comes in

WORDS = st.sampled_from(["alpha", "beta", "gamma", " ", ""])
IDS = st.sampled_from(["A", "B", "call_0", "call|1", ""])
BLOCKS = st.one_of(
    WORDS.map(text),
    st.builds(use, IDS),
    st.builds(result, IDS, st.one_of(WORDS, st.just([text("x"), PNG]))),
    st.sampled_from(
        [PNG, {"type": "thinking", "thinking": "t"}, {"type": "new"}, {"type": "compaction", "content": "c"}]
    ),
)
HISTORIES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "user", "assistant", "system"]),
        st.one_of(WORDS, st.lists(BLOCKS, max_size=5)),
    ),
    min_size=1,
    max_size=12,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "mid_system": st.sampled_from(["user", "developer"]),
        "user_first": st.booleans(),
        "assistant_after_tool": st.booleans(),
        "null_content": st.booleans(),
        "tool_id_form": st.sampled_from(["free", "alphanumeric"]),
        "reasoning_history": st.sampled_from(["none", "reasoning_content"]),
    },
)


@settings(max_examples=200, deadline=None)
@given(HISTORIES, OPTIONS)
def test_any_history_becomes_a_valid_one(history: list[Any], options: dict[str, Any]) -> None:
    sent = messages(*history, options=options)
    open_calls: list[str] = []
    seen: set[str] = set()
    for before, message in zip([None, *sent], sent, strict=False):
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
            assert message["content"]
            continue
        assert not open_calls
        assert before is None or (before["role"], message["role"]) != ("user", "user")
        assert before is None or (before["role"], message["role"]) != ("assistant", "assistant")
        open_calls = [made["id"] for made in message.get("tool_calls", [])]
        assert not seen & set(open_calls)
        seen |= set(open_calls)
        assert message["content"] or open_calls
    assert not open_calls
    said = json.dumps(sent)
    for message in history:
        for block in [text(message["content"])] if isinstance(message["content"], str) else message["content"]:
            if block["type"] == "text" and block["text"].strip():
                assert block["text"] in said
