"""A command as one text, taken apart into its words as a shell does it."""

from __future__ import annotations

import re

PIECE = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<plain>[^ \t\r\n'"\\]+)
    | '(?P<single>[^']*)'
    | "(?P<double>[^"\\]*(?:\\.[^"\\]*)*)"
    | \\(?P<escaped>.)
    """,
    re.VERBOSE | re.DOTALL,
)
IN_DOUBLE_QUOTES = re.compile(r'\\(["\\])')


def split_words(text: str) -> list[str]:
    """Return the words of a command, as `shlex.split` does, in a time that grows with its length.

    `shlex.split` appends character by character: a word of 1 MB takes it a minute.

    Raises:
        ValueError: A quotation is not closed, or a backslash is the last character.
    """
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
        word = word or []
        word.append(IN_DOUBLE_QUOTES.sub(r"\1", part) if kind == "double" else part)
    if word is not None:
        words.append("".join(word))
    return words
