"""A reader of chunked bodies for many small chunks.

A log often comes one line to a chunk. The standard library reads chunk by chunk, each with three
calls; here whatever the socket holds is taken apart in one loop.
"""

from __future__ import annotations

import http.client
import io
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

PIECE = 2**17 - 2**12
"""The most bytes of one read. From 128 KiB on the C library maps fresh memory for each."""
LONGEST_SIZE_LINE = 2**12
"""Bytes; a line that is longer is no chunk's size."""


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
        self.ended = False

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


class _Head:
    """What the head of an answer is read from; one that breaks off is no head."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._begun = False
        self.close = source.close

    def readline(self, limit: int) -> bytes:
        line = self._source.readline(limit)
        # The standard library takes the end of the connection for that of the head, and half a
        # number for the length of the body. That nothing came at all, it tells by itself.
        if self._begun and not line.endswith(b"\n") and len(line) < limit:
            raise http.client.IncompleteRead(line)
        self._begun = True
        return line


class Response(http.client.HTTPResponse):
    """An answer whose chunked body `read1` hands out as far as it came."""

    _decoder: ChunkDecoder | None = None

    def begin(self) -> None:
        """Read the head."""
        source = self.fp
        self.fp = _Head(source)  # type: ignore[assignment]  # all of it that is used here
        try:
            super().begin()
        finally:
            if self.fp is not None:  # there is a body
                self.fp = source

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


class Connection(HTTPConnection):
    response_class = Response


class SecureConnection(HTTPSConnection):
    response_class = Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = SecureConnection


POOLS: dict[str, Any] = {"http": _Pool, "https": _SecurePool}
"""What a pool manager makes its connections with."""
