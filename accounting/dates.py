"""Dates as people type them: a day, or a moment; UTC unless they say otherwise."""

from __future__ import annotations

import datetime as dt

ONE_DAY = dt.timedelta(days=1)


def beginning(text: str) -> dt.datetime:
    """A day stands for its first moment. Raises ValueError with a sentence."""
    return _moment(text)[0]


def end(text: str) -> dt.datetime:
    """A day stands for all of it, so its end is the next midnight; a moment is itself."""
    moment, is_day = _moment(text)
    try:
        return moment + ONE_DAY if is_day else moment
    except OverflowError:
        raise ValueError(f"{text!r} is too far away.") from None


def _moment(text: str) -> tuple[dt.datetime, bool]:
    try:
        moment = dt.datetime.fromisoformat(text.strip())
        moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no date: say 2026-01-31 or 2026-01-31T18:00:00+01:00.") from None
    return moment, _is_day(text.strip())


def _is_day(text: str) -> bool:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True
