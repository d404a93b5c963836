"""A conversation as foreign upstreams can take it: turns that alternate, calls with ids of their own, each with its
result.

Histories come split, interrupted and from other translators. What is read here is valid whatever came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from providers.dialects.names import CallIds
from providers.dialects.profiles import Habits
from providers.errors import BadMessage
from providers.messages import Block, Message, MessagesRequest, text_of
from providers.state import State, unseal

BILLING_LINE = "x-anthropic-billing-header:"
# What a server tool of another vendor brought is retold this far.
LONGEST_RETOLD = 4096
INTERRUPTED = "[no result: the call was interrupted]"
OPENING = "(conversation continues)"  # for those who refuse a history that begins with the assistant


_encode = msgspec.json.Encoder().encode


class Text(msgspec.Struct, gc=False):
    text: str
    mark: Any = None  # the client's cache_control


class SystemText(msgspec.Struct):
    """A system message in the middle, for those who take one there."""

    text: str


class Image(msgspec.Struct):
    url: str  # of the web, or the data itself


class File(msgspec.Struct):
    name: str
    url: str


class Thinking(msgspec.Struct):
    text: str
    state: State | None


class Call(msgspec.Struct):
    given_id: str
    name: str
    arguments: str
    id: str = ""  # what the upstream sees
    result: Result | None = None


class Result(msgspec.Struct):
    given_id: str
    parts: list[Text | Image | File]
    is_error: bool = False
    stray_of: str = ""  # it answers no call of the turn before: the tool, or the id, it is of
    mark: Any = None  # the client's cache_control


Part: TypeAlias = Text | SystemText | Image | File | Thinking | Call | Result


_SPOKEN = (Text, Call)


class Turn(msgspec.Struct):
    assistant: bool
    parts: list[Part]

    def calls(self) -> list[Call]:
        return [part for part in self.parts if type(part) is Call]

    @property
    def says_something(self) -> bool:
        """Thinking alone is no turn of an assistant."""
        if not self.assistant or type(self.parts[-1]) in _SPOKEN:
            return True
        return any(type(part) in _SPOKEN for part in self.parts)


def read_turns(request: MessagesRequest, habits: Habits, secret: bytes, dialect: str) -> list[Turn]:
    """`dialect` is whose own state may be given back to it."""
    reader = _Reader(habits, secret, dialect)
    last_user = max((at for at, message in enumerate(request.messages) if message.role == "user"), default=-1)
    turns: list[Turn] = []
    for at, message in enumerate(request.messages):
        if message.clear_at != "next_user_message" or at > last_user:
            reader.read(message, turns)
    if not all(turn.says_something for turn in turns):
        turns, silent = [], turns
        for turn in silent:
            if turn.says_something:
                _append(turns, turn.assistant, turn.parts)
    _match(turns, CallIds(habits.tool_id_limit, alphanumeric=habits.tool_id_form == "alphanumeric"))
    return turns


class Conversation(Protocol):
    """What a language writes down, told in the order that every upstream takes."""

    def opening(self) -> None: ...
    def assistant(self, turn: Turn, calls: list[Call], /) -> None: ...
    def results(self, calls: list[Call], /) -> None: ...
    def user_side(self, turn: Turn, /) -> None: ...
    def flush(self) -> None: ...


def retell(turns: Sequence[Turn], conversation: Conversation, *, user_first: bool) -> None:
    """The results of a turn's calls come right behind it, before anything the user says."""
    if not turns or (turns[0].assistant and user_first):
        conversation.opening()
    calls: list[Call] = []
    for turn in turns:
        if turn.assistant:
            calls = turn.calls()
            conversation.assistant(turn, calls)
        else:
            conversation.results(calls)
            conversation.user_side(turn)
            calls = []
    conversation.results(calls)
    conversation.flush()


def _append(turns: list[Turn], assistant: bool, parts: list[Part]) -> None:
    if not parts:
        return
    if turns and turns[-1].assistant == assistant:
        turns[-1].parts.extend(parts)
    else:
        turns.append(Turn(assistant, parts))


def _match(turns: list[Turn], ids: CallIds) -> None:
    """Gives every call its id, and the result from the turn right after it: of several the last, in their order."""
    names: dict[str, str] = {}
    calls: dict[str, list[Call]] = {}
    for turn in turns:
        if turn.assistant:
            calls = {}
            for part in turn.parts:
                if type(part) is Call:
                    part.id = ids.next(part.given_id)
                    names[part.given_id] = part.name
                    calls.setdefault(part.given_id, []).append(part)
            continue
        for part in turn.parts:
            if type(part) is Result:
                answered = calls.get(part.given_id)
                if not answered:
                    part.stray_of = names.get(part.given_id) or part.given_id or "?"
                    continue
                answered[0].result = part
                if len(answered) > 1:
                    answered.pop(0)
        calls = {}


_ERROR_BEGINNINGS = ("error", "<tool_use_error>", "[tool error")
LONGEST_BEGINNING = 20


def joined(parts: Sequence[Part], between: str) -> str:
    """The texts among them."""
    texts = [part.text for part in parts if type(part) is Text]
    return texts[0] if len(texts) == 1 else between.join(texts)


def result_text(result: Result | None) -> str:
    """What a call brought, as one text; never empty, since many refuse that."""
    if result is None:
        return INTERRUPTED
    text = joined(result.parts, "\n")
    if not text:
        text = "(attached below)" if result.parts else "(no output)"
    if not result.is_error or text[:LONGEST_BEGINNING].lower().startswith(_ERROR_BEGINNINGS):
        return text
    return f"Error: {text}"


def system_text(request: MessagesRequest) -> str:
    return _joined_system(block["text"] for block in request.system_blocks() if isinstance(block.get("text"), str))


def _joined_system(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in map(without_billing_line, texts) if text)


def without_billing_line(text: str) -> str:
    """Meaningless to foreign models, and with older clients different in every request: it would defeat caches."""
    return text.partition("\n")[2].lstrip("\n") if text.startswith(BILLING_LINE) else text


class _Reader:
    """Blocks to parts, as far as this upstream can take them."""

    def __init__(self, habits: Habits, secret: bytes, dialect: str) -> None:
        self._habits = habits
        self._secret = secret
        self._origin = (dialect, habits.family)

    def read(self, message: Message, turns: list[Turn]) -> None:
        blocks = message.blocks()
        parts: list[Part] = []
        if message.role == "user":
            for block in blocks:
                self._shown(block, parts)
            _append(turns, False, parts)
        elif message.role == "assistant":
            compacted: list[Part] = []
            for block in blocks:
                if block["type"] == "compaction":
                    # What a compacted conversation was about is told by the user.
                    compacted.extend(_texts("\n".join(text_of(block))))
                else:
                    self._said(block, parts)
            _append(turns, False, compacted)
            _append(turns, True, parts)
        else:
            _append(turns, False, self._system(blocks))

    def _system(self, blocks: list[Block]) -> list[Part]:
        text = _joined_system(block["text"] for block in blocks if block["type"] == "text")
        if not text:
            return []
        if self._habits.mid_system != "user":
            return [SystemText(text)]
        reminder = text if text.startswith("<system-reminder>") else f"<system-reminder>\n{text}\n</system-reminder>"
        return [Text(reminder)]

    def _said(self, block: Block, parts: list[Part]) -> None:
        """A block of the assistant's."""
        kind = block["type"]
        if kind == "tool_use":
            parts.append(Call(block["id"], block["name"], _arguments(block.get("input"))))
        elif kind == "text":
            text = block["text"]
            if text and not text.isspace():
                parts.append(Text(text))
        elif kind == "thinking":
            parts.extend(self._thought(block))
        elif kind == "server_tool_use":
            parts.append(Text(_server_call(block)))
        elif kind.endswith("_tool_result"):
            parts.extend(_texts(_retold(block.get("content"))[:LONGEST_RETOLD]))
        elif kind != "redacted_thinking":
            parts.extend(_texts(_one_line(block)))

    def _thought(self, block: Block) -> Iterator[Part]:
        if self._habits.reasoning_history == "none":
            return
        state = unseal(block.get("signature"), self._secret)
        if state is not None and (state.dialect, state.family) != self._origin:
            state = None
        yield Thinking((state.reasoning if state else "") or block["thinking"], state)

    def _shown(self, block: Block, parts: list[Part]) -> None:
        """A block of the user's."""
        if block["type"] == "tool_result":
            shown = self._result(block.get("content"))
            parts.append(
                Result(block["tool_use_id"], shown, block.get("is_error") is True, "", block.get("cache_control"))
            )
        elif block["type"] == "text":
            if block["text"]:
                parts.append(Text(block["text"], block.get("cache_control")))
        else:
            parts.extend(self._content(block))

    def _result(self, content: Any) -> list[Text | Image | File]:
        if isinstance(content, str):
            return [Text(content)] if content else []
        if content is None:
            return []
        if not isinstance(content, list):
            return [Text(_compact(content))]
        return [
            part
            for block in content
            for part in (self._content(block) if _is_block(block) else _texts(_compact(block)))
        ]

    def _content(self, block: Block) -> Iterator[Text | Image | File]:
        """What may stand in a user's message and in a result alike."""
        kind, text = block["type"], block.get("text")
        if kind == "text":
            yield from _texts(text if isinstance(text, str) else "")
        elif kind == "image":
            yield self._image(block.get("source"))
        elif kind == "document":
            yield from self._document(block)
        elif kind == "search_result":
            yield from _texts("\n".join([*_named(block, "title", "source"), *text_of(block.get("content"))]))
        elif kind == "tool_reference":
            yield Text(f"Tool {block.get('tool_name')} is now available.")
        else:
            yield from _texts(_one_line(block))

    def _image(self, source: Any) -> Text | Image:
        kind = source.get("type") if isinstance(source, dict) else None
        if kind == "file":
            raise BadMessage("messages: file sources are not available on this route: send the image itself")
        if not self._habits.vision:
            if self._habits.strict_media:
                raise BadMessage("Could not process image: the model on this route cannot see images")
            return Text("[image omitted: the model on this route cannot see images]")
        if kind == "url" and isinstance(source.get("url"), str):
            return Image(source["url"])
        if kind == "base64" and isinstance(source.get("data"), str):
            return Image(f"data:{_media_type(source)};base64,{source['data']}")
        return Text("[image omitted: its source cannot be read]")

    def _document(self, block: Block) -> Iterator[Text | Image | File]:
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if not isinstance(source, dict) or kind not in {"text", "content", "url", "base64", "file"}:
            yield from _texts(_one_line(block))
        elif kind == "file":
            raise BadMessage("messages: file sources are not available on this route: send the document itself")
        elif kind == "base64":
            yield self._pdf(block, source)
        elif kind == "url" and self._habits.document_addresses and isinstance(source.get("url"), str):
            yield File("", source["url"])
        else:
            yield from self._wrapped(block, source)

    def _wrapped(self, block: Block, source: Block) -> Iterator[Text | Image | File]:
        """A document's readable content between tags; runs of text are one part."""
        title = f' title="{block["title"]}"' if isinstance(block.get("title"), str) else ""
        run = [f"<document{title}>", *_named(block, "context")]
        content = source.get("content") if source["type"] == "content" else None
        if isinstance(content, list):
            for part in (part for inner in content if _is_block(inner) for part in self._content(inner)):
                if isinstance(part, Text):
                    run.append(part.text)
                else:
                    yield Text("\n".join(run))
                    yield part
                    run = []
        else:
            run.extend(text for text in (content, source.get("data"), source.get("url")) if isinstance(text, str))
        yield Text("\n".join([*run, "</document>"]))

    def _pdf(self, block: Block, source: Block) -> File:
        if not self._habits.pdf or not isinstance(source.get("data"), str):
            raise BadMessage("This model does not support PDF input")
        title = block.get("title")
        name = title if isinstance(title, str) and title else "document.pdf"
        return File(name, f"data:{source.get('media_type') or 'application/pdf'};base64,{source['data']}")


def _texts(text: str) -> Iterator[Text]:
    if text:
        yield Text(text)


def _is_block(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _arguments(value: Any) -> str:
    """Always an object: upstreams refuse the rest, and with it the session."""
    if type(value) is dict:
        return _encode(value).decode()
    if isinstance(value, str):
        value = _decoded(value)
    return "{}" if value is None else _encode(value if isinstance(value, dict) else _unparsed(value)).decode()


def _decoded(text: str) -> Any:
    """Other translators leave the input as the text it came in."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text or None


def _unparsed(value: Any) -> dict[str, Any]:
    """The form that Claude Code has for broken arguments."""
    raw = _compact(value)
    return {"__unparsedToolInput": {"raw": raw, "len": len(raw)}}


_BEGINNINGS = (("iVBORw0KGgo", "png"), ("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"))


def _media_type(source: Block) -> str:
    """By its first bytes: some clients send a JPEG as PNG, and upstreams look."""
    data = source["data"]
    found = next((f"image/{name}" for beginning, name in _BEGINNINGS if data.startswith(beginning)), None)
    return found or str(source.get("media_type") or "image/png")


def _named(block: Block, *fields: str) -> list[str]:
    return [block[field] for field in fields if isinstance(block.get(field), str) and block[field]]


def _one_line(block: Block) -> str:
    """A block of a kind we do not know: what a person could read of it."""
    content = [text for text in text_of(block.get("content")) if text]
    readable = " ".join([*_named(block, "title", "name", "text"), *content])
    return f"[{block['type']}: {' '.join(readable.split())[:LONGEST_RETOLD]}]" if readable else ""


def _server_call(block: Block) -> str:
    given = block.get("input")
    asked = given if isinstance(given, dict) else {}
    what = next((asked[name] for name in ("query", "url", "command", "code") if isinstance(asked.get(name), str)), None)
    return f"[{block.get('name') or 'tool'}: {(what or _compact(asked))[:LONGEST_RETOLD]}]"


def _retold(content: Any) -> str:
    """What a server tool brought: titles and addresses, the text of a page, the output of a command."""
    if isinstance(content, list):
        return "\n".join(filter(None, map(_retold, content)))
    if not isinstance(content, dict):
        return content if isinstance(content, str) else ""
    if isinstance(content.get("url"), str) and "content" not in content:
        return "- " + ": ".join(_named(content, "title", "url"))
    source = content.get("source")
    texts = _named(content, "stdout", "stderr", "error_code", "text")
    if isinstance(source, dict):
        texts += _named(source, "data")
    if "content" in content:
        texts.append(_retold(content["content"]))
    return "\n".join(filter(None, texts))
