"""What may stand between a client and a platform: a front door that speaks TLS, an HTTP proxy."""

from __future__ import annotations

import json
import re
import select
import socket
import socketserver
import ssl
import threading
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from neuro_sync.models import frames

LOOPBACK = "127.0.0.1"


class _Listener:
    """A server on the loopback address with a thread for each connection, while a block lasts."""

    def __init__(self) -> None:
        talk = self._talk

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # either side may leave when it likes
                    talk(self.request)

        self._listener = socketserver.ThreadingTCPServer((LOOPBACK, 0), Handler)
        self._listener.daemon_threads = True
        self.port: int = self._listener.server_address[1]

    def __enter__(self) -> Self:
        options = {"poll_interval": 0.01}
        threading.Thread(target=self._listener.serve_forever, kwargs=options, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown()
        self.close()

    def close(self) -> None:
        """Refuse everybody; for one that never served."""
        self._listener.server_close()

    def _talk(self, client: socket.socket) -> None:
        raise NotImplementedError


class EngineRelay:
    """Stands between a platform and a container engine, which may go away and come back."""

    def __init__(self, target: str, folder: Path) -> None:
        self._target = target.removeprefix("unix://")
        self._path = folder / "relay"
        self.url = f"unix://{self._path}"
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def appear(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def vanish(self) -> None:
        """Refuse everybody, and cut all conversations."""
        self._path.unlink()
        assert self._listener is not None
        # close() alone would leave the thread in its accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in [*self._open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                engine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                engine.connect(self._target)
                self._open |= {client, engine}
                threading.Thread(target=self._talk, args=(client, engine), daemon=True).start()

    def _talk(self, client: socket.socket, engine: socket.socket) -> None:
        back = threading.Thread(target=_pour, args=(engine, client), daemon=True)
        back.start()
        _pour(client, engine)
        back.join()
        self._open -= {client, engine}
        client.close()
        engine.close()

    def __enter__(self) -> Self:
        self.appear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.vanish()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes one way until their end, and tell it."""
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class FrontDoor(_Listener):
    """Hands each request on to a local platform, as a load balancer before a hosted one does.

    The platform checks its own port in the ``Host`` header and tells its address in ``/config``,
    so both are rewritten. Each connection is of one request, which makes that easy.
    """

    def __init__(
        self,
        target: int,
        context: ssl.SSLContext | None = None,
        *,
        host: str = LOOPBACK,
        services: str | None = None,
    ) -> None:
        """Stand before the platform on a port; with a `context`, speak TLS.

        `host` is by which name it is reached; `services` is the address that ``/config`` tells for
        all services, if not this one.
        """
        super().__init__()
        self._target = target
        self._context = context
        self.address = f"{'https' if context else 'http'}://{host}:{self.port}"
        self._services = services or self.address
        self._open: set[socket.socket] = set()

    def cut_all(self) -> None:
        """Cut all connections that are open."""
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """Of the API."""
        return f"{self.address}/api/v1"

    def _talk(self, client: socket.socket) -> None:
        if self._context:
            with self._context.wrap_socket(client, server_side=True) as secure:
                self._hand_on(secure)
        else:
            self._hand_on(client)

    def _hand_on(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            self._hand_on_request(client)
        finally:
            self._open.discard(client)

    def _hand_on_request(self, client: socket.socket) -> None:
        head, rest = _read_head(client)
        here = rb"(?i)(\r\nhost: )[^\r]*"
        head = re.sub(here, rb"\g<1>%s:%d" % (LOOPBACK.encode(), self._target), head)
        admitted = self._admitted(head)
        if admitted is None:
            client.sendall(self._refusal(head))
            return
        head = admitted
        if b"upgrade: websocket" not in head.lower():
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        with socket.create_connection((LOOPBACK, self._target)) as server:
            server.sendall(head + rest)
            if head.startswith(b"GET /api/v1/config "):
                client.sendall(self._at_services(_read_all(server)))
            else:
                _pump(client, server)

    def _admitted(self, head: bytes) -> bytes | None:
        """Return the head of a request as it is handed on; None refuses it."""
        return head

    def _refusal(self, head: bytes) -> bytes:
        """Return the answer to a request that is refused."""
        raise NotImplementedError

    def _described(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the platform's description as it is told."""
        return config

    def _at_services(self, answer: bytes) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        body = body.replace(b"http://%s:%d" % (LOOPBACK.encode(), self._target), b"%s")
        body = body.replace(b"%s", self._services.encode())
        body = json.dumps(self._described(json.loads(body))).encode()
        length = b"content-length: %d" % len(body)
        return re.sub(rb"(?i)content-length: \d+", length, head) + b"\r\n\r\n" + body


class DoorWithoutEndOfInput(FrontDoor):
    """Hides that the platform knows the end of a command's input, which the hosted one does not."""

    def _admitted(self, head: bytes) -> bytes | None:
        return head.replace(frames.CHANNELS_WITH_EOF.encode() + b", ", b"")


class HttpProxy(_Listener):
    """An HTTP proxy; it remembers what it was asked for, and may want a login."""

    def __init__(self, login: str | None = None) -> None:
        """Let everybody through, or only who has a `login` such as ``user:password``."""
        super().__init__()
        self._login = b64encode(login.encode()).decode() if login else None
        self.requests: list[str] = []
        """The method and the target of each request, in the order in which they came."""
        self.logins: list[str | None] = []
        """The value of ``Proxy-Authorization`` of each request."""
        self.agents: list[str] = []
        """Who asked, in the words of each request."""

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def _talk(self, client: socket.socket) -> None:
        head, rest = _read_head(client)
        method, target, _ = head.decode("latin-1").split(" ", 2)
        found = re.search(rb"(?i)\r\nproxy-authorization: ([^\r]*)\r\n", head)
        login = found[1].decode() if found else None
        self.requests.append(f"{method} {target}")
        self.logins.append(login)
        agent = re.search(rb"(?i)\r\nuser-agent: ([^\r]*)\r\n", head)
        self.agents.append(agent[1].decode() if agent else "")
        if self._login and login != f"Basic {self._login}":
            client.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
                b"Content-Length: 6\r\nConnection: close\r\n\r\nlogin!"
            )
            return
        place = target if method == "CONNECT" else target.split("/")[2]
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                head = head.replace(f"http://{place}".encode(), b"", 1)
                server.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + rest)
            _pump(client, server)


class SocksProxy(_Listener):
    """A SOCKS proxy of version 5 that wants no login; it counts whom it has connected."""

    connected = 0

    @property
    def address(self) -> str:
        return f"socks5://{LOOPBACK}:{self.port}"

    def _talk(self, client: socket.socket) -> None:
        with client.makefile("rb") as asked:
            _, methods = asked.read(2)
            asked.read(methods)
            client.sendall(b"\5\0")
            asked.read(4)  # an IPv4 address follows
            host, port = socket.inet_ntoa(asked.read(4)), int.from_bytes(asked.read(2), "big")
        client.sendall(b"\5\0\0\1" + bytes(6))
        self.connected += 1
        with socket.create_connection((host, port)) as server:
            _pump(client, server)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return a request up to its empty line, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("it left in the middle of a request")
        data += piece
    head, end, rest = data.partition(b"\r\n\r\n")
    return head + end, rest


def _read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Hand on what comes from either side until one of them ends.

    In one thread: OpenSSL allows one call at a time on a connection, in either direction.
    """
    while True:
        waiting = [side for side in (one, other) if _has_decrypted(side)]
        for side in waiting or select.select([one, other], [], [])[0]:
            data = side.recv(65536)
            if not data:
                return
            (other if side is one else one).sendall(data)


def _has_decrypted(connection: socket.socket) -> bool:
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
