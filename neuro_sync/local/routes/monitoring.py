"""What goes on inside a job: its log, over HTTP and as a websocket."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.access import Asking, Caller
from neuro_sync.local.jobs import JobService
from neuro_sync.models.users import Action

from .values import instant, shown, stream_flag

router = APIRouter(prefix="/monitoring/jobs")

LOG_PROTOCOL = "logs.apolo.us"
SEPARATOR = r"[ -~]{0,1000}"
"""What can be the value of a header."""


async def service(connection: HTTPConnection) -> JobService:
    jobs: JobService = connection.app.state.jobs
    return jobs


Service = Annotated[JobService, Depends(service)]


@router.get("/{id}/log")
async def log(
    id: str,
    jobs: Service,
    caller: Asking,
    since: str | None = None,
    timestamps: str | None = None,
    separator: str | None = None,
    debug: str | None = None,
) -> StreamingResponse:
    """Send a job's log from its beginning, and what is written from then on until its end."""
    pieces = _pieces(jobs, id, caller, since, timestamps, debug)
    if separator is not None and not re.fullmatch(SEPARATOR, separator):
        raise IllegalArgumentError(
            f"'separator' should be up to 1000 printable ASCII characters, not {shown(separator)}"
        )
    # Nothing is archived here, so the line between archive and live part is never sent.
    line = f"=== Live logs ==={secrets.token_hex(30)}" if separator is None else separator
    headers = {"content-type": "text/plain; charset=utf-8", "x-separator": line}
    return StreamingResponse(pieces, headers=headers)


@router.websocket("/{id}/log_ws")
async def log_ws(
    id: str,
    websocket: WebSocket,
    jobs: Service,
    caller: Asking,
    since: str | None = None,
    timestamps: str | None = None,
    debug: str | None = None,
) -> None:
    """Send the same bytes as binary messages, and close with 1000 at the end."""
    pieces = _pieces(jobs, id, caller, since, timestamps, debug)
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=LOG_PROTOCOL if LOG_PROTOCOL in offered else None)

    async def send() -> None:
        async with aclosing(pieces):  # type: ignore[type-var]  # an async generator has aclose()
            async for piece in pieces:
                await websocket.send_bytes(piece)

    await send_until_left(websocket, send())


async def send_until_left(websocket: WebSocket, messages: Coroutine[None, None, None]) -> None:
    """Run what sends until it ends, and close; or until the client goes.

    Whatever the client sends is read and ignored: its pings are answered only while somebody reads.
    """
    sending = asyncio.ensure_future(_then_close(websocket, messages))
    leaving = asyncio.ensure_future(_until_left(websocket))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task


async def _then_close(websocket: WebSocket, messages: Coroutine[None, None, None]) -> None:
    await messages
    await websocket.close(1000)


async def _until_left(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _pieces(
    jobs: JobService,
    id: str,
    caller: Caller,
    since: str | None,
    timestamps: str | None,
    debug: str | None,
) -> AsyncIterator[bytes]:
    stamped = stream_flag("timestamps", timestamps, default=False)
    noted = stream_flag("debug", debug, default=False)
    job = jobs.find(id, caller, Action.READ)
    start = instant(since)
    pieces = jobs.log(job).follow(since=start, timestamps=stamped)
    return _with_note(pieces, start) if noted else pieces


async def _with_note(pieces: AsyncIterator[bytes], since: datetime | None) -> AsyncIterator[bytes]:
    """Begin with the line that says that the archive is through; there is none here."""
    yield f"=== Live logs from since={since!r} ===\n".encode()
    async for piece in pieces:
        yield piece
