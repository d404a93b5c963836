"""What Claude Code sends in the middle of its work: instructions, 20 tools, 50 messages. The same at every call."""

from __future__ import annotations

import itertools
from typing import Any

Document = dict[str, Any]

TURNS = 24  # of a tool call and its result; two messages of the user come before them
INSTRUCTION_CHARACTERS, TOOL_CHARACTERS = 14_000, 1_500

SENTENCES = (
    "Read a file before you change it, and keep to the style that you find there.",
    "Never guess a path: search for it, and say so when it is not there.",
    "Prefer the smallest change that does what was asked, and leave everything else as it is.",
    "Commands that change anything outside the working folder need the user's consent first.",
    "When a test fails, show what it said before you explain why it did.",
    "Answer in a few lines unless the user wants to know more.",
    "Quote paths that hold spaces, for example cd '/home/dev/My Documents'.",
    "Several searches that do not depend on each other belong into one call.",
)
COMMANDS = ("git status --short", "pytest -q tests/test_relay.py", "rg -n 'def stream' src", "ls -la src/gateway")
LINES = (
    "async def relay(request: Request, provider: Provider) -> AsyncIterator[bytes]:",
    '    """Forwards what the provider sends, piece by piece."""',
    "    async with provider.call(request.body, timeout=request.deadline) as call:",
    "        async for piece in call.pieces():",
    "            if not piece.startswith(b\"event: \") and b'\\n' in piece:",
    '                raise BrokenStream(f"no event: {piece[:80]!r}")',
    "            yield piece  # one write for each read",
    "",
)
PATH = {"file_path": ("string", "The absolute path of the file")}
COMMAND = {
    "command": ("string", "The command to run"),
    "timeout": ("number", "Milliseconds until the command is ended, at most 600000"),
    "description": ("string", "What the command does, in five to ten words"),
    "run_in_background": ("boolean", "Whether to return at once; BashOutput reads what it prints"),
}
SEARCH = {
    "pattern": ("string", "The regular expression to look for"),
    "path": ("string", "The folder to search; by default the working folder"),
    "glob": ("string", 'Which files, for example "*.py" or "**/*.{ts,tsx}"'),
    "-n": ("boolean", "Whether to show line numbers"),
    "head_limit": ("number", "How many lines to show at most"),
}
EDIT = {
    **PATH,
    "old_string": ("string", "The text to replace"),
    "new_string": ("string", "What it is replaced with; it must differ"),
    "replace_all": ("boolean", "Whether every occurrence is meant"),
}
QUESTION = {"prompt": ("string", "What is to be done"), "description": ("string", "The same in three to five words")}
# Name: what it takes, each with type and meaning; the first is required.
TOOLS: dict[str, dict[str, tuple[str, str]]] = {
    "Task": {**QUESTION, "subagent_type": ("string", "Which kind of agent does it")},
    "Bash": COMMAND,
    "BashOutput": {"bash_id": ("string", "The command in the background"), "filter": ("string", "Lines to keep")},
    "KillShell": {"shell_id": ("string", "The command in the background that is to end")},
    "Glob": {"pattern": ("string", "The files to find"), "path": ("string", "The folder to search")},
    "Grep": SEARCH,
    "Read": {**PATH, "offset": ("number", "The first line"), "limit": ("number", "How many lines")},
    "Edit": EDIT,
    "MultiEdit": {**PATH, "edits": ("array", "Changes, one after the other, all of them or none")},
    "Write": {**PATH, "content": ("string", "What the file shall hold")},
    "NotebookEdit": {"notebook_path": ("string", "The notebook"), "new_source": ("string", "The cell's new source")},
    "WebFetch": {"url": ("string", "The address"), "prompt": ("string", "What to look for on the page")},
    "WebSearch": {"query": ("string", "What to search for"), "allowed_domains": ("array", "Where to search only")},
    "TodoWrite": {"todos": ("array", "The whole list as it shall be from now on")},
    "ExitPlanMode": {"plan": ("string", "The plan, for the user to approve")},
    "SlashCommand": {"command": ("string", "The command with its arguments")},
    "Skill": {"skill": ("string", "The name of the skill")},
    "AskUserQuestion": {"questions": ("array", "One to four questions with two to four answers each")},
    "mcp__ide__getDiagnostics": {"uri": ("string", "The file; by default every open one")},
    "mcp__ide__executeCode": {"code": ("string", "Python, run in the kernel of the open notebook")},
}


def request(model: str, filling: str) -> Document:
    """Its size is set by the text of the last tool's result."""
    cached = {"type": "ephemeral"}
    instructions = f"You are a tool for software development.\n\n{prose(INSTRUCTION_CHARACTERS)}"
    return {
        "model": model,
        "max_tokens": 32000,
        "temperature": 1,
        "stream": True,
        "metadata": {"user_id": "user_" + "0" * 64},
        "system": [
            {"type": "text", "text": "You are Claude Code.", "cache_control": cached},
            {"type": "text", "text": instructions, "cache_control": cached},
        ],
        "tools": [tool(name, takes) for name, takes in TOOLS.items()],
        "messages": [*opening(), *itertools.chain.from_iterable(turn(number, filling) for number in range(TURNS))],
    }


def tool(name: str, takes: dict[str, tuple[str, str]]) -> Document:
    properties: Document = {field: {"type": kind, "description": about} for field, (kind, about) in takes.items()}
    for schema in properties.values():
        if schema["type"] == "array":
            schema.update({"items": {"type": "object", "additionalProperties": True}, "minItems": 1})
    return {
        "name": name,
        "description": f"{name}: {prose(TOOL_CHARACTERS)}",
        "input_schema": {
            "type": "object",
            "properties": properties,
            "required": [next(iter(takes))],
            "additionalProperties": False,
        },
    }


def opening() -> list[Document]:
    reminder = f"<system-reminder>\n{prose(800)}\n</system-reminder>\n"
    asked = "The relay drops the last event when the upstream closes early. Find out why, mend it, and test it."
    return [{"role": "user", "content": [text(said)]} for said in (reminder, asked)]


def turn(number: int, filling: str) -> list[Document]:
    """Claude says what it does next and calls a tool; the client answers with what came of it."""
    call = {"type": "tool_use", "id": f"toolu_{number:024}", **call_of(number)}
    last = number == TURNS - 1
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": filling if last else source(12 + number)}
    said = text(f"Step {number + 1}: {SENTENCES[number % len(SENTENCES)]}")
    return [{"role": "assistant", "content": [said, call]}, {"role": "user", "content": [result]}]


def call_of(number: int) -> Document:
    path = f"/home/dev/gateway/src/relay_{number}.py"
    return (
        {"name": "Read", "input": {"file_path": path, "limit": 200}},
        {"name": "Bash", "input": {"command": COMMANDS[number % len(COMMANDS)], "description": "Look at the tests"}},
        {"name": "Edit", "input": {"file_path": path, "old_string": LINES[3], "new_string": f"{LINES[3]}  # whole"}},
    )[number % 3]


def text(said: str) -> Document:
    return {"type": "text", "text": said}


def source(lines: int) -> str:
    """A file as Claude Code shows it: numbered lines with an arrow that is not ASCII."""
    return "\n".join(f"{number:6}→{LINES[number % len(LINES)]}" for number in range(1, lines + 1))


def prose(characters: int) -> str:
    """So many characters, each of them one byte in JSON."""
    told = " ".join(SENTENCES) + " "
    return (told * (characters // len(told) + 1))[:characters]
