"""For tests of code that uses this package: connections that fail in ways of your choice.

The fixture ``neuro_faults`` puts a `FaultProxy` before the local platform.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

from typing_extensions import Self

METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")


@dataclass
class Fault:
    """What happens to the connection of one request."""

    cut_after: int | None = None
    """Reset the connection after so many bytes of the answer."""
    hang_after: int | None = None
    """Hand nothing on after so many bytes of the answer, and leave the connection open."""
    garbage_after: int | None = None
    """Send nonsense after so many bytes of the answer, and close."""
    cut_request_after: int | None = None
    """Reset the connection after so many bytes of the request."""
    delay: float = 0.0
    """Hold the answer back for so many seconds."""
    answer: bytes | None = None
    """Answer this instead of asking the platform."""
    hit: threading.Event = field(default_factory=threading.Event)
    """Set when it happened."""


class FaultProxy:
    """Listens on the loopback address, for as long as the block lasts.

    Each request gets the next of the faults that were planned for its kind, or none. The
    platform checks its own port in the ``Host`` header and tells it in ``/config``, so both
    are rewritten; ports are of five digits, so that no length changes.
    """

    def __init__(self, target: int) -> None:
        """Pass everything on to a port of this machine."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._plans: list[tuple[bytes, Iterator[Fault]]] = []
        self._sockets: set[socket.socket] = set()
        # Guards the plans and the set of sockets against the threads of the connections.
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Of the platform's API, by way of this proxy."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    def plan(self, request: str, *faults: Fault) -> None:
        """Let the next requests that begin like this, such as ``POST /api``, go wrong."""
        with self._lock:
            self._plans = [plan for plan in self._plans if plan[0] != request.encode()]
            self._plans.append((request.encode(), iter(faults)))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            with self._lock:
                self._sockets |= {client, server}
            for direction in (self._requests, self._answers):
                threading.Thread(target=self._run, args=(direction, link), daemon=True).start()

    def _run(self, direction: Callable[[_Link], None], link: _Link) -> None:
        with contextlib.suppress(OSError):
            direction(link)
        for connection in (link.client, link.server):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets -= {link.client, link.server}
        link.close_one()

    def _requests(self, link: _Link) -> None:
        while data := link.client.recv(65536):
            data = data.replace(b":%d" % self.port, b":%d" % self._target)
            if data.startswith(METHODS):  # and not the body, which may come by itself
                link.fault, link.sent, link.asked = self._fault_of(data), 0, 0
            limit, before = link.fault.cut_request_after, link.asked
            link.asked += len(data)
            if limit is not None and link.asked > limit:
                link.fault.hit.set()
                link.server.sendall(data[: limit - before])
                return
            if link.fault.answer is not None:
                _pass_over_body(link.client, data)
                link.fault.hit.set()
                link.client.sendall(link.fault.answer)
                continue
            link.server.sendall(data)

    def _fault_of(self, data: bytes) -> Fault:
        with self._lock:
            for request, faults in self._plans:
                if data.startswith(request):
                    return next(faults, Fault())
        return Fault()

    def _answers(self, link: _Link) -> None:
        ours, theirs = b":%d" % self.port, b":%d" % self._target
        while data := link.server.recv(65536):
            data = data.replace(theirs, ours)
            if link.fault.delay and not link.sent:
                link.fault.hit.set()
                threading.Event().wait(link.fault.delay)
            fault, before = link.fault, link.sent
            link.sent += len(data)
            for limit in (fault.cut_after, fault.hang_after, fault.garbage_after):
                if limit is None or link.sent <= limit:
                    continue
                fault.hit.set()
                link.client.sendall(data[: limit - before])
                if fault.garbage_after is not None:
                    link.client.sendall(b"\xff\x00 this is no protocol \r\n\r\n")
                if fault.hang_after is not None:
                    link.client.recv(1)  # until the client gives up
                return
            link.client.sendall(data)


def _pass_over_body(connection: socket.socket, data: bytes) -> None:
    """Read the rest of a request of which the head has come, and nothing of the next one."""
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    left = int(length[1]) - len(body) if length else 0
    while left > 0 and (piece := connection.recv(min(left, 65536))):
        left -= len(piece)


class _Link:
    """The two sockets of a connection, and what goes wrong with it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.fault = Fault()
        self.sent = 0
        self.asked = 0
        self._ends = threading.Semaphore(1)

    def close_one(self) -> None:
        """Close both when the second direction has ended."""
        if not self._ends.acquire(blocking=False):
            self.client.close()
            self.server.close()
