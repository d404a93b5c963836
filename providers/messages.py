"""The inner language: an Anthropic Messages request, decoded once and checked as far as we rely on it.

Fields, block types and tool types are open lists: what is unknown passes. What is known must have its documented
type, whoever answers in the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from providers.errors import BadMessage, TooLarge

# Blocks and tools stay plain dictionaries: their fields and types are open lists.
Block: TypeAlias = dict[str, Any]
Tool: TypeAlias = dict[str, Any]

DEEPEST = 100


class Message(msgspec.Struct):
    role: str
    content: str | list[Block] | None = None
    output_config: dict[str, Any] | None = None
    clear_at: str | None = None

    def blocks(self) -> list[Block]:
        if isinstance(self.content, str):
            return [{"type": "text", "text": self.content}] if self.content else []
        return self.content or []


class MessagesRequest(msgspec.Struct):
    model: str
    messages: list[Message]
    max_tokens: int | None = None
    stream: bool | None = None
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    speed: str | None = None
    mcp_servers: list[Any] | None = None
    safeguards: Any = None
    thread: Any = None

    def system_blocks(self) -> list[Block]:
        if isinstance(self.system, str):
            return [{"type": "text", "text": self.system}] if self.system else []
        return self.system or []


class Limits(msgspec.Struct, frozen=True):
    messages: int = 100_000
    content: int = 32 * 1024 * 1024


_decoder = msgspec.json.Decoder(MessagesRequest)

ROLES = frozenset({"user", "assistant", "system", "developer"})

# What a known block cannot be without, and of which type.
BLOCK_FIELDS: dict[str, tuple[tuple[str, type[str] | type[dict[str, Any]]], ...]] = {
    "text": (("text", str),),
    "image": (("source", dict),),
    "document": (("source", dict),),
    "tool_use": (("id", str), ("name", str)),
    "tool_result": (("tool_use_id", str),),
    "thinking": (("thinking", str),),
    "redacted_thinking": (("data", str),),
}
# Numbers outside these bounds are refused by the vendor too.
BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 0, float("inf")),
    ("temperature", 0, 1),
    ("top_p", 0, 1),
    ("top_k", 0, float("inf")),
)
JSON_NAMES: dict[type, str] = {str: "a string", dict: "an object", list: "an array"}


def read_request(body: bytes, limits: Limits, *, counting: bool = False) -> tuple[MessagesRequest, bytes]:
    """The request and the body it stands in, mended where it had to be; or an error that names the field.

    Counting needs no max_tokens.
    """
    if len(body) > limits.content:
        raise TooLarge(
            f"the content is {len(body)} bytes, more than the {limits.content} this gateway takes:"
            " shorten the conversation or compact it",
            code="content_too_large",
        )
    request, body = _decode(body)
    _check_messages(request, limits)
    _check_fields(request, counting=counting)
    return request, body


def _decode(body: bytes) -> tuple[MessagesRequest, bytes]:
    if too_deep(body):
        raise BadMessage(f"body: nested deeper than {DEEPEST} levels")
    try:
        return _decoder.decode(body), body
    except msgspec.ValidationError as error:
        raise BadMessage(_complaint(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _decode_with_surrogates(body, error)
    except RecursionError:
        raise BadMessage(f"body: nested deeper than {DEEPEST} levels") from None


def _decode_with_surrogates(body: bytes, error: Exception) -> tuple[MessagesRequest, bytes]:
    """Half an emoji, cut by some client, is no reason to refuse: it becomes U+FFFD."""
    if not _SURROGATE_ESCAPE.search(body):
        raise BadMessage(f"body: not valid JSON: {error}") from None
    try:
        mended = _LONE_SURROGATE.sub("\ufffd", json.dumps(json.loads(body), ensure_ascii=False)).encode()
        return _decoder.decode(mended), mended
    except msgspec.ValidationError as invalid:
        raise BadMessage(_complaint(str(invalid))) from None
    except (ValueError, RecursionError) as broken:
        raise BadMessage(f"body: not valid JSON: {broken}") from None


_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = re.compile(r"missing required field `(\w+)`")


def _complaint(text: str) -> str:
    """msgspec's sentence in the form `<path>: <problem>`."""
    problem, _, path = text.partition(" - at `$")
    path = re.sub(r"\[(\w+|\.\.\.)\]", r".\1", path.rstrip("`")).strip(".")
    missing = _MISSING.search(problem)
    if missing:
        path, problem = f"{path}.{missing[1]}".strip("."), "Field required"
    else:
        problem = problem[:1].lower() + problem[1:].replace(" | null", "").replace("`", "")
    return f"{path or 'body'}: {problem}"


def _check_messages(request: MessagesRequest, limits: Limits) -> None:
    if not request.messages:
        raise BadMessage("messages: at least one message is required", code="empty_messages")
    if len(request.messages) > limits.messages:
        raise BadMessage(
            f"messages: {len(request.messages)} messages, more than the {limits.messages} this gateway takes",
            code="too_many_messages",
        )
    for position, message in enumerate(request.messages):
        path = f"messages.{position}"
        if message.role not in ROLES:
            raise BadMessage(f"{path}.role: expected user, assistant or system, got {message.role[:40]!r}")
        if message.content is None and not (message.role in {"system", "developer"} and message.output_config):
            raise BadMessage(f"{path}.content: Field required")
        if isinstance(message.content, list):
            _check_blocks(message.content, path + ".content")
    if isinstance(request.system, list):
        _check_blocks(request.system, "system")


def _check_blocks(blocks: list[Block], path: str) -> None:
    for position, block in enumerate(blocks):
        kind = block.get("type")
        if not isinstance(kind, str):
            raise BadMessage(f"{path}.{position}.type: {'expected a string' if 'type' in block else 'Field required'}")
        for name, expected in BLOCK_FIELDS.get(kind, ()):
            if not isinstance(block.get(name), expected):
                problem = f"expected {JSON_NAMES[expected]}" if name in block else "Field required"
                raise BadMessage(f"{path}.{position}.{name}: {problem}")
            _check_type(block[name], f"{path}.{position}.{name}")


def _check_type(value: Any, path: str) -> None:
    """Whatever has a type has a string for it."""
    if isinstance(value, dict) and not isinstance(value.get("type", ""), str):
        raise BadMessage(f"{path}.type: expected a string")


def _check_fields(request: MessagesRequest, *, counting: bool) -> None:
    _check_type(request.tool_choice, "tool_choice")
    _check_type(request.thinking, "thinking")
    if request.max_tokens is None and not counting:
        raise BadMessage("max_tokens: Field required")
    for name, least, most in BOUNDS:
        value = getattr(request, name)
        if value is not None and not least <= value <= most:
            raise BadMessage(f"{name}: {value} is outside {least} to {most}" if most < 1e9 else f"{name}: negative")
    for position, tool in enumerate(request.tools or ()):
        if tool.get("type", "custom") == "custom" and not isinstance(tool.get("name"), str):
            raise BadMessage(f"tools.{position}.name: Field required")
        _check_type(tool, f"tools.{position}")
        if not isinstance(tool.get("input_schema", {}), dict):
            raise BadMessage(f"tools.{position}.input_schema: expected an object")


_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))


def too_deep(body: bytes) -> bool:
    """Whether brackets nest deeper than DEEPEST, by a few C-speed passes instead of a loop over characters.

    Brackets inside strings count in the first, cheap look; only when it is alarming are the strings taken out.
    """
    if len(_peeled(body.translate(_BRACKETS, _NOT_BRACKETS), DEEPEST // 2)) <= DEEPEST // 2:
        return False
    rest = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_BRACKETS, _NOT_STRUCTURE)
    rest = re.sub(rb'"[^"]*"', b"", rest.replace(b'""', b""))
    rest = _peeled(rest, DEEPEST)
    return b"()" in rest or b"(" * DEEPEST in rest


def _peeled(brackets: bytes, levels: int) -> bytes:
    """What is left when the innermost pairs were taken away so many times."""
    for _ in range(levels):
        shorter = brackets.replace(b"()", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return brackets


def text_of(content: Any) -> Iterator[str]:
    """Every readable text in a string, a block or a list of blocks."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from text_of(part)
    elif isinstance(content, dict):
        if isinstance(content.get("text"), str):
            yield content["text"]
        yield from text_of(content.get("content"))
