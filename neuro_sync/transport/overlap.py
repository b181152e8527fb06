"""Small requests that are under way at the same time, sent and received by one thread.

Threads that share an interpreter hinder each other at every call of the kernel: eight of them fetch
a third as many small files as one that sends the next requests before it reads the first answer.
"""

from __future__ import annotations

import http.client
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from .answers import Connection, SecureConnection

logger = logging.getLogger("neuro_sync")

T = TypeVar("T")

WIDTH = 8
"""Requests that are under way at a time."""

FAILURES = (http.client.HTTPException, urllib3.exceptions.HTTPError, OSError, ValueError)


@dataclass(frozen=True)
class Call:
    """A request that may be repeated, and whose answer fits in memory."""

    method: str
    url: str
    query: Iterable[tuple[str, str | bytes]] = ()
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Answer(NamedTuple):
    """A whole answer that is a success."""

    headers: Mapping[str, str]
    content: bytes


def overlap(
    calls: Iterable[tuple[T, Call]],
    prepare: Callable[[Call], requests.PreparedRequest],
    connect: Callable[[str], Connection | SecureConnection],
) -> Iterator[tuple[T, Answer | None]]:
    """Yield each call's key with its answer, in the order of the calls, all to the same host.

    None stands for whatever is no success, whatever the reason. No more calls are asked for than
    are under way.
    """
    free: list[Connection | SecureConnection] = []
    sent: deque[tuple[T, Call, Connection | SecureConnection | None]] = deque()
    try:
        for key, call in calls:
            sent.append((key, call, _send(prepare(call), free, connect)))
            if len(sent) == WIDTH:
                yield _receive(*sent.popleft(), free)
        while sent:
            yield _receive(*sent.popleft(), free)
    finally:
        for connection in [*free, *(item[2] for item in sent if item[2] is not None)]:
            connection.close()


def _send(
    request: requests.PreparedRequest,
    free: list[Connection | SecureConnection],
    connect: Callable[[str], Connection | SecureConnection],
) -> Connection | SecureConnection | None:
    """Return the connection on which the answer will come."""
    connection = None
    try:
        connection = free.pop() if free else connect(str(request.url))
        connection.request(
            str(request.method),
            request.path_url,
            request.body,
            request.headers,
            preload_content=False,
        )
    except FAILURES:
        if connection is not None:
            connection.close()
        return None
    return connection


def _receive(
    key: T,
    call: Call,
    connection: Connection | SecureConnection | None,
    free: list[Connection | SecureConnection],
) -> tuple[T, Answer | None]:
    if connection is None:
        return key, None
    try:
        response = connection.getresponse()
        content = response.read()
    except FAILURES:
        connection.close()
        return key, None
    # It opens itself again where the platform closes it.
    free.append(connection)
    logger.debug("%s %s: %s", call.method, urlsplit(call.url).path, response.status)
    if not 200 <= response.status < 300 or "Content-Length" not in response.headers:
        return key, None
    return key, Answer(response.headers, content)
