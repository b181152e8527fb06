"""Frames of websockets: any bytes, cut anywhere, against an implementation that is not ours."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket import ABNF
from websockets.frames import Frame as ForeignFrame
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from neuro_sync import ProtocolError
from neuro_sync.transport import rfc6455
from neuro_sync.transport.rfc6455 import BINARY, Frame, FrameReader, write_frame

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000]) | st.integers(0, 300)


@given(SIZES)
def test_a_foreign_server_reads_what_is_written(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    server = ServerProtocol(max_size=None)
    server.state = server.state.OPEN
    server.parser = server.parse()
    next(server.parser)
    server.receive_data(write_frame(BINARY, data))
    [read] = server.events_received()
    assert isinstance(read, ForeignFrame)
    assert (read.opcode, bytes(read.data)) == (Opcode.BINARY, data)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary() | SIZES.map(bytes))), st.data())
def test_frames_do_not_depend_on_how_the_bytes_were_cut(
    sent: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(ABNF(1, 0, 0, 0, opcode, 0, payload).format() for opcode, payload in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reader = FrameReader()
    read: list[Frame] = []
    for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        read += reader.feed(wire[begin:end])
    assert read == [Frame(opcode, True, payload) for opcode, payload in sent]


@given(st.binary(), st.binary(min_size=4, max_size=4))
def test_masking_in_python_is_what_the_standard_says(data: bytes, mask: bytes) -> None:
    expected = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    assert rfc6455.mask_by_tables(data, mask) == expected


def test_without_the_library_of_the_server_masks_are_made_in_python() -> None:
    code = (
        "import sys; sys.modules['websockets.speedups'] = None\n"
        "from neuro_sync.transport import rfc6455\n"
        "frame = rfc6455.write_frame(2, b'hello')\n"
        "print(rfc6455.mask_by_tables(frame[6:], frame[2:6]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ended.stdout == b"b'hello'\n"


def test_no_two_masks_are_the_same() -> None:
    frames = {write_frame(BINARY, b"the same") for _ in range(100)}
    assert len(frames) == 100


@pytest.mark.parametrize(
    "wire",
    [
        b"\xc2\x00",  # a reserved bit
        b"\x83\x00",  # an unknown kind
        b"\x82\x81\x00\x00\x00\x00x",  # masked
        b"\x89\x7e\x00\x80",  # a long ping
        b"\x09\x00",  # half a ping
        b"\x82\x7f" + (2**40).to_bytes(8, "big"),  # a terabyte
    ],
)
def test_what_no_server_may_send_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(wire))


@given(st.binary())
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    reader = FrameReader()
    try:
        read = list(reader.feed(data))
    except ProtocolError:
        return
    assert sum(len(frame.payload) for frame in read) <= len(data)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", (None, "")),
        (b"\x03\xe8", (1000, "")),
        (b"\x03\xf3gone \xff", (1011, "gone \ufffd")),
    ],
)
def test_the_reason_of_an_end_is_read(payload: bytes, expected: tuple[int | None, str]) -> None:
    assert rfc6455.close_reason(payload) == expected
