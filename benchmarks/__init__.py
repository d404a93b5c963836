"""What is asked and what is answered: one row per scenario. The rest of this package serves, asks, checks, reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks import conversation

# The model's name tells the upstream which scenario's answer is wanted, in every language.
MODEL_PREFIX = "bench-"
PLAIN_BYTES = 1024
CODING_BYTES = 116 * 1024
INPUT_TOKENS = 12
# Stands in the text of a slow chunk where its sender writes when it was sent, in microseconds of the machine's clock.
STAMP = "@" + "0" * 15


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    chunks: int = 0  # of a stream; 0 is a plain reply of PLAIN_BYTES
    pause: float = 0.0  # seconds between chunks; 0: as fast as the upstream writes
    connections: int = 16
    coding: bool = False  # asked as Claude Code asks in the middle of its work: CODING_BYTES

    @property
    def model(self) -> str:
        return MODEL_PREFIX + self.name

    @property
    def streams(self) -> bool:
        return self.chunks > 0

    @property
    def stamped(self) -> bool:
        """Whether each chunk says when it was sent: those that wait for each other do."""
        return self.pause > 0

    @property
    def output_tokens(self) -> int:
        return 4 * max(self.chunks, 1)

    @cached_property
    def texts(self) -> list[str]:
        """The text of each chunk; of a plain reply the one text that makes a Messages reply of PLAIN_BYTES."""
        if not self.streams:
            return ["x" * (PLAIN_BYTES - len(dumped(message(self, ""))))]
        ending = f" sent {STAMP}" if self.stamped else " of the answer"
        return [f" chunk {number:04}{ending}" for number in range(self.chunks)]

    @cached_property
    def request(self) -> bytes:
        """The body that the client sends."""
        if self.coding:
            missing = CODING_BYTES - len(dumped(conversation.request(self.model, "")))
            return dumped(conversation.request(self.model, conversation.prose(missing)))
        asked = {"role": "user", "content": "What does a gateway cost beside what stands behind it?"}
        return dumped({"model": self.model, "max_tokens": 1024, "stream": self.streams, "messages": [asked]})


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("S1", "plain reply of 1 KB"),
        Scenario("S2", "stream of 50 chunks", chunks=50),
        Scenario("S3", "stream of 500 chunks", chunks=500),
        Scenario("S4", "Claude Code's 116 KB, 50 chunks", chunks=50, coding=True),
        Scenario("S5", "slow streams, 20 chunks each", chunks=20, pause=0.25, connections=1000),
    )
}


def message(scenario: Scenario, text: str) -> dict[str, Any]:
    """The Messages reply that every client must end up with."""
    return {
        "id": "msg_" + "0" * 24,
        "type": "message",
        "role": "assistant",
        "model": scenario.model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": scenario.output_tokens},
    }


def dumped(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
