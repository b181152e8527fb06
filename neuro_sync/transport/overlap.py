"""Small requests that are under way at the same time, sent and received by one thread.

Threads that share an interpreter hinder each other at every call of the kernel: eight of them fetch
a third as many small files as one that sends the next requests before it reads the first answer.
"""

from __future__ import annotations

import http.client
import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import requests
import urllib3

from neuro_sync.closing import Closing

from .answers import Connection, LendingPool, SecureConnection

logger: logging.Logger = logging.getLogger("neuro_sync")

T = TypeVar("T")

WIDTH = 20
"""Requests that are under way at a time: as many as the platform knows of its official client."""
LONG = 0.005
"""Seconds to connect from which on connections are made together."""

FAILURES = (http.client.HTTPException, urllib3.exceptions.HTTPError, OSError, ValueError)

Line = Connection | SecureConnection


@dataclass(frozen=True)
class Call:
    """A request that may be repeated, and whose answer fits in memory."""

    method: str
    url: str
    query: Iterable[tuple[str, str | bytes]] = ()
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    accepts: Callable[[Mapping[str, str]], bool] = lambda _: True
    """Whether an answer of such headers is one; its connection is not used again if not."""


class Answer(NamedTuple):
    """A whole answer that is a success."""

    headers: Mapping[str, str]
    content: bytes


class Overlap(Closing):
    """Connections to one host, used by one thread at a time.

    They are those of the session, and go back to it.
    """

    def __init__(
        self,
        prepare: Callable[[Call], requests.PreparedRequest],
        pool: LendingPool,
        timeout: tuple[float | None, float | None],
    ) -> None:
        self._prepare = prepare
        self._pool = pool
        self._timeout = timeout
        self._lines: set[Line] = set()
        self._free: list[Line] = []
        # Those that are being connected, each by a thread.
        self._coming: queue.SimpleQueue[Line | Exception] = queue.SimpleQueue()
        self._awaited = 0
        self._closed = False
        self._is_far = False
        """Whether it takes long to connect."""

    def answers(
        self, calls: Iterable[tuple[T, Call]], expected: int = WIDTH
    ) -> Iterator[tuple[T, Answer | None]]:
        """Yield each call's key with its answer, in the order of the calls.

        None stands for whatever is no success, whatever the reason. No more calls are asked for
        than are under way, and no more connections opened than calls are expected.
        """
        sent: deque[tuple[T, Call, Line | None]] = deque()
        try:
            for key, call in calls:
                sent.append((key, call, self._send(self._prepare(call), expected)))
                if len(sent) == WIDTH:
                    yield self._receive(*sent.popleft())
            while sent:
                yield self._receive(*sent.popleft())
        finally:
            for _, _, line in sent:  # whose answers nobody wants any more
                self._drop(line)
            self._give_back()

    def _send(self, request: requests.PreparedRequest, expected: int) -> Line | None:
        """Return the connection on which the answer will come."""
        line = None
        try:
            line = self._free.pop() if self._free else self._open(min(expected, WIDTH))
            line.request(
                str(request.method),
                _path(str(request.url)),
                request.body,
                request.headers,
                preload_content=False,
            )
        except FAILURES:
            self._drop(line)
            return None
        return line

    def _receive(self, key: T, call: Call, line: Line | None) -> tuple[T, Answer | None]:
        if line is None:
            return key, None
        try:
            response = line.getresponse()
            content = response.read()
        except FAILURES:
            self._drop(line)
            return key, None
        if not call.accepts(response.headers):
            self._drop(line)
            return key, None
        # It opens itself again where the platform has closed it.
        self._free.append(line)
        if logger.isEnabledFor(logging.DEBUG):
            path = _path(call.url).partition("?")[0]
            logger.debug("%s %s: %s", call.method, path, response.status)
        if not 200 <= response.status < 300:
            return key, None
        return key, Answer(response.headers, content)

    def _open(self, wanted: int) -> Line:
        """Return a connection that is idle, or the first one of those that have to be made."""
        if not self._awaited:
            line = self._pool.lend()
            if line.sock is None and self._is_far:
                self._open_together(line, wanted - len(self._lines))
            else:
                self._connect(line)
                self._lines.add(line)
                self._is_far = line.connect_seconds > LONG
                return line
        self._awaited -= 1
        came = self._coming.get()
        if isinstance(came, Exception):
            raise came
        self._lines.add(came)
        return came

    def _open_together(self, line: Line, count: int) -> None:
        lines = [line, *(self._pool.lend() for _ in range(count - 1))]
        for each in lines:
            self._awaited += 1
            threading.Thread(
                target=self._open_behind, args=(each,), name="neuro-connect", daemon=True
            ).start()

    def _open_behind(self, line: Line) -> None:
        try:
            self._connect(line)
        except FAILURES as error:
            self._coming.put(error)
            return
        self._coming.put(line)
        if self._closed:
            self._give_back()

    def _connect(self, line: Line) -> None:
        connect, read = self._timeout
        if line.sock is None:
            line.timeout = connect
            line.connect()
        line.timeout = line.read_timeout = read
        line.sock.settimeout(read)

    def _drop(self, line: Line | None) -> None:
        if line is not None:
            self._lines.discard(line)
            line.close()

    def close(self) -> None:
        """Give the connections back; a thread that waits for an answer gets none."""
        self._closed = True
        if self.is_inherited:
            return
        self._give_back()
        while self._lines:
            line = self._lines.pop()
            with suppress(OSError, AttributeError):  # it is closed already
                line.sock.shutdown(socket.SHUT_RDWR)
            line.close()

    def _give_back(self) -> None:
        """Let others use the connections that are idle."""
        with suppress(IndexError):
            while True:
                line = self._free.pop()
                self._lines.discard(line)
                self._pool.take_back(line)
        with suppress(queue.Empty):
            while True:
                came = self._coming.get_nowait()
                self._awaited -= 1
                if not isinstance(came, Exception):
                    self._pool.take_back(came)


def _path(url: str) -> str:
    """Return an address without its host; it was built here, so that it need not be parsed."""
    return url[url.index("/", url.index("://") + 3) :]
