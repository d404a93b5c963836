"""The cases as they stand in the files below `cases/`: read, completed with the defaults of their file, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import msgspec
import yaml

FOLDER = Path(__file__).parent / "cases"
# Both read safely; the one in C reads as much in a tenth of the time.
FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Json: TypeAlias = dict[str, Any]
Language: TypeAlias = Literal["anthropic", "openai", "responses"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the upstream answers. Nothing given: a short, faultless answer in its language."""

    chunks: list[Any] | None = None  # a stream, in the shorthand of `scripts`
    frames: str | None = None  # a stream, to the letter
    body: Any = msgspec.UNSET  # one JSON document
    document: str | None = None  # one body, to the letter
    reported: Any = msgspec.UNSET  # a short answer with this usage
    status: int = 200
    answer_headers: dict[str, str] = {}
    content_type: str = ""
    ends: Literal["close", "abort"] = "close"
    split: int = 0  # written in pieces of so many bytes
    crlf: bool = False
    unnamed: bool = False  # without `event:` lines
    first: Json | None = None  # another script for the first call only


class Turn(Script, frozen=True, forbid_unknown_fields=True):
    """One request and all that is expected of it."""

    # The client
    request: Json = {}
    without: list[str] = []
    raw: str | None = None  # the body to the letter; $MODEL stands for the model's name
    headers: dict[str, str] = {}
    method: str = "POST"
    path: str = "/v1/messages"
    then: list[
        Json
    ] = []  # in a conversation: what the user says to the last answer; $call0 is its first tool call's id
    forget_thinking: bool = False  # in a conversation: the client replays no thinking
    language: Language | None = None  # in a conversation: another provider answers from here on

    # What the upstream must have got
    sent: Json = {}
    sent_headers: Json = {}
    sent_path: str | None = None
    calls: int | None = None  # how many calls
    prefix: bool = False  # in a conversation: the turn before is sent again byte for byte

    # What the client must get
    refused: Json | None = None  # before any call upstream
    error: Json | None = None
    content: list[Any] | None = None
    stop: str | None = None
    stop_sequence: str | None = None
    usage: list[int] | None = None  # input, cache read, cache written, output; and thinking
    reply: Json = {}  # paths into the complete reply
    received: Any = None  # the answer's text
    received_status: int | None = None
    received_headers: Json = {}


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    says: str
    kind: Literal["request", "stream", "whole", "error", "usage", "turns", "surface"]
    turns: tuple[Turn, ...]
    theme: str
    language: Language = "openai"
    dialect: str = ""
    options: Json = {}
    upstream_model: str = ""
    core: bool = True
    alone: bool = False  # has a provider of its own, since it teaches the gateway something about it
    end_to_end: bool = False  # needs a whole gateway

    @property
    def conversation(self) -> bool:
        return self.kind == "turns"

    def setup(self, language: Language | None = None) -> Setup:
        """The provider it needs: as few different ones as possible, so that any gateway can be given them."""
        return Setup(
            language or self.language,
            self.dialect,
            msgspec.json.encode(self.options, order="sorted").decode() if self.options else "",
            self.upstream_model,
            self.id if self.alone else "",
        )


class Setup(msgspec.Struct, frozen=True):
    """A provider and the route to it."""

    language: Language
    dialect: str = ""
    options: str = ""  # JSON
    upstream_model: str = ""
    only_for: str = ""  # a case

    @property
    def is_plain(self) -> bool:
        """Whether any gateway could have it."""
        return not (self.dialect or self.options or self.upstream_model)

    @property
    def name(self) -> str:
        parts = [self.dialect or self.language]
        if self.dialect in LANGUAGES:
            parts.append("vendor")
        if self.dialect and self.language != "openai":
            parts.append(self.language)
        special = f"{self.options}{self.upstream_model}{self.only_for}"
        if special:
            parts.append(hashlib.sha256(special.encode()).hexdigest()[:6])
        return "-".join(parts)


_TURN_FIELDS = frozenset(Turn.__struct_fields__) - {"language"}


def load(folder: Path = FOLDER) -> list[Case]:
    """Every case of every file, in their order. Raises ValueError with the file and the case where one is malformed."""
    return [case for path in sorted(folder.glob("*.yaml")) for case in _read(path)]


def _read(path: Path) -> Iterator[Case]:
    loaded = yaml.load(path.read_text(encoding="utf-8"), FASTEST)  # noqa: S506
    defaults = loaded.get("defaults") or {}
    for entry in loaded["cases"]:
        try:
            yield make(path.stem, {**defaults, **entry})
        except (msgspec.ValidationError, TypeError, KeyError) as error:
            raise ValueError(f"{path.name}, case {entry.get('id')}: {error}") from None


def make(theme: str, entry: Json) -> Case:
    """A case from one entry of a file, the defaults already in it."""
    own = {name: value for name, value in entry.items() if name not in _TURN_FIELDS and name != "turns"}
    common = {name: value for name, value in entry.items() if name in _TURN_FIELDS}
    turns = [msgspec.convert({**common, **turn}, Turn) for turn in entry.get("turns") or [{}]]
    if own["kind"] == "usage" and turns[0].reported is not msgspec.UNSET:
        turns.append(msgspec.structs.replace(turns[0], request={**turns[0].request, "stream": False}))
    own.setdefault("core", not any(own.get(name) for name in ("dialect", "options", "upstream_model")))
    own.setdefault("alone", own["kind"] == "error")
    own.setdefault("end_to_end", own["kind"] == "surface" or any(turn.first for turn in turns))
    return msgspec.convert({**own, "theme": theme, "turns": turns}, Case)
