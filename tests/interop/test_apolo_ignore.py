"""Patterns of what a copy leaves out mean what they mean to the official client."""

from __future__ import annotations

import re
from pathlib import Path

from apolo_sdk import FileFilter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuro_sync.client.ignore import IgnoreRules

LETTERS = "ab/*?[]!-\\ #.^&~|"
NAMES = st.text("ab*[]!-\\ #.^", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PATHS = st.lists(NAMES, min_size=1, max_size=4)


def is_copied_by_them(lines: bytes, path: str) -> bool:
    rules = FileFilter()
    rules.read_from_buffer(lines)
    try:
        rules.match(path).send(None)  # a coroutine that never waits
    except StopIteration as ended:
        return bool(ended.value)
    raise AssertionError("it waits")


def is_copied_by_us(folder: Path, path: str) -> bool:
    rules = IgnoreRules().with_folder(folder, [".ignore"])
    return not rules.verdict(folder / path, is_dir=path.endswith("/"))


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.text(LETTERS, max_size=8), max_size=4), PATHS, st.booleans())
def test_patterns_match_what_they_match_for_the_official_client(
    tmp_path: Path, lines: list[str], names: list[str], is_dir: bool
) -> None:
    path = "/".join(names) + ("/" if is_dir else "")
    text = "\n".join(lines).encode()
    if any(not line.lstrip("!").strip(" ") for line in lines):
        return  # to them, a blank pattern is every folder; to us and to git, nothing
    try:
        expected = is_copied_by_them(text, path)
    except re.error:
        return  # they crash on ranges that go backwards
    (tmp_path / ".ignore").write_bytes(text)
    assert is_copied_by_us(tmp_path, path) is expected
