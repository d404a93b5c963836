"""Tool names and call ids in the form an upstream takes, the same every turn: prompt caches hang on it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property

from providers.identity import base62

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_LEGAL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_ALPHANUMERIC = re.compile(r"[a-zA-Z0-9]+")
# What gpt-oss and Gemini have around the names of tools, and servers forget to take off.
_LEAKED = re.compile(r"^(?:functions\.|default_api[.:])|<\|.*", re.DOTALL)
NAME_LIMIT = 64
ID_LIMIT = 40


class ToolNames:
    """Full names to the upstream's and back, for one request."""

    def __init__(self, names: Iterable[str], limit: int = NAME_LIMIT) -> None:
        distinct = dict.fromkeys(names)
        if _LEGAL_ID.fullmatch("".join(distinct)) and all(0 < len(name) <= limit for name in distinct):
            self._sent = self._full = {name: name for name in distinct}
            return
        self._sent, self._full = {}, {}
        cleaned = {name: _NOT_IN_NAMES.sub("_", name) or "_" for name in distinct}
        uses = Counter(cleaned.values())
        for name, clean in cleaned.items():
            ambiguous = clean != name and uses[clean] > 1
            sent = f"{clean[: limit - 9]}_{_hash(name)}" if ambiguous or len(clean) > limit else clean
            self._sent[name] = sent
            self._full[sent] = name

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        folded: dict[str, list[str]] = {}
        for name in self._sent:
            folded.setdefault(name.lower(), []).append(name)
        return folded

    def sent(self, full: str) -> str:
        return self._sent[full]

    def full(self, sent: str) -> str:
        """What came back, undone: exactly, else by a single match without case, else as it is."""
        for name in (sent, _LEAKED.sub("", sent)):
            if name in self._full:
                return self._full[name]
            alike = self._folded.get(name.lower(), ())
            if len(alike) == 1:
                return alike[0]
        return sent


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


class CallIds:
    """Ids of calls for one request: each call gets its own, legal upstream. Feed calls in their order.

    Histories made elsewhere repeat ids (`call_0` in every turn), leave them empty, or use any characters at any length.
    `alphanumeric` ids have letters and digits alone, and exactly as many as the limit.
    """

    def __init__(self, limit: int = ID_LIMIT, *, alphanumeric: bool = False) -> None:
        self._limit = limit
        self._alphanumeric = alphanumeric
        self._uses: Counter[str] = Counter()
        self._distinct: set[str] = set()
        self._taken: set[str] = set()

    def next(self, given: str) -> str:
        if given not in self._taken and given not in self._distinct and self._is_legal(given):
            self._uses[given] = 1
            self._distinct.add(given)
            self._taken.add(given)
            return given
        return self._legal(self._numbered(given))

    def _numbered(self, given: str) -> str:
        use = self._uses[given] + 1
        numbered = given if use == 1 else f"{given}_{use}"
        while numbered in self._distinct:
            use += 1
            numbered = f"{given}_{use}"
        self._uses[given] = use
        self._distinct.add(numbered)
        return numbered

    def _legal(self, wanted: str) -> str:
        legal, attempt = wanted, 0
        if not self._is_legal(wanted):
            legal = self._hashed(wanted)
        while legal in self._taken:
            attempt += 1
            legal = self._hashed(f"{wanted}\0{attempt}")
        self._taken.add(legal)
        return legal

    def _is_legal(self, wanted: str) -> bool:
        if self._alphanumeric:
            return len(wanted) == self._limit and _ALPHANUMERIC.fullmatch(wanted) is not None
        return len(wanted) <= self._limit and _LEGAL_ID.fullmatch(wanted) is not None

    def _hashed(self, wanted: str) -> str:
        digest = int.from_bytes(hashlib.sha256(wanted.encode("utf-8", "replace")).digest())
        if self._alphanumeric:
            return base62(digest, self._limit + self._limit % 2)[: self._limit]
        return f"call_{base62(digest, 30)}"[: self._limit]
