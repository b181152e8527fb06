"""Streams over real sockets: what comes is handed on, an end is an end, a cut raises."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import StreamInterrupted
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry
from neuro_sync.transport.stream import split_lines

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
Talk = Callable[[socket.socket], None]


@contextmanager
def served(*talks: Talk) -> Iterator[str]:
    """Serve one connection after the other, each by a function, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for talk in talks:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    talk(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def sends(data: bytes) -> Talk:
    return lambda connection: connection.sendall(data)


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    opened = HttpTransport("token")
    yield opened
    opened.close()


def test_bytes_are_handed_on_as_they_come(transport: HttpTransport) -> None:
    seen: Queue[bytes] = Queue()

    def talk(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"one"))
        assert seen.get(timeout=5) == b"one"  # only now is the rest sent
        connection.sendall(chunk(b"two") + chunk(b""))

    with served(talk) as url, transport.stream(url, retry=Retry.ALWAYS) as stream:
        for piece in stream:
            seen.put(piece)
    assert seen.get_nowait() == b"two"


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"zz\r\nhello\r\n",
        b"5\r\nhello\r\nHTTP/1.1 500 Internal Server Error\r\n\r\n",
    ],
)
def test_a_cut_raises(transport: HttpTransport, body: bytes) -> None:
    with served(sends(CHUNKED + body)) as url, pytest.raises(StreamInterrupted):
        b"".join(transport.stream(url, retry=Retry.ALWAYS))


def test_a_body_shorter_than_announced_raises(transport: HttpTransport) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    with served(sends(answer)) as url, pytest.raises(StreamInterrupted):
        b"".join(transport.stream(url, retry=Retry.ALWAYS))


def test_another_thread_ends_a_blocked_reader(transport: HttpTransport) -> None:
    released = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"one"))
        released.wait(10)

    with served(talk) as url:
        stream = transport.stream(url, retry=Retry.ALWAYS)
        first_piece = threading.Event()
        pieces: list[bytes] = []

        def read() -> None:
            for piece in stream:
                pieces.append(piece)
                first_piece.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert first_piece.wait(5)
        stream.close()
        reader.join(1)
        assert not reader.is_alive()
        released.set()
    assert pieces == [b"one"]
    assert list(stream) == []


def test_closing_twice_and_after_the_end_does_nothing(transport: HttpTransport) -> None:
    with served(sends(CHUNKED + chunk(b"x") + chunk(b""))) as url:
        stream = transport.stream(url, retry=Retry.ALWAYS)
        assert list(stream) == [b"x"]
        stream.close()
        stream.close()


def test_closing_what_the_peer_has_reset_does_nothing(transport: HttpTransport) -> None:
    was_read, was_reset = threading.Event(), threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"one"))
        was_read.wait(5)
        at_once = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        connection.close()
        was_reset.set()

    with served(talk) as url, transport.stream(url, retry=Retry.ALWAYS) as stream:
        assert next(stream) == b"one"
        was_read.set()
        assert was_reset.wait(5)


@given(st.binary(), st.lists(st.integers(0, 50)))
def test_lines_do_not_depend_on_how_the_bytes_were_cut(data: bytes, cuts: list[int]) -> None:
    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert list(split_lines(pieces)) == expected


def test_carriage_returns_stay_in_their_line() -> None:
    assert list(split_lines([b"a\rb\r", b"\nc"])) == [b"a\rb\r", b"c"]
