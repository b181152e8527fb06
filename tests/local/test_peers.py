"""Which program is at the other end of a connection to this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from neuro_sync.local import peers
from neuro_sync.local.peers import Address, Program, program_at

CONNECT = (
    "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); input()"
)


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def connected() -> Iterator[tuple[Address, Address]]:
    """Connect this process to itself."""
    with (
        listening() as listener,
        socket.create_connection(listener.getsockname()),
        accepted(listener) as ends,
    ):
        yield ends


@contextmanager
def accepted(listener: socket.socket) -> Iterator[tuple[Address, Address]]:
    connection, peer = listener.accept()
    with connection:
        yield peer, connection.getsockname()


def test_a_program_is_known_by_its_connections() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        own = socket.create_connection(("127.0.0.1", port))
        with own, accepted(listener) as here:
            this = program_at(*here)
            assert this is not None
            assert (this.uid, this.pid) == (os.getuid(), os.getpid())
            assert this.is_at(*here)
            with (
                subprocess.Popen(
                    [sys.executable, "-c", CONNECT, str(port)], stdin=subprocess.PIPE
                ) as process,
                accepted(listener) as there,
            ):
                other = program_at(*there)
                assert other is not None
                assert other.pid == process.pid
                assert other.is_at(*there)
                assert not this.is_at(*there)
                assert not other.is_at(*here)
                process.communicate()
            assert not other.is_at(*there)  # it is closed
            own.close()
            assert not this.is_at(*here)
            assert program_at(*here) is None


def test_a_later_process_of_the_same_number_is_another_program() -> None:
    with connected() as ends:
        assert not Program(os.getuid(), os.getpid(), 1.0).is_at(*ends)


def test_of_a_process_that_may_not_be_looked_at_the_user_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "_processes", list)
    with connected() as ends:
        assert program_at(*ends) == Program(os.getuid())
        assert Program(os.getuid()).is_at(*ends)
        assert not Program(os.getuid() + 1).is_at(*ends)
