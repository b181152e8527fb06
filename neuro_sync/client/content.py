"""The bytes of a file of the storage, as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from yarl import URL

from neuro_sync.closing import Closing
from neuro_sync.errors import (
    ConnectionFailed,
    FileChanged,
    IllegalArgumentError,
    ProtocolError,
    ResourceNotFound,
    StorageError,
    StorageIsDirectory,
    StorageNotFound,
    StreamInterrupted,
)
from neuro_sync.models.uris import path_of
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.stream import Stream

from .transfers import is_file

ATTEMPTS = 10
"""How often reading is taken up again without a byte having come."""
DELAY = 0.1
"""Seconds before it is taken up again; each time so much longer."""
PIECE = 2**20
"""The most bytes of a file that are read at a time; fewer take longer to be written to a disk."""


class FileContent(Closing, Iterator[bytes]):
    """The bytes of a file, or of a part of it, as they come.

    An end is an end. A connection that breaks is opened again where it ended; when that fails, or
    the file has changed meanwhile, it raises. It may be closed from any thread.
    """

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        uri: URL,
        url: str,
        offset: int,
        size: int | None,
    ) -> None:
        if offset < 0 or (size is not None and size < 0):
            raise ValueError(f"offset {offset} and size {size} should not be negative")
        self._transport = transport
        self._clock = clock
        self._uri = uri
        self._url = url
        self._is_range = offset > 0 or size is not None
        self._closed = False
        self.position: int = offset
        """Where in the file the next piece begins."""
        self.stop: int = offset
        """Where it ends."""
        self._version: tuple[int, str | None] | None = None
        self._stream: Stream | None = None
        if size != 0:
            self._stream = self._connect(None if size is None else offset + size)

    def __iter__(self) -> FileContent:
        return self

    def __next__(self) -> bytes:
        attempt = 0
        while self._stream is not None and not self._closed:
            try:
                piece = next(self._stream, None)
                if piece is not None:
                    self.position += len(piece)
                    return piece
                if self._closed or self.position == self.stop:
                    break
                error = StreamInterrupted(
                    f"{self._uri} was cut at {self.position} of {self.stop} bytes"
                )
            except StreamInterrupted as cut:
                error = cut
            self._stream = self._reconnect(error, attempt)
            attempt += 1
        raise StopIteration

    def _reconnect(self, error: StreamInterrupted, attempt: int) -> Stream | None:
        if self.position == self.stop:
            return None  # only the end of the answer is missing
        if attempt == ATTEMPTS:
            raise error
        self._clock.sleep(DELAY * attempt)
        self._is_range = True
        try:
            return self._connect(self.stop)
        except FileChanged:
            raise
        except ConnectionFailed as failure:
            raise StreamInterrupted(f"{error}; and again: {failure}") from failure

    def _connect(self, stop: int | None) -> Stream:
        headers = {}
        if self._is_range:
            headers["Range"] = f"bytes={self.position}-{'' if stop is None else stop - 1}"
        try:
            with missing(self._uri):
                stream = self._transport.stream(self._url, query=[("op", "OPEN")], headers=headers)
        except IllegalArgumentError as error:
            if error.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            text = f"{self._uri} ends before byte {self.position}, from which on it was asked for"
            raise IllegalArgumentError(text, status=error.status) from error
        stream.piece = PIECE
        try:
            self._check(stream)
        except BaseException:
            stream.close()
            raise
        return stream

    def _check(self, stream: Stream) -> None:
        """Look whether it is what was asked for, and of the same file as before."""
        headers = stream.headers
        if not is_file(headers):
            kind = headers["X-File-Type"]
            if kind == "DIRECTORY":
                raise StorageIsDirectory(f"{self._uri} is a folder", payload={"errno": "EISDIR"})
            text = f"{self._uri} is no file, but {kind}"
            raise StorageError(text, payload={"errno": "EINVAL"})
        if self._is_range:
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
            if not found or int(found[1]) != self.position:
                raise ProtocolError(
                    f"asked for {self._uri} from {self.position} on, the platform sent "
                    f"{headers.get('Content-Range', 'all of it')}"
                )
            self.stop = int(found[2]) + 1
            total = int(found[3]) if found[3] != "*" else -1
        else:
            length = headers.get("Content-Length")
            if length is None:
                raise ProtocolError(f"the platform does not tell how long {self._uri} is")
            self.stop = total = int(length)
        version = (total, headers.get("Last-Modified"))
        if self._version not in (None, version):
            raise FileChanged(f"{self._uri} has changed while it was read")
        self._version = version

    def close(self) -> None:
        """Stop reading, also in another thread."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()

    def __repr__(self) -> str:
        return f"<FileContent of {self._uri} at {self.position} of {self.stop}>"


@contextmanager
def missing(uri: URL) -> Iterator[None]:
    """Raise which file it is that the platform has not found."""
    try:
        yield
    except ResourceNotFound as error:
        text = f"there is no {uri}, or it is not yours to see"
        # The hosted service has no route for such an address, so its 404 has no JSON body.
        if error.payload is None and not _is_one_line_of_text(path_of(uri)):
            text = (
                f"this platform cannot address {uri}: a name in it has a line break, or bytes "
                "that are no UTF-8. Rename it"
            )
        raise StorageNotFound(
            text,
            method=error.method,
            path=error.path,
            payload={"errno": "ENOENT"},
        ) from error


def _is_one_line_of_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\n" not in path
