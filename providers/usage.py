"""The one usage vector of the house: disjoint token counts, never negative, whatever the upstream calls them."""

from __future__ import annotations

from typing import Any

import msgspec

# A figure above this is a provider's mistake (some answer 10^30), and no database column takes it.
MOST_TOKENS = 2**53


def tokens(value: Any) -> int:
    """A provider's figure as a count: nulls, strings, negatives and absurdities become a plain number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        count = int(value)
    except (ValueError, OverflowError):
        return 0
    return min(max(count, 0), MOST_TOKENS)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one answer.

    `input` excludes the cache columns; `output` includes reasoning, which `thinking` shows once more.
    """

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    thinking: int = 0
    web_searches: int = 0

    @property
    def read(self) -> int:
        """All that went in, cached or not."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.cache_read + other.cache_read,
            self.cache_write_5m + other.cache_write_5m,
            self.cache_write_1h + other.cache_write_1h,
            self.output + other.output,
            self.thinking + other.thinking,
            self.web_searches + other.web_searches,
        )

    def wire(self) -> dict[str, Any]:
        """As a Messages client reads it. Cache columns are always present: a null breaks clients' sums."""
        wire: dict[str, Any] = {
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_write_5m + self.cache_write_1h,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": self.output,
        }
        if self.thinking:
            wire["output_tokens_details"] = {"thinking_tokens": self.thinking}
        if self.web_searches:
            wire["server_tool_use"] = {"web_search_requests": self.web_searches}
        return wire


def of_totals(
    read: int, cached: int, written: int, made: int, reasoning: int, total: int, *, reasoning_outside: bool
) -> Usage:
    """Where the cache is a part of what was read, and reasoning of what was made; the sum shows where it is not."""
    cached = min(cached, read)
    written = min(written, read - cached)
    if total > read + made and (reasoning_outside or total == read + made + reasoning):
        made = total - read
    return Usage(
        input=read - cached - written,
        cache_read=cached,
        cache_write_5m=written,
        output=made,
        thinking=min(reasoning, made),
    )
