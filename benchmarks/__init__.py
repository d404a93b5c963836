"""What is asked and what is answered: one row per scenario. The rest of this package serves, asks, checks, reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# The model's name tells the upstream which scenario's answer is wanted, in every language.
MODEL_PREFIX = "bench-"
PLAIN_BYTES = 1024
INPUT_TOKENS = 12


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    chunks: int = 0  # of a stream; 0 is a plain reply of PLAIN_BYTES
    pause: float = 0.0  # seconds between chunks; 0: as fast as the upstream writes
    connections: int = 16
    # What is asked: so many messages of so many characters, and so many tools.
    messages: int = 1
    characters: int = 60
    tools: int = 0

    @property
    def model(self) -> str:
        return MODEL_PREFIX + self.name

    @property
    def streams(self) -> bool:
        return self.chunks > 0

    @property
    def output_tokens(self) -> int:
        return 4 * max(self.chunks, 1)

    @cached_property
    def texts(self) -> list[str]:
        """The text of each chunk; of a plain reply the one text that makes a Messages reply of PLAIN_BYTES."""
        if self.streams:
            return [f" chunk {number:04} of the answer" for number in range(self.chunks)]
        return ["x" * (PLAIN_BYTES - len(dumped(message(self, ""))))]

    @cached_property
    def request(self) -> bytes:
        """The body that the client sends."""
        body: dict[str, Any] = {"model": self.model, "max_tokens": 1024, "stream": self.streams}
        roles = ("user", "assistant")
        body["messages"] = [
            {"role": roles[number % 2], "content": ("What does a gateway cost? " * self.characters)[: self.characters]}
            for number in range(self.messages)
        ]
        if self.tools:
            body["tools"] = [tool(number) for number in range(self.tools)]
        return dumped(body)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("S1", "plain reply of 1 KB"),
        Scenario("S2", "stream of 50 chunks", chunks=50),
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


def tool(number: int) -> dict[str, Any]:
    path = {"type": "string", "description": "The absolute path of the file to work on"}
    schema = {"type": "object", "properties": {"path": path}, "required": ["path"]}
    return {"name": f"tool_{number}", "description": "Works on one file. " * 20, "input_schema": schema}


def dumped(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
