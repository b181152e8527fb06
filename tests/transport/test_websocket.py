"""The websocket, against servers that follow a script: what is said, and what goes wrong."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.sync.server import ServerConnection

from neuro_sync import (
    APIError,
    AuthenticationError,
    AuthorizationError,
    ConfigError,
    ConnectionFailed,
    IllegalArgumentError,
    NeuroError,
    ProtocolError,
    RequestTimeout,
    ResourceNotFound,
    StreamClosed,
    StreamInterrupted,
)
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.rfc6455 import BINARY, CLOSE, CONTINUATION, PING, PONG
from neuro_sync.transport.websocket import WebSocket
from tests.scripted_websocket import UPGRADE, RawTalk, answered, frame, refusal, served

TOKEN = "canary-token-4711"
BEAT = 0.05


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    opened = HttpTransport(TOKEN, timeout=(5.0, 5.0))
    yield opened
    opened.close()


def echo(server: ServerConnection) -> None:
    for message in server:
        server.send(message)


def wait_for_the_end(connection: socket.socket) -> None:
    connection.settimeout(5)
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 2**22 - 1])
def test_messages_come_back_as_they_were_sent(transport: HttpTransport, size: int) -> None:
    data = os.urandom(size)
    with served(echo) as url, WebSocket(transport, url).open() as websocket:
        websocket.send(data)
        assert websocket.receive() == data


def test_a_message_that_platforms_refuse_is_not_sent(transport: HttpTransport) -> None:
    with served(echo) as url, WebSocket(transport, url).open() as websocket:
        with pytest.raises(ValueError, match="4 MiB"):
            websocket.send(bytes(2**22))
        websocket.send(b"still there")
        assert websocket.receive() == b"still there"


def test_the_token_is_in_a_header_and_nowhere_else(transport: HttpTransport) -> None:
    def talk(server: ServerConnection) -> None:
        assert server.request
        headers = server.request.headers
        server.send(f"{server.request.path} {headers['Authorization']} {'Origin' in headers}")

    with served(talk) as url:
        websocket = WebSocket(transport, url + "/x", query=[("cmd", "a b&c")])
        with websocket.open():
            assert websocket.receive() == f"/x?cmd=a+b%26c Bearer {TOKEN} False".encode()
        assert TOKEN not in repr(websocket) + repr(transport.connection_settings(url))


@pytest.mark.parametrize(
    ("known", "chosen"), [(("second",), "second"), (("first", "second"), "first"), ((), None)]
)
def test_the_chosen_subprotocol_is_told_and_none_is_fine(
    transport: HttpTransport, known: tuple[str, ...], chosen: str | None
) -> None:
    with served(echo, subprotocols=known) as url:
        websocket = WebSocket(transport, url, subprotocols=("first", "second"))
        with websocket.open():
            assert websocket.subprotocol == chosen
            websocket.send(b"hello")
            assert websocket.receive() == b"hello"


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (refusal(400, b'{"error": "{\\"error\\": \\"no such job\\"}"}'), ValueError, "no such job"),
        (refusal(404, b"", {"X-Error": '{"error": "not running"}'}), ResourceNotFound, "not runn"),
        (refusal(400, b"", {"x-error": '{"msg": "Cannot connect"}'}), IllegalArgumentError, "Cann"),
        (refusal(401, b"401: Unauthorized"), AuthenticationError, "401: Unauthorized"),
        (refusal(403, b"", {"X-Error": '{"missing": []}'}), AuthorizationError, "permitted"),
        (refusal(502, b"<html>"), APIError, "<html>"),
        (refusal(200, b"hello"), ProtocolError, "no websocket"),
        (refusal(302, b"", {"Location": "http://elsewhere.test/"}), APIError, "sends us on"),
        (UPGRADE.replace(b"ACCEPT", b"wrong"), ProtocolError, "no websocket"),
        (b"nonsense\r\n\r\n", NeuroError, "websocket"),
        (UPGRADE[:-2] + b"X: " + b"y" * 2**18, ProtocolError, "head of the answer has more than"),
        (UPGRADE[:-2] + b"X: y\r\n" * 2**16, ProtocolError, "head of the answer has more than"),
        (b"HTTP/1.1 101", ConnectionFailed, "broke"),
        (b"", ConnectionFailed, "broke"),
    ],
)
def test_a_refused_upgrade_is_told_with_its_reason(
    transport: HttpTransport, answer: bytes, kind: type[Exception], text: str
) -> None:
    with answered(answer) as url, pytest.raises(kind, match=text) as refused:
        WebSocket(transport, url).open()
    assert isinstance(refused.value, NeuroError)
    chain = [refused.value, refused.value.__cause__]
    assert TOKEN not in "".join(f"{error!r} {error}" for error in chain)


def test_an_address_where_nobody_listens_is_told(transport: HttpTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionFailed, match="nobody answers there"):
        WebSocket(transport, f"http://127.0.0.1:{port}").open()


def test_a_platform_that_does_not_answer_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = HttpTransport(TOKEN, timeout=(5.0, 0.05))
        with pytest.raises(RequestTimeout):
            WebSocket(transport, f"http://127.0.0.1:{listener.getsockname()[1]}").open()
        transport.close()


def test_opening_can_be_given_up_from_another_thread(transport: HttpTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        websocket = WebSocket(transport, f"http://127.0.0.1:{listener.getsockname()[1]}")

        def give_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                websocket.close()

        thread = threading.Thread(target=give_up)
        thread.start()
        with pytest.raises(StreamClosed):
            websocket.open()
        thread.join()


@pytest.mark.parametrize("code", [1000, None])
def test_a_fine_end_is_an_end(transport: HttpTransport, code: int | None) -> None:
    farewell = b"" if code is None else code.to_bytes(2, "big")

    def talk(connection: socket.socket) -> None:
        connection.sendall(frame(BINARY, b"last") + frame(CLOSE, farewell))
        wait_for_the_end(connection)

    with answered(UPGRADE, talk) as url, WebSocket(transport, url).open() as websocket:
        assert websocket.receive() == b"last"
        assert websocket.receive() is None
        assert websocket.receive() is None
        with pytest.raises(StreamClosed):
            websocket.send(b"too late")


def sends(data: bytes) -> RawTalk:
    return lambda connection: connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", StreamInterrupted, "farewell"),
        (frame(BINARY, b"half of it")[:5], StreamInterrupted, "farewell"),
        (frame(CLOSE, b"\x03\xf3broken"), StreamInterrupted, "1011: broken"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", ProtocolError, "no frame"),
        (frame(CONTINUATION, b"of what?"), ProtocolError, "out of order"),
        (frame(BINARY, b"", final=False) + frame(BINARY, b"x"), ProtocolError, "out of order"),
    ],
)
def test_a_cut_raises(
    transport: HttpTransport, data: bytes, kind: type[Exception], text: str
) -> None:
    whole = frame(BINARY, b"whole")
    with answered(UPGRADE, sends(whole + data)) as url:
        websocket = WebSocket(transport, url).open()
        assert websocket.receive() == b"whole"
        with pytest.raises(kind, match=text):
            websocket.receive()
        assert websocket.receive() is None
        websocket.close()


def test_a_message_in_parts_is_put_together(transport: HttpTransport) -> None:
    parts = (
        frame(BINARY, b"", final=False)
        + frame(CONTINUATION, b"a", final=False)
        + frame(PING, b"in between")
        + frame(CONTINUATION, b"b")
        + frame(CLOSE, b"")
    )
    with answered(UPGRADE, sends(parts)) as url, WebSocket(transport, url).open() as websocket:
        assert websocket.receive() == b"ab"
        assert websocket.receive() is None


def test_a_ping_is_answered_while_a_message_is_waited_for(transport: HttpTransport) -> None:
    def talk(server: ServerConnection) -> None:
        assert server.ping().wait(5)
        server.send(b"answered")

    with served(talk, ping_interval=None) as url, WebSocket(transport, url).open() as websocket:
        assert websocket.receive() == b"answered"


def test_a_silent_peer_that_lives_is_waited_for(transport: HttpTransport) -> None:
    def talk(connection: socket.socket) -> None:
        for _ in range(5):
            assert connection.recv(2)[0] == 0x80 | PING
            connection.recv(5)  # the mask, and one digit
            connection.sendall(frame(PONG, b"0"))
        connection.sendall(frame(BINARY, b"at last"))
        wait_for_the_end(connection)

    with (
        answered(UPGRADE, talk) as url,
        WebSocket(transport, url, heartbeat=BEAT).open() as websocket,
    ):
        assert websocket.receive() == b"at last"


def test_a_dead_peer_is_noticed_within_two_heartbeats(transport: HttpTransport) -> None:
    with answered(UPGRADE, wait_for_the_end) as url:
        websocket = WebSocket(transport, url, heartbeat=BEAT).open()
        begin = time.monotonic()
        with pytest.raises(StreamInterrupted, match="no sign of life"):
            websocket.receive()
        assert time.monotonic() - begin < 10 * BEAT


def test_a_peer_that_is_full_of_our_input_is_not_taken_for_dead(transport: HttpTransport) -> None:
    full = threading.Event()

    def talk(connection: socket.socket) -> None:
        assert full.wait(5)  # it reads nothing meanwhile, no pings either
        connection.sendall(frame(BINARY, b"hungry again") + frame(CLOSE, b""))
        wait_for_the_end(connection)

    with answered(UPGRADE, talk) as url:
        websocket = WebSocket(transport, url, heartbeat=BEAT).open()
        websocket.send(bytes(100_000))
        timer = threading.Timer(4 * BEAT, full.set)
        timer.start()
        assert websocket.receive() == b"hungry again"
        websocket.close()
        timer.join()


def test_reading_goes_on_while_a_writer_waits(transport: HttpTransport) -> None:
    """Neither side may wait for the other: the server sends before it reads, and so do we."""
    size, count = 60_000, 400
    read = threading.Event()

    def talk(server: ServerConnection) -> None:
        for _ in range(count):
            server.send(bytes(size))
        server.ping()
        assert read.wait(10)
        for _ in range(count):
            server.recv()
        server.send(b"done")

    with served(talk, ping_interval=None) as url:
        websocket = WebSocket(transport, url, heartbeat=BEAT).open()

        def write() -> None:
            for _ in range(count):
                websocket.send(bytes(size))

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(count):
            received = websocket.receive()
            assert received is not None
            assert len(received) == size
        read.set()
        assert websocket.receive() == b"done"
        writer.join(5)
        assert not writer.is_alive()
        websocket.close()


def test_closing_frees_reader_and_writer_at_once(transport: HttpTransport) -> None:
    closed = threading.Event()

    def talk(_: socket.socket) -> None:
        closed.wait(10)

    with answered(UPGRADE, talk) as url:
        websocket = WebSocket(transport, url).open()
        outcomes: list[object] = []

        def read() -> None:
            outcomes.append(websocket.receive())

        def write() -> None:
            try:
                while True:
                    websocket.send(bytes(65536))
            except StreamClosed:
                outcomes.append("closed")

        threads = [threading.Thread(target=work) for work in (read, write)]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        for _ in range(3):
            websocket.close()
        for thread in threads:
            thread.join(5)
        assert time.monotonic() - begin < 1
        assert sorted(map(str, outcomes)) == ["None", "closed"]
        closed.set()


def test_what_was_sent_last_arrives_before_an_end(transport: HttpTransport) -> None:
    arrived: list[int] = []
    has_all = threading.Event()

    def talk(server: ServerConnection) -> None:
        server.send(bytes(100_000))  # nobody will read it
        arrived.extend(len(message) for message in server)
        has_all.set()

    with served(talk) as url:
        websocket = WebSocket(transport, url).open()
        for _ in range(50):
            websocket.send(bytes(50_000))
        assert websocket.end(5)
        with pytest.raises(StreamClosed):
            websocket.send(b"too late")
        while websocket.receive() is not None:
            pass
        websocket.close()
        assert has_all.wait(20)
    assert arrived == [50_000] * 50


@pytest.mark.parametrize("round_", range(5))
def test_any_thread_may_write_and_close(transport: HttpTransport, round_: int) -> None:
    enough = random.Random(round_).randrange(200)
    with served(echo) as url:
        websocket = WebSocket(transport, url).open()
        ends: list[type[NeuroError]] = []
        seen: set[bytes] = set()

        def write(letter: bytes) -> None:
            try:
                while True:
                    websocket.send(letter * 3000)
            except NeuroError as error:
                ends.append(type(error))

        writers = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(8)]
        for writer in writers:
            writer.start()
        for _ in range(enough):
            message = websocket.receive()
            assert message is not None
            seen.add(message)
        closers = [threading.Thread(target=websocket.close) for _ in range(3)]
        for thread in closers:
            thread.start()
        for thread in writers + closers:
            thread.join(5)
            assert not thread.is_alive()
    assert ends == [StreamClosed] * 8
    assert all(len(message) == 3000 and len(set(message)) == 1 for message in seen)


def test_it_goes_through_the_proxy_that_requests_would_use(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def proxy(listener: socket.socket, target: int) -> None:
        connection, _ = listener.accept()
        with connection, socket.create_connection(("127.0.0.1", target)) as onward:
            asked.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(onward, connection))
            back.start()
            _pass_on(connection, onward)
            back.join()

    def through(url: str) -> bytes | None:
        fresh = HttpTransport(TOKEN)
        with WebSocket(fresh, url).open() as websocket:
            websocket.send(b"hello")
            return websocket.receive()

    with served(echo) as url, socket.create_server(("127.0.0.1", 0)) as listener:
        target = int(url.rpartition(":")[2])
        thread = threading.Thread(target=proxy, args=(listener, target))
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://user:p%40ss@{address}")
        monkeypatch.setenv("no_proxy", "")
        assert through(f"http://platform.test:{target}") == b"hello"
        thread.join(5)
        [request] = asked
        assert request.startswith(b"CONNECT platform.test:%d " % target)
        assert b"Proxy-Authorization: Basic dXNlcjpwQHNz" in request
        assert TOKEN.encode() not in request
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert through(url) == b"hello"
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigError, match="socks5"):
        through("http://platform.test")


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # either side hung up
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_closing_while_a_refused_connection_is_closed_raises_nothing(
    transport: HttpTransport,
) -> None:
    websocket = WebSocket(transport, "http://127.0.0.1:1")
    closed = socket.socket()
    closed.close()
    websocket._socket = closed  # as the thread that opens it leaves it for a moment
    websocket.close()
