"""Reasoning that comes inside the text, between tags at its very start. Anywhere else tags are text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

Piece: TypeAlias = tuple[Literal["thinking", "text"], str]

START, END = "<think>", "</think>"
# After so much white space no tag is expected any more.
LONGEST_BLANK = 1000


class ThinkTags:
    """Fed text, tells thinking from text; the tags may be split anywhere."""

    def __init__(self, *, opened: bool) -> None:
        self._held = ""
        self._place = "inside" if opened else "before"
        self._is_fresh = True  # nothing has been thought yet

    @property
    def is_over(self) -> bool:
        return self._place == "after"

    def split(self, text: str) -> Iterator[Piece]:
        self._held += text
        if self._place == "before":
            self._look_for_start()
        if self._place == "inside":
            yield from self._inside()
        if self._place == "behind":
            self._held = self._held.lstrip("\n")
            if self._held:
                self._place = "after"
        if self._place == "after" and self._held:
            yield "text", self._take()

    def flush(self) -> Iterator[Piece]:
        if self._held:
            yield ("thinking" if self._place == "inside" else "text"), self._take()

    def _look_for_start(self) -> None:
        beginning = self._held.lstrip()
        if beginning.startswith(START):
            self._held = beginning.removeprefix(START)
            self._place = "inside"
        elif not START.startswith(beginning) or len(self._held) > LONGEST_BLANK:
            self._place = "after"

    def _inside(self) -> Iterator[Piece]:
        held = self._held.lstrip("\n") if self._is_fresh else self._held
        thought, tag, rest = held.partition(END)
        if tag:
            self._held, self._place = rest, "behind"
        else:
            # What may be the beginning of the end tag waits.
            tail = next((n for n in range(len(END) - 1, 0, -1) if thought.endswith(END[:n])), 0)
            self._held = thought[len(thought) - tail :]
            thought = thought[: len(thought) - tail]
        if thought:
            self._is_fresh = False
            yield "thinking", thought

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held
