from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.dialects import DIALECTS
from providers.dialects.dialect import Exchange
from providers.dialects.history import INTERRUPTED
from providers.dialects.lessons import STATE_REFUSED, Lesson
from providers.dialects.responses import ResponsesAnswer
from providers.errors import BadMessage
from providers.events import fold
from providers.state import State, seal
from providers.tests.conversations import PDF, PNG, assistant, result, system, text, use, user
from providers.tests.exchanges import SECRET, STREAMS, exchange, tool

DIALECT = DIALECTS["responses"]
PNG_PART = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgoAAA", "detail": "auto"}
OPENAI = "https://api.openai.com/v1"
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5, "allowed_domains": ["a.example"]}
NATIVE = {"web_search": "native"}


def encoded(**request: Any) -> Any:
    return json.loads(DIALECT.encode(exchange(**request)).body)


def items(*history: Any, **request: Any) -> Any:
    return encoded(messages=list(history), **request)["input"]


def thought(*sealed: Any, dialect: str = "responses", family: str = "llm.example.com") -> Any:
    state = State(dialect, family, "some-model", "", list(sealed))
    return {"type": "thinking", "thinking": "", "signature": seal(state, SECRET)}


def reasoning(id: str) -> Any:
    return {"type": "reasoning", "id": id, "summary": [], "encrypted_content": f"secret of {id}"}


def shown(*parts: Any, role: str = "user") -> Any:
    told = [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"type": "message", "role": role, "content": told}


def said(text: str) -> Any:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def called(id: str, name: str = "Read", arguments: str = "{}") -> Any:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}


def brought(id: str, output: Any) -> Any:
    return {"type": "function_call_output", "call_id": id, "output": output}


# The whole request


def test_a_plain_request() -> None:
    outbound = DIALECT.encode(
        exchange(
            system="Be kind.", metadata={"user_id": "secret"}, temperature=0, top_p=0.5, top_k=3, stop_sequences=["x"]
        )
    )
    assert outbound.path == "/responses"
    assert outbound.headers == {"content-type": "application/json", "accept": "text/event-stream"}
    assert json.loads(outbound.body) == {
        "model": "upstream-model",
        "instructions": "Be kind.",
        "input": [shown("Hello")],
        "max_output_tokens": 1000,
        "temperature": 0.0,
        "top_p": 0.5,
        "store": False,
        "stream": True,
    }


def test_an_answer_in_one_piece_is_asked_for_as_json() -> None:
    outbound = DIALECT.encode(exchange(stream=False))
    assert outbound.headers["accept"] == "application/json"
    assert "stream" not in json.loads(outbound.body)


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"max_tokens": 128_000, "options": {"max_output_tokens": 8192}}, {"max_output_tokens": 8192}),
        ({"max_tokens": 1}, {"max_output_tokens": 16}),
        ({"temperature": 1, "thinking": {"type": "adaptive"}}, {"temperature": None}),
        ({"temperature": 0.5, "base_url": OPENAI, "upstream_model": "gpt-5.1"}, {"temperature": None}),
        ({"temperature": 0.5, "base_url": OPENAI, "upstream_model": "gpt-4o"}, {"temperature": 0.5}),
        ({"service_tier": "standard_only"}, {"service_tier": None}),
        ({"service_tier": "standard_only", "base_url": OPENAI}, {"service_tier": "default"}),
        ({"speed": "fast", "options": {"fast_tier": True}}, {"service_tier": "priority"}),
        ({"system": "x-anthropic-billing-header: cc_version=1\nBe kind."}, {"instructions": "Be kind."}),
        ({"system": ""}, {"instructions": None}),
        ({"context_management": {"edits": []}, "container": "c"}, {"container": None, "truncation": None}),
    ],
)
def test_parameters(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    body = encoded(**fields)
    assert {name: body.get(name) for name in sent} == sent


def test_the_cache_key_is_stable_in_a_session() -> None:
    headers = {"x-claude-code-session-id": "one"}
    key = encoded(headers=headers, base_url=OPENAI)["prompt_cache_key"]
    assert encoded(headers=headers, base_url=OPENAI, messages=[user("x")])["prompt_cache_key"] == key
    assert "prompt_cache_key" not in encoded(headers=headers)


def test_an_address_may_need_a_version() -> None:
    assert DIALECT.encode(exchange(options={"api_version": "2025-04-01"})).path == "/responses?api-version=2025-04-01"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"messages": [user(PDF)]}, "This model does not support PDF input"),
        ({"messages": [assistant("So")], "options": {"prefill": "refuse"}}, "prefill"),
        ({"tools": [SEARCH]}, "web_search is not available"),
        ({"tool_choice": {"type": "tool", "name": "Gone"}}, "Gone"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_dropped_in_silence_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadMessage, match=named):
        encoded(**fields)


# Items


def test_a_loop_of_calls_is_a_list_of_items() -> None:
    history = [user("a"), assistant(text("b"), use("A", path="x")), user(result("A", "c")), assistant("d"), user("e")]
    assert items(*history) == [
        shown("a"),
        said("b"),
        called("A", arguments='{"path":"x"}'),
        brought("A", "c"),
        said("d"),
        shown("e"),
    ]


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ([text("a"), use("A"), use("B"), text("b")], [said("a"), said("b"), called("A"), called("B")]),
        ([use("A"), text("b"), use("B")], [said("b"), called("A"), called("B")]),
        (
            [thought(reasoning("r")), text("a"), thought(reasoning("s")), use("A"), thought(reasoning("t")), use("B")],
            [reasoning("r"), said("a"), reasoning("s"), called("A"), reasoning("t"), called("B")],
        ),
        (
            [thought(reasoning("r")), use("A"), thought(reasoning("s")), text("b"), use("B")],
            [reasoning("s"), said("b"), reasoning("r"), called("A"), called("B")],
        ),
        (
            [thought(reasoning("r"), reasoning("s")), use("A"), use("B")],
            [reasoning("r"), reasoning("s"), called("A"), called("B")],
        ),
        ([use("A"), use("B"), thought(reasoning("r"))], [called("A"), called("B")]),
        ([thought(reasoning("r"), dialect="openai"), use("A"), use("B")], [called("A"), called("B")]),
        ([thought(reasoning("r"), family="other"), use("A"), use("B")], [called("A"), called("B")]),
        ([thought({"type": "other"}, 7), use("A"), use("B")], [called("A"), called("B")]),
        (
            [{"type": "thinking", "thinking": "t", "signature": "theirs"}, text(" "), use("A"), use("B")],
            [called("A"), called("B")],
        ),
    ],
)
def test_items_stand_in_the_order_that_is_taken(content: list[Any], sent: list[Any]) -> None:
    outputs = [brought("A", "one"), brought("B", "two")]
    history = [user("x"), assistant(*content), user(result("B", "two"), result("A", "one"))]
    assert items(*history) == [shown("x"), *sent, *outputs]


def test_thinking_alone_is_no_turn() -> None:
    assert items(user("a"), assistant(thought(reasoning("r"))), user("b")) == [shown("a", "b")]


def test_refused_reasoning_is_left_out_once_and_asked_for_again() -> None:
    history = [user("x"), assistant(thought(reasoning("r")), text("a")), user("b")]
    given = exchange(messages=history, thinking={"type": "adaptive"})
    refused = msgspec.structs.replace(given, lessons=(Lesson(STATE_REFUSED, lasts=False),))
    assert reasoning("r") in json.loads(DIALECT.encode(given).body)["input"]
    body = json.loads(DIALECT.encode(refused).body)
    assert body["input"] == [shown("x"), said("a"), shown("b")]
    assert body["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize(
    ("content", "output"),
    [
        ("plain", "plain"),
        ("", "(no output)"),
        ([text("a"), text("b")], "a\nb"),
        ([text("a"), PNG], [{"type": "input_text", "text": "a"}, PNG_PART]),
        ([PNG], [PNG_PART]),
        ({"a": 1}, '{"a":1}'),
    ],
)
def test_a_result_keeps_its_pictures(content: Any, output: Any) -> None:
    assert items(user("x"), assistant(use("A")), user(result("A", content)))[-1] == brought("A", output)


def test_a_failed_result_says_so() -> None:
    failed = [
        user("x"),
        assistant(use("A"), use("B")),
        user(result("A", is_error=True), result("B", [PNG], is_error=True)),
    ]
    assert items(*failed)[-2:] == [
        brought("A", "Error: done"),
        brought("B", [{"type": "input_text", "text": "Error:"}, PNG_PART]),
    ]


def test_every_call_has_its_output_and_every_output_its_call() -> None:
    interrupted = [
        user("x"),
        assistant(use("A"), use("B")),
        user("stop"),
        assistant("ok"),
        user(result("B"), text("go")),
    ]
    assert items(*interrupted) == [
        shown("x"),
        called("A"),
        called("B"),
        brought("A", INTERRUPTED),
        brought("B", INTERRUPTED),
        shown("stop"),
        said("ok"),
        shown("[result of an earlier tool call Read]", "done", "go"),
    ]
    assert items(user("x"), assistant(use("A")))[-1] == brought("A", INTERRUPTED)


def test_ids_are_legal_and_agree() -> None:
    long = "toolu_" + "x" * 100
    history = [user("x"), assistant(use(long), use("call|1"), use("y" * 64)), user(result("call|1"), result(long))]
    sent = items(*history)
    made = [item["call_id"] for item in sent if item["type"] == "function_call"]
    assert [item["call_id"] for item in sent if item["type"] == "function_call_output"] == made
    assert made[2] == "y" * 64
    assert all(len(id) <= 64 and "|" not in id for id in made)


def test_a_system_message_in_the_middle_is_the_developers() -> None:
    history = [user("a"), assistant(use("A")), system("env"), user(result("A"), text("go on"))]
    assert items(*history)[1:] == [called("A"), brought("A", "done"), shown("env", role="developer"), shown("go on")]
    reminded = items(user("a"), system("env"), options={"mid_system": "user"})
    assert reminded == [shown("a", "<system-reminder>\nenv\n</system-reminder>")]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (PNG, PNG_PART),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"},
        ),
        (
            {**PDF, "title": "A"},
            {"type": "input_file", "filename": "A", "file_data": "data:application/pdf;base64,JVBERi0="},
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
            {"type": "input_file", "file_url": "https://x/y.pdf"},
        ),
        (
            {"type": "document", "source": {"type": "text", "data": "D"}},
            {"type": "input_text", "text": "<document>\nD\n</document>"},
        ),
    ],
)
def test_content_is_parts(block: Any, part: Any) -> None:
    assert items(user(block), base_url=OPENAI) == [shown(part)]


def test_a_beginning_of_the_answer_is_the_last_item() -> None:
    assert items(user("a"), assistant("So ")) == [shown("a"), said("So")]


def test_an_empty_history_still_says_something() -> None:
    assert items(user("")) == [shown("(conversation continues)")]


# Tools


def test_tools_are_flat_and_not_strict_unless_they_can_be() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    given = [tool("Read"), {"name": "Bash", "input_schema": schema, "strict": True}, {**tool("Edit"), "strict": True}]
    assert encoded(tools=given)["tools"] == [
        {
            "type": "function",
            "name": "Read",
            "description": "Read it",
            "parameters": {"type": "object", "properties": {}},
            "strict": False,
        },
        {"type": "function", "name": "Bash", "parameters": schema, "strict": True},
        {
            "type": "function",
            "name": "Edit",
            "description": "Edit it",
            "parameters": {"type": "object", "properties": {}},
            "strict": False,
        },
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "Read"}, {"tool_choice": {"type": "function", "name": "Read"}}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"tool_choice": "auto", "parallel_tool_calls": False}),
        (None, {}),
    ],
)
def test_which_tool_to_call(choice: Any, sent: dict[str, Any]) -> None:
    body = encoded(tools=[tool()], tool_choice=choice)
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == sent


def test_a_long_name_is_shortened_everywhere() -> None:
    long = "mcp__server__" + "x" * 80
    body = encoded(
        tools=[tool(long)],
        tool_choice={"type": "tool", "name": long},
        messages=[user("x"), assistant(use("A", long)), user(result("A"))],
    )
    names = {body["tools"][0]["name"], body["tool_choice"]["name"], body["input"][1]["name"]}
    assert len(names) == 1
    assert len(names.pop()) <= 64


def test_a_search_of_the_provider_is_offered_where_it_has_one() -> None:
    body = encoded(tools=[SEARCH], options=NATIVE, tool_choice={"type": "tool", "name": "web_search"})
    assert body["tools"] == [{"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}]
    assert body["tool_choice"] == {"type": "web_search"}
    assert body["include"] == ["web_search_call.action.sources"]
    assert [given["type"] for given in encoded(tools=[tool(), SEARCH])["tools"]] == ["function"]


# Reasoning and the form of the answer

ADAPTIVE: Any = {"type": "adaptive"}
OMITTED: Any = {"type": "adaptive", "display": "omitted"}


@pytest.mark.parametrize(
    ("fields", "model", "reasoning", "included"),
    [
        ({"thinking": OMITTED, "output_config": {"effort": "medium"}}, "gpt-5.6", {"effort": "medium"}, True),
        ({"thinking": ADAPTIVE}, "gpt-5.6", {"summary": "auto"}, True),
        (
            {"thinking": ADAPTIVE, "output_config": {"effort": "high"}},
            "gpt-5.6",
            {"effort": "high", "summary": "auto"},
            True,
        ),
        ({"thinking": {"type": "disabled"}}, "gpt-5.6", {"effort": "none"}, True),
        ({}, "gpt-5.6", None, True),
        ({"thinking": ADAPTIVE, "output_config": {"effort": "high"}}, "gpt-4o", None, False),
        ({"thinking": OMITTED, "options": {"reasoning_summary": "always"}}, "gpt-5.6", {"summary": "auto"}, True),
        ({"thinking": ADAPTIVE, "options": {"reasoning_summary": "never"}}, "gpt-5.6", None, True),
        ({"thinking": ADAPTIVE, "options": {"reasoning_history": "none"}}, "gpt-5.6", {"summary": "auto"}, False),
        ({"thinking": ADAPTIVE, "base_url": "https://x.example"}, "m", {"summary": "auto"}, True),
        ({"base_url": "https://x.example"}, "m", None, False),
    ],
)
def test_how_much_to_think(fields: Any, model: str, reasoning: Any, included: bool) -> None:
    body = encoded(**{"base_url": OPENAI, "upstream_model": model, **fields})
    assert body.get("reasoning") == reasoning
    assert ("reasoning.encrypted_content" in body.get("include", ())) is included


def test_an_answer_after_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    wanted: Any = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    assert encoded(**wanted)["text"] == {
        "format": {"type": "json_schema", "name": "output", "schema": schema, "strict": False}
    }
    told = encoded(**wanted, system="s", options={"structured": "json_object"})
    assert told["text"] == {"format": {"type": "json_object"}}
    assert told["instructions"].startswith("s\n\nAnswer with JSON alone")


def test_what_a_provider_has_refused_is_not_sent_again() -> None:
    given = exchange(thinking=ADAPTIVE, tools=[{**tool(), "strict": True}])
    lessons = (Lesson("reasoning.summary"), Lesson("max_output_tokens", most=500), Lesson("include"))
    body = json.loads(DIALECT.encode(msgspec.structs.replace(given, lessons=lessons)).body)
    assert not {"reasoning", "include"} & set(body)
    assert body["max_output_tokens"] == 500
    assert body["tools"][0]["strict"] is False


# Turn after turn


def answer_to(given: Exchange) -> Any:
    machine = ResponsesAnswer(given, "text/event-stream")
    stream = (STREAMS / "responses" / "openai_reasoning_call.sse").read_bytes()
    return fold(machine.feed(stream) + machine.finish())["content"]


def test_what_was_answered_comes_back_as_it_was_and_the_beginning_stays() -> None:
    request: Any = {"tools": [tool("Read"), tool("Bash")], "system": "s", "thinking": OMITTED}
    first = exchange(messages=[user("go")], **request)
    blocks = answer_to(first)
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    history = [user("go"), assistant(*blocks), user(*map(result, calls))]
    second = exchange(messages=history, **request)
    told = [{"type": "summary_text", "text": text} for text in ("**Looking**", "Then read")]
    assert json.loads(DIALECT.encode(second).body)["input"] == [
        shown("go"),
        {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAfirst", "summary": told},
        said("I'll look."),
        {"id": "rs_2", "type": "reasoning", "encrypted_content": "gAAsecond", "summary": []},
        called(calls[0], "Read", '{"path":"x"}'),
        called(calls[1], "Bash", '{"command":"ls"}'),
        brought(calls[0], "done"),
        brought(calls[1], "done"),
    ]
    bodies = [DIALECT.encode(given).body for given in (first, second, exchange(messages=history, **request))]
    shared = bodies[0][: bodies[0].index(b'],"tools"')]
    assert bodies[1].startswith(shared)
    third = DIALECT.encode(exchange(messages=[*history, assistant("ok"), user("more")], **request)).body
    shared = bodies[1][: bodies[1].index(b'],"tools"')]
    assert third.startswith(shared + b',{"type":"message"')
    assert bodies[1] == bodies[2]


# Whatever comes in

WORDS = st.sampled_from(["alpha", "beta", "gamma", " ", ""])
IDS = st.sampled_from(["A", "B", "call_0", "call|1", "", "x" * 70])
BLOCKS = st.one_of(
    WORDS.map(text),
    st.builds(use, IDS),
    st.builds(result, IDS, st.one_of(WORDS, st.just([text("x"), PNG]))),
    st.sampled_from(["r", "s"]).map(lambda id: thought(reasoning(id))),
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
    {}, optional={"mid_system": st.sampled_from(["user", "developer"]), "user_first": st.booleans()}
)


@settings(max_examples=200, deadline=None)
@given(HISTORIES, OPTIONS)
def test_any_history_becomes_a_valid_one(history: list[Any], options: dict[str, Any]) -> None:
    sent = items(*history, options=options)
    assert sent
    open_calls: list[str] = []
    seen: set[str] = set()
    for item, behind in zip(sent, [*sent[1:], None], strict=True):
        if item["type"] == "function_call":
            assert item["call_id"] not in seen
            seen.add(item["call_id"])
            open_calls.append(item["call_id"])
        elif item["type"] == "function_call_output":
            assert item["call_id"] == open_calls.pop(0)
            assert item["output"]
        elif item["type"] == "reasoning":
            assert behind is not None
            assert behind["type"] in {"reasoning", "function_call"} or behind["role"] == "assistant"
        else:
            assert not open_calls
            assert item["content"]
            assert (item["role"], (behind or {}).get("role")) != ("user", "user")
    assert not open_calls
    everything = json.dumps(sent)
    for message in history:
        for block in [text(message["content"])] if isinstance(message["content"], str) else message["content"]:
            if block["type"] == "text" and block["text"].strip():
                assert block["text"] in everything
