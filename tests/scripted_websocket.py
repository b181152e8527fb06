"""Websocket servers that follow a script: well behaved ones, and raw ones that are not."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from websockets.sync.server import ServerConnection, serve

Talk = Callable[[ServerConnection], None]
RawTalk = Callable[[socket.socket], None]

TIME_TO_END = 5.0


@contextmanager
def served(talk: Talk, *, subprotocols: Sequence[str] = (), **options: Any) -> Iterator[str]:
    """Serve each connection by a function; yields the address for a client."""

    def choose(_: ServerConnection, offered: Sequence[str]) -> str | None:
        return next((name for name in offered if name in subprotocols), None)

    with serve(
        talk,
        "127.0.0.1",
        0,
        select_subprotocol=choose,  # type: ignore[arg-type]  # the stub has its own alias of str
        compression=None,
        max_size=None,
        **options,
    ) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(TIME_TO_END)


@contextmanager
def answered(answer: bytes, talk: RawTalk | None = None) -> Iterator[str]:
    """Answer one request by these bytes, then by a function; the connection ends with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                connection.sendall(answer.replace(b"ACCEPT", _accept(request)))
                if talk:
                    talk(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(TIME_TO_END)
        assert not thread.is_alive()


def _accept(request: bytes) -> bytes:
    match = re.search(rb"Sec-WebSocket-Key: (\S+)", request)
    assert match
    digest = hashlib.sha1(match[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ACCEPT\r\n\r\n"
)


def refusal(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Write an answer that is no upgrade."""
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join([f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Write a frame of a server, of at most 64 KiB."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([(0x80 if final else 0) | opcode]) + length + payload
