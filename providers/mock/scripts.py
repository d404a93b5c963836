"""What the mock answers: the script of a request, its figures, and the bytes in each vendor's language. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby, pairwise, zip_longest
from operator import itemgetter
from typing import Annotated, Any, Literal

import msgspec

from providers.mock import bill
from providers.mock.bill import Figures, Language

Event = dict[str, Any]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

DEFAULT_TEXT = "Hello from the mock upstream: deterministic, billed to the token, naïve by design ✓"
FILLER = "All work and no play makes a dull answer. "
SIGNATURE = "bW9jay1zaWduYXR1cmU="
DIRECTIVE = "[[mock:"
# What decoding raises: msgspec has classes of its own for some of it only.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Unusable(Exception):
    """The request, or the script it names, cannot be read; answered as a 400."""


class ToolUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    input: dict[str, Any] = {}


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of an answer whose order is told; more than one of the three come in this order."""

    thinking: str = ""
    text: str = ""
    tool: ToolUse | None = None


class FiguresGiven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures that replace those of the rule; None keeps the rule's."""

    input: Count | None = None
    cache_read: Count | None = None
    cache_write_5m: Count | None = None
    cache_write_1h: Count | None = None
    output: Count | None = None
    thinking: Count | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to answer one call; docs/mock-upstream.md has the table with an example for each field."""

    text: str | None = None
    size: Count = 0
    thinking: str = ""
    tools: tuple[ToolUse, ...] = ()
    parts: tuple[Part, ...] = ()
    stop_reason: str = ""
    usage: FiguresGiven | Literal["none"] | None = None
    no_start_usage: bool = False
    usage_everywhere: bool = False
    repeat_ids: bool = False
    ids: Literal["own", "same", "empty", "none"] = "own"
    id_length: Count = 0
    index: Literal["own", "zero", "none"] = "own"
    first_index: Count = 0
    chunks: Annotated[int, msgspec.Meta(ge=1)] = 4
    tool_fragment: Annotated[int, msgspec.Meta(ge=1)] = 16
    interleave: bool = False
    arguments_object: bool = False
    thinking_as: Literal["reasoning_content", "reasoning", "reasoning_details", "think_tags"] = "reasoning_content"
    no_role: bool = False
    message_instead: bool = False
    filter_first: bool = False
    no_head: bool = False
    two_heads: bool = False
    no_event_names: bool = False
    comments: bool = False
    keep_alive: Seconds = 0.0
    first_delay: Seconds = 0.0
    first_chunk_delay: Seconds = 0.0
    chunk_delay: Seconds = 0.0
    split: Count = 0
    crlf: bool = False
    no_done: bool = False
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    error: str | dict[str, Any] = ""
    retry_after: Seconds | None = None
    context_window: Count | None = None
    vendor: Literal["own", "vllm", "llamacpp", "openrouter", "gemini"] = "own"
    error_in_stream: Count | None = None
    cut_after: Count | None = None
    cut: Literal["close", "abort"] = "close"
    html: bool = False
    json_instead: bool = False
    empty: bool = False
    hang: bool = False
    agent: tuple[Script, ...] = ()


class ScriptChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The object form of POST /__script: what is absent stays as it was."""

    default: Script | msgspec.UnsetType | None = msgspec.UNSET
    queue: list[Script] | msgspec.UnsetType = msgspec.UNSET


DEFAULT = Script()
# Chosen by a model named mock-<word>.
NAMED: dict[str, Script] = {
    "thinking": Script(thinking="Let me think about that for a moment."),
    "tool": Script(tools=(ToolUse("Bash", {"command": "true", "description": "Do nothing"}),)),
    "slow": Script(chunks=10, chunk_delay=0.2),
    "long": Script(size=100_000, chunks=1000),
    "429": Script(status=429, retry_after=1),
    "500": Script(status=500),
    "529": Script(status=529),
    "cut": Script(cut_after=2),
    "hang": Script(hang=True),
}


def read_script(text: str | bytes) -> Script:
    try:
        return msgspec.json.decode(text, type=Script)
    except UNREADABLE as error:
        raise Unusable(f"mock script: {error}") from error


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Body(msgspec.Struct):
    """The few fields that matter here; what is only weighed stays raw."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    messages: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    system: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    input: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    instructions: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    tools: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class Prompt(msgspec.Struct, frozen=True):
    """A request as far as the answer depends on it."""

    language: Language
    model: str
    stream: bool
    include_usage: bool
    history: bytes  # the JSON of messages or input
    offers_tools: bool
    figures: Figures


def read_prompt(language: Language, body: bytes) -> Prompt:
    try:
        fields = msgspec.json.decode(body, type=Body)
    except UNREADABLE as error:
        raise Unusable(f"request: {error}") from error
    history, *others = _weighed(language, fields)
    if not history:
        raise Unusable("input: Field required" if language == "responses" else "messages: Field required")
    total = bill.tokens_of(len(history) + sum(map(len, others)))
    marked = b'"cache_control"' in body
    one_hour = marked and re.search(rb'"ttl"\s*:\s*"1h"', body) is not None
    return Prompt(
        language=language,
        model=fields.model,
        stream=bool(fields.stream),
        include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
        history=history,
        offers_tools=bytes(fields.tools) not in (b"", b"null", b"[]"),
        figures=bill.split_prompt(total, language, marked=marked, one_hour=one_hour),
    )


def prompt_tokens(prompt: Prompt) -> int:
    """All of the prompt, cached or not: the answer of count_tokens."""
    figures = prompt.figures
    return figures.input + figures.cache_read + figures.cache_write_5m + figures.cache_write_1h


def _weighed(language: Language, body: Body) -> list[bytes]:
    """The fields whose bytes are the prompt, the conversation first."""
    if language == "anthropic":
        return [bytes(body.messages), bytes(body.system), bytes(body.tools)]
    if language == "openai":
        return [bytes(body.messages), bytes(body.tools)]
    return [bytes(body.input), bytes(body.instructions), bytes(body.tools)]


class Turn(msgspec.Struct, frozen=True):
    """An entry of the conversation: whose it is, and the text of a user's."""

    assistant: bool
    texts: tuple[str, ...] = ()


def read_turns(prompt: Prompt) -> list[Turn]:
    try:
        items = msgspec.json.decode(prompt.history)
    except UNREADABLE as error:
        raise Unusable(f"messages: {error}") from error
    if isinstance(items, str):
        return [Turn(assistant=False, texts=(items,))]
    if not isinstance(items, list):
        raise Unusable("messages: not an array")
    return [_turn(item) for item in items if isinstance(item, dict)]


def _turn(item: Event) -> Turn:
    role = item.get("role")
    if role == "assistant" or item.get("type") in ("function_call", "reasoning"):
        return Turn(assistant=True)
    return Turn(assistant=False, texts=tuple(_texts(item.get("content"))) if role == "user" else ())


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def count_answers(turns: Iterable[Turn]) -> int:
    """Runs of assistant entries: a translator may spread one answer over several."""
    return sum(assistant for assistant, _ in groupby(turn.assistant for turn in turns))


def choose(prompt: Prompt, ordered: Script | None, default: Script) -> Script:
    """The script of a request; `ordered` comes from the header or the queue and goes first."""
    if ordered is not None:
        return _step(ordered, prompt, None)
    directed = _directed(prompt)
    if directed is not None:
        script, answers = directed
        return _step(script, prompt, answers)
    named = NAMED.get(prompt.model.removeprefix("mock-")) if prompt.model.startswith("mock-") else None
    return _step(named or default, prompt, None)


def _directed(prompt: Prompt) -> tuple[Script, int] | None:
    """A directive in the user's text and the answers given since: a new one, or the first agent's at any age."""
    if DIRECTIVE.encode() not in prompt.history:
        return None
    turns = read_turns(prompt)
    found = [
        (script, count_answers(turns[place:]))
        for place, turn in enumerate(turns)
        for text in turn.texts
        if (script := find_directive(text)) is not None
    ]
    fresh = [(script, answers) for script, answers in found if answers == 0]
    agents = [(script, answers) for script, answers in found if script.agent]
    return next(iter(fresh + agents), None)


def find_directive(text: str) -> Script | None:
    """The script of the first `[[mock: {json}]]`."""
    start = text.find(DIRECTIVE)
    if start < 0:
        return None
    source = text[start + len(DIRECTIVE) :].lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(source)
    except ValueError as error:
        raise Unusable(f"mock directive: {error}") from error
    return read_script(source[:end])


def _step(script: Script, prompt: Prompt, answers: int | None) -> Script:
    """The step of an agent script: the default answer after the last, and for tools that were not offered."""
    if not script.agent:
        return script
    if answers is None:
        answers = count_answers(read_turns(prompt))
    if answers >= len(script.agent):
        return DEFAULT
    step = script.agent[answers]
    # Claude Code asks for titles with the user's prompt in it: such a request offers no tools.
    return DEFAULT if calls_tools(step) and not prompt.offers_tools else step


class Block(msgspec.Struct, frozen=True):
    """A part of the answer; `text` is the arguments' JSON for a tool."""

    kind: Literal["thinking", "text", "tool"]
    text: str
    name: str = ""
    id: str = ""


class Delta(msgspec.Struct, frozen=True):
    """A piece of a block; `first` and `last` of its block may be the same piece."""

    index: int
    text: str
    first: bool
    last: bool


class Answer(msgspec.Struct, frozen=True):
    """All that the renderers need. `figures` is the price if the answer is produced to its end."""

    prompt: Prompt
    script: Script
    id: str
    created: int
    blocks: tuple[Block, ...]
    stop_reason: str
    figures: Figures

    @property
    def reports_usage(self) -> bool:
        return self.script.usage != "none"


TOOL_IDS: Mapping[Language, str] = {"anthropic": "toolu_", "openai": "call_", "responses": "call_"}


def compose(prompt: Prompt, script: Script, seed: str, created: int) -> Answer:
    """`seed` makes the ids, as long each time: they come back in the next prompt, where bytes are counted."""
    blocks = tuple(_blocks(script, "call_" if script.repeat_ids else f"{TOOL_IDS[prompt.language]}{seed}"))
    return Answer(
        prompt=prompt,
        script=script,
        id="mock" if script.repeat_ids else seed,
        created=created,
        blocks=blocks,
        stop_reason=script.stop_reason or ("tool_use" if calls_tools(script) else "end_turn"),
        figures=_priced(prompt.figures, blocks, script),
    )


def calls_tools(script: Script) -> bool:
    return bool(script.tools) or any(part.tool for part in script.parts)


def _blocks(script: Script, id_prefix: str) -> Iterator[Block]:
    parts: Iterable[Part] = script.parts or _usual_parts(script)
    called = 0
    for part in _tagged(parts) if script.thinking_as == "think_tags" else parts:
        if part.thinking:
            yield Block("thinking", part.thinking)
        if part.text:
            yield Block("text", part.text)
        if part.tool:
            arguments = msgspec.json.encode(part.tool.input).decode()
            yield Block("tool", arguments, part.tool.name, _tool_id(script, id_prefix, called))
            called += 1


def _usual_parts(script: Script) -> Iterator[Part]:
    yield Part(thinking=script.thinking)
    yield Part(text=_answer_text(script))
    for tool in script.tools:
        yield Part(tool=tool)


def _tagged(parts: Iterable[Part]) -> Iterator[Part]:
    """Thinking between tags in front of the text that follows it."""
    tagged = ""
    for part in parts:
        tagged += f"<think>\n{part.thinking}\n</think>\n\n" if part.thinking else ""
        if part.text or part.tool:
            yield Part(text=tagged + part.text, tool=part.tool)
            tagged = ""
    yield Part(text=tagged)


def _tool_id(script: Script, prefix: str, number: int) -> str:
    suffix = "0" if script.ids == "same" else str(number)
    return prefix + "x" * (script.id_length - len(prefix) - len(suffix)) + suffix


def _answer_text(script: Script) -> str:
    if script.size:
        return (FILLER * (script.size // len(FILLER) + 1))[: script.size]
    if script.text is not None:
        return script.text
    return "" if script.tools else DEFAULT_TEXT


def _priced(prompt: Figures, blocks: Iterable[Block], script: Script) -> Figures:
    output = thinking = 0
    for block in blocks:
        tokens = bill.tokens_of(len((block.name + block.text).encode()))
        output += tokens
        thinking += tokens if block.kind == "thinking" else 0
    figures = msgspec.structs.replace(prompt, output=output, thinking=thinking)
    if isinstance(script.usage, FiguresGiven):
        given = {name: value for name, value in msgspec.structs.asdict(script.usage).items() if value is not None}
        figures = msgspec.structs.replace(figures, **given)
    return figures


def deltas(answer: Answer) -> list[Delta]:
    """The pieces in the order of sending: block after block, or the tools' in turns."""
    script = answer.script
    blocks = [(block.kind, _pieces(index, block, script)) for index, block in enumerate(answer.blocks)]
    sent: list[Delta] = []
    for kind, group in groupby(blocks, key=itemgetter(0)):
        runs = [run for _, run in group]
        in_turns = script.interleave and kind == "tool"
        order = chain.from_iterable(zip_longest(*runs) if in_turns else runs)
        sent += [delta for delta in order if delta is not None]
    return sent


def _pieces(index: int, block: Block, script: Script) -> list[Delta]:
    text = block.text
    if block.kind == "tool":
        size = len(text) if script.arguments_object else script.tool_fragment
        parts = [text[at : at + size] for at in range(0, len(text), size)]
    else:
        count = min(script.chunks, len(text))
        bounds = [len(text) * n // count for n in range(count + 1)]
        parts = [text[start:end] for start, end in pairwise(bounds)]
    last = len(parts) - 1
    return [Delta(index, part, n == 0, n == last) for n, part in enumerate(parts)]
