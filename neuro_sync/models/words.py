"""A command as one text, taken apart into its words as a shell does it."""

from __future__ import annotations

import re

PIECE = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<bare>(?:[^ \t\r\n'"\\]+|\\.)+)
    | '(?P<single>[^']*)'
    | "(?P<double>[^"\\]*(?:\\.[^"\\]*)*)"
    """,
    re.VERBOSE | re.DOTALL,
)
QUOTING = re.compile(r"""['"\\]""")
BARE_WORD = re.compile(r"[^ \t\r\n]+")
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
IN_DOUBLE_QUOTES = re.compile(r'\\(["\\])')


def split_words(text: str) -> list[str]:
    """Return the words of a command, as `shlex.split` does, in a time that grows with its length.

    `shlex.split` appends character by character: a word of 1 MB takes it a minute.

    Raises:
        ValueError: A quotation is not closed, or a backslash is the last character.
    """
    if not QUOTING.search(text):  # which is several times as fast
        return BARE_WORD.findall(text)
    words: list[str] = []
    word: list[str] | None = None
    at = 0
    while at < len(text):
        piece = PIECE.match(text, at)
        if piece is None:
            what = "escaped character" if text[at] == "\\" else "closing quotation"
            raise ValueError(f"No {what}")
        at = piece.end()
        kind = str(piece.lastgroup)
        if kind == "space":
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        part = piece[kind]
        if kind != "single" and "\\" in part:
            # Of a split by a pattern with a group, the parts and what the groups match are left.
            part = "".join((ESCAPED if kind == "bare" else IN_DOUBLE_QUOTES).split(part))
        word = word or []
        word.append(part)
    if word is not None:
        words.append("".join(word))
    return words
