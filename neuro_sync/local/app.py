"""Puts access rules, routes, store and runtime together."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

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
    *(storage, config, jobs, users, telemetry, monitoring, channels, ports),
    *(saving, secrets, disks, retired),
)


def create_app(
    *,
    service: JobService,
    mounts: Mounts,
    users: Users,
    home: Tenant,
    presets: tuple[Preset, ...],
    registry: Registry,
    port: int,
) -> FastAPI:
    """Return the application around a service; whoever made that opens and closes it."""
    app = FastAPI(title="Neuro local platform", version=__version__, redirect_slashes=False)
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
    app.add_middleware(AccessRules, users=users, port=port)
    app.add_middleware(Refusals)
    return app
