"""TCP connections into a job, one a websocket."""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from contextlib import suppress

from fastapi import APIRouter, WebSocket

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.access import Asking

from .monitoring import Service
from .values import shown, whole_number
from .websockets import LARGEST, refuse_plain_requests, until_one_ends

router = APIRouter(prefix="/monitoring/jobs")

refuse_plain_requests(router, "/{id}/port_forward/{port}")


class PortRefused(IllegalArgumentError):
    """There is no connection to be had at a port. The body is one of its own."""

    def __init__(self, text: str, reason: OSError | None = None) -> None:
        super().__init__(text)
        self._reason = reason

    def body(self) -> dict[str, object]:
        reason = {} if self._reason is None else {"error": repr(self._reason)}
        return {"msg": self.text, **reason}


@router.websocket("/{id}/port_forward/{port}")
async def port_forward(
    id: str, port: str, websocket: WebSocket, jobs: Service, caller: Asking
) -> None:
    """Carry bytes to and from a port of a job; the end of either side ends both."""
    try:
        number = whole_number("port", port, least=1, most=65535)
    except IllegalArgumentError:
        raise PortRefused(f"Invalid port number {shown(port)}") from None
    job = jobs.running(id, caller)
    try:
        reader, writer = await jobs.runtime.dial(job.id, number)
    except OSError as error:
        raise PortRefused(f"Cannot connect to port {port}", error) from error
    try:
        await websocket.accept()
        await until_one_ends(_upstream(websocket, writer), _downstream(websocket, reader))
    finally:
        writer.close()


async def _upstream(websocket: WebSocket, writer: StreamWriter) -> None:
    with suppress(ConnectionError):
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if message.get("bytes") is None:
                break
            writer.write(message["bytes"])
            await writer.drain()
        else:
            return
    await websocket.close(1000)


async def _downstream(websocket: WebSocket, reader: StreamReader) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(LARGEST):
            await websocket.send_bytes(data)
    await websocket.close(1000)
