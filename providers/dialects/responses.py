"""OpenAI Responses: requests are translated by responses_request, answers by the machine below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import identity
from providers.dialects import refusals, tools
from providers.dialects.dialect import Dialect, Exchange
from providers.dialects.foreign import ForeignAnswer, details
from providers.dialects.loose import loads
from providers.dialects.profiles import Habits
from providers.dialects.responses_events import Event, found_pages, read_event, refuses, string, texts
from providers.dialects.responses_items import CALLS, Item, Items
from providers.dialects.responses_request import DIALECT_NAME, encode, ours_of
from providers.errors import UpstreamError
from providers.usage import Usage, of_totals, tokens

# Why an answer is incomplete.
STOP_REASONS: Mapping[str, str] = {
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "length": "max_tokens",
    "content_filter": "refusal",
}
# What an item is told in: each in a block of its own.
BLOCKS: Mapping[str, str] = {"message": "text", "reasoning": "thinking"}
FAILURES = frozenset({"failed", "cancelled"})


def usage_of(reported: Mapping[str, Any], *, reasoning_outside: bool = False) -> Usage:
    """Cached tokens are a part of the input here, reasoning of the output, except where it is counted apart."""
    input_details = details(reported, "input_tokens_details")
    return of_totals(
        read=tokens(reported.get("input_tokens")),
        cached=tokens(input_details.get("cached_tokens")),
        written=tokens(input_details.get("cache_write_tokens")),
        made=tokens(reported.get("output_tokens")),
        reasoning=tokens(details(reported, "output_tokens_details").get("reasoning_tokens")),
        total=tokens(reported.get("total_tokens")),
        reasoning_outside=reasoning_outside,
    )


class ResponsesAnswer(ForeignAnswer):
    """Events in, Messages events out. Each thing is told up to four times: what was told before is not repeated."""

    dialect = DIALECT_NAME

    def __init__(self, exchange: Exchange, content_type: str) -> None:
        super().__init__(exchange, content_type)
        self._items = Items(self._begin)
        self._finish = ""
        self._refused = False
        self._reported: dict[str, Any] = {}
        self._web_searches = 0

    def _habits_of(self, exchange: Exchange) -> Habits:
        return ours_of(exchange)

    # Events

    def _take_data(self, data: bytes) -> bool:
        event = read_event(data)
        if event is None:
            return False
        kind = event.type or self._event
        take = _TAKES.get(kind)
        if take is not None:
            take(self, event)
        elif kind in {"error", "response.error"} or event.error or event.object == "error":
            raise self._error(loads(data))
        elif not kind and event.output is not None:
            self._take_response(loads(data))
        return True

    def _take_document(self, body: bytes) -> None:
        """One complete answer, or one event per line."""
        reply = loads(body)
        if not isinstance(reply, dict):
            self._take_lines(body)
        elif string(reply, "type").startswith("response."):
            self._take_data(body)
        elif reply.get("error") or not isinstance(reply.get("output"), list):
            raise self._error(reply)
        else:
            self._take_response(reply)

    def _error(self, reply: Any) -> UpstreamError:
        """The error is in a field of its own, or the event is the error."""
        error = reply.get("error") if isinstance(reply, dict) else None
        if not error and isinstance(reply, dict) and ("message" in reply or "code" in reply):
            error = {name: value for name, value in reply.items() if name != "type"}
        if isinstance(error, dict) and string(error, "code").startswith("invalid_"):
            error = {"status_code": 400, **error}
        return refusals.in_answer({"error": error} if error else reply, self._exchange)

    def _began(self, event: Event) -> None:
        if isinstance(event.response, dict):
            self._identify(event.response)

    def _identify(self, response: dict[str, Any]) -> None:
        self.upstream_id = self.upstream_id or string(response, "id") or None
        reported = response.get("usage")
        if isinstance(reported, dict) and any(reported.get(name) is not None for name in _COUNTED):
            self._reported.update({name: value for name, value in reported.items() if value is not None})
            self.usage = usage_of(self._reported, reasoning_outside=self._habits.reasoning_outside)

    # Items

    def _begin(self, item: Item) -> None:
        """An item nobody has spoken of yet."""
        if item.kind in CALLS:
            item.call = self._composer.begin_call()
        elif item.kind in BLOCKS:
            self._composer.part(BLOCKS[item.kind])

    def _added(self, event: Event) -> None:
        given = event.item
        if not isinstance(given, dict):
            return
        item = self._items.add(string(given, "type"), event.output_index, string(given, "id"))
        item.announced = string(given, "arguments")
        self._name(item, string(given, "name"))

    def _name(self, item: Item, name: str) -> None:
        if item.call is not None and name:
            self._composer.name(item.call, name)
            self._composer.move(item.call)

    def _done_item(self, event: Event) -> None:
        given = event.item
        if not isinstance(given, dict):
            return
        place = string(given, "type"), event.output_index, string(given, "id")
        self._complete(self._items.of(*place) or self._items.new(*place), given)

    def _complete(self, item: Item, told: dict[str, Any]) -> None:
        """All of an item: what of it is missing so far is said now."""
        if item.kind == "message":
            self._refused = self._refused or refuses(told.get("content"))
            self._composer.say(item.missing(texts(told.get("content"))))
        elif item.kind == "reasoning":
            self._complete_reasoning(item, told)
        elif item.kind in CALLS:
            self._complete_call(item, told)
        elif item.kind == "web_search_call":
            self._complete_search(item, told)
        elif not item.is_done:
            self.notes.add(f"item {item.kind[:40]}")
        if not item.is_done and item.kind in BLOCKS:
            self._composer.part(BLOCKS[item.kind])
        item.is_done = True

    # Text

    def _text(self, event: Event) -> None:
        if event.delta:
            self._say(self._items.at("message", event), event.content_index, event.delta)

    def _text_done(self, event: Event) -> None:
        item = self._items.at("message", event)
        text = event.text or event.refusal or ""
        self._say(item, event.content_index, item.missing_part(event.content_index, text))

    def _refusal(self, event: Event) -> None:
        self._refused = True
        self._text(event)

    def _refusal_done(self, event: Event) -> None:
        self._refused = True
        self._text_done(event)

    def _say(self, item: Item, index: int | None, text: str) -> None:
        if text and not item.is_done:
            item.add(index, text)
            self._composer.say(text)

    # Reasoning

    def _thought(self, event: Event) -> None:
        item = self._items.at("reasoning", event)
        if not item.is_raw:
            item.become_raw()
        self._think(item, event.content_index, event.delta or "")

    def _summary(self, event: Event) -> None:
        item = self._items.at("reasoning", event)
        if not item.is_raw:
            self._think(item, event.summary_index, event.delta or "")

    def _thought_done(self, event: Event) -> None:
        item = self._items.at("reasoning", event)
        if item.is_raw or not item.has_spoken:
            item.is_raw = True
            self._think(item, event.content_index, item.missing_part(event.content_index, event.text or ""))

    def _summary_done(self, event: Event) -> None:
        item = self._items.at("reasoning", event)
        if not item.is_raw:
            self._think(item, event.summary_index, item.missing_part(event.summary_index, event.text or ""))

    def _think(self, item: Item, index: int | None, text: str) -> None:
        if text and not item.is_done:
            new = item.beyond_summary(text)
            between = "\n\n" if new == text and item.begins_part(index) else ""
            item.add(index, text)
            if new:
                self._composer.reason(between + new)

    def _complete_reasoning(self, item: Item, told: dict[str, Any]) -> None:
        """The item as a whole is what must come back: without its secret, or its text, nobody could use it."""
        raw, summary = texts(told.get("content")), texts(told.get("summary"))
        if item.is_raw or (raw and not item.has_spoken):
            item.is_raw = True
            missing = item.missing(raw)
        else:
            missing = item.missing(summary)
        useful = bool(told.get("encrypted_content") or raw) and self._habits.reasoning_history == "items"
        if not item.is_done:
            kept = {name: value for name, value in told.items() if value is not None}
            self._composer.reason(missing, [kept] if useful and not item.is_late else [])

    # Calls

    def _arguments(self, event: Event) -> None:
        self._add_arguments(self._items.at("function_call", event), event.delta or "")

    def _arguments_done(self, event: Event) -> None:
        item = self._items.at("function_call", event)
        self._name(item, event.name or "")
        self._complete_arguments(item, event.arguments or "")

    def _add_arguments(self, item: Item, fragment: str) -> None:
        if item.call is not None and fragment:
            item.add(0, fragment)
            self._composer.go_on(item.call.last(), fragment)

    def _complete_arguments(self, item: Item, arguments: str) -> None:
        if not arguments:
            return
        said = item.said() if len(arguments) >= item.length else None
        if said is not None and said.strip() == "{}" and arguments.strip() != "{}":
            self._add_arguments(item, arguments)  # that was a filler
        elif said is not None and arguments.startswith(said):
            self._add_arguments(item, arguments[len(said) :])
        else:
            self.notes.add("arguments_differ")

    def _input(self, event: Event) -> None:
        """A custom tool takes any text: it travels as the one field of an object, when it is complete."""
        if event.delta:
            self._items.at("custom_tool_call", event).add(0, event.delta)

    def _input_done(self, event: Event) -> None:
        item = self._items.at("custom_tool_call", event)
        missing = item.missing_part(0, event.input or "")
        if missing:
            item.add(0, missing)

    def _complete_call(self, item: Item, told: dict[str, Any]) -> None:
        if item.call is None:
            return
        self._name(item, string(told, "name"))
        if item.kind == "function_call":
            arguments = told.get("arguments")
            text = msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else arguments
            self._complete_arguments(item, text if isinstance(text, str) and text else item.announced)
        elif not item.is_done:
            self._composer.add(item.call, _as_input(string(told, "input") or item.said()))
        item.is_done = True
        self._composer.complete(item.call)

    # Web search

    def _complete_search(self, item: Item, told: dict[str, Any]) -> None:
        if item.is_done:
            return
        self._web_searches += 1
        if tools.search_of(self._exchange.request, self._habits) is None:
            return
        query, pages = found_pages(told)
        search_id = identity.server_tool_use_id()
        called = {"type": "server_tool_use", "id": search_id, "name": "web_search", "input": {"query": query}}
        found = [_page(page) for page in pages if isinstance(page.get("url"), str)]
        self._composer.place([called, {"type": "web_search_tool_result", "tool_use_id": search_id, "content": found}])

    # The end

    def _ended(self, event: Event) -> None:
        response = event.response
        self._take_response(response if isinstance(response, dict) else {})

    def _failed(self, event: Event) -> None:
        response = event.response if isinstance(event.response, dict) else {}
        self._identify(response)
        raise self._failure(response)

    def _failure(self, response: dict[str, Any]) -> UpstreamError:
        if response.get("error"):
            return self._error(response)
        return UpstreamError(f"the provider broke off its answer ({response.get('status') or 'failed'}): try again")

    def _take_response(self, response: dict[str, Any]) -> None:
        """The answer once more, all of it, or the only time."""
        self._identify(response)
        if string(response, "status") in FAILURES:
            raise self._failure(response)
        output = response.get("output")
        for index, told in enumerate(output if isinstance(output, list) else ()):
            if isinstance(told, dict):
                place = string(told, "type"), index, string(told, "id")
                item = self._items.match(*place) or self._items.new(*place)
                item.is_matched, item.is_late = True, item is not self._items.last
                self._complete(item, told)
        reason = string(details(response, "incomplete_details"), "reason")
        if reason and reason not in STOP_REASONS:
            self.notes.add(f"incomplete {reason[:40]}")
        self._finish = STOP_REASONS.get(reason, "end_turn")
        self._end()

    def _end(self) -> None:
        for item in self._items:
            if item.kind in CALLS and not item.is_done:
                self._complete_call(item, {})
        if self._web_searches and self.usage is not None:
            self.usage = msgspec.structs.replace(self.usage, web_searches=self._web_searches)
        super()._end()

    def _meaning(self) -> str:
        if self._refused and self._finish in {"", "end_turn"}:
            return "refusal"
        return self._finish or "end_turn"


_COUNTED = ("input_tokens", "output_tokens")


def _as_input(text: str) -> str:
    return msgspec.json.encode({"input": text}).decode()


def _page(page: dict[str, Any]) -> dict[str, Any]:
    title = string(page, "title") or page["url"]
    return {"type": "web_search_result", "title": title, "url": page["url"], "encrypted_content": "", "page_age": None}


_TAKES: Mapping[str, Callable[[ResponsesAnswer, Event], None]] = {
    "response.output_text.delta": ResponsesAnswer._text,
    "response.function_call_arguments.delta": ResponsesAnswer._arguments,
    "response.reasoning_summary_text.delta": ResponsesAnswer._summary,
    "response.reasoning_text.delta": ResponsesAnswer._thought,
    "response.reasoning_summary.delta": ResponsesAnswer._summary,
    "response.reasoning.delta": ResponsesAnswer._thought,
    "response.refusal.delta": ResponsesAnswer._refusal,
    "response.custom_tool_call_input.delta": ResponsesAnswer._input,
    "response.output_text.done": ResponsesAnswer._text_done,
    "response.function_call_arguments.done": ResponsesAnswer._arguments_done,
    "response.reasoning_summary_text.done": ResponsesAnswer._summary_done,
    "response.reasoning_text.done": ResponsesAnswer._thought_done,
    "response.refusal.done": ResponsesAnswer._refusal_done,
    "response.custom_tool_call_input.done": ResponsesAnswer._input_done,
    "response.output_item.added": ResponsesAnswer._added,
    "response.output_item.done": ResponsesAnswer._done_item,
    "response.created": ResponsesAnswer._began,
    "response.in_progress": ResponsesAnswer._began,
    "response.queued": ResponsesAnswer._began,
    "response.completed": ResponsesAnswer._ended,
    "response.done": ResponsesAnswer._ended,
    "response.incomplete": ResponsesAnswer._ended,
    "response.failed": ResponsesAnswer._failed,
    "response.cancelled": ResponsesAnswer._failed,
}

DIALECT = Dialect(encode=encode, answer=ResponsesAnswer, refusal=refusals.read)
