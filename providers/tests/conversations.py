"""Messages and blocks as clients send them, made in one line each."""

from __future__ import annotations

from typing import Any

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAA"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}


def user(*content: Any) -> Any:
    return {"role": "user", "content": _content(content)}


def assistant(*content: Any) -> Any:
    return {"role": "assistant", "content": _content(content)}


def system(*content: Any, **fields: Any) -> Any:
    return {"role": "system", "content": _content(content), **fields}


def _content(content: tuple[Any, ...]) -> Any:
    """A text alone, or blocks."""
    return content[0] if content and isinstance(content[0], str) else list(content)


def text(text: str) -> Any:
    return {"type": "text", "text": text}


def use(id: str, name: str = "Read", **given: Any) -> Any:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def result(id: str, content: Any = "done", **fields: Any) -> Any:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}
