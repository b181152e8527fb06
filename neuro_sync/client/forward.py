"""A port of a job, as a port of this machine."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from neuro_sync.closing import CloseWhenDropped, Closing
from neuro_sync.errors import ConfigError, NeuroError, StreamClosed

if TYPE_CHECKING:
    from neuro_sync.transport.websocket import WebSocket

logger: logging.Logger = logging.getLogger("neuro_sync")

HOST = "127.0.0.1"
LAST_PORT = 65535
PIECE = 2**16
"""The most bytes of one message."""
CLOSING_PATIENCE = 1.0
"""Seconds in which what was sent last may still leave."""


class PortForward(Closing):
    """Listens on a port of this machine; each connection to it is one to a port of the job.

    It works from the moment it is made until `close`, the end of a ``with`` block, or until it is
    dropped. A connection that fails is logged and closed, and the others go on. The platform
    cannot tell one side that the other is done sending but goes on reading: the end of one
    direction is the end of both.
    """

    def __init__(self, dial: Callable[[], WebSocket], local_port: int, what: str) -> None:
        """Listen; `dial` prepares the websocket of a connection."""
        self._listener = _Listener(dial, local_port, what)
        self.local_port: int = self._listener.port
        """The port of this machine; a free one, if 0 was asked for."""
        # The threads do not keep it alive, so that it ends when it is dropped, also when Ctrl-C
        # comes just before the caller gets it or while it is closed.
        self._stop = CloseWhenDropped(self, self._listener.close)
        self._listener.start()

    def close(self) -> None:
        """Close all connections and give the port back; no thread is left."""
        self._stop()

    def __repr__(self) -> str:
        return f"<PortForward {self._listener}>"


class _Listener:
    """Accepts connections in a thread of its own, and knows those that are open."""

    def __init__(self, dial: Callable[[], WebSocket], local_port: int, what: str) -> None:
        self._dial = dial
        self._what = what
        is_number = isinstance(local_port, int) and not isinstance(local_port, bool)
        if not is_number or not 0 <= local_port <= LAST_PORT:
            raise ConfigError(f"there is no port {local_port!r}; they go from 1 to {LAST_PORT}")
        try:
            self._listener = socket.create_server((HOST, local_port), backlog=128)
        except OSError as error:
            raise ConfigError(f"port {local_port} of {HOST} cannot be used: {error}") from error
        self.port: int = self._listener.getsockname()[1]
        self._waker, self._woken = socket.socketpair()
        # Guards what follows, which the listening thread and `close` share.
        self._lock = threading.Lock()
        self._closed = False
        self._listening = False
        self._tunnels: set[_Tunnel] = set()
        self._thread = threading.Thread(
            target=self._listen, name=f"neuro-sync: {what}", daemon=True
        )

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()

    def close(self) -> None:
        """Close all connections and give the port back; no thread is left."""
        with self._lock:
            self._closed = True
            was_listening = self._listening
            tunnels = list(self._tunnels)
        # Not by closing it: a child of a fork may have it open, too.
        with suppress(OSError):  # it was closed before
            self._waker.shutdown(socket.SHUT_RDWR)
        self._waker.close()
        for tunnel in tunnels:
            tunnel.close()
        if not was_listening:  # Ctrl-C came before
            self._listener.close()
            self._woken.close()
            return
        self._thread.join()
        for tunnel in tunnels:
            tunnel.thread.join()

    def __str__(self) -> str:
        return f"{HOST}:{self.port} to {self._what}"

    def _listen(self) -> None:
        """Accept until closed, in a thread of its own."""
        with self._lock:
            if self._closed:
                return
            self._listening = True
        with self._listener, self._woken, selectors.DefaultSelector() as selector:
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closed:
                selector.select()
                try:
                    connection, _ = self._listener.accept()
                except BlockingIOError:  # woken, or whoever called hung up already
                    continue
                except OSError as error:  # out of descriptors, for one
                    logger.warning("%s: a connection was not accepted: %s", self._what, error)
                    self._woken.settimeout(0.1)
                    with suppress(TimeoutError):
                        self._woken.recv(1)
                    continue
                self._tunnel(connection)
            with suppress(OSError):  # nor listens a child of a fork any longer
                self._listener.shutdown(socket.SHUT_RDWR)

    def _tunnel(self, connection: socket.socket) -> None:
        try:
            tunnel = _Tunnel(connection, self._dial(), self._what, self._forget)
        except NeuroError as error:  # the session is closed
            logger.warning("%s: a connection failed: %s", self._what, error)
            connection.close()
            return
        with self._lock:
            if self._closed:
                connection.close()
                return
            self._tunnels.add(tunnel)
        tunnel.thread.start()

    def _forget(self, tunnel: _Tunnel) -> None:
        with self._lock:
            self._tunnels.discard(tunnel)


class _Tunnel:
    """One connection, and its websocket: a thread for each direction."""

    def __init__(
        self,
        connection: socket.socket,
        websocket: WebSocket,
        what: str,
        forget: Callable[[_Tunnel], None],
    ) -> None:
        self._connection = connection
        self._websocket = websocket
        self._what = what
        self._forget = forget
        self.thread = threading.Thread(
            target=self._run, name=f"neuro-sync: {what}, connection", daemon=True
        )

    def close(self) -> None:
        self._websocket.close()
        self._shut()

    def _shut(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        up = threading.Thread(target=self._send, name=self.thread.name + ", up", daemon=True)
        try:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # So that the websocket's heart beats while the program here takes in nothing.
            self._connection.settimeout(self._websocket.heartbeat)
            self._websocket.open()
            up.start()
            self._receive()
        except StreamClosed:
            logger.debug("%s: a connection was closed", self._what)
        except NeuroError as error:
            logger.warning("%s: a connection failed: %s", self._what, error)
        except OSError as error:
            logger.debug("%s: the program here hung up: %s", self._what, error)
        finally:
            self._websocket.close()
            self._shut()
            if up.ident is not None:
                up.join()
            self._connection.close()
            self._forget(self)

    def _receive(self) -> None:
        while (data := self._websocket.receive()) is not None:
            left = memoryview(data)
            while left:
                left = left[self._hand_on(left) :]

    def _hand_on(self, data: memoryview) -> int:
        """Return how much of it the program here took, nothing if it is slow."""
        try:
            return self._connection.send(data)
        except TimeoutError:
            self._websocket.ping()
            return 0

    def _send(self) -> None:
        try:
            while True:
                try:
                    data = self._connection.recv(PIECE)
                except TimeoutError:
                    continue
                if not data:
                    break
                self._websocket.send(data)
        except (NeuroError, OSError) as error:
            logger.debug("%s: a connection ended: %s", self._what, error)
        # What was sent arrives before the farewell; then the platform ends the other direction.
        if not self._websocket.end(CLOSING_PATIENCE):
            self._websocket.close()
