"""How requests come in and answers go out: what is too slow, too large or too much is refused.

The libraries below speak HTTP and websocket; here is what they leave open.
"""

from __future__ import annotations

import asyncio
import os
import resource
from functools import partial
from http import HTTPStatus
from io import FileIO
from typing import Any, Protocol, cast

from starlette.requests import ClientDisconnect
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request

HEAD_TIMEOUT = 20.0
"""Seconds in which the head of a request has to be there; nobody holds connections with halves."""
LARGEST_HEAD = 2**18
"""Bytes of the head of any request: of the API, of a websocket, or to a job's web page."""
LINGER_S = 2.0
"""How long a client that was refused may go on to send before its connection is closed."""
HANDSHAKE_METHODS = frozenset({"GET", "POST"})
"""The hosted platform takes a handshake by POST too; the standard knows only GET."""
MOST_CONNECTIONS = 2000
"""At once; fewer where this process may open fewer files, of which jobs and logs need theirs."""
MOST_REFUSED = 50
"""Connections beyond the limit that are waited for at a time; further ones are closed at once."""
TOO_MANY = "This platform has too many connections at once; close some."
ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before the first of them is counted; each takes a file."""
JOINED = 2**16
"""Bytes of an answer that are sent together with its head."""
TURN = 2**21
"""Bytes of a file that are sent before others have their turn."""


def most_connections() -> int:
    """Return how many connections there may be at once, so that files are left for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft // 3)


class Connections(ServerState):
    """The connections of one platform: to its API, and to the web pages of its jobs.

    Both are counted together. Pages have at most half of what there may be, so that the API always
    has the other half, whatever is done to the pages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pages = 0
        """Connections to pages that were admitted; each has a second one, to its job."""

    @property
    def is_over_limit(self) -> bool:
        """Whether the newest connection of the API is one too many."""
        return self._total > most_connections()

    @property
    def is_far_over_limit(self) -> bool:
        """Whether there are too many even to wait until the newest has asked for something."""
        return self._total > most_connections() + MOST_REFUSED

    @property
    def has_room_for_page(self) -> bool:
        most = most_connections()
        return self.pages < most // 2 and self._total < most

    @property
    def _total(self) -> int:
        return len(self.connections) + self.pages


class SendFile(Protocol):
    """Sends a part of a file as the body of the answer that has begun."""

    async def __call__(self, file: FileIO, offset: int, count: int) -> None:
        """Send so many bytes from an offset on.

        Raises:
            ClientDisconnect: Nobody receives them any more, or the file has fewer by now.
        """


def file_sender(scope: Scope) -> SendFile:
    """Return what sends files to whoever made a request."""
    send: SendFile = scope["extensions"][SendFile.__name__]
    return send


class _JoinedWrites(asyncio.Transport):
    """A connection that sends the head of an answer and what follows at once as one piece.

    Each piece costs both sides a call of the kernel, and the client is woken up by each.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        if self._held:
            if len(data) > JOINED:
                self.flush()
            else:
                data, self._held = self._held + data, b""
        elif len(data) <= JOINED:
            self._held = bytes(data)
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send what is held back, at the latest when whoever wrote it waits for something."""
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Http(HttpToolsProtocol):
    """HTTP for which a head has to come in time and in size, on not too many connections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_size = 0
        # The last bytes of what came: the end of a head may come in two pieces.
        self._head_tail = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_too_many = False
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast("asyncio.Transport", transport)
        super().connection_made(self._connection)
        self.transport = self._joined = _JoinedWrites(self._connection, self.loop)
        counted = cast("Connections", self.server_state)
        if counted.is_far_over_limit:
            self._is_refused = True
            self._connection.write(refusal(503, TOO_MANY))
            self.loop.call_soon(self._connection.close)
            return
        self._is_too_many = counted.is_over_limit
        # One too many is told so when it has asked, lest it learn of nothing but a reset.
        self._await_head(1.0 if self._is_too_many else HEAD_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_too_many:
            self._refuse(503, TOO_MANY)
            return
        if self._head_timer is not None and self._head_size + self._of_head(data) > LARGEST_HEAD:
            self._refuse(431, f"The head of a request has at most {LARGEST_HEAD} bytes.")
            return
        super().data_received(data)
        if self._head_timer is not None:
            self._head_size += len(data)
            self._head_tail = (self._head_tail + data)[-3:]

    def _of_head(self, data: bytes) -> int:
        """Return how many bytes of what came belong to the head."""
        tail = self._head_tail
        end = (tail + data).find(b"\r\n\r\n")
        return len(data) if end < 0 else end + 4 - len(tail)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, with the head as it was read.

        The library writes the head again, to be read by a parser of 8 KiB a line.
        """
        scope = cast("dict[str, Any]", self.scope)
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        method = scope["method"]
        if method not in HANDSHAKE_METHODS:
            self._refuse(405, f"A websocket is opened by GET, not by {method}.")
            return
        if any(is_body_header(*header) for header in headers):
            self._refuse(400, "A request for a websocket has no body.")
            return
        if not self.url.isascii():
            self._refuse(
                400, "The address of a request is ASCII; anything else is percent-encoded."
            )
            return
        self.transport = self._connection  # it is the websocket's from now on
        self.connections.discard(self)
        websocket = WebSockets(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        websocket.connection_made(self._connection)
        websocket.shake_hands(self.url.decode(), headers)
        self._connection.set_protocol(websocket)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:  # not the first one of its connection
            self._await_head(HEAD_TIMEOUT)

    def on_headers_complete(self) -> None:
        self._end_of_head()
        super().on_headers_complete()
        # Requests may queue up, so the cycle is not always the one that is being answered.
        send_file = partial(self._send_file, self.cycle)
        cast("dict[str, Any]", self.scope)["extensions"] = {SendFile.__name__: send_file}

    async def _send_file(
        self, cycle: RequestResponseCycle, file: FileIO, offset: int, count: int
    ) -> None:
        """Send a file; the kernel takes a large one, whose bytes never come into this process."""
        await self.flow.drain()
        if cycle.disconnected or self._connection.is_closing():
            raise ClientDisconnect
        try:
            if count <= JOINED:
                content = os.pread(file.fileno(), count, offset)
                self.transport.write(content)
                sent = len(content)
            else:
                self._joined.flush()
                sent = 0
                # In turns, since the kernel goes on for as long as a quick client keeps up.
                while sent < count:
                    part = min(TURN, count - sent)
                    done = await self.loop.sendfile(self._connection, file, offset + sent, part)
                    sent += done
                    if done < part:
                        break
        except OSError:
            # While a file is sent nothing is read, so that this may be the first sign of it.
            sent = 0
        cycle.expected_content_length -= sent
        if sent < count:
            # The connection is cut, so that nobody takes for whole what has become shorter.
            cycle.disconnected = True
            self._connection.abort()
            raise ClientDisconnect

    def _await_head(self, timeout: float) -> None:
        self._head_size = 0
        self._head_tail = b""
        self._head_timer = self.loop.call_later(timeout, self._connection.close)

    def _end_of_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(refusal(status, text))
        # Closed at once, with something unread, it would be reset, and the answer lost.
        self._is_refused = True
        self._end_of_head()
        self._joined.flush()
        self._connection.write_eof()
        self.loop.call_later(LINGER_S, self._connection.close)


def refusal(status: int, text: str) -> bytes:
    """Return an answer after which the connection is closed."""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
    head += f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head + text).encode()


def is_body_header(name: bytes, value: bytes) -> bool:
    """Return whether a header tells of a body that is not empty."""
    return name == b"transfer-encoding" or (name == b"content-length" and value != b"0")


class WebSockets(WebSocketsSansIOProtocol):
    """Websockets as the protocol has them, and patient with a job that does not read."""

    def shake_hands(self, target: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer a handshake whose head was read already."""
        # A head in its place brings the library's parser to where the messages begin.
        self.conn.receive_data(b"GET / HTTP/1.1\r\n\r\n")
        (request,) = self.conn.events_received()
        assert isinstance(request, Request)  # noqa: S101  # what the head above is
        request.path = target
        # No header of the handshake has other bytes; the application gets all as they came.
        request.headers = Headers(
            (name.decode(), value.decode("ascii", "ignore")) for name, value in headers
        )
        self.handle_connect(request)
        if not self.close_sent:
            self.scope["headers"] = headers

    def keepalive_timeout(self) -> None:
        # While the application holds the reading, the pong may well lie behind what is not read;
        # a client that has gone makes the next ping fail.
        if self.read_paused:
            self.pong_timer = None
            self.send_keepalive_ping()
        else:
            super().keepalive_timeout()
