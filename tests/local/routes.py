"""Every route of a platform, found in its application and not in a list that may be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from neuro_sync.local.server import LocalPlatform


def app_of(platform: LocalPlatform) -> FastAPI:
    app = platform._uvicorn.config.app
    assert isinstance(app, FastAPI)
    return app


def routes_of(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the method and the path of every route, those that are in no description too."""
    for route in routes:
        if hasattr(route, "original_router"):  # what FastAPI keeps of a router that was included
            inner = prefix + route.include_context.prefix
            yield from routes_of(route.original_router.routes, inner)
        elif isinstance(route, WebSocketRoute) or type(route).__name__ == "APIWebSocketRoute":
            yield "WS", prefix + route.path
        else:
            yield from ((method, prefix + route.path) for method in route.methods - {"HEAD"})
