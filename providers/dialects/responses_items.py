"""Which output item an event of OpenAI Responses belongs to, and what of it was told so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from providers.dialects.composer import Call
from providers.dialects.responses_events import Event

CALLS = frozenset({"function_call", "custom_tool_call"})


class Part:
    """A text in the pieces in which it came. Its length spares putting them together where that proves nothing."""

    def __init__(self, text: str) -> None:
        self.pieces = [text]
        self.length = len(text)

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self.length += len(text)

    def missing(self, text: str) -> str:
        """What of a text has not come yet. Nothing that was said can be taken back."""
        if len(text) <= self.length:
            return ""
        said = "".join(self.pieces)
        return text[len(said) :] if text.startswith(said) else ""

    def ends_with(self, text: str) -> bool:
        tail: list[str] = []
        short = len(text)
        for piece in reversed(self.pieces):
            if short <= 0:
                break
            tail.append(piece)
            short -= len(piece)
        return "".join(reversed(tail)).endswith(text)


class Item:
    """An output item as far as it was told."""

    def __init__(self, kind: str, index: int | None, item_id: str) -> None:
        self.kind = kind
        self.index = index
        self.id = item_id
        self.is_done = False
        self.is_matched = False  # it was found in the list of all items at the end
        self.is_late = False  # it is completed after what it led to was said
        self.call: Call | None = None
        self.is_raw = False  # of reasoning: its own text, no summary
        self.has_spoken = False
        self.announced = ""  # the arguments that stood in its beginning: they count where none follow
        self.length = 0  # of all its texts
        self._parts: dict[int, Part] = {}
        self._summary = ""  # what it said, until the reasoning itself has said as much
        self._between = "\n\n" if kind == "reasoning" else ""

    def add(self, index: int | None, text: str) -> None:
        self.length += len(text)
        part = self._parts.get(index or 0)
        if part is None:
            self._parts[index or 0] = Part(text)
            self.has_spoken = True
        else:
            part.add(text)

    def become_raw(self) -> None:
        """The reasoning itself comes after all: the summary so far is no part of it."""
        self._summary = self.said()
        self.is_raw, self.length, self._parts = True, 0, {}

    def beyond_summary(self, text: str) -> str:
        """Some send each piece of the reasoning as a summary first."""
        told, self._summary = self._summary, ""
        if told.startswith(text):
            self._summary = told[len(text) :]
            return ""
        return text.removeprefix(told)

    def begins_part(self, index: int | None) -> bool:
        return self.has_spoken and (index or 0) not in self._parts

    def said(self) -> str:
        return self._between.join("".join(part.pieces) for part in self._parts.values())

    def missing(self, texts: list[str]) -> str:
        """What of all its parts was not told yet; from now on it was."""
        whole = self._between.join(filter(None, texts))
        said = self.said() if len(whole) > self.length else whole
        if not whole.startswith(said) or whole == said:
            return ""
        between = self._between if self.has_spoken and not said else ""
        self._parts, self.length, self.has_spoken = {0: Part(whole)}, len(whole), True
        return between + whole[len(said) :]

    def missing_part(self, index: int | None, text: str) -> str:
        """The same of one part; what came without a number may be this part."""
        if self.is_done:
            return ""
        part = self._parts.get(index or 0)
        if part is not None:
            return part.missing(text)
        latest = next(reversed(self._parts.values()), None)
        return "" if latest is not None and latest.ends_with(text) else text


class Items:
    """Finds the item by its place in the output or by its id; servers leave out either, or give every event its own."""

    def __init__(self, begin: Callable[[Item], None]) -> None:
        self._begin = begin
        self._all: list[Item] = []
        self._by_index: dict[int, Item] = {}
        self._by_id: dict[str, Item] = {}
        self._latest: dict[str, Item] = {}
        self._unmatched: dict[str, deque[Item]] = {}

    @property
    def last(self) -> Item | None:
        return self._all[-1] if self._all else None

    def __iter__(self) -> Iterator[Item]:
        return iter(self._all)

    def at(self, kind: str, event: Event) -> Item:
        """The item that an event speaks of; a new one if nobody has spoken of it."""
        item = self._by_index.get(event.output_index) if event.output_index is not None else None
        if item is not None and item.kind == kind and item.id == event.item_id and not item.is_done:
            return item
        found = self.of(kind, event.output_index, event.item_id or "")
        return found or self.new(kind, event.output_index, event.item_id or "")

    def of(self, kind: str, index: int | None, item_id: str) -> Item | None:
        placed = self._by_index.get(index) if index is not None else None
        named = self._by_id.get(item_id) if item_id else None
        if placed is not None and placed.kind == kind:
            is_other = bool(item_id and placed.id and placed.id != item_id)
            if not is_other or (named is None and not placed.is_done):
                return placed
        if named is not None and named.kind == kind and (index is None or named.index in {None, index}):
            return named
        latest = self._latest.get(kind)
        if latest is None or latest.is_done:
            return None
        fits = (index is None or latest.index is None) and (not item_id or not latest.id)
        return self._learn(latest, index, item_id) if fits else None

    def match(self, kind: str, index: int, item_id: str) -> Item | None:
        """The item at a place in the list of all, each of which is matched once."""
        placed, named = self._by_index.get(index), self._by_id.get(item_id)
        unmatched = self._unmatched.get(kind) or deque[Item]()
        while unmatched and unmatched[0].is_matched:
            unmatched.popleft()
        same = placed if placed is not None and placed.id == item_id else named
        for item in (same, placed, unmatched[0] if unmatched else None):
            if item is not None and item.kind == kind and not item.is_matched:
                return item
        return None

    def add(self, kind: str, index: int | None, item_id: str) -> Item:
        """An item begins, unless that was said before."""
        known = self.of(kind, index, item_id) if index is not None or item_id else None
        if known is not None and not known.is_done and known.id == item_id:
            return known
        return self.new(kind, index, item_id)

    def new(self, kind: str, index: int | None, item_id: str) -> Item:
        item = Item(kind, index, item_id)
        self._all.append(item)
        self._latest[kind] = item
        self._unmatched.setdefault(kind, deque()).append(item)
        self._learn(item, index, item_id)
        self._begin(item)
        return item

    def _learn(self, item: Item, index: int | None, item_id: str) -> Item:
        if index is not None:
            item.index = index
            self._by_index[index] = item
        if item_id:
            item.id = item_id
            self._by_id[item_id] = item
        return item
