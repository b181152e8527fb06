"""The bytes of a file of the storage, as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import NamedTuple

from yarl import URL

from neuro_sync.closing import Closing
from neuro_sync.errors import (
    APIError,
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
from neuro_sync.models.storage import ListedFile
from neuro_sync.models.uris import path_of
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry
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

    A connection that breaks is opened again where it ended; when that fails, or the file has
    changed meanwhile, it raises. Where only the end of the connection ends an answer, the platform
    is asked for the size of the file before that counts as the end. It may be closed from any
    thread.
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
        self._transport = transport
        self._clock = clock
        self._uri = uri
        self._url = url
        self._is_range = offset > 0 or size is not None
        self._closed = False
        self.position: int = offset
        """Where in the file the next piece begins."""
        self.stop: int | None = offset
        """Where in the file it ends; ``None`` while that is unknown."""
        self._version: _Version | None = None
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
                    return self._count(piece)
                if self._closed or self._is_whole(self._stream):
                    break
                error = StreamInterrupted(
                    f"{self._uri} was cut at {self.position} of {self.stop} bytes"
                )
            except StreamInterrupted as cut:
                error = cut
            self._stream = self._reconnect(error, attempt)
            attempt += 1
        raise StopIteration

    def _count(self, piece: bytes) -> bytes:
        self.position += len(piece)
        if self.stop is not None and self.position > self.stop:
            self.close()
            raise ProtocolError(f"{self._uri} should end at byte {self.stop}, and goes on after it")
        return piece

    def _is_whole(self, ended: Stream) -> bool:
        """Return whether the end of an answer is the end of what was asked for."""
        if self.stop is None:
            self.stop = self.position if ended.is_delimited else self._ask_size()
        return self.position == self.stop

    def _ask_size(self) -> int:
        """Return the size of the file; if the platform does not tell it, what was read of it."""
        try:
            answer = self._transport.request(
                "GET", self._url, retry=Retry.ALWAYS, query=[("op", "GETFILESTATUS")]
            )
            size = ListedFile.from_answer(answer.content).status.size
        except (APIError, ProtocolError):
            return self.position
        if size < self.position:
            raise FileChanged(f"{self._uri} has changed while it was read")
        return size

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
                stream = self._transport.stream(
                    self._url, retry=Retry.ALWAYS, query=[("op", "OPEN")], headers=headers
                )
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
        """Check that it is what was asked for, and of the same file as before."""
        headers = stream.headers
        if not is_file(headers):
            kind = headers["X-File-Type"]
            if kind == "DIRECTORY":
                raise StorageIsDirectory(f"{self._uri} is a folder", payload={"errno": "EISDIR"})
            text = f"{self._uri} is no file, but {kind}"
            raise StorageError(text, payload={"errno": "EINVAL"})
        coding = headers.get("Content-Encoding")
        size = headers.get("X-File-Length")
        if self._is_range:
            told = headers.get("Content-Range", "all of it")
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told, re.ASCII)
            if not found or int(found[1]) != self.position or coding:
                raise ProtocolError(
                    f"asked for {self._uri} from {self.position} on, the platform sent {told}"
                    + (f", encoded as {coding}" if coding else "")
                )
            self.stop = int(found[2]) + 1
            if found[3] != "*":
                size = found[3]
            total = _number(size)
        else:
            # The length of an encoded answer is not that of the file.
            self.stop = total = _number(size if coding else headers.get("Content-Length", size))
        version = _Version(total, headers.get("Last-Modified"))
        if self._version is not None and not self._version.may_be(version):
            raise FileChanged(f"{self._uri} has changed while it was read")
        self._version = version

    def close(self) -> None:
        """Stop reading, also in another thread."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()

    def __repr__(self) -> str:
        return f"<FileContent of {self._uri} at {self.position} of {self.stop}>"


class _Version(NamedTuple):
    """By what a file is told from the one that it was before."""

    size: int | None
    """``None`` if the platform did not tell it."""
    modified: str | None

    def may_be(self, other: _Version) -> bool:
        sizes = {self.size, other.size} - {None}
        return len(sizes) < 2 and self.modified == other.modified


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


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
            request_id=error.request_id,
            payload={"errno": "ENOENT"},
        ) from error


def _is_one_line_of_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\n" not in path
