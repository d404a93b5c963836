"""What the settings read, what the example shows and what the documentation explains are the same names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ccproxy_site import keyring

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "ccproxy_site" / "settings.py"


def names_read() -> set[str]:
    calls = (node for node in ast.walk(ast.parse(SETTINGS.read_text())) if isinstance(node, ast.Call))
    read = {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "env"
        and isinstance(call.args[0], ast.Constant)
    }
    return {str(name) for name in read} | set(keyring.MAKERS)


def test_the_example_shows_every_variable_and_no_other() -> None:
    shown = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(names_read())


def test_the_documentation_explains_every_variable_and_no_other() -> None:
    rows = [
        line.split("|")[1] for line in (ROOT / "docs" / "configuration.md").read_text().splitlines() if "| `" in line
    ]
    explained = [name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)]
    assert sorted(explained) == sorted(names_read())


def test_the_example_is_read_without_complaint(tmp_path: Path) -> None:
    """Every line uncommented: the defaults it shows are values the settings take."""
    lines = (
        line[1:] if re.match(r"#[A-Z_]+=.", line) else line for line in (ROOT / ".env.example").read_text().splitlines()
    )
    values = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    program = "from ccproxy_site import settings; print(settings.PORT, settings.SPOOL_SEGMENT_BYTES)"
    environment = {**values, "CCPROXY_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)  # noqa: PLW1510
    assert done.stdout.split() == ["8787", "8388608"], done.stderr


def test_secrets_are_made_once_and_only_for_the_owner(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    first = keyring.read_secrets({}, folder, embedded=True)
    assert all(first.values())
    assert first == keyring.read_secrets({}, folder, embedded=True)
    assert (folder / keyring.FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700, "database and sessions will lie there"
    assert len(set(first.values())) == len(first)


def test_the_environment_wins_over_what_was_made(tmp_path: Path) -> None:
    keyring.read_secrets({}, tmp_path, embedded=True)
    assert keyring.read_secrets({"STATE_SECRET": "mine"}, tmp_path, embedded=True)["STATE_SECRET"] == "mine"


def test_on_a_shared_database_nothing_is_invented(tmp_path: Path) -> None:
    known = keyring.read_secrets({"SECRET_KEY": "given"}, tmp_path, embedded=False)
    assert list(tmp_path.iterdir()) == []
    sentence = keyring.missing(known)
    assert "SECRET_KEY" not in sentence.split(" must be set")[0]
    assert "CREDENTIAL_KEYS, KEY_DIGEST_SECRET, STATE_SECRET must be set" in sentence
    assert keyring.missing(dict.fromkeys(keyring.MAKERS, "x")) == ""


def test_an_absurd_level_stops_the_start(tmp_path: Path) -> None:
    environment = {"LOG_LEVEL": "LOUD", "CCPROXY_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(ROOT / "manage.py"), "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "LOG_LEVEL is 'LOUD'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_the_papers_name_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), f"{name} links to {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 100


def test_no_document_names_a_registry_or_a_machine() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*.txt"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        assert "--index-url" not in text, path
        assert str(ROOT) + "/" not in text, path


def test_every_row_of_the_mission_has_a_state_and_what_is_done_can_be_seen() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", (ROOT / "docs" / "mission.md").read_text(), re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 117))
    for number, _, state, how in rows:
        assert state.strip().partition(":")[0] in {"done", "partly", "later"}, number
        assert how.strip() or state.strip() == "later", number
        for path in re.findall(r"`((?:providers|accounting|gateway|ccproxy_site)/[\w/.]+)`", how):
            assert (ROOT / path).exists(), f"row {number} names {path}"
