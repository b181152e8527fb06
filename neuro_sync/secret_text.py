"""Tokens, passwords and values of secrets, held so that no traceback shows them.

Debug pages (Django's, IPython's, ``pytest --showlocals``, Sentry's) print each variable of each
frame of a traceback. A secret is wrapped where it is read, and the text is taken out where its
bytes are written to a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

MASK = "***"
"""What stands for a secret wherever one is told of."""


class SecretText:
    """A text that its own repr, and that of whatever holds it, does not show.

    It is no `str`, since a slice or a formatted copy of one is a plain text again. It has what the
    libraries below need to write it: `http.client` encodes the values of headers, and `sqlite3`
    asks for what to store.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | SecretText) -> None:
        self._text: str = text if isinstance(text, str) else text.reveal()

    def reveal(self) -> str:
        """Return the text; whoever calls this keeps it in no variable."""
        return self._text

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Return the bytes, for the library that writes a header."""
        return self._text.encode(encoding, errors)

    def __conform__(self, protocol: object) -> str:
        """Return the text, for `sqlite3`, which calls this for a value that it stores."""
        return self._text

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SecretText):
            return self._text == other.reveal()
        return self._text == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; pass what it was read from")


class SecretBytes:
    """The same for bytes. As the body of a request it is sent in one piece."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes | SecretBytes) -> None:
        self._data: bytes = data.reveal() if isinstance(data, SecretBytes) else data
        self.size: int = len(self._data) if isinstance(self._data, bytes) else 0

    def reveal(self) -> bytes:
        """Return the bytes; whoever calls this keeps them in no variable."""
        return self._data

    def __iter__(self) -> Iterator[memoryview]:
        if self.size:
            yield memoryview(self._data)

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; pass what it was read from")


def drop_frames(error: BaseException) -> None:
    """Forget the frames of an error, and of those that led to it, since they hold secrets."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
