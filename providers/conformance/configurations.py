"""How a gateway is told where the scripted upstream is: ours, and those of others in their own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from providers.conformance.cases import Case, Json, Setup
from providers.dialects import DIALECTS

CREDENTIAL = "sk-conformance"
# What LiteLLM calls the vendors whose address it lets one choose.
LITELLM = {
    "deepseek": "deepseek",
    "openrouter": "openrouter",
    "mistral": "mistral",
    "groq": "groq",
    "xai": "xai",
    "kimi": "moonshot",
    "glm": "zai",
    "qwen": "dashscope",
    "minimax": "minimax",
    "vllm": "hosted_vllm",
    "lmstudio": "lm_studio",
}


def setups(cases: Iterable[Case]) -> list[Setup]:
    """Every provider that the cases need, in the order of its first use."""
    needed = (case.setup(turn.language) for case in cases for turn in case.turns)
    return list(dict.fromkeys(needed))


def ours(cases: Iterable[Case], upstream: str, prefix: str) -> Json:
    """For `apply`. Languages that this gateway does not speak are left out; their cases fail."""
    needed = [setup for setup in setups(cases) if setup.language in DIALECTS]
    return {
        "providers": [_provider(setup, upstream, prefix) for setup in needed],
        "model_routes": {
            prefix + setup.name: [{"provider": prefix + setup.name, "model": setup.upstream_model or "passthrough"}]
            for setup in needed
        },
        "keys": [{"name": "conformance"}],
    }


def _provider(setup: Setup, upstream: str, prefix: str) -> Json:
    provider: Json = {
        "name": prefix + setup.name,
        "type": setup.language,
        "base_url": f"{upstream}/v1",
        "auth_value": CREDENTIAL,
    }
    if setup.dialect:
        provider["dialect"] = setup.dialect
    if setup.options:
        provider["options"] = json.loads(setup.options)
    return provider


def litellm(_cases: Iterable[Case], upstream: str, prefix: str) -> Json:
    def model(name: str, called: str, base: str) -> Json:
        return {
            "model_name": prefix + name,
            "litellm_params": {"model": called, "api_base": base, "api_key": CREDENTIAL},
        }

    plain = [
        model("openai", f"custom_openai/{prefix}openai", f"{upstream}/v1"),
        model("anthropic", f"anthropic/{prefix}anthropic", upstream),
        model("responses", f"openai/responses/{prefix}responses", f"{upstream}/v1"),
    ]
    vendors = [model(name, f"{vendor}/{prefix}{name}", f"{upstream}/v1") for name, vendor in LITELLM.items()]
    return {
        "model_list": plain + vendors,
        "litellm_settings": {
            "drop_params": True,
            "num_retries": 0,
            "request_timeout": 10,
            "use_chat_completions_url_for_anthropic_messages": True,
        },
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": CREDENTIAL},
    }


def claude_code_router(_cases: Iterable[Case], upstream: str, prefix: str) -> Json:
    """It sends what it knows no route for to the default, so the one language it speaks can be tried."""
    name = f"{prefix}openai"
    provider = {
        "name": name,
        "api_base_url": f"{upstream}/v1/chat/completions",
        "api_key": CREDENTIAL,
        "models": [name],
    }
    return {
        "APIKEY": CREDENTIAL,
        "API_TIMEOUT_MS": 10000,
        "Providers": [provider],
        "Router": {"default": f"{name},{name}"},
    }


Configuration = Callable[[Iterable[Case], str, str], Json]
CONFIGURATIONS: Mapping[str, Configuration] = {
    "ccproxy": ours,
    "litellm": litellm,
    "claude-code-router": claude_code_router,
}


def written(configuration: Json) -> str:
    """JSON, which those that want YAML read as well."""
    return json.dumps(configuration, indent=2, ensure_ascii=False)
