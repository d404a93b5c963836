"""The compiled loops and the same file uncompiled give the same results, and the switch decides which are used."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import _hot, hot

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[]\n é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a"\\{', max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)
LINES = st.lists(st.sampled_from([b"data: a", b"data:b", b"data", b"", b"event: x", b": c", b"data: \xff", b"id: 1"]))


def variants() -> list[ModuleType]:
    """Where nothing was built there is one; in CI that is a failure, not a shorter test."""
    try:
        return [_hot, importlib.import_module("providers._hot_c")]
    except ImportError:
        assert not os.environ.get("CI"), "the compiled loops were not built: make setup"
        return [_hot]


VARIANTS = variants()


def scanned(module: ModuleType, pieces: list[str]) -> int:
    """Where the value ends in all the pieces together."""
    before, state = 0, (0, False, False)
    for piece in pieces:
        end, *rest = module.scan(piece, *state)
        if end >= 0:
            return before + int(end)
        state = tuple(rest)
        before += len(piece)
    return -1


@pytest.mark.parametrize("module", VARIANTS, ids=lambda module: module.__name__)
@given(value=st.dictionaries(st.text(max_size=3), JSON, max_size=4), after=st.text(max_size=5), size=st.integers(1, 9))
def test_an_object_ends_where_it_ends_however_it_is_cut(module: ModuleType, value: Any, after: str, size: int) -> None:
    text = json.dumps(value, ensure_ascii=False)
    whole = text + after
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert scanned(module, pieces) == len(text)
    assert scanned(module, [text[:-1]]) == -1


@pytest.mark.parametrize("module", VARIANTS, ids=lambda module: module.__name__)
@given(lines=LINES, size=st.integers(1, 9))
def test_events_are_the_same_however_their_lines_come(module: ModuleType, lines: list[bytes], size: int) -> None:
    expected = _hot.frames(lines, [], "", 0, lambda event, data: (event, data))[0]
    data: list[bytes] = []
    event, held, found = "", 0, []
    for at in range(0, len(lines), size):
        more, event, held = module.frames(lines[at : at + size], data, event, held, lambda event, data: (event, data))
        found += more
    assert found == expected
    assert bool(held) == bool(data)


@pytest.mark.parametrize(("switch", "state"), [("false", "switched off"), ("true", "in use"), (None, "in use")])
def test_the_switch_decides(switch: str | None, state: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CCPROXY_ENABLE_CYTHON"}
    if switch is not None:
        environment["CCPROXY_ENABLE_CYTHON"] = switch
    told = subprocess.run(
        [sys.executable, "-c", "from providers import hot; print(hot.state())"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    built = len(VARIANTS) == 2
    assert told.stdout.strip() == (state if built or not hot.WANTED or switch == "false" else "not built")


def test_what_is_not_built_is_done_without(tmp_path: Any) -> None:
    """A copy of the package without the compiled module: everything works, and the state says so."""
    package = tmp_path / "providers"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("hot", "_hot"):
        shutil.copy(Path(_hot.__file__).with_name(f"{name}.py"), package)
    program = "from providers import hot; print(hot.state(), hot.scan('{}', 0, False, False))"
    environment = {**os.environ, "CCPROXY_ENABLE_CYTHON": "true"}
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "not built (2, 0, False, False)"
