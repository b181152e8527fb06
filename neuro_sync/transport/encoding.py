"""Text as it is sent to a platform: UTF-8, in a path, in a query or in a body.

Python represents bytes of an argument, a variable or a file's name that are no UTF-8 as lone
surrogates, which no platform takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, urlencode

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.models.base import CONFIDENTIAL
from neuro_sync.secret_text import SecretBytes, SecretText

NO_UTF8 = "not UTF-8, and the platform takes no other text; write it in UTF-8"
SURROGATES = re.compile("[\ud800-\udfff]")
SHOWN_CHARACTERS = 100
"""How much of a word an error repeats."""
SECRETS = CONFIDENTIAL | {"password", "token", "refresh_token"}
"""Fields whose content is not repeated in an error."""


def segment(text: str, safe: str = "") -> str:
    """Quote one part of a path.

    Raises:
        IllegalArgumentError: It is not UTF-8.
    """
    _check("", text)
    return quote(text, safe=safe)


def query_text(query: Iterable[tuple[str, str | bytes]]) -> str:
    """Write a query; bytes are sent as they are, and text as `segment` does it."""
    pairs = list(query)
    for name, value in pairs:
        if isinstance(value, str):
            _check(name, value)
    return urlencode(pairs)


def form_body(form: Mapping[str, str | SecretText]) -> SecretBytes:
    """Write the body of a form; raises as `segment` does."""
    for name, value in form.items():
        if isinstance(value, str):
            _check(name, value)
        elif SURROGATES.search(value.reveal()):
            raise IllegalArgumentError(f"{name}: this is {NO_UTF8}")
    pairs = {name: SecretText(value).reveal() for name, value in form.items()}
    return SecretBytes(urlencode(pairs).encode())


def json_body(body: object) -> bytes:
    """Write a JSON body; raises as `segment` does."""
    text = json.dumps(body)
    if "\\ud" in text:  # a lone surrogate, or one half of a character beyond the first plane
        for name, value in _texts(body):
            _check(name, value)
    return text.encode()


def _texts(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield all texts of a JSON value, the keys among them, each with the names that lead to it."""
    if isinstance(value, str):
        yield ".".join(path), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield ".".join(path), key
            yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, path)


def _check(name: str, text: str) -> None:
    found = SURROGATES.search(text)
    if found is None:
        return
    if not SECRETS.isdisjoint(name.split(".")):
        raise IllegalArgumentError(f"{name}: this is {NO_UTF8}")
    place = f"{name}: " if name else ""
    raise IllegalArgumentError(f"{place}{_word_at(text, found.start())} is {NO_UTF8}")


def _word_at(text: str, position: int) -> str:
    """Return the word around a position with the bytes that were typed, not with surrogates."""
    begin = max((text.rfind(blank, 0, position) for blank in " \t\n"), default=-1) + 1
    word = text[max(begin, position - SHOWN_CHARACTERS) :].split(None, 1)[0][:SHOWN_CHARACTERS]
    word = word.strip("'\"")
    try:
        return repr(word.encode("utf-8", "surrogateescape")).removeprefix("b")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return ascii(word)
