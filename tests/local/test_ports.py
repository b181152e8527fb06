"""TCP connections into jobs."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import websocket

from neuro_sync import Session

if TYPE_CHECKING:
    from .conftest import Channel, Dial, Run

SERVER = """
import os, socket, sys
listener = socket.create_server((sys.argv[1], 0), family=getattr(socket, sys.argv[2]))
if os.fork():
    os.wait()
os.setsid()
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    if os.fork() == 0:
        while data := connection.recv(65536):
            if data == b"bye":
                break
            connection.sendall(data)
        os._exit(0)
    connection.close()
"""
"""Listens in a child that left the session, and echoes."""
MEBIBYTE = bytes(range(256)) * 4096


@pytest.fixture
def serve(run: Run, session: Session, tmp_path: Path) -> Server:
    return Server(run, session, tmp_path)


class Server:
    """Starts a job that echoes what it is sent over TCP."""

    def __init__(self, run: Run, session: Session, folder: Path) -> None:
        self._run = run
        self._session = session
        self._script = folder / "server.py"
        self._script.write_text(SERVER)

    def __call__(self, address: str, family: str = "AF_INET") -> tuple[str, int]:
        """Return the job's id and the port."""
        job = self._run(f"python '{self._script}' {address} {family}")
        with self._session.jobs.logs(job) as lines:
            return job.id, int(next(lines))


def read(channel: Channel, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += channel.message()
    return data


@pytest.mark.parametrize(
    ("address", "family"), [("127.0.0.1", "AF_INET"), ("0.0.0.0", "AF_INET"), ("::1", "AF_INET6")]
)
def test_bytes_go_to_a_jobs_port_and_come_back(
    dial: Dial, serve: Server, address: str, family: str
) -> None:
    if family == "AF_INET6" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    job, port = serve(address, family)
    channel = dial(job, f"port_forward/{port}", offer=())
    channel.send(b"hello")
    assert read(channel, 5) == b"hello"
    assert channel.websocket.getsubprotocol() is None


def test_many_bytes_go_both_ways_at_once(dial: Dial, serve: Server) -> None:
    job, port = serve("127.0.0.1")
    channel = dial(job, f"port_forward/{port}", offer=())

    def feed() -> None:
        for _ in range(10):
            channel.send(MEBIBYTE)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert read(channel, 10 * len(MEBIBYTE)) == MEBIBYTE * 10
    feeder.join()


def test_several_connections_are_apart(dial: Dial, serve: Server) -> None:
    job, port = serve("127.0.0.1")
    first, second = (dial(job, f"port_forward/{port}", offer=()) for _ in range(2))
    first.send(b"first")
    second.send(b"second")
    assert (read(second, 6), read(first, 5)) == (b"second", b"first")


def test_the_end_of_the_connection_closes_the_websocket(dial: Dial, serve: Server) -> None:
    job, port = serve("127.0.0.1")
    channel = dial(job, f"port_forward/{port}", offer=())
    channel.send(b"bye")
    assert channel.rest().close_code == 1000


def test_the_end_of_the_job_closes_the_websocket(
    dial: Dial, serve: Server, session: Session
) -> None:
    job, port = serve("127.0.0.1")
    channel = dial(job, f"port_forward/{port}", offer=())
    session.jobs.kill(job)
    assert channel.rest().close_code == 1000


def test_a_text_closes_the_websocket(dial: Dial, serve: Server) -> None:
    job, port = serve("127.0.0.1")
    channel = dial(job, f"port_forward/{port}", offer=())
    channel.websocket.send("text")
    assert channel.rest().close_code == 1000


def test_a_port_of_another_process_is_refused_like_one_where_nobody_listens(
    dial: Dial, run: Run, serve: Server
) -> None:
    job = run("sleep 600")
    other_job, port = serve("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as foreign, socket.socket() as nobodys:
        nobodys.bind(("127.0.0.1", 0))
        ports = [foreign.getsockname()[1], nobodys.getsockname()[1], port]
        for number in ports:
            status, body = dial.refused(job, f"port_forward/{number}", offer=())
            assert status == 400
            assert body == {
                "msg": f"Cannot connect to port {number}",
                "error": "ConnectionRefusedError(111, 'Connection refused')",
            }
        foreign.settimeout(0)
        with pytest.raises(BlockingIOError):
            foreign.accept()
    # It is looked up for each connection: it is the job that counts, not the port.
    assert dial(other_job, f"port_forward/{port}", offer=()).websocket.connected


def test_a_client_that_leaves_ends_its_connection(dial: Dial, run: Run, session: Session) -> None:
    program = (
        'import socket; listener = socket.create_server(("127.0.0.1", 0));'
        "print(listener.getsockname()[1], flush=True);"
        "print(listener.accept()[0].recv(9), flush=True)"
    )
    job = run(f"python -c '{program}'")
    with session.jobs.logs(job) as lines:
        dial(job, f"port_forward/{next(lines)}", offer=()).leave()
        assert next(lines) == "b''"


def test_a_client_that_does_not_read_holds_the_job_up(
    dial: Dial, run: Run, session: Session
) -> None:
    program = (
        'import socket; listener = socket.create_server(("127.0.0.1", 0));'
        "print(listener.getsockname()[1], flush=True);"
        "connection = listener.accept()[0]; connection.settimeout(0.3);\n"
        "try: [connection.send(bytes(2**20)) for _ in range(200)]\n"
        'except TimeoutError: print("held up", flush=True)'
    )
    job = run(f"python -c '{program}'")
    with session.jobs.logs(job) as lines:
        channel = dial(job, f"port_forward/{next(lines)}", offer=())
        assert next(lines) == "held up"
    assert isinstance(channel.websocket, websocket.WebSocket)
