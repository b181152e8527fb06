"""``/storage``: the files of all projects, one operation a request."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import FileIO
from itertools import islice
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from neuro_sync.errors import (
    APIError,
    IllegalArgumentError,
    NotSupported,
    ResourceNotFound,
    StorageNotFound,
    storage_error,
)
from neuro_sync.local.access import Caller
from neuro_sync.local.answers import JSON, http_date
from neuro_sync.local.disk_space import is_full, why_not_written
from neuro_sync.local.executors import Work, submit
from neuro_sync.local.http import file_sender
from neuro_sync.local.permissions import Resource
from neuro_sync.local.storage import (
    Entry,
    Parts,
    StorageFolder,
    WrittenFile,
    os_error_name,
    parts_of,
)
from neuro_sync.models.storage import ByteRange
from neuro_sync.models.users import Action

from .values import flag

T = TypeVar("T")

NDJSON = "application/x-ndjson"
OCTETS = "application/octet-stream"

SMALL = 2**16
"""Bytes of an upload that are written at once; another thread would take longer to begin."""
COLLECTED = 2**20
"""Bytes of an upload that are gathered for one trip."""
FIRST_ENTRIES, ENTRIES = 20, 500
"""Lines of a listing that are sent first, and then at a time."""

OPERATIONS = {
    "GET": (
        *("OPEN", "LISTSTATUS", "GETFILESTATUS", "GETDISKUSAGE"),
        *("WEBSOCKET", "WEBSOCKET_READ", "WEBSOCKET_WRITE"),
    ),
    "PUT": ("CREATE", "MKDIRS"),
    "PATCH": ("WRITE",),
    "POST": ("RENAME",),
    "DELETE": ("DELETE",),
}
"""By method; the first one is meant when none is named."""
KNOWN = {operation for operations in OPERATIONS.values() for operation in operations}

NOT_FOUND = "404: Not Found"
CONDITIONS = ("If-Match", "If-None-Match", "If-Range", "If-Unmodified-Since")


class _AnyPath(Convertor[str]):
    """The rest of a path; the usual one ends at a newline, which a file's name may have."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_path", _AnyPath())

router = APIRouter()
PREFIX = "/storage/"


class Call(NamedTuple):
    """A request for an operation on a path."""

    request: Request
    storage: StorageFolder
    parts: tuple[str, ...]

    @property
    def caller(self) -> Caller:
        caller: Caller = self.request.state.caller
        return caller

    @property
    def wants_lines(self) -> bool:
        return NDJSON in self.request.headers.get("accept", "")

    def resource(self, parts: Parts) -> Resource:
        cluster: str = self.request.app.state.home.cluster
        return Resource("storage", cluster, *parts)

    def action_on(self, parts: Parts) -> Action:
        """Return the most that the caller may do."""
        return self.caller.grants.action_on(self.resource(parts))

    def require(self, action: Action, parts: Parts | None = None) -> None:
        """Refuse what the caller may not do; this service does not tell it from what is missing."""
        if not self.caller.may(action, self.resource(self.parts if parts is None else parts)):
            raise ResourceNotFound(NOT_FOUND)


async def storage(request: Request) -> Response:
    """Carry out the operation that the query names."""
    _, _, path = unquote_to_bytes(request.scope["raw_path"]).partition(PREFIX.encode())
    folder: StorageFolder = request.app.state.storage
    with refusals(folder), suppress(ClientDisconnect):
        call = Call(request, folder, parts_of(path.decode("utf-8", "surrogateescape")))
        handle = HANDLERS.get(_operation(request.method, request.scope["query_string"]))
        if handle is None:
            raise NotSupported(
                "this local platform's storage is not spoken to by websocket; "
                "OPEN, CREATE and WRITE do the same"
            )
        await _make_project(call)
        return await handle(call)
    return Response(status_code=400)  # nobody is there to read it


# Not a FastAPI route: that decodes the path, and bytes that are no text would be lost.
ROUTE = Route(PREFIX + "{path:any_path}", storage, methods=list(OPERATIONS))
router.routes.append(ROUTE)


async def _make_project(call: Call) -> None:
    """Make the folder of a project of the caller's, which is there from its beginning on."""
    if len(call.parts) != 2:
        return
    state = call.request.app.state
    projects = state.users.projects_of(call.caller.name)
    if call.parts in {(state.home.org, project) for project in projects}:
        call.storage.make(call.parts)


@lru_cache(64)
def _operation(method: str, query: bytes) -> str:
    asked = [
        value.upper() if name == "op" else name.upper()
        for name, value in QueryParams(query).multi_items()
        if name == "op" or name.upper() in KNOWN
    ]
    if len(asked) > 1:
        raise IllegalArgumentError(f"Ambiguous operations: {', '.join(asked)}")
    allowed = OPERATIONS[method]
    operation = asked[0] if asked else allowed[0]
    if operation not in KNOWN:
        raise IllegalArgumentError(f"{operation!r} is not a valid StorageOperation")
    if operation not in allowed:
        raise IllegalArgumentError(f"Illegal operation: {operation}")
    return operation


@contextmanager
def refusals(storage: StorageFolder) -> Iterator[None]:
    """Turn what the file system says into what this service answers."""
    try:
        yield
    except APIError:
        raise
    except FileNotFoundError as error:
        raise ResourceNotFound(NOT_FOUND) from error
    except OSError as error:
        name = os_error_name(error)
        text = error.strerror or str(error)
        if is_full(storage.root, error):
            text += f": {why_not_written(storage.root, error)}"
        raise storage_error(name)(text, payload={"errno": name}) from error
    except (ValueError, OverflowError) as error:  # a NUL in a name, a number beyond any file
        raise IllegalArgumentError(str(error)) from error


async def open_file(call: Call) -> Response:
    """Send a file or a range of it; to HEAD, what it is."""
    call.require(Action.READ)
    if call.request.scope.get("asked_method") == "HEAD":
        entry = call.storage.status(call.parts)
        return Response(headers=_file_headers(entry, entry.length))
    asked = call.request.headers.get("range")
    content, entry = call.storage.read(call.parts)
    try:
        wanted = ByteRange.from_header(asked, entry.length)
    except ValueError:
        content.close()
        text = "416: Requested Range Not Satisfiable"
        headers = {"content-range": f"bytes */{entry.length}"}
        return PlainTextResponse(text, status_code=416, headers=headers)
    headers = _file_headers(entry, wanted.length)
    if asked is not None:
        headers["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{entry.length}"
    return _FileAnswer(content, wanted, 200 if asked is None else 206, headers)


class _FileAnswer(Response):
    """A range of a file, which is closed afterwards."""

    def __init__(
        self, content: FileIO, wanted: ByteRange, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(None, status, headers, OCTETS)
        self._content = content
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # as all answers
        head = {"type": "http.response.start", "status": self.status_code}
        with self._content as content:
            await send({**head, "headers": self.raw_headers})
            await file_sender(scope)(content, self._wanted.start, self._wanted.length)
            await send({"type": "http.response.body"})


def _file_headers(entry: Entry, length: int) -> dict[str, str]:
    headers = {
        "content-length": str(length),
        "last-modified": http_date(entry.modified),
        "x-file-type": entry.kind,
        "x-file-permission": "read",
    }
    if entry.kind == "FILE":
        headers |= {"x-file-length": str(entry.length), "accept-range": "bytes"}
    return headers


async def list_status(call: Call) -> Response:
    """Tell what is in a folder, line by line where the caller accepts that."""
    call.require(Action.LIST)
    entries = _visible(call)
    try:
        first = await submit(Work.FOLDERS, _take, entries, FIRST_ENTRIES)
    except FileNotFoundError as error:
        if call.wants_lines:
            raise StorageNotFound("Not found", payload={"errno": "ENOENT"}) from error
        raise
    describe = _describer(call)
    if call.wants_lines:
        # Not media_type: the protocol wants it without a charset.
        lines = _lines(Work.FOLDERS, first, entries, lambda entry: {"FileStatus": describe(entry)})
        return StreamingResponse(lines, headers={"content-type": NDJSON})
    statuses = [describe(entry) for entry in first]
    while page := await submit(Work.FOLDERS, _take, entries, ENTRIES):
        statuses += [describe(entry) for entry in page]
    return _json({"FileStatuses": {"FileStatus": statuses}})


def _visible(call: Call) -> Iterator[Entry]:
    """Yield what the caller may know of."""
    entries = call.storage.entries(call.parts)
    if call.caller.may(Action.READ, call.resource(call.parts)):
        return entries
    return (
        entry
        for entry in entries
        if call.caller.may(Action.LIST, call.resource((*call.parts, entry.name)))
    )


def _describer(call: Call) -> Callable[[Entry], dict[str, object]]:
    """Return what describes the things in a folder."""
    permission = call.action_on(call.parts)
    # Nothing below can be more, so it need not be looked up for each.
    if permission is Action.MANAGE:
        return lambda entry: _status(entry.name, entry, permission)
    return lambda entry: _status(entry.name, entry, call.action_on((*call.parts, entry.name)))


def _status(path: str, entry: Entry, permission: Action) -> dict[str, object]:
    return {
        "path": path,
        "type": entry.kind,
        "length": entry.length,
        "modificationTime": entry.modified,
        "permission": permission.value,
    }


async def get_file_status(call: Call) -> Response:
    call.require(Action.LIST)
    entry = call.storage.status(call.parts)
    path = "/" + "/".join(call.parts)
    return _json({"FileStatus": _status(path, entry, call.action_on(call.parts))})


async def get_disk_usage(call: Call) -> Response:
    call.require(Action.LIST)
    usage = await submit(Work.FOLDERS, call.storage.usage, call.parts)
    return _json(usage._asdict())


async def create(call: Call) -> Response:
    """Store the body as a file, with its name only once it is whole."""
    call.require(Action.WRITE)
    body = _Batches(call.request)
    first = await body.next()
    if body.ended and sum(map(len, first)) <= SMALL:
        with call.storage.create(call.parts) as new:
            new.write(first)
            new.commit()
    else:
        file = await submit(Work.UPLOADS, call.storage.create, call.parts)
        await _receive(file, first, body)
    return PlainTextResponse("201: Created", status_code=201)


async def write(call: Call) -> Response:
    """Store the body within a file that is there."""
    call.require(Action.WRITE)
    headers = call.request.headers
    for condition in CONDITIONS:
        if condition in headers:
            raise IllegalArgumentError(f"Unsupported header {condition}")
    if headers.get("content-type", OCTETS) != OCTETS:
        raise IllegalArgumentError(f"Content-Type should be {OCTETS}")
    if "content-range" not in headers:
        raise IllegalArgumentError("Required header Content-Range")
    start, length = _content_range(headers["content-range"])
    file = await submit(Work.UPLOADS, call.storage.write, call.parts, start)
    body = _Batches(call.request, length)
    await _receive(file, await body.next(), body)
    return PlainTextResponse("200: OK")


def _content_range(value: str) -> tuple[int, int]:
    """Return the offset and the length of what is written."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(?:\*|\d+)", value, re.ASCII)
    if not found or int(found[2]) < int(found[1]):
        raise IllegalArgumentError(f"Content-Range should be 'bytes FIRST-LAST/*', not {value!r}")
    return int(found[1]), int(found[2]) - int(found[1]) + 1


class _Batches:
    """A request's body in large pieces, up to a length."""

    def __init__(self, request: Request, length: int | None = None) -> None:
        self._pieces = request.stream()
        self._left = length
        self.ended = False

    async def next(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while size < COLLECTED:
            piece = await anext(self._pieces, None)
            if piece is None:
                self.ended = True
                break
            if self._left is not None:
                piece = piece[: self._left]
                self._left -= len(piece)
            batch.append(piece)
            size += len(piece)
        return batch


async def _receive(file: WrittenFile, batch: list[bytes], body: _Batches) -> None:
    """Write batches, receiving the next one meanwhile."""
    try:
        while batch:
            writing = submit(Work.UPLOADS, file.write, batch)
            try:
                batch = await body.next()
            finally:
                await writing
        await submit(Work.UPLOADS, file.commit)
    finally:
        file.close()


async def make_folders(call: Call) -> Response:
    call.require(Action.WRITE)
    call.storage.make(call.parts)
    return PlainTextResponse("201: Created", status_code=201)


async def delete(call: Call) -> Response:
    """Remove a file or a folder, and tell of each thing removed where the caller accepts that."""
    call.require(Action.WRITE)
    recursive = flag(call.request.query_params.get("recursive", "true"))
    removed = call.storage.remove(call.parts, recursive=recursive)
    first = await submit(Work.DELETIONS, _take, removed, FIRST_ENTRIES)
    if call.wants_lines:
        lines = _lines(Work.DELETIONS, first, removed, lambda item: dict(item._asdict()))
        return StreamingResponse(lines, headers={"content-type": NDJSON})
    while await submit(Work.DELETIONS, _take, removed, ENTRIES):
        pass
    return Response(status_code=204)


async def rename(call: Call) -> Response:
    """Move to a place that is absolute, or relative to the folder of what is moved."""
    call.require(Action.WRITE)
    destination = _destination(call.request)
    if destination is None:
        raise IllegalArgumentError("No destination")
    above = "" if destination.startswith("/") else "/".join(call.parts[:-1])
    target = parts_of(f"{above}/{destination}")
    call.require(Action.WRITE, target)
    await submit(Work.FOLDERS, call.storage.rename, call.parts, target)
    return Response(status_code=204)


def _destination(request: Request) -> str | None:
    """Read the parameter from its bytes, which may be no text."""
    for parameter in request.scope["query_string"].split(b"&"):
        name, equals, value = parameter.partition(b"=")
        if name == b"destination" and equals:
            raw = unquote_to_bytes(value.replace(b"+", b" "))
            return raw.decode("utf-8", "surrogateescape")
    return None


async def _lines(
    work: Work, page: list[T], rest: Iterator[T], line: Callable[[T], dict[str, object]]
) -> AsyncIterator[bytes]:
    """Yield a line of JSON for each item; a failure is the last line."""
    try:
        while page:
            yield b"".join(json.dumps(line(item)).encode() + b"\r\n" for item in page)
            page = await submit(work, _take, rest, ENTRIES)
    except OSError as error:
        failure = {"error": error.strerror or str(error), "errno": os_error_name(error)}
        yield json.dumps(failure).encode()


def _take(items: Iterator[T], count: int) -> list[T]:
    return list(islice(items, count))


def _json(answer: object) -> Response:
    return Response(json.dumps(answer), media_type=JSON)


HANDLERS: dict[str, Callable[[Call], Awaitable[Response]]] = {
    "OPEN": open_file,
    "LISTSTATUS": list_status,
    "GETFILESTATUS": get_file_status,
    "GETDISKUSAGE": get_disk_usage,
    "CREATE": create,
    "WRITE": write,
    "MKDIRS": make_folders,
    "DELETE": delete,
    "RENAME": rename,
}
