"""Text on its way to a platform is UTF-8, or refused by the name of what it was given for."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import IllegalArgumentError
from neuro_sync.transport.encoding import form_body, json_body, query_text, segment

TEXT = st.text()
ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda values: st.lists(values) | st.dictionaries(TEXT, values),
)


@given(TEXT, TEXT)
def test_text_arrives_as_it_was_given(name: str, value: str) -> None:
    assert unquote(segment(value)) == value
    query = parse_qsl(query_text([(name, value)]), keep_blank_values=True)
    assert query == [(name, value)]
    assert form_body({name: value}).reveal().decode() == query_text([(name, value)])


@given(JSON)
def test_a_json_body_arrives_as_it_was_given(body: object) -> None:
    assert json.loads(json_body(body)) == body


@given(ANY_TEXT)
def test_what_is_not_utf8_is_refused_and_nothing_else(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        for send in (
            lambda: segment(text),
            lambda: query_text([("name", text)]),
            lambda: json_body({"container": {"command": [text]}}),
            lambda: json_body({text: 1}),
        ):
            with pytest.raises(IllegalArgumentError, match="not UTF-8"):
                send()
    else:
        assert segment(text) is not None


def test_the_word_that_is_not_utf8_is_named_as_it_was_typed() -> None:
    with pytest.raises(IllegalArgumentError, match=r"^cmd: 'caf\\xe9' is not UTF-8"):
        query_text([("cmd", "echo one 'caf\udce9' two")])
    with pytest.raises(IllegalArgumentError, match=r"^container\.command: 'caf\\xe9' is"):
        json_body({"container": {"command": "echo caf\udce9"}})
    with pytest.raises(IllegalArgumentError, match=r"^name: '\\ud800' is"):
        query_text([("name", "\ud800")])
    with pytest.raises(IllegalArgumentError, match="UTF-8") as refused:
        query_text([("cmd", "x" * 10**6 + "\udce9" + "x" * 10**6)])
    assert len(str(refused.value)) < 300


def test_a_secret_that_is_not_utf8_is_not_repeated() -> None:
    sends: list[Callable[[], object]] = [
        lambda: json_body({"env": {"PASSWORD": "hunter2\udce9"}}),
        lambda: form_body({"refresh_token": "hunter2\udce9"}),
    ]
    for send in sends:
        with pytest.raises(IllegalArgumentError, match=r"not UTF-8") as refused:
            send()
        assert "hunter2" not in str(refused.value)
