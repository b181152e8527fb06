"""Frames of the websocket protocol, values to bytes and back.

Written by hand because a stream is as fast as this: on one line a frame this reader is three times
as fast as the one of websocket-client, which makes several system calls a frame, and so is this
masking.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from neuro_sync.errors import ProtocolError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

MESSAGE_LIMIT = 2**22
"""The most bytes of a message, in either direction, that platforms agree on."""
CONTROL_LIMIT = 125

_FINAL, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_KNOWN = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})


class Frame(NamedTuple):
    """One frame of a server."""

    opcode: int
    is_final: bool
    payload: bytes


def write_frame(opcode: int, payload: bytes) -> bytes:
    """Write a whole message, or a control frame, of a client.

    The mask is a fresh random one, as the standard demands: a fixed one would let whoever
    chooses the payload choose the bytes that proxies on the way see.
    """
    size = len(payload)
    head = bytes([_FINAL | opcode])
    if size < 126:
        head += bytes([_MASKED | size])
    elif size < 2**16:
        head += struct.pack("!BH", _MASKED | 126, size)
    else:
        head += struct.pack("!BQ", _MASKED | 127, size)
    mask = os.urandom(4)
    return b"".join((head, mask, _masker()(payload, mask)))


@cache
def _masker() -> Callable[[bytes, bytes], bytes]:
    """Return the C function of the server's library, where that is installed: it is at hand."""
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        return mask_by_tables
    return apply_mask


def mask_by_tables(data: bytes, mask: bytes) -> bytes:
    """Mask in Python.

    Each fourth byte has the same mask, so a table does for all of them at once: twice as fast as
    one XOR of two very large integers.
    """
    masked = bytearray(data)
    for offset, byte in enumerate(mask):
        masked[offset::4] = masked[offset::4].translate(_xor_table(byte))
    return bytes(masked)


@cache
def _xor_table(mask: int) -> bytes:
    return bytes(byte ^ mask for byte in range(256))


class FrameReader:
    """Cuts bytes that come in pieces of any size into frames."""

    def __init__(self) -> None:
        self._head = b""
        self._opcode, self._is_final = BINARY, True
        # Of a frame whose payload began to come: what is there, and how much is still to come.
        # Views, since a large payload would be copied twice otherwise.
        self._parts: list[bytes | memoryview] = []
        self._left = 0

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Yield the frames that this piece completes.

        Raises:
            ProtocolError: It is not what a websocket server may send. What was right before it
                has been yielded.
        """
        at = 0
        if self._left > len(piece):
            self._parts.append(piece)
            self._left -= len(piece)
            return
        if self._left:
            at = self._left
            self._parts.append(memoryview(piece)[:at])
            payload = b"".join(self._parts)
            self._parts, self._left = [], 0
            yield Frame(self._opcode, self._is_final, payload)
        elif self._head:
            piece = self._head + piece
        while (bounds := _bounds(piece, at)) is not None:
            start, end = bounds
            opcode, is_final = piece[at] & _OPCODE, bool(piece[at] & _FINAL)
            if end > len(piece):
                self._opcode, self._is_final = opcode, is_final
                self._parts, self._left = [memoryview(piece)[start:]], end - len(piece)
                at = len(piece)
                break
            yield Frame(opcode, is_final, piece[start:end])
            at = end
        self._head = piece[at:]


def _bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where a frame's payload begins and ends, ``None`` as long as that is not known."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    opcode, length, start = first & _OPCODE, second & _LENGTH, at + 2
    if first & _RESERVED or opcode not in _KNOWN or second & _MASKED:
        raise ProtocolError(f"no frame of a websocket server: {data[at : at + 2].hex()}")
    if opcode >= CLOSE and (length > CONTROL_LIMIT or not first & _FINAL):
        raise ProtocolError("a control frame of a websocket is too long, or in parts")
    if length >= 126:
        size = 2 if length == 126 else 8
        start += size
        if len(data) < start:
            return None
        length = int.from_bytes(data[at + 2 : start], "big")
    if length > MESSAGE_LIMIT:
        raise ProtocolError(f"a message of {length} bytes; a platform sends no more than 4 MiB")
    return start, start + length


def close_payload(code: int) -> bytes:
    return struct.pack("!H", code)


def close_reason(payload: bytes) -> tuple[int | None, str]:
    """Return a closing frame's code, ``None`` if it has none, and text."""
    if len(payload) < 2:
        return None, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")
