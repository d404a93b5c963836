"""Counting tokens without asking anybody: text with tiktoken, images by their size, documents by their pages.

The vocabularies lie beside this module and are read at first use; nothing is ever fetched. A count is a good guess for
an upstream that reports none, and for the client's own planning. It takes any JSON, however odd, and never raises.
"""

from __future__ import annotations

import gzip
import math
import re
import threading
from binascii import a2b_base64
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import tiktoken

from providers.images import decoded, image_tokens, rule_of

if TYPE_CHECKING:
    from providers.messages import MessagesRequest

VOCABULARY = Path(__file__).parent / "vocabulary"
DEFAULT_ENCODING = "o200k_base"

# How each vocabulary wants text cut before pairs are merged; tiktoken hands these out only together with a download.
PATTERNS = {
    "o200k_base": "|".join(
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    "cl100k_base": "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        )
    ),
}

# A million blanks in one call exhaust the stack of tiktoken 0.14's pattern matcher, which panics. In pieces of this
# many characters the worst megabyte tried took 0.6 s, growing in proportion to its length.
PIECE = 32_768
# A piece ends before a blank where one is near its end, as a token does: ordinary text counts the same cut or uncut.
SEAM = 1_024

# Measured with o200k_base: 4.2 over this repository's Python, 3.6 over its Markdown, 4.7 over Django's, 3.3 over JSON.
CHARACTERS_PER_TOKEN = 4.0

# Bytes and characters that are counted on the event loop, in half a millisecond; beyond, characters are divided or a
# thread counts. Machines that read answers keep as much of them as that.
COUNTED_AT_ONCE = 8192

PER_REPLY = 3
PER_MESSAGE = 4
PER_TOOL_LIST = 16
PER_TOOL = 12
PER_TOOL_USE = 8
PER_TOOL_RESULT = 8

PER_PAGE = 2_000
BYTES_PER_PAGE = 50_000
PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")

# Claude Code repeats its whole conversation in every request: what was counted once is known by its digest.
MOST_REMEMBERED = 20_000
WORTH_REMEMBERING = 256
# Blocks inside blocks; no real content goes beyond three.
DEEPEST = 32

# Where a block of any type keeps what a model reads. Signatures, encrypted content and ids are opaque: nothing.
READABLE = ("title", "context", "text", "content")
CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


class _Measure(NamedTuple):
    """How one walk over a request weighs what it finds."""

    text: Callable[[str], int]
    pages: Callable[[str], int]  # of a PDF in base64
    image: Callable[[object], int]  # of the source of an image
    view: View


class View(NamedTuple):
    """What of a request its upstream is shown, and who reads it."""

    model: str = ""  # by its name images are weighed
    encoding: str = DEFAULT_ENCODING
    tools: Iterable[Mapping[str, Any]] | None = None  # in place of the request's own
    shows_thinking: Callable[[Mapping[str, Any]], bool] = lambda _block: True  # of earlier turns, by the block


EVERYTHING = View()


def count_request(request: MessagesRequest, view: View = EVERYTHING) -> int:
    """Input tokens of a request."""
    text = partial(count_text, encoding=view.encoding)
    return _request(request, _Measure(text, _pages, partial(image_tokens, rule=rule_of(view.model)), view))


def estimate_request(request: MessagesRequest, view: View = EVERYTHING) -> int:
    """The same by the number of characters: cheap enough for the event loop, whatever the size."""
    image = partial(image_tokens, rule=rule_of(view.model))
    return _request(request, _Measure(_by_characters, _pages_by_size, image, view))


def count_text(text: str, encoding: str = DEFAULT_ENCODING) -> int:
    """Tokens of a text. What looks like a special token is text like any other."""
    if len(text) < WORTH_REMEMBERING:
        return len(_encoding(encoding).encode_ordinary(text))
    data = text.encode("utf-8", "surrogatepass")
    return _counts.get((encoding, _digest(data)), lambda: _count_pieces(text, encoding))


def estimate(chars: int) -> int:
    """Tokens of so many characters, for when only their number is known."""
    return math.ceil(max(chars, 0) / CHARACTERS_PER_TOKEN)


def _by_characters(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def _request(request: MessagesRequest, measure: _Measure) -> int:
    total = PER_REPLY + sum(PER_MESSAGE + _content(message.content, measure) for message in request.messages)
    if request.system:
        total += PER_MESSAGE + _content(request.system, measure)
    tools = list(_at_once(request.tools or ()) if measure.view.tools is None else measure.view.tools)
    if tools:
        total += PER_TOOL_LIST + sum(_tool(tool, measure) for tool in tools)
    return total


def _at_once(tools: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    """A deferred tool is not shown to the model until it searches for it."""
    return (tool for tool in tools if isinstance(tool, dict) and tool.get("defer_loading") is not True)


def _tool(tool: Mapping[str, Any], measure: _Measure) -> int:
    parts = (tool.get("name"), tool.get("description"), tool.get("input_schema"))
    return PER_TOOL + sum(measure.text(_as_text(part)) for part in parts)


def _content(content: object, measure: _Measure, depth: int = 0) -> int:
    """Tokens of a string, a block, or a list of either; anything else is nothing a model reads."""
    if depth > DEEPEST:
        return 0
    if isinstance(content, str):
        return measure.text(content)
    if isinstance(content, list):
        return sum(_content(part, measure, depth + 1) for part in content)
    if isinstance(content, dict):
        return _block(content, measure, depth)
    return 0


def _block(block: dict[str, Any], measure: _Measure, depth: int) -> int:
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        return measure.text(block["text"])  # nearly all there is
    if kind == "image":
        return measure.image(block.get("source"))
    if kind == "thinking":
        return measure.text(_as_text(block.get("thinking"))) if measure.view.shows_thinking(block) else 0
    if isinstance(kind, str) and kind in CALLS:
        return PER_TOOL_USE + sum(measure.text(_as_text(block.get(field))) for field in ("name", "input"))
    total = sum(_content(block.get(field), measure, depth + 1) for field in READABLE)
    if kind == "document":
        total += _document(block.get("source"), measure, depth)
    if isinstance(kind, str) and kind.endswith("tool_result"):
        total += PER_TOOL_RESULT
    return total


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return ""  # no JSON: it cannot have come from a client


# Documents


def _document(source: object, measure: _Measure, depth: int) -> int:
    """Text and content count as what they are; everything else is taken for a PDF."""
    if not isinstance(source, dict):
        return 0
    data = source.get("data")
    if source.get("type") == "text":
        return measure.text(_as_text(data))
    if source.get("type") == "content":
        return _content(source.get("content"), measure, depth + 1)
    return PER_PAGE * measure.pages(data) if isinstance(data, str) else PER_PAGE


def _pages(data: str) -> int:
    key = ("pages", _digest(data.encode("utf-8", "surrogatepass")))
    return _counts.get(key, lambda: len(PAGE.findall(decoded(data))) or _pages_by_size(data))


def _pages_by_size(data: str) -> int:
    return max(1, math.ceil(len(data) * 3 / 4 / BYTES_PER_PAGE))


# Text


_encodings: dict[str, tiktoken.Encoding] = {}
_loading = threading.Lock()


def is_ready(encoding: str = DEFAULT_ENCODING) -> bool:
    """Whether counting loads nothing. It takes a quarter of a second, for half of which no other thread runs."""
    return encoding in _encodings


def warm(encoding: str = DEFAULT_ENCODING) -> None:
    """For a thread that may wait, before anybody counts who must not."""
    _encoding(encoding)


def _encoding(name: str) -> tiktoken.Encoding:
    known = _encodings.get(name)
    if known is not None:
        return known
    if name not in PATTERNS:
        raise ValueError(f"no vocabulary {name!r}: there are {', '.join(PATTERNS)}")
    with _loading:  # of two threads the second finds what the first has loaded
        if name not in _encodings:
            _encodings[name] = _loaded(name)
    return _encodings[name]


def _loaded(name: str) -> tiktoken.Encoding:
    lines = gzip.decompress((VOCABULARY / f"{name}.tiktoken.gz").read_bytes()).splitlines()
    ranks = {a2b_base64(token): int(rank) for token, rank in map(bytes.split, lines)}
    encoding = tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={})
    ranks.clear()  # it has its own copy, and would keep ours too: 14 MB
    return encoding


def _count_pieces(text: str, encoding: str) -> int:
    encode = _encoding(encoding).encode_ordinary
    total = start = 0
    while len(text) - start > PIECE:
        end = text.rfind(" ", start + PIECE - SEAM, start + PIECE)
        end = end if end > start else start + PIECE
        total += len(encode(text[start:end]))
        start = end
    return total + len(encode(text[start:]))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


class _Counts:
    """The counts made last. Digests are kept, never the text; several threads may count at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, count: Callable[[], int]) -> int:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        counted = count()  # outside the lock: two threads may count the same once, none waits for a long text
        with self._lock:
            self._known[key] = counted
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return counted

    def __len__(self) -> int:
        return len(self._known)


_counts = _Counts(MOST_REMEMBERED)
