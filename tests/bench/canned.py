"""A server that answers from memory: what a platform said once, and two endless logs' beginnings.

It knows just enough HTTP and websocket to send what was encoded before anybody asked, so that the
time of a stream is the client's.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

from typing_extensions import Self

LINES = "job-00000000-0000-0000-0000-0000000lines"
CHUNKS = "job-00000000-0000-0000-0000-000000chunks"
"""Jobs whose logs come in pieces of a line, and in large ones."""

LINE = b"2026-03-01 09:15:31,880 INFO train: epoch 17, step 31337, loss 0.123456, accuracy 0.9876\n"
CHUNK = (LINE * 800)[: 2**16]
LINES_SIZE, CHUNKS_SIZE = 2**26, 2**29
"""Bytes of each log, before they are cut to whole pieces."""
BLOCK = 2**20
"""Bytes that are handed to the socket at a time, about."""

NDJSON = "application/x-ndjson"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE = b"\x88\x02" + (1000).to_bytes(2, "big")

Recording = dict[str, tuple[str, bytes]]
"""Path to content type and body; in the bodies, `ADDRESS` is where the server is."""
ADDRESS = b"http://canned"


def record(api_url: str, token: str, *paths: str) -> Recording:
    """Ask a platform, so that the same can be answered without it."""
    parts = urlsplit(api_url)
    recording: Recording = {}
    for path in paths:
        request = urllib.request.Request(
            api_url + path, headers={"Authorization": f"Bearer {token}", "Accept": NDJSON}
        )
        with urllib.request.urlopen(request) as answer:
            body = answer.read().replace(f"{parts.scheme}://{parts.netloc}".encode(), ADDRESS)
            recording[parts.path + path] = (answer.headers["Content-Type"], body)
    return recording


class Log:
    """A log, encoded for both ways of reading it."""

    def __init__(self, piece: bytes, size: int) -> None:
        self._pieces = max(BLOCK // len(piece), 1)
        self._blocks = size // (self._pieces * len(piece))
        self.size = self._blocks * self._pieces * len(piece)
        self._chunks = b"%x\r\n%b\r\n" % (len(piece), piece) * self._pieces
        self._frames = _frame_head(len(piece)) + piece
        self._frames *= self._pieces

    def send_chunks(self, send: Callable[[bytes], object]) -> None:
        for _ in range(self._blocks):
            send(self._chunks)
        send(b"0\r\n\r\n")

    def send_frames(self, send: Callable[[bytes], object]) -> None:
        for _ in range(self._blocks):
            send(self._frames)
        send(CLOSE)


def _frame_head(size: int) -> bytes:
    """Return the head of an unmasked, final, binary frame."""
    if size < 126:
        return bytes((0x82, size))
    if size < 2**16:
        return b"\x82\x7e" + size.to_bytes(2, "big")
    return b"\x82\x7f" + size.to_bytes(8, "big")


LOGS = {LINES: Log(LINE, LINES_SIZE), CHUNKS: Log(CHUNK, CHUNKS_SIZE)}


class CannedServer:
    """Listens for as long as the block lasts; a thread a connection."""

    def __init__(self, recording: Recording) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{address}/api/v1"
        self._answers = {
            path: (kind, body.replace(ADDRESS, address.encode()))
            for path, (kind, body) in recording.items()
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="canned", daemon=True).start()
        return self

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while (head := _read_head(connection)) is not None:
                self._answer(connection, *head)

    def _answer(self, connection: socket.socket, path: str, headers: dict[str, str]) -> None:
        send = connection.sendall
        *_, job_id, last = path.split("/")
        if last == "log":
            send(_head("text/plain; charset=utf-8", "Transfer-Encoding: chunked"))
            LOGS[job_id].send_chunks(send)
        elif last == "log_ws":
            send(_upgrade(headers["sec-websocket-key"]))
            LOGS[job_id].send_frames(send)
            while connection.recv(2**16):  # the client's close
                pass
        elif path in self._answers:
            kind, body = self._answers[path]
            send(_head(kind, f"Content-Length: {len(body)}") + body)
        else:
            send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()


def _read_head(connection: socket.socket) -> tuple[str, dict[str, str]] | None:
    """Return path and headers of the next request; ``None`` when there is none any more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = connection.recv(2**16)
        if not received:
            return None
        head += received
    request, *lines = head.decode("latin-1").split("\r\n")
    named = (line.partition(":") for line in lines)
    return urlsplit(request.split()[1]).path, {n.lower(): v.strip() for n, _, v in named}


def _head(kind: str, size: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{size}\r\n\r\n".encode()


def _upgrade(key: str) -> bytes:
    digest = hashlib.sha1(f"{key}{GUID}".encode(), usedforsecurity=False).digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
    ).encode()
