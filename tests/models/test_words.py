"""Commands as one text."""

from __future__ import annotations

import shlex
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.models.words import split_words


@given(st.text(st.sampled_from("ab é\t\n\r'\"\\$#\0")))
def test_words_are_those_of_the_standard_library(text: str) -> None:
    try:
        expected = shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"No (closing quotation|escaped character)"):
            split_words(text)
    else:
        assert split_words(text) == expected


@given(st.lists(st.text()))
def test_what_is_quoted_comes_back(words: list[str]) -> None:
    assert split_words(shlex.join(words)) == words


@pytest.mark.parametrize("unit", ["x", "'x'", '"x', "\\x", '"\\x"', "'", " x", "é"])
def test_a_long_word_takes_no_time(unit: str) -> None:
    begun = time.monotonic()
    with suppress(ValueError):
        split_words(unit * 200_000)
    assert time.monotonic() - begun < 5
