"""What the websocket routes have in common: how one ends, and what it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from starlette.websockets import WebSocketDisconnect

LARGEST = 2**16
"""Bytes of a message that is sent."""


async def until_one_ends(*activities: Coroutine[Any, Any, None]) -> None:
    """Run activities side by side until one ends, be it that the client has gone; end the others.

    An error of any of them is raised.
    """
    tasks = [asyncio.ensure_future(activity) for activity in activities]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        # RuntimeError is what the server raises for a connection that it has closed itself.
        if isinstance(result, Exception) and not isinstance(
            result, (WebSocketDisconnect, RuntimeError)
        ):
            raise result


def refuse_plain_requests(router: APIRouter, path: str) -> None:
    """Answer plain requests to what is only a websocket, without doing anything."""
    router.add_api_route(path, _not_upgraded, methods=["GET", "POST"], include_in_schema=False)


async def _not_upgraded() -> PlainTextResponse:
    text = 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".'
    return PlainTextResponse(text, status_code=400)
