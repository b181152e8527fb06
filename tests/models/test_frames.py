"""Messages of exec and attach."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.models import frames
from neuro_sync.models.frames import BadFrame, EndOfInput, Exited, Input, Resize
from neuro_sync.models.jobs import Message


@given(st.sampled_from([frames.STDOUT, frames.STDERR]), st.binary())
def test_output_makes_the_round_trip(channel: int, data: bytes) -> None:
    message = frames.from_server(frames.output(channel, data))
    assert isinstance(message, Message)
    assert (message.fileno, message.data) == (channel, data)


@given(st.integers(), st.text())
def test_a_status_makes_the_round_trip(code: int, message: str) -> None:
    assert frames.from_server(frames.exited(code, message)) == Exited(code, message)


@given(st.binary(), st.integers(0, 65535), st.integers(0, 65535))
def test_what_a_client_sends_makes_the_round_trip(data: bytes, height: int, width: int) -> None:
    assert frames.from_client(frames.stdin(data)) == Input(data)
    assert frames.from_client(frames.resize(height=height, width=width)) == Resize(height, width)
    assert frames.from_client(frames.end_of_input()) == EndOfInput()


def test_frames_are_those_of_the_protocol() -> None:
    assert frames.resize(height=24, width=80) == b'\x04{"height": 24, "width": 80}'
    assert frames.exited(42) == b'\x03{"exit_code": 42}'
    assert frames.from_client(b'\x04{"Height":24,"Width":80}') == Resize(24, 80)


@given(st.binary())
def test_any_other_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    for read in (frames.from_server, frames.from_client):
        with contextlib.suppress(BadFrame):
            read(data)


@pytest.mark.parametrize("frame", [b"", b"\x03", b"\x03[]", b'\x03{"exit_code": "1"}', b"\x09a"])
def test_a_broken_status_is_no_exit_code(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        frames.from_server(frame)
