"""Other gateways, measured like ours. `make bench-peers` installs them; their versions stand in the Makefile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import SCENARIOS
from benchmarks.load import Address
from benchmarks.servers import Target, program
from ccproxy_site.tests.e2e.family import ROOT, free_port

FOLDER = ROOT / ".peers"
LITELLM = FOLDER / "litellm" / "bin" / "litellm"
ROUTER = FOLDER / "node_modules" / "@musistudio" / "claude-code-router"
# Names of settings that would lead a peer to the database or the cache of somebody else.
FOREIGN = ("DATABASE_URL", "REDIS_URL", "REDIS_HOST")
KEY = "sk-" + "0123456789abcdef" * 3


def missing() -> list[Path]:
    return [path for path in (LITELLM, ROUTER) if not path.exists()]


def versions() -> dict[str, str]:
    """Of what is installed."""
    told = subprocess.run([LITELLM.with_name("pip"), "show", "litellm"], capture_output=True, text=True, check=True)
    litellm = next(line.split()[1] for line in told.stdout.splitlines() if line.startswith("Version:"))
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    router = json.loads((ROUTER / "package.json").read_text())["version"]
    return {"litellm": litellm, "claude-code-router": router, "node": node.stdout.strip()}


@contextlib.contextmanager
def litellm(folder: Path, upstream_port: int, processor: frozenset[int]) -> Iterator[Target]:
    """One worker, no database, nothing fetched; /v1/messages to an upstream of type anthropic."""
    home, port = folder / "litellm", free_port()
    home.mkdir()
    upstream = {"api_base": f"http://127.0.0.1:{upstream_port}", "api_key": "sk-upstream"}
    models = [
        {"model_name": row.model, "litellm_params": {"model": f"anthropic/{row.model}", **upstream}}
        for row in SCENARIOS.values()
    ]
    (home / "config.yaml").write_text(json.dumps({"model_list": models}))  # JSON is YAML
    command = [str(LITELLM), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
    with started("litellm", command, home, port, processor, **quiet) as pid:
        yield Target("litellm", Address(port, "/v1/messages", (f"authorization: Bearer {KEY}",)), pid)


@contextlib.contextmanager
def claude_code_router(folder: Path, upstream_port: int, processor: frozenset[int]) -> Iterator[Target]:
    """In front of Chat Completions, which it translates; no log."""
    home, port = folder / "claude-code-router", free_port()
    (home / ".claude-code-router").mkdir(parents=True)
    provider = {
        "name": "upstream",
        "api_base_url": f"http://127.0.0.1:{upstream_port}/v1/chat/completions",
        "api_key": "sk-upstream",
        "models": [row.model for row in SCENARIOS.values()],
    }
    settings = {"HOST": "127.0.0.1", "PORT": port, "LOG": False, "NON_INTERACTIVE_MODE": True, "Providers": [provider]}
    settings["Router"] = {"default": "upstream," + provider["models"][0]}
    (home / ".claude-code-router" / "config.json").write_text(json.dumps(settings))
    command = ["node", str(ROUTER / "dist" / "cli.js"), "start"]
    # It makes ids of its own, and loses the usage that comes after the finish reason.
    forgiven = frozenset({"id", "input_tokens", "output_tokens"})
    address = Address(port, "/v1/messages", before_model="upstream,", forgiven=forgiven)
    with started("claude-code-router", command, home, port, processor) as pid:
        yield Target("claude-code-router", address, pid)


@contextlib.contextmanager
def started(
    name: str, command: list[str], home: Path, port: int, processor: frozenset[int], **extra: str
) -> Iterator[int]:
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment = {**inherited, "HOME": str(home), **extra}
    with (home / "log").open("wb") as log:
        options = {"cwd": home, "env": environment, "stdout": log, "stderr": log}
        with program(name, command, port, processor, **options) as pid:
            yield pid
