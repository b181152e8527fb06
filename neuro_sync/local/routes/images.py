"""``/v2/``: the registry of images, behind the platform's token and permissions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from neuro_sync.errors import AuthorizationError, IllegalArgumentError, ServerError
from neuro_sync.local.access import Asking, Caller
from neuro_sync.local.answers import JSON
from neuro_sync.local.permissions import Resource
from neuro_sync.local.registry import Answer, Registry, whole
from neuro_sync.models.users import Action

from .values import whole_number

router = APIRouter()

METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DIGEST = r"[A-Za-z0-9_+.-]+:[A-Fa-f0-9]{32,}"
_REPOSITORY = rf"{_COMPONENT}(?:/{_COMPONENT}){{2,}}"
REPOSITORY = re.compile(_REPOSITORY)
WITHIN = re.compile(
    rf"(?P<repository>{_REPOSITORY})/"
    rf"(?:(?P<tags>tags/list)|(?P<manifest>manifests/(?:\w[\w.-]{{0,127}}|{_DIGEST}))"
    rf"|blobs/(?:(?P<blob>{_DIGEST})|(?P<uploads>uploads/)|(?P<upload>uploads/\w[\w.=-]*)))",
    re.ASCII,
)
"""What there is in a repository ``org/project/name``; nothing else is passed on."""
PARAMETERS = {
    "tags": ("n", "last"),
    "manifest": (),
    "blob": (),
    "uploads": ("digest", "mount", "from"),
    "upload": ("_state", "digest"),
}
"""What the query of each kind of path may say; the registry is told nothing else."""
HEADERS = frozenset(
    {
        *(b"accept", b"range", b"user-agent"),
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-range", b"if-unmodified-since"),
    }
)
"""Headers of any request that the registry is told."""
BODY_HEADERS = frozenset({b"content-length", b"content-range", b"transfer-encoding"})
MANIFEST_TYPE = re.compile(rb"application/(?:json|vnd\.[\w.+-]+)\s*(?:;.*)?", re.ASCII)
OCTETS = b"application/octet-stream"
CATALOG_PAGE = 1000
LONGEST_PATH = 1024
"""Characters; the registry itself knows no name of more than 255, and no digest of so many."""


@router.get("/v2/")
async def version(request: Request) -> Response:
    return _relay(await _registry(request).ask("GET", "/v2/"))


@router.get("/v2/_catalog")
async def catalog(request: Request, caller: Asking) -> Response:
    """List the repositories that the caller may read, in alphabetical order."""
    wanted = dict(request.query_params)
    if unknown := sorted(set(wanted) - {"org", "project", "n", "last"}):
        raise IllegalArgumentError(f"there is no parameter {unknown[0]!r}")
    given = wanted.get("n", "")
    count = whole_number("n", given, least=1) if given else None
    names = [
        name
        for name in await _repositories(_registry(request))
        if _is_wanted(name, wanted) and caller.may(Action.READ, _resource(request, name))
    ]
    page = names[:count]
    headers = {}
    if len(page) < len(names):
        query = urlencode({**wanted, "last": page[-1]})
        headers["Link"] = f'</v2/_catalog?{query}>; rel="next"'
    return Response(json.dumps({"repositories": page}), headers=headers, media_type=JSON)


def _is_wanted(name: str, wanted: dict[str, str]) -> bool:
    parts = name.split("/")
    return (
        len(parts) >= 3
        and parts[0] == wanted.get("org", parts[0])
        and parts[1] == wanted.get("project", parts[1])
        and name > wanted.get("last", "")
    )


async def _repositories(registry: Registry) -> list[str]:
    names: list[str] = []
    page: list[str] | None = None
    while page is None or len(page) == CATALOG_PAGE:
        query = urlencode({"n": CATALOG_PAGE, **({"last": names[-1]} if names else {})})
        answer = await registry.ask("GET", f"/v2/_catalog?{query}")
        body = await whole(answer)
        if answer.status != 200:
            raise ServerError(f"the registry answered {answer.status}: {body.decode()}")
        page = json.loads(body)["repositories"] or []
        names += page
    return sorted(names)


@router.api_route("/v2/{path:path}", methods=METHODS, include_in_schema=False)
async def within(path: str, request: Request, caller: Asking) -> Response:
    """Pass a request on to the registry, and its answer back, both while they come."""
    found = WITHIN.fullmatch(path) if len(path) <= LONGEST_PATH else None
    if found is None:
        return _refusal(404, "NAME_INVALID", "a repository is ORG/PROJECT/NAME", {"name": path})
    method: str = request.scope.get("asked_method", request.method)
    name = found["repository"]
    action = Action.READ if method in ("GET", "HEAD") else Action.WRITE
    if not caller.may(action, _resource(request, name)):
        raise AuthorizationError("403: Forbidden")
    kind = str(found.lastgroup)
    query = urlencode(_parameters(kind, request, caller))
    has_body = method in ("POST", "PATCH", "PUT")
    try:
        answer = await _registry(request).ask(
            method,
            f"/v2/{path}?{query}" if query else f"/v2/{path}",
            [*_headers(kind, request, has_body=has_body)],
            request.stream() if has_body else None,
        )
    except ClientDisconnect:
        return Response()  # nobody is there to read it
    return _relay(answer)


def _relay(answer: Answer) -> Response:
    response = StreamingResponse(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


def _parameters(kind: str, request: Request, caller: Caller) -> dict[str, str]:
    """Return the parameters that the registry is told, each of which was given once.

    A blob that is to be mounted from where the caller may not read is left out: the registry then
    asks for its bytes, as if it had none.
    """
    given = parse_qs(request.url.query, keep_blank_values=True)
    kept = {name: given[name][0] for name in PARAMETERS[kind] if len(given.get(name, ())) == 1}
    if not _may_mount(kept.get("mount"), kept.get("from", ""), request, caller):
        kept.pop("mount", None)
        kept.pop("from", None)
    return kept


def _may_mount(digest: str | None, source: str, request: Request, caller: Caller) -> bool:
    is_said = digest is not None and REPOSITORY.fullmatch(source) is not None
    return is_said and caller.may(Action.READ, _resource(request, source))


def _headers(kind: str, request: Request, *, has_body: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers that the registry is told.

    Of a body with the type of a form it would read further parameters, which nobody has checked.
    So only the type of a manifest is passed on, and every other body is nothing but bytes.
    """
    content_type = OCTETS
    for name, value in request.headers.raw:
        if name in HEADERS or (has_body and name in BODY_HEADERS):
            yield name, value
        elif name == b"content-type" and kind == "manifest" and MANIFEST_TYPE.fullmatch(value):
            content_type = value
    if has_body:
        yield b"content-type", content_type


def _resource(request: Request, repository: str) -> Resource:
    return Resource("image", request.app.state.home.cluster, *repository.split("/"))


def _refusal(status: int, code: str, message: str, detail: dict[str, Any]) -> Response:
    errors = [{"code": code, "message": message, "detail": detail}]
    return Response(json.dumps({"errors": errors}), status, media_type=JSON)
