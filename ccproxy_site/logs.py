"""How lines of the log are written: for people at a console, and as JSON for programs."""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import Any

from django.contrib.auth.signals import user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from providers.log_events import LogEvent, about

logger = logging.getLogger("ccproxy.login")

# What would end a line, move the cursor or hide what follows: names that others chose stand in messages.
UNSEEN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
UNSEEN |= {code: f"\\u{code:04x}" for code in (*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A))}


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name}: {message}", style="{")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Of the message, which is one line whatever it holds; a traceback follows in its own."""
        if not record.message.isprintable():
            record.message = record.message.translate(UNSEEN)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Set in, so that none of its lines, which quote what others sent, passes for one of the log."""
        return "\n".join("  " + line.translate(UNSEEN) for line in super().formatException(ei).split("\n"))


class JsonLines(logging.Formatter):
    """One object per line, in ASCII: no character that anybody chose ends it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": getattr(record, "event", None),
            "message": record.getMessage(),
        }
        line = {**line, **getattr(record, "fields", {}), **line}  # in this order, and no field stands for one of these
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@receiver(user_login_failed)
def tell_of_login(request: HttpRequest | None = None, **_: Any) -> None:
    """Without the name: people type their password there."""
    address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
    logger.warning("login_failed address=%s", address, extra=about(LogEvent.LOGIN_FAILED, address=address))
