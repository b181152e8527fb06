"""How this platform says no: the protocol's error bodies, over HTTP and in handshakes."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuro_sync.errors import APIError, IllegalArgumentError, ResourceNotFound, ServerError
from neuro_sync.version import __version__

from .disk_space import is_full, write_error

logger = logging.getLogger(__name__)

SERVICE_VERSION = (b"x-service-version", f"neuro-local/{__version__}".encode())
STARTS = ("http.response.start", "websocket.http.response.start")
JSON = "application/json; charset=utf-8"


class Refusals:
    """Turns what was raised below into the protocol's answers, of requests and of handshakes."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        """Name the state folder, of which the disk may be full."""
        self._app = app
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # The server leaves the body of its own scope's HEAD out.
            scope = {**scope, "method": "GET", "asked_method": "HEAD"}
        begun = False

        async def send_named(message: Message) -> None:
            nonlocal begun
            if message["type"] == "websocket.close" and not begun:
                # No route has it; the server would answer 403, which means something else.
                raise ResourceNotFound("404: Not Found")
            begun = True
            if message["type"] in STARTS:
                date = (b"date", http_date(int(time.time())).encode())
                message["headers"] = [*message["headers"], SERVICE_VERSION, date]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except APIError as error:
            if begun:
                raise
            # Quoted: who asks has chosen them, and could end the line or move the cursor.
            logger.info("%r refused: %r", scope["path"], str(error))
            await _refuse(error, scope, receive, send_named)
        except ClientDisconnect:
            pass  # nobody is there to be told
        except Exception as error:
            if begun:
                raise
            if isinstance(error, OSError | sqlite3.Error) and is_full(self._folder, error):
                refusal = write_error(self._folder, error)
                logger.warning("%r failed: %s", scope["path"], refusal)
                await _refuse(refusal, scope, receive, send_named)
                return
            logger.exception("%r failed", scope["path"])
            text = f"Unexpected exception {type(error).__name__}: {error}. Path: {scope['path']}."
            await _refuse(ServerError(text), scope, receive, send_named)


@lru_cache(1024)
def http_date(seconds: int) -> str:
    """Return a time, in seconds since 1970, as headers tell it."""
    return formatdate(seconds, usegmt=True)


async def _refuse(error: APIError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error.

    Many clients cannot read the body of a refused handshake, so it is repeated in a header.
    """
    response = error_response(error)
    if error.status == 401 and is_registry(scope["path"]):
        response.headers["WWW-Authenticate"] = 'Basic realm="Docker Registry"'
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    body = bytes(response.body)
    headers = [*response.raw_headers, (b"x-error", body.replace(b"\n", b" "))]
    start = {"type": "websocket.http.response.start", "status": response.status_code}
    await send({**start, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def is_registry(path: str) -> bool:
    """Tell the registry of images, which has its own way to be asked and to say no."""
    return path.startswith("/v2/")


async def http_error(_: Request, error: Exception) -> Response:
    """Answer as web frameworks do: ``404: Not Found``."""
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is registered for
    text = f"{error.status_code}: {HTTPStatus(error.status_code).phrase}"
    return PlainTextResponse(text, status_code=error.status_code, headers=error.headers)


def error_response(error: APIError) -> Response:
    """Return the answer that tells an error."""
    if error.text == f"{error.status}: {HTTPStatus(error.status).phrase}":
        return PlainTextResponse(error.text, status_code=error.status)
    return Response(json.dumps(error.body()), status_code=error.status, media_type=JSON)


def bad_request(error: ValidationError) -> IllegalArgumentError:
    """Tell what is wrong with a body, in the fragments that clients of the platform look for."""
    tree: dict[str, Any] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"]]
        if not path:  # a rule of the body as a whole
            return IllegalArgumentError(_fragment(item["type"], "", dict(item)))
        branch = tree
        for part in path[:-1]:
            inner = branch.setdefault(part, {})
            branch = inner if isinstance(inner, dict) else {}
        branch[path[-1]] = _fragment(item["type"], path[-1], dict(item))
    return IllegalArgumentError(_as_text(tree))


def _fragment(kind: str, name: str, item: dict[str, Any]) -> str:
    limits = item.get("ctx", {})
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return f"{name} is not allowed key"
        case "string_too_short":
            if limits["min_length"] == 1:
                return "blank value is not allowed"
            return f"String is shorter than {limits['min_length']} characters"
        case "string_too_long":
            return f"String is longer than {limits['max_length']} characters"
        case "string_pattern_mismatch":
            return f"does not match pattern {limits['pattern']}"
        case "greater_than_equal":
            return f"value is less than {limits['ge']:.10g}"
        case "less_than":
            return f"value should be less than {limits['lt']:.10g}"
        case "less_than_equal":
            return f"value is greater than {limits['le']:.10g}"
        case "too_long":
            return f"list length is greater than {limits['max_length']}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "value is not int"
        case "string_type":
            return "value is not a string"
        case "bool_type":
            return "value should be True or False"
        case "enum":
            return "value doesn't match any variant"
        case _:
            return str(item["msg"]).removeprefix("Value error, ")


def _as_text(tree: dict[str, Any]) -> str:
    """Nest the errors as the hosted platform does, each level as a text within a text."""
    fields = ", ".join(
        f"{name!r}: DataError({(_as_text(error) if isinstance(error, dict) else error)!r})"
        for name, error in tree.items()
    )
    return f"{{{fields}}}"
