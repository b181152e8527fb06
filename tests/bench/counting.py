"""Counts what reaches a local platform: requests, and the connections on which they came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from starlette.types import ASGIApp, Receive, Scope, Send

from neuro_sync.local.app import create_app


@dataclass
class Counts:
    """What came since the last look."""

    requests: list[str] = field(default_factory=list)
    """Such as ``GET /api/v1/config``, in the order of their beginnings."""
    connections: set[tuple[str, int]] = field(default_factory=set)
    """The client's ends."""

    def take(self) -> Counts:
        """Return what came, and begin anew."""
        taken = Counts(self.requests, self.connections)
        self.requests, self.connections = [], set()
        return taken

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return the application with the count before it."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.requests.append(f"{scope.get('method', 'GET')} {scope['path']}")
            self.connections.add(tuple(scope["client"]))
            await app(scope, receive, send)

        return counted


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what reaches the platforms that are started in this process meanwhile."""
    counts = Counts()

    def create_counted(**settings: Any) -> ASGIApp:
        return counts.before(create_app(**settings))

    with mock.patch("neuro_sync.local.server.create_app", create_counted):
        yield counts
