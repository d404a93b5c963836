"""The translation by itself, without sockets: what a chunk and a request cost, and what compiling the loops gains.

`python -m benchmarks.loops` prints these alone; `make bench` prints them after its servers.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks import conversation
from providers import _hot, hot
from providers.dialects import DIALECTS, Exchange
from providers.messages import Limits, read_request
from providers.routing import Endpoint

CHUNKS = 2000
RUNS = 7
REQUEST_BYTES = 110_000
WORDS = ("The", " quick", " brown", " fox", " jumps", "…", "\n", "def f(x):")
HOSTS = {"openai": "https://api.openai.com/v1", "responses": "https://api.openai.com/v1"}


@dataclass(frozen=True)
class Figure:
    name: str
    microseconds: float
    most: float | None = None  # the aim


@dataclass(frozen=True)
class Gain:
    """Of a function that may be compiled."""

    name: str
    uncompiled: float
    compiled: float

    @property
    def ratio(self) -> float:
        return self.uncompiled / self.compiled


def best(work: Callable[[], object], times: int) -> float:
    """Microseconds each time, of the quickest run."""
    quickest = float("inf")
    for _ in range(RUNS):
        began = time.process_time()
        work()
        quickest = min(quickest, time.process_time() - began)
    return quickest / times * 1e6


def figures() -> list[Figure]:
    most = 3.0 if hot.COMPILED else 10.0
    return [
        *(Figure(f"{language} {name}", cost, most) for language, name, cost in chunks()),
        *(Figure(f"{language} request of 110 KB, to be sent", cost, 250.0) for language, cost in requests()),
    ]


def chunks() -> Iterator[tuple[str, str, float]]:
    """Chunks come ten at a time, as one read of a busy upstream brings them."""
    for language, makers in {"openai": CHAT, "responses": RESPONSES}.items():
        exchange = exchange_of(language, conversation.request("gpt-5.1", ""))
        for name, (beginning, piece) in makers.items():
            stream = [piece(WORDS[number % len(WORDS)]) for number in range(CHUNKS)]
            reads = [b"".join(stream[at : at + 10]) for at in range(0, CHUNKS, 10)]
            yield language, name, best(lambda: read(exchange, language, beginning, reads), CHUNKS)  # noqa: B023


def read(exchange: Exchange, language: str, beginning: bytes, reads: list[bytes]) -> None:
    answer = DIALECTS[language].answer(exchange, "text/event-stream")
    answer.feed(beginning)
    for data in reads:
        answer.feed(data)


def requests() -> Iterator[tuple[str, float]]:
    lines = (REQUEST_BYTES - len(json.dumps(conversation.request("gpt-5.1", "")))) // 70
    asked = conversation.request("gpt-5.1", conversation.source(lines))
    for language in HOSTS:
        exchange = exchange_of(language, asked)
        yield language, best(lambda: [DIALECTS[language].encode(exchange) for _ in range(20)], 20)  # noqa: B023


def exchange_of(language: str, asked: dict[str, Any]) -> Exchange:
    body = json.dumps({**asked, "thinking": {"type": "adaptive"}}, ensure_ascii=False).encode()
    endpoint = Endpoint(1, "bench", language, HOSTS[language])
    headers = {"x-claude-code-session-id": "00000000-0000-0000-0000-000000000000"}
    request = read_request(body, Limits())[0]
    return Exchange(request, body, headers, "", endpoint, "gpt-5.1", "req_bench", "1", b"secret of the benchmark")


def chat(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.1"}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"


def call(arguments: str, **first: Any) -> bytes:
    return chat(tool_calls=[{"index": 0, "function": {"arguments": arguments, **first}}])


def event(kind: str, **fields: Any) -> bytes:
    data = {"type": kind, "sequence_number": 1, "output_index": 0, **fields}
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def in_json(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)[1:-1]


FUNCTION = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "Write", "arguments": ""}
Maker = tuple[bytes, Callable[[str], bytes]]
CHAT: dict[str, Maker] = {
    "text chunk": (b"", lambda word: chat(content=word)),
    "thinking chunk": (b"", lambda word: chat(reasoning_content=word)),
    "argument chunk": (call('{"content": "', name="Write"), lambda word: call(in_json(word))),
}
RESPONSES: dict[str, Maker] = {
    "text event": (
        event("response.output_item.added", item={"type": "message", "id": "msg_1", "content": []}),
        lambda word: event("response.output_text.delta", item_id="msg_1", content_index=0, delta=word),
    ),
    "argument event": (
        event("response.output_item.added", item=FUNCTION)
        + event("response.function_call_arguments.delta", item_id="fc_1", delta='{"content": "'),
        lambda word: event("response.function_call_arguments.delta", item_id="fc_1", delta=in_json(word)),
    ),
}


def gains() -> list[Gain]:
    """Empty where nothing was built."""
    try:
        compiled = importlib.import_module("providers._hot_c")
    except ImportError:
        return []
    return [Gain(name, work(_hot), work(compiled)) for name, work in LOOPS.items()]


def scanning(module: ModuleType) -> float:
    pieces = [in_json(WORDS[number % len(WORDS)]) for number in range(CHUNKS)]
    return best(lambda: [module.scan(piece, 1, True, False) for piece in pieces], CHUNKS)


def framing(module: ModuleType) -> float:
    lines = [line for word in WORDS for line in (chat(content=word).rstrip(), b"")] * (CHUNKS // len(WORDS))
    return best(lambda: module.frames(lines, [], "", 0, lambda event, data: data), CHUNKS)


LOOPS: dict[str, Callable[[ModuleType], float]] = {
    "scan (an argument fragment)": scanning,
    "frames (an event)": framing,
}


def text() -> str:
    lines = [f"translation alone, compiled loops {hot.state()}:"]
    for figure in figures():
        verdict = ""
        if figure.most is not None:
            verdict = f", aim at most {figure.most:g}: {'holds' if figure.microseconds <= figure.most else 'MISSED'}"
        lines.append(f"  {figure.name}: {figure.microseconds:.2f} µs{verdict}")
    lines += [
        f"  {gain.name}: {gain.uncompiled:.2f} µs, compiled {gain.compiled:.2f} µs, {gain.ratio:.1f} times as fast"
        for gain in gains()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(text())
