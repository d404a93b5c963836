"""Sound JSON and sound bytes made unsound, as hypothesis draws it; and what is asked of a gateway that met them.

HYPOTHESIS_PROFILE=mutations looks for new faults, twenty times as long; without it the examples are the same each
time.
"""

from __future__ import annotations

import copy
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from accounting.ledger import Settled, decode_line
from gateway.tests.conftest import Gateway, Reply
from providers.tests import grammar

Json = dict[str, Any]
Step = tuple[str, int, Any]

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "mutations"

ORPHAN = {"type": "tool_result", "tool_use_id": "toolu_nobody", "content": "late"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
UNKNOWN = {"type": "hologram", "content": [{"type": "text", "text": "seen"}], "depth": 3}

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 0.5, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 1e308, -1e308),
        *(float("nan"), float("inf"), float("-inf")),
        *("", " ", "0", "-1", "1e999", "null", "x", "\0", "\ud800", "a\udc00b", "\r\n", "\u2028", "data: x\n\n", "é🙂"),
        *("text", "tool_use", "thinking", "tool_result", "user", "system", "stop", "response.completed", "x" * 5000),
        *("{", "{}", "[]", '{"a":', '{"a":1}{"b":2}', "<think>", "ccp1.x.y", "data:,", "[DONE]", "error"),
        *([], {}, [[]], [None], [{}], [""], {"": ""}, {"type": None}, {"type": "text"}, {"type": "text", "text": "t"}),
        *(["x"] * 200, dict.fromkeys(map(str, range(200)), 1), {"$ref": "#"}, {"message": 1}, {"index": -1}),
        *(ORPHAN, IMAGE, UNKNOWN, {"type": "tool_use", "id": "a", "name": "b"}, {"role": "system", "content": "now"}),
    ]
)
WHERE = st.integers(0, 9999)


def bounded(examples: int) -> settings:
    """Derandomised in the daily run: it should not turn red by the draw of the day."""
    unchecked = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    count = examples * 20 if LONG else examples
    return settings(max_examples=count, deadline=None, derandomize=not LONG, suppress_health_check=unchecked)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every value inside, as its container and its key there."""
    found: list[tuple[Any, Any]] = []
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inside:
        found.append((document, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


def _replace(container: Any, key: Any, value: Any, _: Any) -> None:
    container[key] = value


def _remove(container: Any, key: Any, _: Any, __: Any) -> None:
    del container[key]


def _repeat(container: Any, key: Any, value: Any, _: Any) -> None:
    again = copy.deepcopy(container[key])
    if isinstance(container, list):
        container.insert(key, again)
    else:
        container[value if isinstance(value, str) else f"{key}_"] = again


def _swap(container: Any, key: Any, _: Any, __: Any) -> None:
    keys = list(range(len(container))) if isinstance(container, list) else list(container)
    other = keys[(keys.index(key) + 1) % len(keys)]
    container[key], container[other] = container[other], container[key]


def _wrap(container: Any, key: Any, value: Any, _: Any) -> None:
    container[key] = {value: container[key]} if isinstance(value, str) else [container[key]]


def _bury(container: Any, key: Any, value: Any, _: Any) -> None:
    for _level in range(3 if value is None else 120):
        container[key] = [container[key]]


def _insert(container: Any, key: Any, value: Any, _: Any) -> None:
    if isinstance(container, list):
        container.insert(key, value)
    else:
        container["type" if value is None else "x"] = value


def _grow(container: Any, key: Any, _: Any, __: Any) -> None:
    value = container[key]
    container[key] = (
        value + "x" * 500 if isinstance(value, str) else (value if isinstance(value, list) else [value]) * 50
    )


def _move(container: Any, key: Any, _: Any, elsewhere: Any) -> None:
    container[key] = copy.deepcopy(elsewhere)


OPERATIONS = {
    operation.__name__: operation
    for operation in (_replace, _remove, _repeat, _swap, _wrap, _bury, _insert, _grow, _move)
}
STEPS = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), WHERE, VALUES), max_size=3)


def changed(document: Any, steps: list[Step]) -> Any:
    root = [copy.deepcopy(document)]
    for operation, where, value in steps:
        found = places(root)
        if not found:
            break
        elsewhere, name = found[where * 31 % len(found)]
        container, key = found[where % len(found)]
        OPERATIONS[operation](container, key, copy.deepcopy(value), elsewhere[name])
    return root[0] if root else None


PIECES = st.sampled_from(
    [
        *(b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b'"', b"\\", b","),
        *(b"{", b"}", b"[", b"]", b"[" * 5000, b'{"a":' * 300, b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"9" * 5000),
        *(b"\xc3", b"\xf0\x9f", b"data:", b"event: error\n", b"data: [DONE]\n\n", b": comment\n\n", b"data: {}\n\n"),
        *(b'"model":1,', b'"messages":[],', b'"stream":false,', b'"type":"text",', b'"usage":{},', b"x" * 70000),
    ]
)
BYTE_STEPS = st.lists(
    st.tuples(st.sampled_from(["insert", "overwrite", "cut", "drop", "repeat"]), WHERE, PIECES), max_size=2
)


def changed_bytes(data: bytes, steps: list[tuple[str, int, bytes]]) -> bytes:
    """Places are parts of ten thousand: the same step is at about the same place in a longer body."""
    for operation, where, piece in steps:
        at = len(data) * where // 10_000
        far = at + 1 + where % 40
        if operation == "cut":
            data = data[:at]
        elif operation == "drop":
            data = data[:at] + data[far:]
        elif operation == "repeat":
            data = data[:far] + data[at:]
        else:
            data = data[:at] + piece + data[at + (len(piece) if operation == "overwrite" else 0) :]
    return data


def settled_since(gateway: Gateway) -> list[Settled]:
    """The requests booked since the last look."""
    spool, found = gateway.runtime.ledger.spool, []
    follows = True
    while follows:
        payloads, booked = spool.unread()
        found += [line for line in map(decode_line, payloads) if isinstance(line, Settled)]
        follows = booked()
    spool.sync()
    return found


def assert_refused(reply: Reply) -> None:
    error = reply.json()
    assert error["type"] == "error"
    assert isinstance(error["error"]["type"], str)
    assert error["error"]["type"]
    assert isinstance(error["error"]["message"], str)
    assert error["error"]["message"].strip()
    assert reply.headers["request-id"]


def assert_plain_reply(reply: Reply) -> Json:
    message: Json = reply.json()
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["id"]
    assert isinstance(message["model"], str)
    for block in message["content"]:
        assert isinstance(block["type"], str)
        assert block["type"] != "tool_use" or isinstance(block["input"], dict)
    grammar.check_usage(message["usage"], "input_tokens", "output_tokens")
    return message
