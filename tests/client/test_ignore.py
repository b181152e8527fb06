"""What a pattern of a file to leave out matches."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro_sync import IllegalArgumentError
from neuro_sync.client.ignore import IgnoreRules, Pattern, verdict


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
    rules = IgnoreRules().with_folder(tmp_path, [".ignore"])
    left_out = [bool(rules.verdict(tmp_path / name, is_dir=False)) for name in names]
    assert left_out == [True, True, True, False, False, False]
