"""How a connection sends small requests, and reads heads and bodies of many small chunks.

The standard library reads heads with a parser for mail, which takes as long as all else of a small
request. A log often comes one line to a chunk; the standard library reads chunk by chunk, each with
three calls, and here whatever the socket holds is taken apart in one loop.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from neuro_sync.monotonic import monotonic
from neuro_sync.secret_text import SecretBytes

from .deadlines import bounded, seconds_left
from .tls import remember_session

PIECE = 2**17 - 2**12
"""The most bytes of one read. From 128 KiB on the C library maps fresh memory for each."""
LONGEST_SIZE_LINE = 2**12
"""Bytes; a line that is longer is no chunk's size."""


JOINED = 2**16
"""Bytes of a body that are sent together with the head of their request."""
LONGEST_LINE = 2**16
"""Bytes of a line of a head."""
MOST_LINES = 256
"""Of a head."""
MAX_INTERIM_HEADS = 32
"""Heads of status 1xx before the one of the answer, such as ``103 Early Hints``."""


class ChunkDecoder:
    """Takes a chunked body as it comes from the socket; values in, values out.

    Raises:
        ValueError: The bytes are no chunked body.
    """

    def __init__(self) -> None:
        self._pending = b""
        """What came of a size line that is not whole yet."""
        self._left = 0
        """Bytes of the chunk under way that have not come, with the two of its end."""
        self.ended: bool = False

    def feed(self, data: bytes) -> bytes:
        """Return the payload in what came; `ended` tells whether it was the last."""
        parts = []
        place = 0
        if self._left:
            place = min(self._left, len(data))
            # Of what came, the chunk's own two last bytes are no payload.
            parts.append(data[: max(min(place, self._left - 2), 0)])
            self._left -= place
            if self._left:
                return parts[0]
        elif self._pending:
            data, self._pending = self._pending + data, b""
        length = len(data)
        while True:
            end = data.find(b"\r\n", place)
            if end < 0:
                self._pending = data[place:]
                if len(self._pending) > LONGEST_SIZE_LINE:
                    raise ValueError("a chunk without a size")
                break
            size = int(data[place:end].partition(b";")[0], 16)
            if size <= 0:
                self._end(data[place:], size)
                break
            begin = end + 2
            place = begin + size + 2
            if place > length:
                parts.append(data[begin : begin + size])
                self._left = place - length
                break
            parts.append(data[begin : begin + size])
        return b"".join(parts)

    def _end(self, rest: bytes, size: int) -> None:
        """Wait for the trailer, which ends with an empty line."""
        if size < 0:
            raise ValueError(f"a chunk of {size} bytes")
        _, _, trailer = rest.partition(b"\r\n")
        if trailer.startswith(b"\r\n") or b"\r\n\r\n" in trailer:
            self.ended = True
        else:
            self._pending = rest


class _Headers(http.client.HTTPMessage):
    """The headers of an answer as they came; the library's own parser is one for mail."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__()
        for name, value in pairs:
            self.set_raw(name, value)

    def items(self) -> list[tuple[str, str]]:
        return list(self.raw_items())


class ProxyLoginRequired(OSError):
    """A proxy wants another login, or one at all."""


class _BoundedReader(io.RawIOBase):
    """Reads an answer of a call that has a deadline.

    The timeout of a socket bounds each read, and starts again with each byte of a slow answer.
    """

    def __init__(self, connected: socket.socket, source: io.BufferedReader) -> None:
        super().__init__()
        self._socket = connected
        self._timeout = connected.gettimeout()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(bounded(self._timeout))
        count: int | None = self._source.raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer of which the head is read in one loop, and a chunked body as far as it came."""

    _decoder: ChunkDecoder | None = None

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        """Read from a connection, until the deadline of the call if there is one."""
        super().__init__(sock, *args, **options)
        if seconds_left() < math.inf:
            self.fp = io.BufferedReader(_BoundedReader(sock, self.fp))

    def begin(self) -> None:
        """Read the head.

        Raises:
            http.client.HTTPException: It is none, or it breaks off.
        """
        if self.headers is not None:
            return
        for _ in range(MAX_INTERIM_HEADS + 1):
            status, *lines = _read_head(self.fp)
            version, code, reason = _read_status(status)
            if not 100 <= code < 200 or code == http.client.SWITCHING_PROTOCOLS:
                break
        else:
            raise http.client.HTTPException(f"more than {MAX_INTERIM_HEADS} heads, and no answer")
        self.version = version
        self.code = self.status = code
        self.reason = reason
        pairs = _read_pairs(lines)
        self.headers = self.msg = _Headers(pairs)
        fields: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            fields[key] = f"{fields[key]}, {value}" if key in fields else value
        coding = fields.get("transfer-encoding", "")
        self.chunked = coding != "" and _list_items(coding)[-1] == "chunked"
        self.chunk_left = None
        connection = fields.get("connection", "")
        options = _list_items(connection) if connection else []
        self.will_close = "close" in options or (version == 10 and "keep-alive" not in options)
        self.length = None if self.chunked else _read_length(fields.get("content-length", ""))
        if code in (http.client.NO_CONTENT, http.client.NOT_MODIFIED) or self._method == "HEAD":
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True

    def _read_status(self) -> tuple[str, int, str]:
        """Read the first line of a proxy's answer to CONNECT; `begin` reads all others.

        Raises:
            ProxyLoginRequired: The proxy wants a login.
        """
        version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stub
        if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
            raise ProxyLoginRequired(f"it answered: {status} {reason.strip()}")
        return version, status, reason

    def read1(self, n: int = -1) -> bytes:
        """Return what came, at least one byte until the end; `n` is only a hint when chunked."""
        if not self.chunked or self.fp is None:
            return super().read1(n)
        decoder = self._decoder = self._decoder or ChunkDecoder()
        source: io.BufferedReader = self.fp
        payload = b""
        while not payload and not decoder.ended:
            data = source.read1(PIECE)
            if not data:
                raise http.client.IncompleteRead(payload)
            try:
                payload = decoder.feed(data)
            except ValueError as error:
                raise http.client.IncompleteRead(b"") from error
        if decoder.ended:
            self.close()  # the connection is free for the next request
        return payload


def _read_head(source: io.BufferedReader) -> list[bytes]:
    """Read lines up to the empty one that ends a head."""
    lines: list[bytes] = []
    while True:
        line = source.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            if len(line) == LONGEST_LINE:
                raise http.client.LineTooLong("head")
            if not lines and not line:
                raise http.client.RemoteDisconnected("the connection was closed without an answer")
            # The standard library takes the end of the connection for that of the head, and half
            # a number for the length of the body.
            raise http.client.IncompleteRead(line)
        if not lines and not line.startswith(b"HTTP/"):
            # At once: what speaks another protocol may now wait for us.
            raise http.client.BadStatusLine(line.decode("latin-1"))
        if b"\0" in line:
            raise http.client.HTTPException(f"no line of a head: {line[:100]!r}")
        if line in (b"\r\n", b"\n"):
            return lines
        lines.append(line)
        if len(lines) > MOST_LINES:
            raise http.client.HTTPException(f"a head of more than {MOST_LINES} lines")


def _read_status(line: bytes) -> tuple[int, int, str]:
    """Return the version, as 10 or 11, the status and its reason."""
    version, _, rest = line.strip().partition(b" ")
    code, _, reason = rest.strip().partition(b" ")
    is_status = len(code) == 3 and code.isdigit() and code >= b"100"
    if not version.startswith(b"HTTP/1.") or not is_status:
        raise http.client.BadStatusLine(line.decode("latin-1"))
    return 10 if version == b"HTTP/1.0" else 11, int(code), reason.strip().decode("latin-1")


def _read_pairs(lines: list[bytes]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if name[:1] in (" ", "\t") and pairs:  # it goes on with the line above
            name, above = pairs.pop()
            pairs.append((name, f"{above} {line.decode('latin-1').strip()}"))
        elif not colon or not name or name != name.strip():
            raise http.client.HTTPException(f"no header: {line[:100]!r}")
        else:
            pairs.append((name, value.strip()))
    return pairs


def _list_items(field: str) -> list[str]:
    """Return the items of a header that is a list, such as ``close, Upgrade``, in lower case."""
    return [item.strip() for item in field.lower().split(",")]


def _read_length(field: str) -> int | None:
    """Return the length of a body; None if the end of the connection is its end.

    Raises:
        http.client.HTTPException: There are several lengths.
    """
    if "," in field:  # a proxy in between may have joined two equal ones
        lengths = set(_list_items(field))
        if len(lengths) > 1:
            raise http.client.HTTPException(f"several lengths: {field[:100]}")
        (field,) = lengths
    return int(field) if field.isascii() and field.isdigit() else None


class _JoinedRequests(HTTPConnection):
    """Sends the head of a request and a small body as one piece.

    The library sends two, which costs a call of the kernel here, and wakes the platform up twice.
    """

    timeout: float | None
    """Seconds to connect; None is no limit."""
    read_timeout: float | None = None
    """Seconds of silence while something is sent or read; None is no limit."""
    _held: bytearray | None = None
    _buffer: list[bytes]
    """The lines of the head that is being put together, in the library."""
    _is_connecting: bool = False
    connect_seconds: float = 0.0
    """How long it took to connect, TLS included."""
    _is_remembered: bool = False
    """Whether the session of TLS was kept for other connections."""

    def connect(self) -> None:
        """Connect, and note how long it takes."""
        began = monotonic()
        self._is_remembered = False
        self._is_connecting = True
        try:
            self.timeout = bounded(self.timeout)
            super().connect()
        finally:
            self._is_connecting = False
        self.connect_seconds = monotonic() - began

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        connected.settimeout(bounded(self.timeout))  # for the handshake of TLS, which follows
        return connected

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except ProxyLoginRequired:
            self.close()  # as the library does, which takes it for the platform's answer if not
            raise

    def request(  # type: ignore[override]  # of the standard library's own
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
        preload_content: bool = True,
        decode_content: bool = True,
        enforce_content_length: bool = True,
    ) -> None:
        """Send a request."""
        size = len(body) if isinstance(body, bytes) else getattr(body, "size", JOINED + 1)
        if isinstance(body, bytes | SecretBytes) and size <= JOINED:
            self._held = bytearray()
        try:
            super().request(
                method,
                url,
                body,
                headers,
                chunked=chunked,
                preload_content=preload_content,
                decode_content=decode_content,
                enforce_content_length=enforce_content_length,
            )
            if self._held:
                # A view: what is in the head and the body is shown by no traceback.
                held, self._held = memoryview(self._held), None
                self.send(held)
        finally:
            self._held = None

    def _send_output(self, *_: Any, **__: Any) -> None:
        """Send the head; urllib3 sends bodies itself."""
        # A view: no traceback shows the token in it.
        head = memoryview(b"\r\n".join([*self._buffer, b"", b""]))
        self._buffer.clear()
        self.send(head)

    def send(self, data: Any) -> None:
        """Send a piece, or hold it back until the request is whole.

        The read timeout bounds each pause of the platform, as it does while an answer is read. In
        the library it is the connect timeout, and it bounds a whole piece.
        """
        if self._held is not None:
            self._held += data
            return
        if self.sock is None:
            self.connect()
        timeout = self.timeout if self._is_connecting else self.read_timeout
        left = memoryview(data)
        while left:
            self.sock.settimeout(bounded(timeout))
            left = left[self.sock.send(left) :]

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as above
        """Read the head of the answer."""
        # It is the answer's own once the connection is known to close after it.
        connected = self.sock
        answer: Any = super().getresponse()
        if not self._is_remembered:
            self._is_remembered = True
            remember_session(connected)
        answer.connected = connected
        return answer  # type: ignore[no-any-return]


def wait_for_ever(answer: Any) -> None:
    """Lift the timeout of what is read of an answer's body."""
    connected = getattr(answer, "connected", None)  # that of a mock has none
    if connected is not None:
        connected.settimeout(None)


class Connection(_JoinedRequests):
    response_class: Any = Response


class SecureConnection(_JoinedRequests, HTTPSConnection):
    response_class: Any = Response


class LendingPool(urllib3.HTTPConnectionPool):
    """Lends connections to who sends several requests before an answer has come."""

    # What `connect_ahead` makes; who takes it out waits for it.
    _ahead: threading.Thread | None = None

    def lend(self) -> Connection | SecureConnection:
        """Return an idle connection, or a new one that is not connected yet."""
        connection: Any = self._get_conn()
        return connection  # type: ignore[no-any-return]

    def take_back(self, connection: Connection | SecureConnection) -> None:
        """Keep a connection for others; every answer on it was read."""
        self._put_conn(connection)

    def connect_ahead(self, timeout: float | None) -> None:
        """Begin to connect, for a request that will follow at once, unless there was one before."""
        if self.proxy is None and self._ahead is None and not self.num_connections:
            ahead = threading.Thread(
                target=self._connect, args=(self.lend(), timeout), name="neuro-connect", daemon=True
            )
            ahead.start()
            self._ahead = ahead  # whoever finds it waits for it, so it has to run by then

    def _connect(self, connection: Connection | SecureConnection, timeout: float | None) -> None:
        connection.timeout = timeout
        # Whoever wants to send something tries again, and tells why it fails.
        with suppress(Exception):
            connection.connect()
        self.take_back(connection)

    def _get_conn(self, timeout: float | None = None) -> Any:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.join(bounded(None))
        return super()._get_conn(timeout)

    def _make_request(self, conn: Any, *args: Any, **options: Any) -> Any:
        conn.read_timeout = options["timeout"].read_timeout
        return super()._make_request(conn, *args, **options)


class _Pool(LendingPool):
    ConnectionCls = Connection


class _SecurePool(LendingPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = SecureConnection


POOLS: dict[str, Any] = {"http": _Pool, "https": _SecurePool}
"""What a pool manager makes its connections with."""


def socks_pools() -> dict[str, Any]:
    """Return the same for a manager that goes through a SOCKS proxy."""
    # With PySocks, which only those have who go through such a proxy.
    from urllib3.contrib.socks import (
        SOCKSConnection,
        SOCKSHTTPConnectionPool,
        SOCKSHTTPSConnection,
        SOCKSHTTPSConnectionPool,
    )

    class ThroughSocks(_JoinedRequests, SOCKSConnection):
        response_class = Response

    class SecureThroughSocks(_JoinedRequests, SOCKSHTTPSConnection):
        response_class = Response

    class Pool(SOCKSHTTPConnectionPool):
        ConnectionCls = ThroughSocks

    class SecurePool(SOCKSHTTPSConnectionPool):
        ConnectionCls = SecureThroughSocks

    return {"http": Pool, "https": SecurePool}
