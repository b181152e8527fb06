"""The words of a shell's command line: how they are quoted, and how they are read."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from .output import visible

PLAIN = re.compile(r"[\w@%+=:,./-]", re.ASCII)
"""What stands for itself in any shell, except a dash at the beginning."""


def command_line(*words: str) -> str:
    """Return a command line for a person to copy: each word reaches the program as it is.

    It is ready for bash, zsh and ksh. A word with control characters is written with ``$'...'``,
    so that it can be shown.
    """
    return " ".join(map(_quoted, words))


def operand(text: str) -> tuple[str, ...]:
    """Return the words for an operand, which a dash would otherwise make an option."""
    return ("--", text) if text.startswith("-") else (text,)


def _quoted(word: str) -> str:
    if visible(word) == word:
        # To zsh `=python` is the path of that program.
        return f"'{word}'" if shlex.quote(word) == word and word[0] == "=" else shlex.quote(word)
    marks = (
        "".join(f"\\{byte:03o}" for byte in mark.encode(errors="surrogateescape"))
        if mark in "\\'" or visible(mark) != mark
        else mark
        for mark in word
    )
    return f"$'{''.join(marks)}'"


def escaped(text: str, quote: str = "") -> str:
    """Return text as bash takes it behind `quote`, which is open and stays open.

    The text has no control characters.
    """
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote == '"':
        # An exclamation mark stands for an old command between double quotes, too.
        return re.sub(r'[\\"$`]', r"\\\g<0>", text).replace("!", "\"'!'\"")
    return "".join(
        mark if PLAIN.match(mark) or (not mark.isascii() and not mark.isspace()) else f"\\{mark}"
        for mark in text
    )


@dataclass
class Line:
    """A command line up to the cursor."""

    words: list[str] = field(default_factory=lambda: [""])
    """As the program gets them; the last one is not complete, and may be empty."""
    quote: str = ""
    """The quote that is open at the cursor: ``'``, ``"``, ``$'`` or none."""
    is_file: bool = False
    """Whether the last word is the file that input or output is redirected to."""


def read(text: str, *, fish: bool = False) -> Line:
    """Read a command line as bash and zsh do, or fish; nothing in it is expanded."""
    line = Line()
    at = 0
    started = False
    while at < len(text):
        mark, next_mark = text[at], text[at + 1 : at + 2]
        taken, added = 1, mark
        if line.quote:
            if mark == line.quote[-1]:
                line.quote, added = "", ""
            elif mark == "\\" and _is_escaped(next_mark, line.quote, fish=fish):
                taken, added = 2, next_mark
        elif mark == "\\":
            taken, added = 2, next_mark
        elif mark in "'\"":
            line.quote, added = mark, ""
        elif mark == "$" and next_mark == "'" and not fish:
            line.quote, taken, added = "$'", 2, ""
        elif mark in " \t\n<>":
            line.is_file = mark in "<>" or (line.is_file and not started)
            if started:
                line.words.append("")
            started = False
            at += 1
            continue
        started = True
        line.words[-1] += added
        at += taken
    return line


def _is_escaped(mark: str, quote: str, *, fish: bool) -> bool:
    """Return whether a backslash between quotes belongs to the character behind it."""
    if quote == "'":
        return fish and mark in ("\\", "'")
    return quote == "$'" or mark in ("\\", '"', "$", "`")
