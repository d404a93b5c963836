"""Writes docs/compatibility.md from the tables that the encoders themselves work by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from providers.dialects import responses
from providers.dialects.chat import FAILURES, STOP_REASONS
from providers.dialects.fields import FIELDS, Fate
from providers.dialects.profiles import ANTHROPIC_ENDPOINTS, HOSTS, PROFILES
from providers.dialects.refusals import RULES
from providers.dialects.settings import FORWARDED, TRANSLATED, Setting, shown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"

OPENING = """\
# What becomes of a request

Claude Code speaks Anthropic Messages. A provider of the type `anthropic` gets the client's bytes as they are, except
for the model's name. For the types `openai` (Chat Completions) and `responses` a request is translated, and so is the
answer. This page says field by field what that means. It is written by `python -m providers.dialects.compatibility`
from the tables the gateway works by; a test fails when it is out of date.

In the tables below:

- a **name** is the place in the provider's request where the field goes; `with …` names the setting that must allow it,
  and without it the field is dropped;
- **dropped** fields are left out: the answer is the same in kind, or the field is an optimisation;
- **refused** requests are answered with status 400 and the field's name before any provider is called: without the
  field the answer would be another one;
- **kept by the gateway**: the provider is not told, and the gateway does it itself.

A field, block or tool that is not listed is forwarded to `anthropic`, and dropped or told as text elsewhere. It is
never an error by itself.
"""

PARTS = {"request": "The request", "content": "Content", "tool": "Tools"}

# What a client gets for each class of a provider's refusals.
CLASSES: Mapping[str, str] = {
    "context overflow": "400 “prompt is too long: N tokens > M maximum”, so that the client compacts the conversation.",
    "request too large": "413: the provider takes no body of that size.",
    "parameter": "Nothing: the provider is asked again without the parameter, or with another name or a lower value,"
    " and that is remembered for an hour.",
    "image": "400 “Could not process image”, so that the client takes it out; another provider is tried first.",
    "document": "400 “This model does not support PDF input”, so that the client takes it out; another provider is"
    " tried first.",
    "reasoning state": "Nothing: the provider is asked again without, or with, the thinking of earlier turns.",
    "moderation": "400 with what the provider said.",
    "purse": "Another provider is tried; if none is left, 503, which says that the provider's account is used up.",
    "credential": "Another provider is tried; if none is left, 503, which says that the gateway's key was refused.",
    "not served": "Another provider is tried; if none is left, 404.",
    "rate": "Another provider is tried; if none is left, 429 with the seconds to wait.",
    "overloaded": "Another provider is tried; if none is left, 529.",
    "timed out": "Another provider is tried; if none is left, 504.",
    "failed": "Another provider is tried; if none is left, the provider's own 5xx, or 502.",
    "conflict": "The same provider is asked again, then another.",
    "refused": "400 with what the provider said.",
}


def page() -> str:
    return "\n".join([OPENING, *_fields(), *_vendors(), *_settings(), *_stop_reasons(), *_errors()])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    yield from (_row(head), _row("---" for _ in head))
    yield from map(_row, rows)
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _fields() -> Iterator[str]:
    for part, title in PARTS.items():
        yield f"## {title}\n"
        head = (title, "`anthropic`", "`openai`", "`responses`", "")
        rows = (
            (_code(field.name), _fate(field.anthropic), _fate(field.openai), _fate(field.responses), field.note)
            for field in FIELDS
            if field.part == part
        )
        yield from _table(head, rows)


def _fate(fate: Fate) -> str:
    if fate.kind == "kept":
        return "kept by the gateway"
    if fate.kind != "sent":
        return fate.kind
    needed = ", ".join(f"`{name}: {shown(value)}`" for name, value in fate.options.items())
    return f"{_code(fate.to)}{f' with {needed}' if needed else ''}"


def _vendors() -> Iterator[str]:
    yield "## Vendors\n"
    yield "The dialect of a provider is found by the host of its base URL, or chosen. What differs from the defaults:\n"
    rows = []
    for name, row in PROFILES.items():
        hosts = ", ".join(_code(host) for host, dialect in HOSTS if dialect == name) or "any other"
        habits = [f"{field}: {shown(value)}" for field, value in row.items() if field != "models"]
        habits += [
            f"{field}: {shown(value)} (for {pattern})"
            for pattern, special in row.get("models", {}).items()
            for field, value in special.items()
        ]
        rows.append((_code(name), hosts, "; ".join(_code(habit) for habit in habits) or "nothing"))
    yield from _table(("dialect", "hosts", "what differs"), rows)
    yield "Some of them also answer in Anthropic's own format. As a provider of the type `anthropic` nothing is lost:\n"
    yield from _table(("dialect", "base URL"), ((_code(name), url) for name, url in ANTHROPIC_ENDPOINTS.items()))


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "An option of a provider comes before the row of its vendor, and the row before the default here.\n"
    for title, settings in (("Where requests are translated", TRANSLATED), ("Where they are forwarded", FORWARDED)):
        yield f"### {title}\n"
        head = ("name", "default", "meaning")
        yield from _table(head, ((_code(one.name), _default(one), one.help) for one in settings.values()))


def _default(setting: Setting) -> str:
    chosen = _code(shown(setting.default))
    others = [_code(choice) for choice in setting.choices if choice != setting.default]
    return f"{chosen}, or {', '.join(others)}" if others else chosen


def _stop_reasons() -> Iterator[str]:
    yield "## Why an answer ended\n"
    yield "When a tool was called the client reads `tool_use`, unless the answer was refused or ran out of context.\n"
    rows = [(_code(reason), "`openai`", _code(meaning)) for reason, meaning in STOP_REASONS.items()]
    rows += [(_code(reason), "`openai`", "an error: there is no answer") for reason in FAILURES]
    rows += [(_code(reason), "`responses`", _code(meaning)) for reason, meaning in responses.STOP_REASONS.items()]
    yield from _table(("what the provider says", "type", "what the client reads"), rows)


def _errors() -> Iterator[str]:
    yield "## Refusals\n"
    yield "What a provider answers is put into classes, by status, code and text; the first that fits counts.\n"
    yield from _table(("class", "what the client gets"), ((rule.name, CLASSES.get(rule.name, "")) for rule in RULES))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
