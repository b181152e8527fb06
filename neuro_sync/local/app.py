"""Puts access rules, routes, store and runtime together."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from neuro_sync.models.config import Preset
from neuro_sync.version import __version__

from .access import AccessRules
from .answers import Refusals, http_error
from .jobs import JobService, Tenant
from .mounts import Mounts
from .registry import Registry
from .routes import (
    admin,
    channels,
    config,
    disks,
    images,
    jobs,
    monitoring,
    ports,
    retired,
    saving,
    secrets,
    storage,
    telemetry,
    users,
)
from .users import Users

API = "/api/v1"
# A request is held against one route after the other, so what comes by the thousand is first.
SECTIONS = (
    *(jobs, monitoring, config, users, telemetry, channels, ports, storage),
    *(saving, secrets, disks, retired),
)


class Shortcut:
    """Answers what one route takes, without holding it against all the others first.

    The files of a folder are asked for one by one; finding the way would take as long as the rest.
    """

    def __init__(self, app: ASGIApp, route: Route, prefix: str) -> None:
        """Say which route takes all paths that begin with a prefix."""
        self._app = app
        self._route = route
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route
        is_taken = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        if is_taken and scope["method"] in (route.methods or ()):
            response = await route.endpoint(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def create_app(
    *,
    service: JobService,
    mounts: Mounts,
    users: Users,
    home: Tenant,
    presets: tuple[Preset, ...],
    registry: Registry,
    folder: Path,
    port: int,
) -> FastAPI:
    """Return the application around a service; whoever made that opens and closes it."""
    app = FastAPI(
        title="Neuro local platform",
        version=__version__,
        redirect_slashes=False,
        # Nothing is told to anybody, whatever the program around it has set up for itself.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.jobs = service
    app.state.storage = mounts.storage
    app.state.secrets = mounts.secrets
    app.state.disks = mounts.disks
    app.state.users = users
    app.state.home = home
    app.state.presets = presets
    app.state.registry = registry
    app.state.execs = retired.Execs()
    app.state.url = f"http://127.0.0.1:{port}"
    for section in SECTIONS:
        app.include_router(section.router, prefix=API)
    app.add_api_route(f"{API}/tags", jobs.tags)
    app.add_api_route("/ping", config.ping)
    app.include_router(admin.router)
    app.include_router(images.router)
    app.add_exception_handler(HTTPException, http_error)
    # The last one added is the outermost.
    app.add_middleware(Shortcut, route=storage.ROUTE, prefix=f"{API}{storage.PREFIX}")
    app.add_middleware(AccessRules, users=users, port=port)
    app.add_middleware(Refusals, folder=folder)
    return app
