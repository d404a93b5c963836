"""The models that providers list: read from what each of them answers to GET /models, stored, and read again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from providers.routing import KnownModel

# The listing's own order changes from answer to answer at some providers: what is stored is sorted.
MOST_MODELS = 5_000
LONGEST_NAME = 200
LARGEST = 1_000_000_000

NAMES = ("id", "name", "model")
# Where a listing says how much a model reads and writes. A path leads into an object.
CONTEXT_WINDOWS = (
    "context_length",  # OpenRouter, Together, Fireworks
    "max_model_len",  # vLLM, SGLang
    "context_window",  # Groq
    "inputTokenLimit",  # Gemini
    "max_context_length",  # Mistral, LM Studio
    "max_input_tokens",  # Anthropic
    "meta.n_ctx_train",  # llama.cpp
    "top_provider.context_length",
)
OUTPUT_LIMITS = (
    "top_provider.max_completion_tokens",
    "max_completion_tokens",
    "outputTokenLimit",
    "max_output_tokens",
    "max_tokens",
)
# Gemini names its models as resources; requests may say it without.
PREFIX = "models/"


def read_listing(body: bytes) -> list[KnownModel] | None:
    """None where it is no listing. By name, once each; what cannot be a model is left out."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    rows = answer
    if isinstance(answer, dict):
        rows = next((answer[key] for key in ("data", "models") if isinstance(answer.get(key), list)), None)
    if not isinstance(rows, list):
        return None
    models = {model.name.lower(): model for model in map(_read, rows[:MOST_MODELS]) if model is not None}
    return [models[name] for name in sorted(models)]


def _read(row: Any) -> KnownModel | None:
    if not isinstance(row, dict):
        return None
    name = next((row[field] for field in NAMES if isinstance(row.get(field), str)), "").removeprefix(PREFIX)
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        return None
    return KnownModel(name, _first(row, CONTEXT_WINDOWS), _first(row, OUTPUT_LIMITS))


def _first(row: Mapping[str, Any], paths: Sequence[str]) -> int | None:
    return next((number for number in _numbers(row, paths) if number is not None), None)


def _numbers(row: Mapping[str, Any], paths: Sequence[str]) -> Iterator[int | None]:
    for path in paths:
        value: Any = row
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        yield int(value) if is_number and math.isfinite(value) and 0 < value <= LARGEST else None


def stored(models: Sequence[KnownModel]) -> list[list[Any]]:
    """As JSON that is equal where the models are."""
    return [[model.name, model.context_window, model.max_output] for model in models]


def by_name(rows: Any) -> dict[str, KnownModel]:
    """What `stored` has made, by the name in lower case; nothing where somebody else has written."""
    try:
        known = msgspec.convert(rows, list[tuple[str, int | None, int | None]])
    except msgspec.ValidationError:
        return {}
    return {name.lower(): KnownModel(name, context, output) for name, context, output in known}
