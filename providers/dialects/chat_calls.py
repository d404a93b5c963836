"""Which tool call a fragment of Chat Completions belongs to."""

from __future__ import annotations

import msgspec

from providers.dialects.chat_chunks import Entry
from providers.dialects.composer import Call, Composer


class ChatCall(msgspec.Struct, eq=False):
    """A call as the upstream knows it."""

    call: Call
    index: int | None
    upstream_id: str = ""


class Calls:
    """Gives each fragment to its call; upstreams number and name them in every way but the documented one."""

    def __init__(self, composer: Composer, *, split_names: bool) -> None:
        self._composer = composer
        self._split_names = split_names
        self._by_index: dict[int | None, ChatCall] = {}  # None is no index and has no call
        self._by_id: dict[str, ChatCall] = {}
        self._latest: ChatCall | None = None

    def take(self, entry: Entry) -> None:
        function = entry.function
        name = (function and function.name) or ""
        arguments = (function and function.arguments) or ""
        if arguments and not (name or entry.id or entry.extra_content):
            known = self._by_index.get(entry.index)
            if known is not None:  # nearly every fragment
                begun = known.call
                self._composer.go_on(begun if begun.next is None else begun.last(), arguments)
                return
        call = self._of(entry, name, arguments)
        if call is None:
            return
        if name:
            self._composer.name(call, name)
        if entry.signature:
            self._composer.sign(call, entry.signature)
        if arguments:
            self._composer.add(call, arguments)
        self._composer.move(call)

    def _of(self, entry: Entry, name: str, arguments: str) -> Call | None:
        """None for an entry that says nothing."""
        known = self._known(entry)
        if known is not None and not self._begins_another(known, entry.id or "", name, arguments):
            if entry.id and not known.upstream_id:
                known.upstream_id = entry.id
                self._by_id[entry.id] = known
            return known.call.last()
        if not name and not arguments and not entry.id:
            return None
        return self._new(entry).call

    def _known(self, entry: Entry) -> ChatCall | None:
        by_id = self._by_id.get(entry.id) if entry.id else None
        if entry.index is not None:
            return (
                by_id
                if by_id and by_id.index == entry.index
                else self._by_index.get(entry.index) or self._astray(entry)
            )
        return by_id if entry.id else self._latest

    def _astray(self, entry: Entry) -> ChatCall | None:
        """Some give each fragment of one call's arguments a number of its own."""
        latest, function = self._latest, entry.function
        if latest is None or entry.id or function is None or function.name or not function.arguments:
            return None
        call = latest.call.last()
        return latest if call.name and not call.arguments.is_valid() else None

    def _begins_another(self, known: ChatCall, given_id: str, name: str, arguments: str) -> bool:
        """Some number every parallel call 0, with ids, without, or with the same id: only a name tells."""
        call = known.call.last()
        if not name:
            return False
        if given_id and known.upstream_id and given_id != known.upstream_id:
            return True
        if call.arguments.blank:
            return bool(call.name) and name != call.name and not given_id and not self._split_names
        if not call.arguments.is_valid() or (given_id and given_id == known.upstream_id and not arguments.strip()):
            return False
        return name != call.name or not call.arguments.repeats(arguments)

    def _new(self, entry: Entry) -> ChatCall:
        call = self._latest = ChatCall(self._composer.begin_call(), entry.index)
        if entry.index is not None:
            self._by_index[entry.index] = call
        if entry.id:
            call.upstream_id = entry.id
            self._by_id[entry.id] = call
        return call
