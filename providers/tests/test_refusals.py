from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.dialects import refusals
from providers.dialects.chat import DIALECT
from providers.dialects.overflow import Figures, figures_of
from providers.dialects.refusals import in_answer, scrub
from providers.errors import (
    AccountRefused,
    BrokenStream,
    NotServed,
    Overloaded,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamError,
)
from providers.tests.exchanges import exchange

IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}


def refusal(status: int, body: Any, headers: dict[str, str] | None = None, **request: Any) -> UpstreamError:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return DIALECT.refusal(exchange(**request), status, headers or {}, sent)


def error(message: str = "boom", **fields: Any) -> Any:
    return {"error": {"message": message, **fields}}


# One line per recognised refusal: status, body, class, the client's status and kind, what the message says

ROWS: list[tuple[str, int, Any, type[UpstreamError], int, str, str]] = [
    (
        "overflow by code",
        400,
        error("x", code="context_length_exceeded"),
        Refused,
        400,
        "invalid_request_error",
        "prompt is too long",
    ),
    (
        "overflow by type",
        400,
        error("x", type="exceed_context_size_error"),
        Refused,
        400,
        "invalid_request_error",
        "prompt is too long",
    ),
    ("too large", 413, error("Payload"), Refused, 413, "request_too_large", "Payload"),
    ("too large by text", 400, error("Request Entity Too Large"), Refused, 413, "request_too_large", "Too Large"),
    ("moderation", 400, error("Filtered", code="content_filter"), Refused, 400, "invalid_request_error", "Filtered"),
    (
        "moderation 403",
        403,
        error("Your input was flagged", code=403),
        Refused,
        400,
        "invalid_request_error",
        "flagged",
    ),
    ("quota 402", 402, error("pay"), AccountRefused, 503, "api_error", "no provider can serve this request now"),
    (
        "quota 429",
        429,
        error("x", type="insufficient_quota"),
        AccountRefused,
        503,
        "api_error",
        "no provider can serve",
    ),
    ("quota text", 403, error("Insufficient credits"), AccountRefused, 503, "api_error", "no provider can serve"),
    (
        "quota of a minute",
        429,
        error("You exceeded your current quota. Please retry in 14.2s.", status="RESOURCE_EXHAUSTED"),
        RateLimited,
        429,
        "rate_limit_error",
        "15 seconds",
    ),
    ("quota by code", 429, error("x", code="billing_not_active"), AccountRefused, 503, "api_error", "no provider"),
    ("quota arrears", 400, error("Denied", code="Arrearage"), AccountRefused, 503, "api_error", "no provider"),
    ("quota Chinese", 429, error("余额不足"), AccountRefused, 503, "api_error", "no provider can serve"),
    ("quota Anthropic", 400, error("Your credit balance is too low"), AccountRefused, 503, "api_error", "no provider"),
    (
        "credential",
        401,
        error("Incorrect API key provided: sk-abcdef123"),
        AccountRefused,
        503,
        "api_error",
        "credential",
    ),
    ("permission", 403, error("no"), AccountRefused, 503, "api_error", "the gateway's credential"),
    (
        "credential 400",
        400,
        error("API key not valid. Please pass one."),
        AccountRefused,
        503,
        "api_error",
        "credential",
    ),
    ("model", 404, error("nope"), NotServed, 404, "not_found_error", "claude-sonnet-5-5"),
    (
        "model 400",
        400,
        error("The model `gpt-9` does not exist"),
        NotServed,
        404,
        "not_found_error",
        "claude-sonnet-5-5",
    ),
    ("model Chinese", 503, error("无可用模型"), NotServed, 404, "not_found_error", "claude-sonnet-5-5"),
    (
        "model by code",
        400,
        error("The requested model is not supported.", code="model_not_supported"),
        NotServed,
        404,
        "not_found_error",
        "claude-sonnet-5-5",
    ),
    ("endpoints", 404, error("No endpoints found for x"), NotServed, 404, "not_found_error", "claude-sonnet-5-5"),
    ("rate", 429, error("slow down please"), RateLimited, 429, "rate_limit_error", "try again in 5 seconds"),
    (
        "rate by status name",
        429,
        error("x", status="RESOURCE_EXHAUSTED", code=429),
        RateLimited,
        429,
        "rate_limit_error",
        "rate",
    ),
    (
        "rate of tokens",
        429,
        error("Request too large for gpt-5 on tokens per min (TPM): Limit 30000, Requested 50000."),
        RateLimited,
        429,
        "rate_limit_error",
        "rate",
    ),
    (
        "rate of tokens in few words",
        429,
        {"message": "Too many tokens, please wait before trying again."},
        RateLimited,
        429,
        "rate_limit_error",
        "rate",
    ),
    ("Groq", 413, error("Limit 6000 tokens per minute"), RateLimited, 429, "rate_limit_error", "rate"),
    ("529", 529, error("x"), Overloaded, 529, "overloaded_error", "overloaded"),
    ("overloaded", 503, error("The engine is currently overloaded"), Overloaded, 529, "overloaded_error", "overloaded"),
    ("capacity", 503, error("We are at capacity"), Overloaded, 529, "overloaded_error", "overloaded"),
    ("slow_down", 503, error("x", code="slow_down"), Overloaded, 529, "overloaded_error", "overloaded"),
    ("408", 408, error("x"), TimedOut, 504, "timeout_error", "too long"),
    ("500", 500, error("kaput"), UpstreamError, 500, "api_error", "kaput"),
    ("502", 502, error("kaput"), UpstreamError, 502, "api_error", "kaput"),
    ("503", 503, error("kaput"), UpstreamError, 503, "api_error", "kaput"),
    ("504", 504, error("kaput"), UpstreamError, 504, "api_error", "kaput"),
    ("522", 522, b"<html>", UpstreamError, 502, "api_error", "web page"),
    ("530", 530, error("kaput"), UpstreamError, 502, "api_error", "kaput"),
    ("409", 409, error("twice"), UpstreamError, 502, "api_error", "twice"),
    (
        "reasoning item alone",
        400,
        error("Item 'rs_1' of type 'reasoning' was provided without its required following item."),
        Refused,
        400,
        "invalid_request_error",
        "without its required",
    ),
    (
        "a body in the message",
        400,
        error(json.dumps(error("tools.3 is odd"))),
        Refused,
        400,
        "invalid_request_error",
        "tools.3 is odd",
    ),
    ("400", 400, error("tools[0] is strange"), Refused, 400, "invalid_request_error", "tools[0] is strange"),
    (
        "422",
        422,
        {"detail": [{"loc": ["body"], "msg": "field required"}]},
        Refused,
        400,
        "invalid_request_error",
        "field",
    ),
    ("418", 418, error("teapot"), UpstreamError, 502, "api_error", "teapot"),
]


@pytest.mark.parametrize(
    ("status", "body", "kind", "client_status", "client_kind", "says"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_refusals_are_classified(
    status: int, body: Any, kind: type[UpstreamError], client_status: int, client_kind: str, says: str
) -> None:
    found = refusal(status, body)
    assert type(found) is kind
    assert (found.status, found.kind) == (client_status, client_kind)
    assert says in found.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (error("boom"), "boom"),
        ({"error": "boom"}, "boom"),
        ([{"error": {"code": 400, "message": "boom", "status": "INVALID_ARGUMENT"}}], "boom"),
        ({"message": "boom", "code": "x"}, "boom"),
        ({"detail": "boom"}, "boom"),
        ({"detail": [{"msg": "boom"}, {"msg": "bang"}]}, "boom; bang"),
        ({"object": "error", "message": "boom", "type": "BadRequestError", "code": 400}, "boom"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "boom"}}, "boom"),
        ({"base_resp": {"status_code": 2013, "status_msg": "boom"}}, "boom"),
        (error("Provider returned error", metadata={"raw": '{"error":{"message":"boom"}}'}), "boom"),
        (error("Provider returned error", metadata={"raw": "boom"}), "Provider returned error boom"),
        (b"boom", "boom"),
        ({}, "{}"),
        (b"", "the provider answered HTTP 400 without an explanation"),
        (b"<html><body>nginx</body></html>", "the provider answered HTTP 400 with a web page instead of an API error"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error":{"message":"caf\xe9 closed"}}', "caf\ufffd closed"),
        (error(" \n"), "the provider answered HTTP 400 without an explanation"),
        (b"[" * 2000, "["),
    ],
)
def test_every_shape_of_an_error_is_read(body: Any, message: str) -> None:
    found = refusal(400, body)
    assert type(found) is Refused
    assert found.message.startswith(message)
    assert len(found.message) <= refusals.LONGEST_MESSAGE


def test_compressed_errors_are_read() -> None:
    assert refusal(400, gzip.compress(json.dumps(error("boom")).encode())).message == "boom"
    assert "without an explanation" in refusal(400, b"\x1f\x8bjunk").message


@given(
    st.integers(400, 599),
    st.one_of(
        st.binary(),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["error", "message", "code", "type", "detail", "metadata", "raw", "base_resp", "status"]
                    ),
                    inner,
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_whatever_an_upstream_says_is_an_error_a_client_can_read(status: int, body: bytes) -> None:
    found = refusal(status, body)
    assert 400 <= found.status < 600
    assert found.message


# Too long


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        (
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 150123 tokens.",
            (150123, 128000),
        ),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", (1200000, 1048576)),
        ("prompt token count of 150000 exceeds the limit of 128000", (150000, 128000)),
        ("This model's maximum prompt length is 131072 but the request contains 200000 tokens.", (200000, 131072)),
        ("prompt is too long: 210000 tokens > 200000 maximum", (210000, 200000)),
        ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", (5000, 4096)),
        ("The prompt (total length 5000) is too long to fit into the model (context length 4096).", (5000, 4096)),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", (5000, 4096)),
        ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", (5000, 4096)),
        (
            "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            (40000, 32768),
        ),
        (
            "Input tokens exceed the configured limit of 272,000 tokens. Your messages resulted in 300,000 tokens.",
            (300000, 272000),
        ),
        ("too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000", (5000, 4081)),
        ("The prompt is too long: 140000, model maximum context length: 131071", (140000, 131071)),
        ("Your request exceeded model token limit: 8192 (requested: 9000)", (9000, 8192)),
        ("length of prompt_tokens (68957) must be less than max_seq_len (65536).", (68957, 65536)),
        ("prompt_too_long: text prompt has 20771 tokens, max prompt/context tokens is 20119", (20771, 20119)),
        (json.dumps(error("prompt is too long: 210000 tokens > 200000 maximum")), (210000, 200000)),
        (
            "maximum context length is 8192 tokens. However, you requested 10000 tokens"
            " (9000 in the messages, 1000 in the completion).",
            (9000, 8192),
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_told_in_the_words_clients_compact_on(text: str, figures: tuple[int, int]) -> None:
    found = refusal(400, error(text))
    assert type(found) is Refused
    assert found.message == f"prompt is too long: {figures[0]} tokens > {figures[1]} maximum"
    assert found.details is not None
    assert (found.details["model"], found.details["requested"], found.details["limit"]) == (
        "claude-sonnet-5-5",
        *figures,
    )
    assert "error" in found.details
    assert len(found.details["suggestions"]) == 3


def test_figures_in_fields_come_before_those_in_the_text() -> None:
    body = error(
        "exceeds the available context size (1 tokens)",
        type="exceed_context_size_error",
        n_prompt_tokens=5000,
        n_ctx=4096,
    )
    assert refusal(400, body).message == "prompt is too long: 5000 tokens > 4096 maximum"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Your request exceeded model token limit: 8192", "prompt is too long: 8193 tokens > 8192 maximum"),
        ("Range of input length should be [1, 30720]", "prompt is too long: 30721 tokens > 30720 maximum"),
        ("Please reduce the length of the messages or completion.", "prompt is too long"),
        ("Input is too long for requested model.", "prompt is too long"),
    ],
)
def test_figures_that_are_missing_are_not_made_up_beyond_need(text: str, message: str) -> None:
    assert refusal(400, error(text)).message == message


@pytest.mark.parametrize(
    ("text", "max_tokens", "figures"),
    [
        (
            "maximum context length is 10000 tokens. However, you requested 12000 tokens"
            " (4000 in the messages, 8000 in the completion).",
            8000,
            (4000, 8000, 10000),
        ),
        (
            "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens"
            " (90000 of text input, 10000 of tool input, 40000 in the output).",
            40000,
            (100000, 40000, 131072),
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is"
            " 40960 tokens and your request has 20000 input tokens (32000 > 40960 - 20000).",
            32000,
            (20000, 32000, 40960),
        ),
        (
            "Requested token count exceeds the model's maximum context length of 32768 tokens."
            " You requested a total of 40000 tokens: 30000 tokens from the input messages"
            " and 10000 tokens for the completion.",
            10000,
            (30000, 10000, 32768),
        ),
        (
            "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 8000 `inputs` tokens and 500 `max_new_tokens`",
            500,
            (8000, 500, 8193),
        ),
        ("The input (4000 tokens) and max_tokens exceed the context window of 4096", 1000, (4000, 1000, 4096)),
    ],
)
def test_where_the_prompt_alone_would_fit_clients_are_told_to_lower_max_tokens(
    text: str, max_tokens: int, figures: tuple[int, int, int]
) -> None:
    prompt, completion, limit = figures
    found = refusal(400, error(text), max_tokens=max_tokens)
    assert found.message == (
        f"input length and `max_tokens` exceed context limit: {prompt} + {completion} > {limit},"
        " decrease input length or `max_tokens` and try again"
    )
    assert found.details is not None
    assert "max_tokens" in found.details["suggestions"][0]


def test_figures_of_an_unknown_sentence_are_none() -> None:
    assert figures_of("something about 42 things", {}) == Figures()


# Pictures and documents


@pytest.mark.parametrize(
    "text",
    [
        "Image size exceeds 5 MB",
        "Could not process image",
        "This model does not support image input",
        "This provider doesn't support 'image' blocks",
        "Image inputs are not supported by this model",
        "image input is not supported - hint: you may need to provide the mmproj",
        "messages[7]: unknown variant `image_url`, expected `text` at line 1 column 114708",
        "Qwen/Qwen3-Coder is not a multimodal model",
        "At most 0 image(s) may be provided in one prompt.",
        "this model is missing data required for image input",
        "image_url is only supported by vision models",
    ],
)
def test_an_image_that_is_refused_is_told_in_the_words_clients_act_on(text: str) -> None:
    found = refusal(400, error(text), messages=[{"role": "user", "content": [IMAGE]}])
    assert found.message.startswith("Could not process image")
    assert (found.status, found.elsewhere) == (400, True)
    inside = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}]}]
    assert refusal(400, error(text), messages=inside).message.startswith("Could not process image")


def test_without_an_image_in_the_request_the_word_means_nothing() -> None:
    assert refusal(400, error("Image size exceeds 5 MB")).message == "Image size exceeds 5 MB"
    assert refusal(400, error("pdf not supported")).message == "pdf not supported"


def test_a_document_that_is_refused_is_told_in_the_words_clients_act_on() -> None:
    found = refusal(400, error("PDF is not supported"), messages=[{"role": "user", "content": [DOCUMENT]}])
    assert (found.message, found.elsewhere) == ("This model does not support PDF input", True)


# Waiting


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, error(), 5),
        ({"retry-after": "2"}, error(), 2),
        ({"Retry-After": "0.2"}, error(), 1),
        ({"retry-after": "3600"}, error(), 30),
        ({"retry-after-ms": "1500", "retry-after": "9"}, error(), 2),
        ({"retry-after": "soon"}, error(), 5),
        ({"retry-after": "-3"}, error(), 5),
        ({"retry-after": "nan"}, error(), 5),
        (
            {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            error(),
            10,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, error(), 5),
        ({}, error("Please try again in 1.2s."), 2),
        ({}, error("Please try again in 340ms."), 1),
        ({}, error("Please try again in 6m0s."), 30),
        ({}, error("Please retry after 12 seconds."), 12),
        ({}, error("Please retry in 14.2s."), 15),
        ({}, error("x", details=[{"@type": "RetryInfo", "retryDelay": "17s"}]), 17),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], body: Any, seconds: int) -> None:
    found = refusal(429, body, headers)
    assert found.retry_after == seconds
    assert found.headers()["retry-after"] == str(seconds)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("maximum context length")),
        (429, error()),
        (402, error()),
        (401, error()),
        (404, error()),
        (400, error()),
        (418, error()),
    ],
)
def test_every_class_suggests_what_to_do(status: int, body: Any) -> None:
    found = refusal(status, body)
    assert found.details is not None
    assert found.details["suggestions"]


# Inside an answer


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        (error("x", code=429), RateLimited, 429),
        (error("x", code="503"), UpstreamError, 503),
        (error("x", type="overloaded_error"), Overloaded, 529),
        (error("x", type="invalid_request_error"), Refused, 400),
        (error("x", type="authentication_error"), AccountRefused, 503),
        (error("x"), UpstreamError, 502),
        ({"base_resp": {"status_code": 1002, "status_msg": "x"}}, RateLimited, 429),
        ({"base_resp": {"status_code": 1004, "status_msg": "x"}}, AccountRefused, 503),
        ({"base_resp": {"status_code": 1026, "status_msg": "x"}}, Refused, 400),
        ({"base_resp": {"status_code": 1013, "status_msg": "x"}}, UpstreamError, 502),
        ({"base_resp": {"status_code": [], "status_msg": "x"}, "error": None}, BrokenStream, 502),
        ({"base_resp": {"status_code": [1], "status_msg": "x"}}, UpstreamError, 502),
        ({"error": None}, BrokenStream, 502),
        (error("half \ud83d of a pair", code="\ud83d"), UpstreamError, 502),
        (error("{\ud83d}", metadata={"raw": "\ud83d{}"}), UpstreamError, 502),
        ("nonsense", BrokenStream, 502),
        (None, BrokenStream, 502),
    ],
)
def test_errors_inside_an_answer_bring_their_own_status(reply: Any, kind: type[UpstreamError], status: int) -> None:
    found = in_answer(reply)
    assert (type(found), found.status) == (kind, status)
    assert json.loads(found.event("req_1").partition(b"data: ")[2])["error"]["message"]


# Secrets

CANARIES = [
    ("Incorrect API key provided: sk-proj-CANARY1234567890. See", "CANARY"),
    ("key sk-or-v1-CANARY0123 is bad", "CANARY"),
    ("Authorization: Bearer CANARY.tok-en_123", "CANARY"),
    ("authorization basic Q0FOQVJZOmNhbmFyeQ==", "Q0FOQVJZ"),
    ("cannot reach https://user:CANARYpass@proxy.example.com/x", "CANARY"),
    ("POST https://api.example.com/v1?key=CANARY123456&x=1", "CANARY"),
    ('{"api_key": "CANARY-123456"}', "CANARY"),
    ("x-api-key: CANARY123456", "CANARY"),
    ("token eyJhbGciOiJIUzI1NiJ9.CANARY.CANARY", "CANARY"),
    ("AIzaSyCANARY0123456789abcdefghijk", "CANARY"),
    ("AKIACANARY0123456789", "CANARY"),
    ("gsk_CANARY1234567890", "CANARY"),
    ("id aB3" + "CANARYcanary0" * 4, "CANARY"),
    ("connect to 10.1.2.3:8080 failed", "10.1.2.3"),
    ("connect to 192.168.0.7 failed", "192.168"),
    ("upstream 172.20.1.1 timed out", "172.20"),
    ("http://169.254.169.254/latest", "169.254"),
    ("dial tcp 127.0.0.1:9000: refused", "127.0.0.1"),
    ("http://[::1]:8000/v1", "::1"),
    ("http://[fd00:ec2::254]/v1", "fd00"),
    ("host llm-7.prod.internal:443 is down", "prod.internal"),
    ("host vllm.models.svc.cluster.local is down", "vllm.models"),
    ("http://localhost:8000 refused", "localhost"),
]


@pytest.mark.parametrize(("text", "canary"), CANARIES)
def test_no_secret_and_no_inner_host_survives(text: str, canary: str) -> None:
    assert canary in text
    assert canary not in scrub(text)
    for status in (400, 418, 500):
        assert canary not in json.dumps(refusal(status, error(text)).envelope("req_1").decode())


@pytest.mark.parametrize(
    "text",
    [
        "messages.0.content: expected a string",
        "mcp__server__a_very_long_tool_name_2_that_is_over_forty_characters is unknown",
        "This model supports at most 8192 tokens, you asked for 10000",
        "https://platform.openai.com/docs/errors",
        "version 10.1.2 is required",
        "request 5b2f1c9e-8f0d-4a44-9c52-0c6a2f1d7e11 failed",
        "an internal error occurred",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text) == text


def test_messages_are_cut() -> None:
    assert len(scrub("x " * 10_000)) == refusals.LONGEST_MESSAGE
