"""Bodies of requests, none of which may fill the memory."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.answers import bad_request
from neuro_sync.models.base import Model

M = TypeVar("M", bound=Model)

LARGEST_BODY = 2**20
"""Bytes."""


async def read_body(request: Request, largest: int = LARGEST_BODY) -> bytes:
    """Return a request's body, of so many bytes at most.

    Raises:
        IllegalArgumentError: It is larger; one that says so beforehand is not even waited for.
    """
    announced = request.headers.get("content-length", "")
    body = bytearray()
    if not (announced.isdigit() and int(announced) > largest):
        async for piece in request.stream():
            body += piece
            if len(body) > largest:
                break
        else:
            return bytes(body)
    raise IllegalArgumentError(f"Maximum request body size {largest} exceeded", status=413)


async def body_of(model: type[M], request: Request) -> M:
    """Read a body that is a model.

    Raises:
        IllegalArgumentError: It is too large, or not what it should be.
    """
    body = await read_body(request)
    try:
        return model.from_request(body)
    except ValidationError as error:
        # Not chained: the original may show what was sent, the value of a secret.
        raise bad_request(error) from None


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what the description of a route says of the body that it reads itself."""
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}
