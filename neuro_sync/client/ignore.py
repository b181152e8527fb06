"""Which files a copy leaves out: by patterns on the command line and by the ignore files.

The rules are those of the official client, which are nearly git's: the last pattern that matches
decides.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from neuro_sync.errors import IllegalArgumentError


class Pattern:
    """A pattern, and whether what it matches is left out or copied after all.

    A pattern without a slash, except at its end, matches at any depth; one with a slash at its
    end matches folders only. ``*``, ``?`` and ``[...]`` match no slash, ``**`` any number of
    folders.
    """

    def __init__(self, text: str, *, excludes: bool) -> None:
        self.text = text
        self.excludes = excludes
        self._matches = re.compile(_regex(text), re.DOTALL).fullmatch

    @classmethod
    def parse(cls, line: str) -> Pattern:
        """Read a pattern as files have it: with ``!`` before it, what matches is copied."""
        return cls(line.removeprefix("!"), excludes=not line.startswith("!"))

    def matches(self, path: str) -> bool:
        """Return whether it matches a relative path, that of a folder with a slash at its end."""
        return bool(self.text) and self._matches(path) is not None


def verdict(patterns: Iterable[Pattern], path: str) -> bool | None:
    """Return whether the last pattern that matches a path excludes it, None if none matches."""
    found: bool | None = None
    for pattern in patterns:
        if pattern.matches(path):
            found = pattern.excludes
    return found


@dataclass(frozen=True)
class IgnoreRules:
    """The patterns of the ignore files of a folder and of all above it."""

    files: tuple[tuple[Path, tuple[Pattern, ...]], ...] = ()
    """The folder of each ignore file, the outermost first."""

    @classmethod
    def above(cls, folder: Path, names: Iterable[str]) -> IgnoreRules:
        """Return the rules of all folders above one."""
        rules = cls()
        for parent in reversed(folder.parents):
            rules = rules.with_folder(parent, names)
        return rules

    def with_folder(self, folder: Path, names: Iterable[str]) -> IgnoreRules:
        """Add what the ignore files of a folder say.

        Raises:
            IllegalArgumentError: One of them is not UTF-8.
            OSError: One of them cannot be read.
        """
        files = list(self.files)
        for name in sorted(names):
            file = folder / name
            if not file.is_file():
                continue
            try:
                lines = file.read_bytes().decode("utf-8-sig").split("\n")
            except UnicodeDecodeError as error:
                text = f"the ignore file {file} is not UTF-8: {error}. Write it in UTF-8"
                raise IllegalArgumentError(text) from error
            rules = (_without_spaces(line) for line in lines if not line.startswith("#"))
            files.append((folder, tuple(map(Pattern.parse, rules))))
        return IgnoreRules(tuple(files)) if len(files) > len(self.files) else self

    def verdict(self, path: Path, *, is_dir: bool) -> bool | None:
        """Return whether a file or folder is left out, None if no pattern matches it."""
        for folder, patterns in reversed(self.files):
            name = path.relative_to(folder).as_posix() + ("/" if is_dir else "")
            found = verdict(patterns, name)
            if found is not None:
                return found
        return None


def _without_spaces(line: str) -> str:
    """Remove the end of a line and the spaces before it; one behind a backslash stays."""
    line = line.removesuffix("\r")
    stripped = line.rstrip(" ")
    slashes = len(stripped) - len(stripped.rstrip("\\"))
    return line[: len(stripped) + 1] if slashes % 2 else stripped


STAR, DEPTH = "[^/]*", "(?:.+/)?"
"""What matches any part of a name, and any number of folders."""


def _regex(pattern: str) -> str:
    """Return the regular expression of a pattern, which needs no more than linear time.

    Of several stars in a name each but the last may stop at the first place where what follows it
    matches: the next star takes what is left. So none of them is ever tried at another length. The
    same holds for ``**/`` in a path.
    """
    numbers = itertools.count()

    def first(text: str) -> str:
        """Match a text, and never try another match of it; Python 3.10 has no atomic groups."""
        name = f"g{next(numbers)}"
        return f"(?=(?P<{name}>{text}))(?P={name})"

    def stars(parts: list[str]) -> str:
        begin, *after = _split(parts, STAR)
        between = [first(f"[^/]*?{part}") for part in after[:-1]]
        return begin + "".join(between) + "".join(STAR + part for part in after[-1:])

    begin, *after = (stars(part) for part in _split_list(regex_parts(pattern), DEPTH))
    between = [first(f"(?:.+?/)??{part}") for part in after[:-1]]
    return begin + "".join(between) + "".join(DEPTH + part for part in after[-1:])


def _split_list(parts: list[str], mark: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for part in parts:
        if part == mark:
            found.append([])
        else:
            found[-1].append(part)
    return found


def _split(parts: list[str], mark: str) -> list[str]:
    return ["".join(group) for group in _split_list(parts, mark)]


def regex_parts(pattern: str) -> list[str]:
    """Return the parts of a plain regular expression of a pattern."""
    pattern = pattern.lstrip("/") if "/" in pattern.rstrip("/") else f"**/{pattern}"
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        mark, after = pattern[at], at + 1
        starts_name = not parts or parts[-1] == "/"
        if starts_name and pattern[at:] == "**":
            return [*parts, ".*"]
        if starts_name and pattern.startswith("**/", at):
            parts.append(DEPTH)
            after = at + 3
        elif mark == "*":
            parts.append(STAR)
        elif mark == "?":
            parts.append("[^/]")
        elif mark == "[" and (end := _end_of_class(pattern, at)):
            parts.append(_class(pattern[at + 1 : end]))
            after = end + 1
        elif mark == "\\" and after < len(pattern):
            parts.append(re.escape(pattern[after]))
            after += 1
        else:
            parts.append(re.escape(mark))
        at = after
    # Without a slash at its end it matches folders, too.
    return parts if pattern.endswith("/") else [*parts, "/?"]


def _end_of_class(pattern: str, start: int) -> int:
    """Return where the ``]`` of a ``[`` is, 0 if there is none; the first character may be one."""
    first = start + 2 if pattern.startswith("!", start + 1) else start + 1
    return max(pattern.find("]", first + 1), 0)


def _class(text: str) -> str:
    """Return the regular expression for what is between ``[`` and ``]``."""
    negated, text = text.startswith("!"), text.removeprefix("!")
    items: list[str] = []
    at = 0
    while at < len(text):
        first = last = text[at]
        at += 1
        if text.startswith("-", at) and at + 1 < len(text):
            last = text[at + 1]
            at += 2
        if first <= last:
            items.append(f"{re.escape(first)}-{re.escape(last)}")
    if not items:  # ranges that go backwards hold nothing
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' if negated else ''}{''.join(items)}]"
