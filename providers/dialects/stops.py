"""Stop sequences that the gateway keeps by itself, for upstreams that take none, few, or forget them."""

from __future__ import annotations

# No model says so much by chance, and looking for the beginning of such a one would take long.
LONGEST = 1000


class Stops:
    """Fed text, lets it pass up to the first stop sequence; what may be the beginning of one waits."""

    def __init__(self, sequences: list[str]) -> None:
        self._sequences = [sequence for sequence in sequences if len(sequence) <= LONGEST]
        self._held = ""

    def passed(self, text: str) -> tuple[str, str | None]:
        """What may leave, and the sequence that was met."""
        text = self._held + text
        self._held = ""
        met = [(at, sequence) for sequence in self._sequences if (at := text.find(sequence)) >= 0]
        if met:
            at, sequence = min(met, key=lambda found: found[0])
            return text[:at], sequence
        waiting = max((self._beginning(text, sequence) for sequence in self._sequences), default=0)
        if waiting:
            self._held = text[-waiting:]
            text = text[:-waiting]
        return text, None

    def held(self) -> str:
        """What waits, given up: something else has followed."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _beginning(text: str, sequence: str) -> int:
        """How much of the text's end is the beginning of the sequence."""
        longest = min(len(sequence) - 1, len(text))
        return next((size for size in range(longest, 0, -1) if text.endswith(sequence[:size])), 0)
