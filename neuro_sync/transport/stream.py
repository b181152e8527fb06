"""A body that is read while it is being sent."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

import requests
import urllib3
from typing_extensions import Self

from neuro_sync.closing import Closing
from neuro_sync.errors import NDJSONError, ProtocolError, StreamInterrupted, storage_error
from neuro_sync.models.base import Model

from .answers import PIECE

T = TypeVar("T")
M = TypeVar("M", bound=Model)

NDJSON = "application/x-ndjson"


_unfinished: dict[weakref.ref[Stream], requests.Response] = {}
"""The responses of the streams that are open, so that no response ends with its stream."""
_dropped: deque[weakref.ref[Stream]] = deque()
"""Streams that nobody has closed, and nobody has any more."""


def close_dropped() -> None:
    """Close the connections of streams that were dropped.

    A response that is dropped runs Python code in its destructor, where a Ctrl-C would be lost. So
    a stream that is dropped is only noted, by code in C, and closed at the next request.
    """
    while _dropped:
        response = _unfinished.pop(_dropped.popleft(), None)
        if response is not None:
            response.close()


def _leave_to_parent() -> None:
    """Keep what a child of `fork` inherits as it is: even a destructor would take a lock."""
    _inherited.append(_unfinished.copy())
    _unfinished.clear()
    _dropped.clear()


_inherited: list[object] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class Stream(Closing, Iterator[bytes]):
    """The bytes of an answer as they come, in pieces of whatever size.

    An end is an end, and a cut raises. The connection goes back at the end, at `close` from any
    thread, or at the end of a ``with`` block, whichever is first.
    """

    def __init__(self, response: requests.Response, what: str) -> None:
        self.headers: Mapping[str, str] = response.headers
        self.content_type: str = response.headers.get("Content-Type", "").partition(";")[0]
        self.piece = PIECE
        """The most bytes of one read."""
        self._response = response
        self._raw: urllib3.HTTPResponse = response.raw
        self._what = what
        # Undoing an encoding that is not there copies every byte twice.
        self._encoded = "Content-Encoding" in response.headers
        self._closed = False
        # Held while a read is under way: only who holds it may take the response apart, since
        # closing it under a reader crashes that reader.
        self._reading = threading.Lock()
        self._reference = weakref.ref(self, _dropped.append)
        _unfinished[self._reference] = response

    @property
    def date(self) -> datetime | None:
        """When the answer began, in whole seconds of the platform's clock, if it says so."""
        try:
            date = parsedate_to_datetime(self.headers.get("Date", ""))
        except ValueError:
            return None
        return date if date.tzinfo else date.replace(tzinfo=timezone.utc)

    @property
    def is_delimited(self) -> bool:
        """Whether the answer tells its own end; else it ends with its connection."""
        return self._raw.chunked or "Content-Length" in self.headers

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._reading:
            if self._closed:
                self._release()
                raise StopIteration
            try:
                # The answers of some mocks take no such option.
                options = {"decode_content": True} if self._encoded else {}
                piece = self._raw.read1(self.piece, **options)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                self._release()
                if self._closed:
                    raise StopIteration from None
                self._closed = True
                raise StreamInterrupted(f"{self._what} was cut: {_reason(error)}") from error
            # Once it is closed, what came may be encrypted still: shutdown() strips TLS first.
            if piece and not self._closed:
                return piece
            self._closed = True
            self._release()
            raise StopIteration

    def close(self) -> None:
        """Give the connection back, and end a reader that is blocked in another thread."""
        self._closed = True
        if self.is_inherited:
            return
        # It has gone back to its pool already, the peer has cut it, or it is the answer of a mock.
        with suppress(RuntimeError, ValueError, OSError, AttributeError):
            self._raw.shutdown()
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()

    def _release(self) -> None:
        """Give the connection back to its pool, or close it."""
        self._response.close()
        _unfinished.pop(self._reference, None)

    def __repr__(self) -> str:
        return f"<Stream of {self._what}{', closed' if self._closed else ''}>"


def _reason(error: Exception) -> object:
    """Return what happened; the library's own text tells it twice."""
    return error.args[0] if isinstance(error, urllib3.exceptions.ProtocolError) else error


class LineSplitter:
    """Cuts bytes that come in pieces of any size into lines without their newline."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that this piece completes."""
        # Not splitlines(): a progress bar's carriage returns stay within their line.
        first, *rest = piece.split(b"\n")
        self._pending.append(first)
        if not rest:
            return []
        *lines, last = rest
        complete = [b"".join(self._pending), *lines]
        self._pending = [last]
        return complete

    @property
    def rest(self) -> bytes:
        """What came after the last newline."""
        return b"".join(self._pending)


def split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each line without its newline; a last line that has none counts too."""
    splitter = LineSplitter()
    for piece in pieces:
        yield from splitter.feed(piece)
    if splitter.rest:
        yield splitter.rest


def read_models(stream: Stream, model: type[M]) -> Iterator[M]:
    """Yield a model for each line of JSON; blank lines only keep the connection alive.

    Raises:
        NDJSONError: The platform failed after it had begun, and said so in the last line.
        StorageError: The same, of files, with the kernel's reason.
    """
    for line in split_lines(stream):
        if not line or line.isspace():
            continue
        try:
            yield model.from_answer(line)
        except ProtocolError:
            failure = _json(line)
            if isinstance(failure, dict) and "error" in failure:
                if failure.get("errno") is not None:
                    error = storage_error(str(failure["errno"]))
                    raise error(str(failure["error"]), payload=failure) from None
                raise NDJSONError(str(failure["error"])) from None
            raise


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class Closable(Protocol):
    """What a list is read from."""

    def close(self) -> None:
        """Give the connection back."""


class Records(Closing, Iterator[T]):
    """The items of a list, each read as it comes; it ends, cuts and closes as what is below."""

    def __init__(self, stream: Closable, items: Iterator[T]) -> None:
        self._stream = stream
        self._items = items

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Give the connection back before the last item was read."""
        self._stream.close()
