"""A running job made into an image."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.local.access import Asking
from neuro_sync.local.permissions import Resource
from neuro_sync.models.base import Model
from neuro_sync.models.users import Action

from .bodies import body_of, described
from .jobs import NDJSON
from .monitoring import Service

router = APIRouter(prefix="/monitoring/jobs")


class _Image(Model):
    image: Annotated[str, Field(min_length=1)]


class _Save(Model):
    container: _Image


@router.post(
    "/{id}/save",
    openapi_extra=described(
        {
            "type": "object",
            "properties": {"container": _Image.model_json_schema()},
            "required": ["container"],
        }
    ),
)
async def save(id: str, request: Request, jobs: Service, caller: Asking) -> StreamingResponse:
    """Send what happens as JSON lines; a failure is the last of them, and the status still 200."""
    job = jobs.find(id, caller, Action.WRITE)
    image = (await body_of(_Save, request)).container.image
    registry: str = request.app.state.url.partition("://")[2]
    host, _, name = image.partition("/")
    if host != registry:
        raise IllegalArgumentError(
            f"Unknown registry host in {image!r}: this platform's is {registry}"
        )
    # Before the commit: other users' jobs run what bears this name in the engine.
    *folders, last = name.partition("@")[0].split("/")
    home = request.app.state.home
    caller.require(Action.WRITE, Resource("image", home.cluster, *folders, last.partition(":")[0]))
    _, _, token = request.headers.get("authorization", "").partition(" ")
    lines = _lines(jobs.runtime.save(job.id, image, token))
    return StreamingResponse(lines, headers={"content-type": f"{NDJSON}; charset=utf-8"})


async def _lines(events: AsyncGenerator[Mapping[str, object], None]) -> AsyncIterator[bytes]:
    try:
        async with aclosing(events):
            async for event in events:
                yield json.dumps(event).encode() + b"\r\n"
    except ResourceNotFound as error:
        failure = {"error": error.text, "errorDetail": {"message": error.text}}
        yield json.dumps(failure).encode() + b"\r\n"
