"""JSON as upstreams really send it."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def loads(data: bytes) -> Any:
    """Any JSON, even with half an emoji in it; None for what is none."""
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError:
        return None
    except (msgspec.DecodeError, RecursionError):
        if b"\\u" not in data:
            return None
    try:
        text = json.dumps(json.loads(data), ensure_ascii=False)
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):
        return None
