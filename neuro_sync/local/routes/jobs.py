"""``/jobs``: start, list, look at and cancel jobs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.access import Asking, Caller
from neuro_sync.local.answers import JSON
from neuro_sync.local.arguments import check_workload
from neuro_sync.local.jobs import JobService
from neuro_sync.local.store import JobFilter
from neuro_sync.models.jobs import (
    NAME_PATTERN,
    TENANT_PATTERN,
    JobRun,
    JobStart,
    JobStatus,
    LifeSpanChange,
)
from neuro_sync.models.users import Action

from .bodies import body_of, described, read_json, validated
from .values import SHOWN, check_count, flag, instant, name_of, shown

router = APIRouter(prefix="/jobs")

OWNER_PATTERN = r"^[a-z0-9]+(?:[-/][a-z0-9]+)*$"
FIRST_PAGE = 20
"""Jobs that are sent first, so that the reader has something to do while the next are read."""
PAGE = 200
LARGEST_JOB = 4 * 2**20
"""Bytes; a job with many variables can take megabytes."""
NDJSON = "application/x-ndjson"


async def service(request: Request) -> JobService:
    jobs: JobService = request.app.state.jobs
    return jobs


Service = Annotated[JobService, Depends(service)]


def _body_schema() -> dict[str, Any]:
    either = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in (JobStart, JobRun)]
    return described({"anyOf": either})


@router.post("", status_code=202, openapi_extra=_body_schema())
async def start(request: Request, jobs: Service, caller: Asking) -> Response:
    """Start a job; with ``?from_preset`` the body is flat and names a preset."""
    model = JobStart if "from_preset" in request.query_params else JobRun
    spec = await read_json(request, partial(_read, model), LARGEST_JOB)
    row = jobs.start(spec, caller)
    return Response(jobs.answer(row), status_code=202, media_type=JSON)


def _read(model: type[JobStart | JobRun], data: Any) -> JobStart | JobRun:
    if not isinstance(data, dict):
        raise IllegalArgumentError("the body should be a JSON object")
    if model is JobStart and "container" in data:
        raise IllegalArgumentError("{'container': DataError('container is not allowed key')}")
    _refuse_null({key: value for key, value in data.items() if key != "name"})
    resources = data.get("resources")
    if model is JobStart and isinstance(resources, dict) and set(resources) - {"shm"}:
        raise IllegalArgumentError("Both preset and resources are not allowed")
    _fill_in(data.get("container") if model is JobRun else data)
    spec = validated(model, data)
    check_workload(spec.container if isinstance(spec, JobRun) else spec)
    return spec


def _refuse_null(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if value is None:
            raise IllegalArgumentError(
                f"{{{name!r}: DataError('null is not allowed; leave it out')}}"
            )
        if isinstance(value, dict):
            _refuse_null(value)


def _fill_in(workload: Any) -> None:
    """Set what a client left out to the wire's defaults, which are not those of the SDK."""
    if not isinstance(workload, dict):
        return
    resources = workload.get("resources")
    if isinstance(resources, dict):
        resources.setdefault("shm", False)
    http = workload.get("http")
    if isinstance(http, dict):
        http.setdefault("requires_auth", False)
    for mounts in ("volumes", "disk_volumes"):
        if isinstance(workload.get(mounts), list):
            for mount in workload[mounts]:
                if isinstance(mount, dict):
                    mount.setdefault("read_only", True)


@router.get("")
async def list_jobs(
    request: Request,
    jobs: Service,
    caller: Asking,
    status: Annotated[list[str], Query()] = [],  # noqa: B006  # a declaration, never changed
    name: str | None = None,
    tag: Annotated[list[str], Query()] = [],  # noqa: B006
    owner: Annotated[list[str], Query()] = [],  # noqa: B006
    base_owner: Annotated[list[str], Query()] = [],  # noqa: B006
    cluster_name: Annotated[list[str], Query()] = [],  # noqa: B006
    org_name: Annotated[list[str], Query()] = [],  # noqa: B006
    project_name: Annotated[list[str], Query()] = [],  # noqa: B006
    since: str | None = None,
    until: str | None = None,
    hostname: str | None = None,
    materialized: str | None = None,
    being_dropped: str | None = None,
    logs_removed: str | None = None,
    reverse: str = "0",
    limit: str | None = None,
) -> Response:
    """List jobs, as JSON lines where the caller accepts them."""
    for values in (status, tag, owner, base_owner, cluster_name, org_name, project_name):
        check_count(values)
    if hostname is not None and (name or project_name or cluster_name or since or until):
        raise IllegalArgumentError("Invalid request")
    wanted = JobFilter(
        statuses=tuple(_status(value) for value in status),
        name=None if name is None else name_of(name, NAME_PATTERN, 3, 40),
        tags=tuple(tag),
        owners=tuple(name_of(value, OWNER_PATTERN, 3, 21) for value in owner),
        base_owners=tuple(name_of(value, OWNER_PATTERN, 3, 21) for value in base_owner),
        cluster_names=tuple(name_of(value, TENANT_PATTERN, 3, 255) for value in cluster_name),
        org_names=tuple(name_of(value, TENANT_PATTERN, 3, 255) for value in org_name),
        project_names=tuple(name_of(value, TENANT_PATTERN, 3, 255) for value in project_name),
        since=instant(since),
        until=instant(until),
        reverse=flag(reverse),
        limit=_limit(limit),
    )
    if hostname is not None:
        wanted = replace(wanted, **_by_hostname(hostname))
    # Every job here is materialized, and none is being dropped or without its log.
    nothing = (
        (materialized is not None and not flag(materialized))
        or (being_dropped is not None and flag(being_dropped))
        or (logs_removed is not None and flag(logs_removed))
    )
    found = iter(()) if nothing else jobs.list(wanted, caller)
    if NDJSON not in request.headers.get("accept", ""):
        return Response('{"jobs": [' + ",".join(found) + "]}", media_type=JSON)

    async def lines() -> AsyncIterator[bytes]:
        page: list[str] = []
        size = FIRST_PAGE
        for job in found:
            page.append(job)
            if len(page) == size:
                size = PAGE
                yield "\n".join([*page, ""]).encode()
                page.clear()
                await asyncio.sleep(0)  # others get their turn
        if page:
            yield "\n".join([*page, ""]).encode()

    # Not media_type: the protocol wants it without a charset.
    return StreamingResponse(lines(), headers={"content-type": NDJSON})


def _status(value: str) -> str:
    if value not in {status.value for status in JobStatus.items()}:
        known = ", ".join(sorted(status.value for status in JobStatus.items()))
        raise IllegalArgumentError(f"{shown(value)} is not a valid JobStatus; there are {known}")
    return value


def _limit(value: str | None) -> int | None:
    if value is None:
        return None
    if len(value) > SHOWN:
        raise IllegalArgumentError(f"limit is a number, and not one of {len(value)} digits")
    try:
        limit = int(value)
    except ValueError as error:
        raise IllegalArgumentError(str(error)) from error
    if limit < 1:
        raise IllegalArgumentError("limit should be > 0")
    return min(limit, sys.maxsize)


def _by_hostname(hostname: str) -> dict[str, Any]:
    label = hostname.partition(".")[0]
    name, dashes, _ = label.rpartition("--")
    return {"name": name} if dashes else {"ids": (label,)}


@router.get("/{id}")
async def status(id: str, request: Request) -> Response:
    """Describe one job, by its id or its name."""
    # No dependencies: to resolve them takes longer than all the rest of the most frequent call.
    jobs: JobService = request.app.state.jobs
    caller: Caller = request.state.caller
    return Response(jobs.answer(jobs.find(id, caller, Action.READ)), media_type=JSON)


@router.put(
    "/{id}/max_run_time_minutes",
    status_code=204,
    openapi_extra=described(LifeSpanChange.model_json_schema()),
)
async def change_life_span(id: str, request: Request, jobs: Service, caller: Asking) -> Response:
    """Set or lengthen the time that a job may run."""
    change = await body_of(LifeSpanChange, request)
    jobs.change_life_span(
        jobs.find(id, caller, Action.WRITE), minutes=change.minutes, add=change.is_addition
    )
    return Response(status_code=204)


async def tags(jobs: Service, caller: Asking) -> Response:
    """List the tags that the caller ever used, as platforms of 2020 did."""
    return Response(json.dumps({"tags": jobs.tags(caller.name)}), media_type=JSON)


@router.delete("/{id}", status_code=204)
async def cancel(id: str, jobs: Service, caller: Asking) -> Response:
    """Cancel a job; one that is over stays as it is."""
    jobs.kill(id, caller)
    return Response(status_code=204)
