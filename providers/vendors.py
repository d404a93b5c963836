"""The vendors an administrator chooses from, with what a provider of each needs to be told.

How they differ on the wire stands in dialects/profiles.py and is found by the host; here is only where they live.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from providers.dialects.profiles import ANTHROPIC_ENDPOINTS, by_host

# Stands in an address where the administrator's own name belongs.
PLACEHOLDER = "YOUR-"
LOCAL = (
    "No credential is needed unless the server was started with one."
    " From inside a container, localhost is the container itself."
)


class Vendor(msgspec.Struct, frozen=True):
    """`dialect` is named only where the host does not tell it."""

    title: str
    base_url: str
    type: str = "openai"
    dialect: str = ""
    note: str = ""

    @property
    def profile(self) -> str:
        return self.dialect or by_host(self.base_url)


def _anthropic_format(title: str, profile: str, note: str) -> Vendor:
    return Vendor(title, ANTHROPIC_ENDPOINTS[profile], "anthropic", note=f"{note} This format needs no translation.")


def _local(title: str, port: int, dialect: str = "", note: str = LOCAL) -> Vendor:
    return Vendor(title, f"http://localhost:{port}/v1", dialect=dialect, note=note)


_DEEPSEEK = "Keys: https://platform.deepseek.com/api_keys."
_KIMI = "Keys: https://platform.moonshot.ai/console/api-keys. In China the host is api.moonshot.cn."
_GLM = "Keys: https://z.ai/manage-apikey/apikey-list. In China the host is open.bigmodel.cn."
_QWEN = "Keys: Alibaba Cloud Model Studio. In China the host is dashscope.aliyuncs.com."
_MINIMAX = "Keys: https://platform.minimax.io. In China the host is api.minimaxi.com."

# By the name a provider is given first.
VENDORS: Mapping[str, Vendor] = {
    "anthropic": Vendor(
        "Anthropic", "https://api.anthropic.com", "anthropic", note="Keys: https://platform.claude.com/settings/keys."
    ),
    "openai": Vendor("OpenAI", "https://api.openai.com/v1", note="Keys: https://platform.openai.com/api-keys."),
    "openai-responses": Vendor(
        "OpenAI, Responses",
        "https://api.openai.com/v1",
        "responses",
        note="Keys: https://platform.openai.com/api-keys. Reasoning is carried from turn to turn in this format.",
    ),
    "azure": Vendor(
        "Azure OpenAI",
        f"https://{PLACEHOLDER}RESOURCE.openai.azure.com/openai/v1",
        note="Put the name of your resource into the address. Models are called as your deployments are.",
    ),
    "openrouter": Vendor("OpenRouter", "https://openrouter.ai/api/v1", note="Keys: https://openrouter.ai/keys."),
    "deepseek": _anthropic_format("DeepSeek", "deepseek", _DEEPSEEK),
    "deepseek-chat": Vendor("DeepSeek, OpenAI format", "https://api.deepseek.com", note=_DEEPSEEK),
    "gemini": Vendor(
        "Google Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        note="Keys: https://aistudio.google.com/apikey.",
    ),
    "kimi": _anthropic_format("Kimi (Moonshot)", "kimi", _KIMI),
    "kimi-chat": Vendor("Kimi, OpenAI format", "https://api.moonshot.ai/v1", note=_KIMI),
    "glm": _anthropic_format("GLM (Z.ai)", "glm", _GLM),
    "glm-chat": Vendor("GLM, OpenAI format", "https://api.z.ai/api/paas/v4", note=_GLM),
    "qwen": _anthropic_format("Qwen (Alibaba)", "qwen", _QWEN),
    "qwen-chat": Vendor("Qwen, OpenAI format", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", note=_QWEN),
    "minimax": _anthropic_format("MiniMax", "minimax", _MINIMAX),
    "minimax-chat": Vendor("MiniMax, OpenAI format", "https://api.minimax.io/v1", note=_MINIMAX),
    "mistral": Vendor("Mistral", "https://api.mistral.ai/v1", note="Keys: https://console.mistral.ai/api-keys."),
    "groq": Vendor("Groq", "https://api.groq.com/openai/v1", note="Keys: https://console.groq.com/keys."),
    "xai": Vendor("xAI", "https://api.x.ai/v1", note="Keys: https://console.x.ai."),
    "ollama": _local(
        "Ollama", 11434, note=f"{LOCAL} Raise OLLAMA_CONTEXT_LENGTH: Ollama cuts longer prompts in silence."
    ),
    "vllm": _local("vLLM", 8000, "vllm"),
    "sglang": _local("SGLang", 30000, "sglang"),
    "llamacpp": _local("llama.cpp", 8080, "llamacpp"),
    "lmstudio": _local("LM Studio", 1234, "lmstudio"),
}
