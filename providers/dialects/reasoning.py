"""How much a model should think: what the client asked for, and each way of asking an upstream for it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from providers.dialects.profiles import EFFORTS, Habits
from providers.messages import MessagesRequest

Json: TypeAlias = dict[str, Any]


def reasons_always(model: str, ours: Habits) -> bool | None:
    """By the first pattern that matches, where `!` says that it does not; None where nobody knows."""
    if ours.reasoning_models is None:
        return None
    for pattern in ours.reasoning_models:
        if fnmatch.fnmatchcase(model.lower(), pattern.removeprefix("!").lower()):
            return not pattern.startswith("!")
    return False


def thinks(request: MessagesRequest) -> bool:
    return (request.thinking or {}).get("type") in {"enabled", "adaptive"}


_BUDGETS = ((1024, "minimal"), (4096, "low"), (16384, "medium"), (32768, "high"))


def effort(request: MessagesRequest) -> str | None:
    """What the client asked for: a level, `none` where it switched thinking off, or nothing."""
    thinking = request.thinking or {}
    if thinking.get("type") in {"disabled", "between_tools"}:
        return "none"
    for config in _configs(request):
        if isinstance(config.get("effort"), str) and config["effort"] in EFFORTS:
            return str(config["effort"])
    budget = thinking.get("budget_tokens")
    if thinking.get("type") != "enabled" or not isinstance(budget, int):
        return None
    return next((level for most, level in _BUDGETS if budget <= most), "xhigh")


def _configs(request: MessagesRequest) -> Iterator[Json]:
    """The last word first: system messages in the middle may change the effort."""
    for message in reversed(request.messages):
        if message.output_config and message.role in {"system", "developer"}:
            yield message.output_config
    yield request.output_config or {}


def nearest(wanted: str | None, levels: tuple[str, ...]) -> str | None:
    """The level itself, else the nearest below, else above. Thinking is never switched off by rounding."""
    if wanted is None or wanted in levels:
        return wanted
    if wanted == "none":
        return "minimal" if "minimal" in levels else None
    rank = EFFORTS.index(wanted)
    known = sorted(EFFORTS.index(level) for level in levels if level in EFFORTS and level != "none")
    below = [level for level in known if level < rank]
    chosen = below[-1:] or known[:1]
    return EFFORTS[chosen[0]] if chosen else None


Reasoning: TypeAlias = Callable[[MessagesRequest, str, Habits], Json]


def _by_effort(request: MessagesRequest, model: str, ours: Habits) -> Json:
    if reasons_always(model, ours) is False:
        return {}
    level = nearest(effort(request), ours.efforts)
    return {"reasoning_effort": level} if level else {}


def _by_switch(request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    if effort(request) == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled"}} if thinks(request) else {}


def _by_switch_and_effort(request: MessagesRequest, model: str, ours: Habits) -> Json:
    switch = _by_switch(request, model, ours)
    if effort(request) in {None, "none"}:
        return switch
    wanted = {"medium": "high", "xhigh": "high"}.get(str(effort(request)), effort(request))
    return {**switch, "reasoning_effort": nearest(wanted, ours.efforts)}


def _as_object(request: MessagesRequest, _model: str, ours: Habits) -> Json:
    level, thinking = effort(request), request.thinking or {}
    named = any(config.get("effort") for config in _configs(request))
    if level == "none":
        return {"reasoning": {"enabled": False}}
    budget = thinking.get("budget_tokens")
    if level and not named and isinstance(budget, int):
        # It must stay below what the whole answer may have.
        most = min(limit for limit in (request.max_tokens, ours.max_output_tokens, budget + 1) if limit) - 1
        return {"reasoning": {"max_tokens": most}}
    return {"reasoning": {"effort": nearest(level, ours.efforts)}} if level else {}


def _by_enabling(request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    """Qwen thinks only in streams."""
    if effort(request) == "none" or (thinks(request) and not request.stream):
        return {"enable_thinking": False}
    budget = (request.thinking or {}).get("budget_tokens")
    if not thinks(request):
        return {}
    return {"enable_thinking": True, **({"thinking_budget": budget} if isinstance(budget, int) else {})}


def _by_template(request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    """The servers that render a chat template hand it a switch; templates that have none pass over it."""
    if effort(request) == "none":
        return {"chat_template_kwargs": {"enable_thinking": False}}
    return {"chat_template_kwargs": {"enable_thinking": True}} if thinks(request) else {}


def _not_at_all(_request: MessagesRequest, _model: str, _ours: Habits) -> Json:
    return {}


REASONING: Mapping[str, Reasoning] = {
    "effort": _by_effort,
    "thinking": _by_switch,
    "thinking_effort": _by_switch_and_effort,
    "openrouter": _as_object,
    "qwen": _by_enabling,
    "template": _by_template,
    "off": _not_at_all,
}
