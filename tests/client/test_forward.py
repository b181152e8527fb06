"""A port of a job as a port of this machine: programs on both sides see one connection."""

from __future__ import annotations

import gc
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.sync.server import ServerConnection

from neuro_sync import ConfigError, IllegalArgumentError, JobDescription, PortForward, Session
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.websocket import WebSocket
from tests.scripted_websocket import served

Start = Callable[[str], JobDescription]

SERVER = """
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            if data == b"bye":
                return
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128
    def handle_error(self, *_):
        pass
with Server(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


@pytest.fixture
def forward(session: Session, start: Start) -> Iterator[PortForward]:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command='python3 -c "$SERVER"'.replace("$SERVER", "import os; exec(os.environ['SERVER'])"),
        env={"SERVER": SERVER},
    )
    with session.jobs.logs(job) as lines:
        port = int(next(lines))
    with session.jobs.port_forward(job, 0, port) as opened:
        yield opened
    session.jobs.kill(job)


def connect(forward: PortForward) -> socket.socket:
    return socket.create_connection(("127.0.0.1", forward.local_port), timeout=10)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    writer = threading.Thread(target=connection.sendall, args=(data,))
    writer.start()
    answer = bytearray()
    while len(answer) < len(data):
        piece = connection.recv(65536)
        assert piece
        answer += piece
    writer.join()
    return bytes(answer)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "neuro-sync:" in thread.name]


def test_any_bytes_come_back_from_a_server_in_a_job(forward: PortForward) -> None:
    data = os.urandom(5_000_000)
    with connect(forward) as connection:
        assert exchange(connection, data) == data


def test_many_connections_do_not_mix(forward: PortForward) -> None:
    def talk(number: int) -> None:
        with connect(forward) as connection:
            for turn in range(20):
                line = f"{number} {turn}\n".encode() * 50
                assert exchange(connection, line) == line

    with ThreadPoolExecutor(30) as pool:
        for outcome in [pool.submit(talk, number) for number in range(60)]:
            outcome.result(30)


def test_a_server_that_hangs_up_ends_the_connection(forward: PortForward) -> None:
    with connect(forward) as connection:
        connection.sendall(b"bye")
        assert connection.recv(1) == b""


def test_resets_end_only_their_own_connection(forward: PortForward) -> None:
    with connect(forward) as steady:
        assert exchange(steady, b"before") == b"before"
        for _ in range(10):
            connection = connect(forward)
            connection.sendall(bytes(100_000))
            # Closing then sends a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        assert exchange(steady, b"after") == b"after"
    with connect(forward) as another:
        assert exchange(another, b"also") == b"also"


def test_after_the_end_neither_port_nor_threads_are_left(forward: PortForward) -> None:
    connections = [connect(forward) for _ in range(5)]
    for connection in connections:
        assert exchange(connection, b"x") == b"x"
    assert threads()
    forward.close()
    forward.close()
    assert threads() == []
    for connection in connections:
        assert connection.recv(1) == b""
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        connect(forward)
    with socket.create_server(("127.0.0.1", forward.local_port)):
        pass


def test_a_port_where_the_job_does_not_listen_is_logged_per_connection(
    session: Session, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    job = start("sh -c 'echo ready; exec sleep 60'")
    with session.jobs.logs(job) as lines:
        next(lines)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed_port = unused.getsockname()[1]
    caplog.set_level(logging.WARNING, "neuro_sync")
    with session.jobs.port_forward(job, 0, closed_port) as forward:
        for _ in range(3):
            with connect(forward) as connection:
                assert connection.recv(1) == b""
    session.jobs.kill(job)
    assert len(caplog.records) == 3
    assert f"Cannot connect to port {closed_port}" in caplog.text


def test_a_local_port_in_use_is_told_at_the_call(session: Session, start: Start) -> None:
    job = start("sleep 60")
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used"):
            session.jobs.port_forward(job, port, 80)
    with pytest.raises(ConfigError):
        session.jobs.port_forward(job, 123456, 80)
    with pytest.raises(IllegalArgumentError):
        session.jobs.port_forward("no-such-job", 0, 80)
    session.jobs.kill(job)


def test_a_program_here_that_reads_nothing_keeps_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The websocket's heart beats on while its reader is stuck."""
    size, count = 60_000, 300
    pinged = threading.Event()

    def talk(server: ServerConnection) -> None:
        for _ in range(count):
            server.send(bytes(size))

    def ping(websocket: WebSocket) -> None:
        pinged.set()

    monkeypatch.setattr(WebSocket, "ping", ping)
    transport = HttpTransport("token")
    with (
        served(talk) as url,
        PortForward(lambda: WebSocket(transport, url, heartbeat=0.05), 0, "a port") as forward,
        connect(forward) as connection,
    ):
        assert pinged.wait(10)
        left = size * count
        while left:
            piece = connection.recv(65536)
            assert piece
            left -= len(piece)
    transport.close()


def test_closing_gives_up_a_connection_that_is_being_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = HttpTransport("token")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        forward = PortForward(lambda: WebSocket(transport, url), 0, "a mute port")
        with connect(forward) as connection:
            asked, _ = mute.accept()
            with asked:
                assert asked.recv(10)
                forward.close()
            assert connection.recv(1) == b""
    assert threads() == []
    assert caplog.records == []
    transport.close()


def test_ctrl_c_while_a_forwarded_port_begins_to_listen_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def never() -> WebSocket:
        raise AssertionError

    def start_late(thread: threading.Thread) -> None:
        threads.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_late)
    with pytest.raises(KeyboardInterrupt):
        PortForward(never, 0, "a port")
    gc.collect()
    for thread in threads:
        start(thread)  # it had just been created when Ctrl-C came
        thread.join(5)
        assert not thread.is_alive()
