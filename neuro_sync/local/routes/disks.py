"""``/disk``: make, look at and delete disks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from neuro_sync.errors import ResourceNotFound
from neuro_sync.local.access import Asking, Caller
from neuro_sync.local.answers import JSON
from neuro_sync.local.disks import DiskStore
from neuro_sync.local.permissions import Resource
from neuro_sync.models.disks import Disk, NewDisk
from neuro_sync.models.users import Action

from .bodies import body_of, described
from .tenants import project_of

router = APIRouter(prefix="/disk")


async def store(request: Request) -> DiskStore:
    disks: DiskStore = request.app.state.disks
    return disks


Store = Annotated[DiskStore, Depends(store)]


@router.post("", status_code=201, openapi_extra=described(NewDisk.model_json_schema()))
async def create(request: Request, disks: Store, caller: Asking) -> Response:
    """Make a disk."""
    wanted = await body_of(NewDisk, request)
    cluster = request.app.state.home.cluster
    caller.require(Action.WRITE, Resource("disk", cluster, wanted.org_name, wanted.project_name))
    disk = disks.create(wanted)
    return Response(await _describe(disks, disk), status_code=201, media_type=JSON)


@router.get("")
async def list_disks(request: Request, disks: Store, caller: Asking) -> Response:
    """List the disks of a project that the caller may read."""
    found = [
        await _describe(disks, disk)
        for disk in disks.list(*project_of(request))
        if caller.may(Action.READ, *_resources(request, disk))
    ]
    return Response("[" + ",".join(found) + "]", media_type=JSON)


@router.get("/{id_or_name}")
async def get(id_or_name: str, request: Request, disks: Store, caller: Asking) -> Response:
    """Describe a disk, found by its id or else by its name."""
    disk = _find(id_or_name, request, disks, caller, Action.READ)
    if disk is None:
        return _not_found(id_or_name)
    return Response(await _describe(disks, disk), media_type=JSON)


@router.delete("/{id_or_name}", status_code=204)
async def remove(id_or_name: str, request: Request, disks: Store, caller: Asking) -> Response:
    """Delete a disk; one in use goes when the last job leaves it."""
    disk = _find(id_or_name, request, disks, caller, Action.WRITE)
    if disk is None:
        return _not_found(id_or_name)
    disks.remove(disk.id)
    return Response(status_code=204)


def _find(
    id_or_name: str, request: Request, disks: DiskStore, caller: Caller, action: Action
) -> Disk | None:
    project = project_of(request)
    try:
        disk = disks.find(id_or_name, *project)
    except ResourceNotFound:
        return None
    caller.require(action, *_resources(request, disk))
    return disk


def _resources(request: Request, disk: Disk) -> list[Resource]:
    """Return what a disk is called in permissions: by its id, and by its name."""
    cluster = request.app.state.home.cluster
    keys = filter(None, (disk.id, disk.name))
    return [Resource("disk", cluster, disk.org_name or "", disk.project_name, key) for key in keys]


def _not_found(id_or_name: str) -> Response:
    # The service of the hosted platform tells this one thing as text.
    return PlainTextResponse(f"Disk {id_or_name} not found", status_code=404)


async def _describe(disks: DiskStore, disk: Disk) -> str:
    measured = disk.model_copy(update={"used_bytes": await disks.used_bytes(disk.id)})
    return measured.model_dump_json(exclude={"cluster_name"})
