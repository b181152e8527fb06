"""What a job uses, and what is free: ``top`` and ``capacity``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

from neuro_sync.local.access import Asking
from neuro_sync.local.answers import JSON
from neuro_sync.models.jobs import MIB, JobTelemetry
from neuro_sync.models.users import Action

from .jobs import NDJSON
from .monitoring import Service, send_until_left

router = APIRouter(prefix="/monitoring/jobs")

TOP_PROTOCOL = "top.apolo.us"


@router.get("/capacity")
@router.post("/available")
async def capacity(jobs: Service) -> Response:
    """Tell how many jobs of each preset could be started now."""
    return Response(json.dumps(jobs.capacity()), media_type=JSON)


@router.get("/{id}/top")
async def top(id: str, request: Request, jobs: Service, caller: Asking) -> Response:
    """Send a sample each second as JSON lines, which is more than the hosted platform does."""
    job = jobs.find(id, caller, Action.READ)
    if NDJSON not in request.headers.get("accept", ""):
        text = 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".'
        return PlainTextResponse(text, status_code=400)

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(jobs.telemetry(job.id)) as samples:
            async for sample in samples:
                # A blank line keeps the connection alive while there is nothing to tell.
                yield json.dumps(_wire(sample)).encode() + b"\n" if sample else b"\n"

    return StreamingResponse(lines(), headers={"content-type": NDJSON})


@router.websocket("/{id}/top")
async def top_ws(id: str, websocket: WebSocket, jobs: Service, caller: Asking) -> None:
    """Send the same samples as text messages, and close with 1000 at the job's end."""
    job = jobs.find(id, caller, Action.READ)
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=TOP_PROTOCOL if TOP_PROTOCOL in offered else None)

    async def send() -> None:
        async with aclosing(jobs.telemetry(job.id)) as samples:
            async for sample in samples:
                if sample is not None:
                    await websocket.send_text(json.dumps(_wire(sample)))

    await send_until_left(websocket, send())


def _wire(sample: JobTelemetry) -> dict[str, Any]:
    return {
        "cpu": sample.cpu,
        "memory": sample.memory_bytes // MIB,
        "memory_bytes": sample.memory_bytes,
        "timestamp": sample.timestamp,
    }
