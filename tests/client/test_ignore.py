"""Patterns of what a copy leaves out mean what they mean to the official client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from apolo_sdk import FileFilter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuro_sync import IllegalArgumentError
from neuro_sync.client.ignore import IgnoreRules, Pattern, verdict

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


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/", [], ["a", "a/", "a/b"]),
        ("a[!0-9]b", ["axb", "d/axb"], ["a/b", "a1b"]),
        ("a[/]b", [], ["a/b"]),
        ("a?b", ["axb"], ["a/b"]),
        ("a*b", ["ab", "axxb"], ["a/b"]),
        ("/top", ["top", "top/"], ["d/top"]),
        ("dir/", ["dir/", "d/dir/"], ["dir"]),
        ("d/f", ["d/f"], ["x/d/f"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb"]),
        ("a/**", ["a/x", "a/x/y"], ["a", "b/a/x"]),
        ("[z-a]", [], ["z", "a", "b"]),
        ("[!z-a]", ["z"], ["/"]),
        ("[ab", ["[ab"], ["a"]),
        ("\\*", ["*"], ["a"]),
        ("", [], ["a", "a/"]),
    ],
)
def test_a_pattern(pattern: str, matching: list[str], others: list[str]) -> None:
    rule = Pattern(pattern, excludes=True)
    assert [path for path in [*matching, *others] if rule.matches(path)] == matching


def test_the_last_pattern_that_matches_decides() -> None:
    patterns = [Pattern.parse(line) for line in ("*.txt", "!keep.*", "keep.txt", "!d/*")]
    paths = ("a.txt", "keep.md", "keep.txt", "d/keep.txt", "other")
    assert [verdict(patterns, path) for path in paths] == [True, False, True, False, None]


def test_an_ignore_file_that_is_not_utf_8_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / ".ignore").write_bytes(b"caf\xe9\n")
    with pytest.raises(IllegalArgumentError, match=r"\.ignore is not UTF-8"):
        IgnoreRules().with_folder(tmp_path, [".ignore"])


def test_a_backslash_keeps_a_space_and_an_exclamation_mark(tmp_path: Path) -> None:
    (tmp_path / ".ignore").write_bytes(
        b"\xef\xbb\xbf# no\r\nspace\\ \r\ntrailing  \r\n\\!odd\r\n\n"
    )
    names = ["space ", "trailing", "!odd", "# no", "other", ""]
    assert [is_copied_by_us(tmp_path, name) for name in names] == [False, False, False, *[True] * 3]
