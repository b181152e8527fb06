"""What a pattern of a file to leave out matches."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuro_sync import IllegalArgumentError
from neuro_sync.client.ignore import IgnoreRules, Pattern, regex_parts, verdict


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


@settings(max_examples=500)
@given(
    st.text(st.sampled_from("aab**?//[]!-\\."), max_size=14),
    st.lists(st.text(st.sampled_from("aab.-"), min_size=1, max_size=5), min_size=1, max_size=5),
    st.booleans(),
)
@example("**/a/**/a/b", ["a", "b", "a", "a", "b"], False)
@example("*a*ab", ["aab", "aaab"], True)
def test_a_pattern_matches_what_its_plain_regular_expression_does(
    pattern: str, names: list[str], is_dir: bool
) -> None:
    path = "/".join(names) + ("/" if is_dir else "")
    plain = re.compile("".join(regex_parts(pattern)), re.DOTALL).fullmatch(path) is not None
    assert Pattern(pattern, excludes=True).matches(path) == (plain and bool(pattern))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 60 + "b", "a" * 250),
        ("*" * 60 + "b", "a" * 250),
        ("**/a/" * 30 + "b", "a/" * 400),
        ("**/*a*a*b/" * 30 + "b", ("a" * 60 + "/") * 60),
        ("*/**/" * 30 + "b", "a/" * 400),
        ("[" * 20_000, "a"),
    ],
)
def test_a_pattern_takes_no_more_than_linear_time(pattern: str, path: str) -> None:
    begun = time.monotonic()
    assert not Pattern(pattern, excludes=True).matches(path)
    assert time.monotonic() - begun < 5


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
