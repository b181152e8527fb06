"""The streams of exec and attach, against servers that follow a script."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue

import pytest
from websockets.sync.server import ServerConnection

from neuro_sync import (
    CommandTimeout,
    ConnectionFailed,
    Message,
    NotSupported,
    ProtocolError,
    StdStream,
    StreamClosed,
    StreamInterrupted,
)
from neuro_sync.client import channels
from neuro_sync.models import frames
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.rfc6455 import BINARY, CLOSE
from neuro_sync.transport.websocket import WebSocket
from tests.scripted_websocket import UPGRADE, RawTalk, answered, frame, served

MARKER = frames.output(1, b"")
BOTH = (frames.CHANNELS_WITH_EOF, frames.CHANNELS)
Talk = Callable[[ServerConnection], None]


@contextmanager
def connected(
    url: str, *, tty: bool = False, stdin: bool = True, heartbeat: float = 10.0
) -> Iterator[StdStream]:
    transport = HttpTransport("token", timeout=(5.0, 5.0))
    websocket = WebSocket(transport, url, subprotocols=BOTH, heartbeat=heartbeat)
    with StdStream(websocket.open(), "the command", tty=tty, stdin=stdin) as stream:
        yield stream
    transport.close()
    assert not [thread for thread in threading.enumerate() if "the command" in thread.name]


@contextmanager
def talking(
    talk: Talk, *, known: tuple[str, ...] = BOTH, tty: bool = False, stdin: bool = True
) -> Iterator[StdStream]:
    with served(talk, subprotocols=known) as url, connected(url, tty=tty, stdin=stdin) as stream:
        yield stream


def sends(*messages: bytes) -> Talk:
    def talk(server: ServerConnection) -> None:
        for message in messages:
            server.send(message)

    return talk


def waits_for(event: threading.Event) -> RawTalk:
    def talk(_: socket.socket) -> None:
        event.wait(5)

    return talk


def until_left(server: ServerConnection) -> None:
    for _ in server:
        pass


@pytest.mark.parametrize("code", [0, 1, 42, 137])
def test_output_comes_in_order_and_then_the_exit_code(code: int) -> None:
    talk = sends(MARKER, b"\x01one", b"\x02two", b"\x02", b"\x01three", frames.exited(code))
    with talking(talk) as stream:
        assert list(stream) == [
            Message(fileno=1, data=b"one"),
            Message(fileno=2, data=b"two"),
            Message(fileno=1, data=b"three"),
        ]
        assert stream.read_out() is None
        assert stream.exit_code == code
        assert stream.wait() == code


def test_the_exit_code_does_not_depend_on_the_output_being_read() -> None:
    with talking(sends(MARKER, b"\x01unread", frames.exited(7))) as stream:
        assert stream.exit_code == 7
        assert [message.data for message in stream] == [b"unread"]
    assert stream.exit_code == 7


def test_why_a_command_could_not_be_run_is_told() -> None:
    with talking(sends(MARKER, frames.exited(127, "no such program"))) as stream:
        assert stream.exit_code == 127
        assert stream.exit_message == "no such program"


def test_an_end_without_an_exit_code_is_no_exit_code() -> None:
    with talking(sends(MARKER, b"\x01half")) as stream:
        assert [message.data for message in stream] == [b"half"]
        with pytest.raises(StreamInterrupted, match="before there was an exit code"):
            stream.wait()
        with pytest.raises(ConnectionError):
            _ = stream.exit_code


@pytest.mark.parametrize("cut", [b"", frame(BINARY, b"\x01more")[:3], frame(CLOSE, b"\x03\xf3")])
def test_a_cut_raises_after_what_came_before_it(cut: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(frame(BINARY, b"\x01whole") + cut)

    with answered(UPGRADE, talk) as url, connected(url) as stream:
        assert stream.read_out() == Message(fileno=1, data=b"whole")
        for _ in range(2):
            with pytest.raises(StreamInterrupted):
                stream.read_out()
        with pytest.raises(StreamInterrupted, match="before there was an exit code"):
            stream.wait()


@pytest.mark.parametrize(
    "garbage", [b"", b"\x07what", b"\x03not json", b'\x03{"exit_code": "1"}', b"\x03{}"]
)
def test_what_cannot_be_read_is_never_an_exit_code(garbage: bytes) -> None:
    with talking(sends(MARKER, b"\x01fine", garbage)) as stream:
        assert stream.read_out() == Message(fileno=1, data=b"fine")
        with pytest.raises(ProtocolError):
            stream.read_out()
        with pytest.raises(ProtocolError):
            _ = stream.exit_code


def test_a_dead_peer_ends_the_stream() -> None:
    released = threading.Event()
    with answered(UPGRADE, waits_for(released)) as url:
        with connected(url, heartbeat=0.05) as stream:
            with pytest.raises(ConnectionFailed, match="no sign of life"):
                stream.read_out()
            with pytest.raises(StreamInterrupted):
                stream.wait()
        released.set()


def test_input_goes_in_pieces_that_every_platform_takes() -> None:
    data = bytes(range(256)) * 1000
    seen: Queue[bytes] = Queue()

    def talk(server: ServerConnection) -> None:
        taken = b""
        for message in server:
            assert isinstance(message, bytes)
            assert len(message) <= 2**16 + 1
            if frames.from_client(message) == frames.EndOfInput():
                break
            received = frames.from_client(message)
            assert isinstance(received, frames.Input)
            taken += received.data
        seen.put(taken)
        server.send(frames.exited(0))

    with talking(talk) as stream:
        stream.write_in(data)
        stream.write_in(b"")
        stream.close_stdin()
        stream.close_stdin()
        assert stream.exit_code == 0
    assert seen.get_nowait() == data


def test_no_input_can_follow_its_end() -> None:
    with talking(until_left) as stream:
        stream.close_stdin()
        with pytest.raises(StreamClosed, match="not open"):
            stream.write_in(b"more")


def test_without_stdin_nothing_is_written_in_vain() -> None:
    with talking(until_left, stdin=False) as stream, pytest.raises(StreamClosed, match="stdin="):
        stream.write_in(b"lost")


@pytest.mark.parametrize("known", [(frames.CHANNELS,), ()])
def test_a_platform_that_knows_no_end_of_input_is_told_of(known: tuple[str, ...]) -> None:
    with talking(until_left, known=known) as stream:
        assert not stream.can_close_stdin
        with pytest.raises(NotSupported, match="head -c"):
            stream.close_stdin()
        stream.write_in(b"still open")
        with pytest.raises(NotSupported, match="head -c"):
            stream.communicate(b"input", eof_timeout=0.2)


def test_with_a_terminal_the_end_of_input_is_typed() -> None:
    def talk(server: ServerConnection) -> None:
        assert server.recv() == b"\x00\x04"
        server.send(frames.exited(0))

    with talking(talk, known=(), tty=True) as stream:
        stream.close_stdin()
        assert stream.exit_code == 0


def test_the_size_of_the_terminal_is_told() -> None:
    def talk(server: ServerConnection) -> None:
        for expected in ((24, 80), (50, 132)):
            message = server.recv()
            assert isinstance(message, bytes)
            assert frames.from_client(message) == frames.Resize(*expected)
        server.send(frames.exited(0))

    with talking(talk, tty=True) as stream:
        stream.resize(24, 80)
        stream.resize(w=132, h=50)
        assert stream.exit_code == 0


def test_writing_after_the_end_is_told_and_output_stays_readable() -> None:
    with talking(sends(MARKER, b"\x01last words", frames.exited(0))) as stream:
        stream.wait()
        with pytest.raises(StreamClosed):
            stream.write_in(b"too late")
        with pytest.raises(BrokenPipeError):
            stream.resize(1, 1)
        stream.close_stdin()  # there is nothing left to do
        assert stream.read_out() == Message(fileno=1, data=b"last words")


def test_closing_releases_whoever_reads_or_waits() -> None:
    with talking(until_left) as stream:
        results: Queue[object] = Queue()
        reader = threading.Thread(target=lambda: results.put(stream.read_out()))

        def wait() -> None:
            try:
                stream.wait()
            except StreamClosed as error:
                results.put(error)

        waiter = threading.Thread(target=wait)
        for thread in (reader, waiter):
            thread.start()
        begin = time.monotonic()
        for _ in range(3):
            stream.close()
        for thread in (reader, waiter):
            thread.join(5)
        assert time.monotonic() - begin < 1
        assert {type(results.get_nowait()) for _ in range(2)} == {type(None), StreamClosed}


def test_what_was_written_last_arrives_before_the_farewell() -> None:
    arrived: Queue[bytes] = Queue()

    def talk(server: ServerConnection) -> None:
        server.send(b"\x01" + bytes(100_000))  # nobody reads it
        arrived.put(b"".join(message[1:] for message in server if isinstance(message, bytes)))

    with talking(talk) as stream:
        stream.write_in(bytes(3_000_000))
    assert arrived.get(timeout=5) == bytes(3_000_000)


def test_a_platform_that_does_not_say_farewell_is_left() -> None:
    released = threading.Event()
    with answered(UPGRADE, waits_for(released)) as url:
        with connected(url) as stream:
            begin = time.monotonic()
            stream.close(patience_s=0.05)
        assert time.monotonic() - begin < 1
        released.set()


def test_a_deadline_passes_and_the_stream_goes_on() -> None:
    asked = threading.Event()

    def talk(server: ServerConnection) -> None:
        assert asked.wait(5)
        server.send(b"\x01late")
        server.send(frames.exited(0))

    with talking(talk) as stream:
        with pytest.raises(CommandTimeout):
            stream.read_out(timeout=0.01)
        with pytest.raises(TimeoutError):
            stream.wait(0.01)
        asked.set()
        assert stream.read_out(timeout=5) == Message(fileno=1, data=b"late")
        assert stream.wait(5) == 0


def test_a_reader_who_stops_slows_the_command_down_and_keeps_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "KEPT", 100_000)
    pieces = 400
    sent = []
    pinged = threading.Event()

    def talk(server: ServerConnection) -> None:
        for number in range(pieces):
            sent.append(number)
            server.send(b"\x01" + bytes(60_000))
        server.send(frames.exited(0))

    # What the server hears while it waits for us: our pings, once we stopped reading.
    monkeypatch.setattr(WebSocket, "ping", lambda websocket: pinged.set())
    with (
        served(talk, subprotocols=BOTH, ping_interval=None) as url,
        connected(url, heartbeat=0.05) as stream,
    ):
        assert pinged.wait(5)
        assert len(sent) < pieces
        assert sum(len(message.data) for message in stream) == pieces * 60_000
        assert stream.exit_code == 0


def test_waiting_for_the_end_does_not_hang_on_unread_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "KEPT", 1000)
    with talking(sends(*[b"\x01" + bytes(60_000)] * 300, frames.exited(3))) as stream:
        assert stream.wait() == 3
        assert sum(len(message.data) for message in stream) == 300 * 60_000


def test_any_thread_may_read_write_and_close() -> None:
    def talk(server: ServerConnection) -> None:
        for message in server:
            assert isinstance(message, bytes)
            server.send(b"\x01" + message[1:])

    with talking(talk) as stream:
        read = Queue[bytes]()

        def write(letter: bytes) -> None:
            for _ in range(200):
                stream.write_in(letter * 100)

        def collect() -> None:
            for message in stream:
                read.put(message.data)

        writers = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(8)]
        readers = [threading.Thread(target=collect) for _ in range(3)]
        for thread in writers + readers:
            thread.start()
        pieces = [read.get(timeout=10) for _ in range(8 * 200)]
        stream.close()
        for thread in writers + readers:
            thread.join(5)
            assert not thread.is_alive()
    assert sorted(pieces) == sorted(bytes([65 + i]) * 100 for i in range(8) for _ in range(200))
