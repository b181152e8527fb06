"""``/v2/``: the registry of images, behind the platform's token and permissions."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from neuro_sync.errors import AuthorizationError, IllegalArgumentError, ServerError
from neuro_sync.local.access import Asking, Caller
from neuro_sync.local.answers import JSON
from neuro_sync.local.permissions import Resource
from neuro_sync.local.registry import Answer, Registry, whole
from neuro_sync.models.users import Action

router = APIRouter()

METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DIGEST = r"[A-Za-z0-9_+.-]+:[A-Fa-f0-9]{32,}"
WITHIN = re.compile(
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT}){{2,}})/"
    rf"(?:tags/list|manifests/(?:\w[\w.-]{{0,127}}|{_DIGEST})"
    rf"|blobs/(?:{_DIGEST}|uploads/[\w.=-]*))",
    re.ASCII,
)
"""What there is in a repository ``org/project/name``; nothing else is passed on."""
CATALOG_PAGE = 1000


@router.get("/v2/")
async def version(request: Request) -> Response:
    return _relay(await _registry(request).ask("GET", "/v2/"))


@router.get("/v2/_catalog")
async def catalog(request: Request, caller: Asking) -> Response:
    """List the repositories that the caller may read, in alphabetical order."""
    wanted = dict(request.query_params)
    if unknown := sorted(set(wanted) - {"org", "project", "n", "last"}):
        raise IllegalArgumentError(f"there is no parameter {unknown[0]!r}")
    count = wanted.get("n", "")
    if count and not (count.isascii() and count.isdigit() and int(count)):
        raise IllegalArgumentError(f"n = {count!r}: should be a number of at least 1")
    names = [
        name
        for name in await _repositories(_registry(request))
        if _is_wanted(name, wanted) and caller.may(Action.READ, _resource(request, name))
    ]
    page = names[: int(count)] if count else names
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
    found = WITHIN.fullmatch(path)
    if found is None:
        return _refusal(404, "NAME_INVALID", "a repository is ORG/PROJECT/NAME", {"name": path})
    method: str = request.scope.get("asked_method", request.method)
    name = found["repository"]
    action = Action.READ if method in ("GET", "HEAD") else Action.WRITE
    if not caller.may(action, _resource(request, name)):
        raise AuthorizationError("403: Forbidden")
    query = _query(request, caller)
    has_body = method in ("POST", "PATCH", "PUT")
    try:
        answer = await _registry(request).ask(
            method,
            f"/v2/{path}?{query}" if query else f"/v2/{path}",
            request.headers.raw,
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


def _query(request: Request, caller: Caller) -> str:
    """Return the query, without a blob to be mounted from where the caller may not read.

    The registry then asks for its bytes, as if it had none.
    """
    query = request.url.query
    sources = [value for key, value in parse_qsl(query) if key == "from"]
    if all(caller.may(Action.READ, _resource(request, source)) for source in sources):
        return query
    kept = [pair for pair in parse_qsl(query) if pair[0] not in ("mount", "from")]
    return urlencode(kept)


def _resource(request: Request, repository: str) -> Resource:
    return Resource("image", request.app.state.home.cluster, *repository.split("/"))


def _refusal(status: int, code: str, message: str, detail: dict[str, Any]) -> Response:
    errors = [{"code": code, "message": message, "detail": detail}]
    return Response(json.dumps({"errors": errors}), status, media_type=JSON)
