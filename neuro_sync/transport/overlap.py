"""Small requests that are under way at the same time, sent and received by one thread.

Threads that share an interpreter hinder each other at every call of the kernel: eight of them fetch
a third as many small files as one that sends the next requests before it reads the first answer.
"""

from __future__ import annotations

import http.client
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import requests
import urllib3

from neuro_sync.closing import Closing
from neuro_sync.monotonic import monotonic

from .answers import Connection, SecureConnection

logger: logging.Logger = logging.getLogger("neuro_sync")

T = TypeVar("T")

WIDTH = 20
"""Requests that are under way at a time: as many as the platform knows of its official client."""
LONG = 0.005
"""Seconds to connect from which on connections are made several at a time."""

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
    """Connections to one host, used by one thread at a time."""

    def __init__(
        self, prepare: Callable[[Call], requests.PreparedRequest], connect: Callable[[], Line]
    ) -> None:
        self._prepare = prepare
        self._connect = connect
        self._lines: set[Line] = set()
        self._free: list[Line] = []
        self._coming: deque[Future[Line]] = deque()

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
        if self._coming:
            line = self._coming.popleft().result()
        else:
            began = monotonic()
            line = self._connect()
            more = wanted - len(self._lines) - 1
            if more > 0 and monotonic() - began > LONG:
                # The next one is waited for at the next call, and by then the others are there too.
                with_threads = ThreadPoolExecutor(more, "neuro-connect")
                self._coming.extend(with_threads.submit(self._connect) for _ in range(more))
                with_threads.shutdown(wait=False)
        self._lines.add(line)
        return line

    def _drop(self, line: Line | None) -> None:
        if line is not None:
            self._lines.discard(line)
            line.close()

    def close(self) -> None:
        """Close all connections; a thread that waits for an answer gets none."""
        if self.is_inherited:
            return
        while self._coming:
            self._coming.popleft().add_done_callback(_close)
        while self._lines:
            line = self._lines.pop()
            with suppress(OSError, AttributeError):  # it is closed already
                line.sock.shutdown(socket.SHUT_RDWR)
            line.close()


def _path(url: str) -> str:
    """Return an address without its host; it was built here, so that it need not be parsed."""
    return url[url.index("/", url.index("://") + 3) :]


def _close(coming: Future[Line]) -> None:
    if coming.exception() is None:
        coming.result().close()
