"""Running a case: what the client sends, what has come of it, and one sentence for each thing that is not as it
should be. Who plays the gateway, the pure functions or a server, is the player's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from providers.conformance import answers, checks, scripts
from providers.conformance.cases import Case, Json, Language, Setup, Turn

# Stand for the name of the model, as the gateway of this run calls it.
MODEL, CAPITALS = "$MODEL", "$CAPITAL_MODEL"
HISTORIES = ("messages", "input")


class Call(msgspec.Struct, frozen=True):
    """One request of the client, and what the upstream will answer to it."""

    setup: Setup
    turn: Turn
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    replies: list[scripts.Reply]


class Received(msgspec.Struct, frozen=True):
    """One call as it came to the upstream."""

    path: str
    headers: dict[str, str]
    body: bytes

    def document(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return self.body.decode("utf-8", "replace")


class Outcome(msgspec.Struct):
    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    upstream: list[Received] = []
    trouble: str = ""  # why there is no outcome at all

    @property
    def is_stream(self) -> bool:
        return "event-stream" in self.headers.get("content-type", "") and self.status == 200


class Player(Protocol):
    strict: bool  # whether our own decisions are asked, too: signed thinking, and figures where others write null
    ids: set[str]  # of messages and tool calls, each with the conversation it was seen in

    def model(self, setup: Setup) -> str: ...

    def play(self, call: Call) -> Outcome: ...


def run(case: Case, player: Player) -> list[str]:
    """Everything that is wrong; nothing where the case passes."""
    history: list[Json] = []
    calls: list[str] = []
    before: Outcome | None = None
    for number, written in enumerate(case.turns):
        language = written.language or case.language
        setup = case.setup(language)
        turn = _naming(written, player.model(setup))
        asked = _request(case, turn)
        if case.conversation:
            said = {"role": "user", "content": _answered(turn.then, calls)} if turn.then else None
            history += [said] if said else asked["messages"]
            asked["messages"] = list(history)
        outcome = player.play(_call(setup, turn, asked, language))
        conversation = case.id if case.conversation else f"{case.id} {number}"
        wrong, reply = judge(turn, outcome, language, player, conversation)
        if turn.prefix and before is not None:
            wrong += _prefix_complaints(before, outcome)
        if wrong:
            return [f"turn {number + 1}: {each}" for each in wrong] if len(case.turns) > 1 else wrong
        if case.conversation:
            history.append({"role": "assistant", "content": list(_replayed(reply, turn))})
            calls = [str(block.get("id")) for block in answers.blocks_of(reply, "tool_use")]
        before = outcome
    return []


def _naming(turn: Turn, model: str) -> Turn:
    """The turn with the model's name wherever a placeholder for it stands."""
    text = msgspec.json.encode(turn).decode()
    if CAPITALS not in text and MODEL not in text:
        return msgspec.structs.replace(turn, request={"model": model, **turn.request})
    named = msgspec.json.decode(text.replace(CAPITALS, model.upper()).replace(MODEL, model), type=Turn)
    return msgspec.structs.replace(named, request={"model": model, **named.request})


def _request(case: Case, turn: Turn) -> Json:
    usual: Json = {
        "max_tokens": 8000,
        "stream": case.kind not in {"whole", "surface"},
        "messages": [{"role": "user", "content": "Hello"}],
    }
    return {name: value for name, value in {**usual, **turn.request}.items() if name not in turn.without}


def _call(setup: Setup, turn: Turn, asked: Json, language: Language) -> Call:
    body = json.dumps(asked, ensure_ascii=True) if turn.raw is None else turn.raw
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01", **turn.headers}
    encoded = b"" if turn.method in {"GET", "HEAD"} else body.encode()
    return Call(setup, turn, turn.method, turn.path, headers, encoded, scripts.replies(turn, language))


def _answered(then: list[Json], calls: list[str]) -> Any:
    """What the user says next, with the ids of the calls that he answers."""
    text = json.dumps(then)
    for number, call in enumerate(calls):
        text = text.replace(f'"$call{number}"', json.dumps(call))
    return json.loads(text)


def _replayed(reply: Json, turn: Turn) -> Iterator[Json]:
    for block in reply["content"]:
        if not (turn.forget_thinking and block["type"] == "thinking"):
            yield block


def judge(
    turn: Turn, outcome: Outcome, language: Language, player: Player, conversation: str
) -> tuple[list[str], Json]:
    """What is wrong with the outcome of one turn, and the reply in one piece."""
    if outcome.trouble:
        return [outcome.trouble], {}
    wrong = list(_upstream_complaints(turn, outcome))
    reply: Json = {}
    if turn.refused is not None:
        if outcome.upstream:
            wrong.append("the request should be refused before any call upstream, and a call was made")
        wrong += _error_complaints({"status": 400, "type": "invalid_request_error", **turn.refused}, outcome)
    elif turn.error is not None and "status" in turn.error:
        wrong += _error_complaints(turn.error, outcome)
    elif turn.received_status is not None:
        reply = answers.parsed(outcome.body.decode("utf-8", "replace"))
        if outcome.status != turn.received_status:
            wrong.append(f"expected HTTP {turn.received_status}, got {outcome.status}: {_told(outcome)}")
        wrong += checks.complaints(reply, turn.reply, "the answer's")
    else:
        message, reply = _message_complaints(turn, outcome)
        wrong += message
        wrong += _id_complaints(reply, player.ids, conversation) if reply else []
        wrong += _house_complaints(reply, language) if player.strict and turn.error is None else []
    wrong += checks.complaints(outcome.headers, turn.received_headers, "the answer's header")
    if turn.received is not None:
        problem = checks.mismatch(outcome.body.decode("utf-8", "replace"), turn.received)
        wrong += [f"the answer's bytes: {problem}"] if problem else []
    return wrong, reply


def _upstream_complaints(turn: Turn, outcome: Outcome) -> Iterator[str]:
    if turn.calls is not None and len(outcome.upstream) != turn.calls:
        yield f"expected {turn.calls} calls upstream, got {len(outcome.upstream)}"
    if not (turn.sent or turn.sent_headers or turn.sent_path):
        return
    if not outcome.upstream:
        yield f"the upstream was never called; the client got HTTP {outcome.status}: {_told(outcome)}"
        return
    last = outcome.upstream[-1]
    yield from checks.complaints(last.document(), turn.sent, "sent upstream,")
    yield from checks.complaints(last.headers, turn.sent_headers, "sent upstream, header")
    problem = checks.mismatch(last.path, {"matches": turn.sent_path}) if turn.sent_path else None
    if problem:
        yield f"the path that was called: {problem}"


def _message_complaints(turn: Turn, outcome: Outcome) -> tuple[list[str], Json]:
    """A 200 was due: the events or the document, and what they say."""
    wrong: list[str] = []
    if outcome.status != 200:
        return [f"expected an answer, got HTTP {outcome.status}: {_told(outcome)}"], {}
    if outcome.is_stream:
        events, wrong = answers.read_events(outcome.body)
        wrong += answers.grammar(events, broken_off=turn.error is not None)
        reply = answers.fold(events)
    else:
        reply = answers.parsed(outcome.body.decode("utf-8", "replace"))
        if not isinstance(reply, dict) or not isinstance(reply.get("content"), list):
            return [f"expected a reply with content, got {_told(outcome)}"], {}
    if turn.error is not None:
        told = reply.get("error")
        wrong += checks.complaints(told, _patterns(turn.error), "the error event's")
    else:
        wrong += [f"the stream broke off: {checks.shown(reply['error'])}"] if reply.get("error") else []
        wrong += _ending_complaints(turn, reply)
    if turn.content is not None:
        problem = checks.mismatch(answers.short(reply["content"]), turn.content)
        wrong += [f"content: {problem}"] if problem else []
    wrong += checks.complaints(reply, turn.reply, "the reply's")
    return wrong, reply


def _house_complaints(reply: Json, language: Language) -> list[str]:
    """What others may decide otherwise, of an answer that was translated."""
    if language == "anthropic" or not reply:
        return []
    wrong = [f"a thinking block is not signed: {block}" for block in _unsigned(reply)]
    usage = reply.get("usage") or {}
    return wrong + [f"usage has no {name}" for name in answers.USAGE if type(usage.get(name)) is not int]


def _unsigned(reply: Json) -> list[Json]:
    return [block for block in answers.blocks_of(reply, "thinking") if not block.get("signature")]


def _ending_complaints(turn: Turn, reply: Json) -> list[str]:
    wrong = []
    ending = turn.chunks[-1] if turn.chunks else None
    ending = ending if isinstance(ending, str) and ending in scripts.ENDINGS else None
    stop = turn.stop or (scripts.MESSAGES_REASONS[ending] if ending else None)
    if stop is not None and reply.get("stop_reason") != stop:
        wrong.append(f"expected stop_reason {stop}, got {reply.get('stop_reason')}")
    if turn.stop_sequence is not None and reply.get("stop_sequence") != turn.stop_sequence:
        wrong.append(f"expected stop_sequence {turn.stop_sequence!r}, got {reply.get('stop_sequence')!r}")
    wanted = turn.usage or (scripts.USUAL_USAGE if ending else None)
    if wanted is not None:
        problem = checks.mismatch(_usage_of(reply, len(wanted)), wanted)
        wrong += [f"usage (input, cache read, cache written, output, thinking): {problem}"] if problem else []
    return wrong


def _usage_of(reply: Json, figures: int) -> list[Any]:
    usage = reply.get("usage") or {}
    thinking = (usage.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    told = [usage.get(name) for name in answers.USAGE]
    # Of the cache, null and nothing mean zero.
    return [told[0], told[1] or 0, told[2] or 0, told[3], thinking][:figures]


def _id_complaints(reply: Json, ids: set[str], conversation: str) -> list[str]:
    """Within a conversation clients merge answers of one id, and lose calls whose id they have seen before."""
    named = [] if reply.get("error") and reply.get("id") is None else [reply.get("id")]
    named += [block.get("id") for block in answers.blocks_of(reply, "tool_use")]
    wrong = []
    for given in named:
        known = f"{conversation} {given}"
        if not isinstance(given, str) or not given or known in ids:
            wrong.append(f"the id {given!r} is missing or was used before")
        ids.add(known)
    return wrong


def _error_complaints(expected: Json, outcome: Outcome) -> list[str]:
    document = answers.parsed(outcome.body.decode("utf-8", "replace"))
    if outcome.status != expected["status"]:
        return [f"expected HTTP {expected['status']}, got {outcome.status}: {_told(outcome)}"]
    told = document.get("error") if isinstance(document, dict) else None
    if not isinstance(told, dict) or document.get("type") != "error":
        return [f"the error has not the shape that clients read: {_told(outcome)}"]
    wrong = checks.complaints(told, _patterns(expected), "the error's")
    return wrong + checks.complaints(outcome.headers, expected.get("headers") or {}, "the error's header")


def _patterns(expected: Json) -> Json:
    """`message` is a pattern, `lacks` what must not be told; the rest are paths into the error."""
    paths = {name: value for name, value in expected.items() if name not in {"status", "headers", "message", "lacks"}}
    message: Json = {}
    if "message" in expected:
        message["matches"] = expected["message"]
    if "lacks" in expected:
        message["lacks"] = expected["lacks"]
    return {**paths, **({"message": message} if message else {})}


def _told(outcome: Outcome) -> str:
    return outcome.body[:300].decode("utf-8", "replace") or "nothing"


def _prefix_complaints(before: Outcome, after: Outcome) -> list[str]:
    """Caches hold as long as what was sent before is sent again to the byte."""
    if not before.upstream or not after.upstream:
        return ["no call came upstream to compare"]
    first, second = (_members(each.upstream[-1].body) for each in (before, after))
    wrong = []
    for name, value in first.items():
        if name in HISTORIES:
            old, new = (msgspec.json.decode(each, type=list[msgspec.Raw]) for each in (value, second.get(name, b"[]")))
            if [bytes(item) for item in new[: len(old)]] != [bytes(item) for item in old]:
                wrong.append(f"{name}: what the first turn sent is sent otherwise in the second")
        elif name in {"tools", "instructions", "system", "prompt_cache_key"} and second.get(name) != value:
            wrong.append(f"{name} changed from one turn to the next")
    return wrong


def _members(body: bytes) -> dict[str, bytes]:
    return {name: bytes(value) for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}
