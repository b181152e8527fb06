"""Who may call: checked here, for every request and every websocket, before anything else."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from neuro_sync.errors import AuthenticationError, AuthorizationError, IllegalArgumentError
from neuro_sync.models.users import Action

from .answers import is_registry
from .permissions import Grants, Resource

if TYPE_CHECKING:
    from .users import Users

OPEN_PATHS = frozenset({"/ping", "/api/v1/ping"})
"""What answers without a token, and says nothing."""
CONFIG_PATH = "/api/v1/config"
SUBPROTOCOL_PREFIX = "bearer.apolo.us-"
SINGLE_HEADERS = frozenset(
    {
        *(b"host", b"origin", b"authorization"),
        *(b"content-length", b"transfer-encoding", b"content-type", b"content-range", b"range"),
    }
)
"""Headers that decide what a request may do and is, so that no request has two of one."""


@dataclass(frozen=True)
class Caller:
    """Who asks. Every route asks it for the permission that it takes, before it does anything:

        @router.put("/{org}/{project}/{path:path}")
        async def create(org: str, project: str, path: str, caller: Asking) -> Response:
            caller.require(Action.WRITE, Resource("storage", CLUSTER, org, project, *parts))

    A body of ``{"missing": [...]}`` with status 403 answers what is refused. Services that answer
    something else (storage 404, the registry a plain 403) ask `may` and raise their own. Where one
    call takes several permissions, `require_all` lists everything that is missing at once. A
    resource with two names, as a job has, is permitted by either: ``require(action, one, other)``.
    """

    name: str
    grants: Grants
    token_digest: str | None = None
    """Of the token of this request; None for a user who is only asked about."""

    @property
    def user(self) -> str:
        """The user who it is, or to whom the role belongs."""
        return user_of(self.name)

    def may(self, action: Action, *resources: Resource) -> bool:
        """Whether it is allowed on one of the resources; they are names of the same thing."""
        return any(self.grants.allow(action, resource) for resource in resources)

    def require(self, action: Action, *resources: Resource) -> None:
        """Do nothing if it `may`.

        Raises:
            AuthorizationError: It may not; the error lists each resource as missing.
        """
        if not self.may(action, *resources):
            raise _refusal((action, resource) for resource in resources)

    def require_all(self, needs: Iterable[tuple[Action, Resource]]) -> None:
        """Do nothing if all that is needed is allowed; the error lists all that is missing."""
        missing = [need for need in needs if not self.may(*need)]
        if missing:
            raise _refusal(missing)


def user_of(account: str) -> str:
    """Return the user of an account, which is a user or a role such as ``alice/roles/editors``."""
    return account.partition("/")[0]


def _refusal(missing: Iterable[tuple[Action, Resource]]) -> AuthorizationError:
    listed = [{"uri": str(resource), "action": action.value} for action, resource in missing]
    text = ", ".join(f"{item['action']} on {item['uri']}" for item in listed)
    return AuthorizationError(f"not permitted; it takes {text}", payload={"missing": listed})


async def _caller(connection: HTTPConnection) -> Caller:
    caller: Caller = connection.state.caller
    return caller


Asking = Annotated[Caller, Depends(_caller)]
"""The type of a route's parameter that is given the `Caller`."""


def own_hosts(port: int) -> frozenset[str]:
    """Return the names, each with the port, that this platform answers to."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


class AccessRules:
    """Lets a request through when it comes from this machine's own programs, with a token.

    A web page in a browser on this machine can send requests here too, under a host name of its
    own that it has pointed at the loopback address, or from its own origin; so both headers are
    checked on every method. Routes find the caller by `Asking`, and in ``scope["state"]``.
    """

    def __init__(self, app: ASGIApp, users: Users, port: int) -> None:
        self._app = app
        self._users = users
        self._hosts = own_hosts(port)
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        caller = self._admit(scope)
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> Caller | None:
        _check_single(scope)
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host.lower() not in self._hosts:
            raise AuthorizationError(
                f"this platform does not answer to the host name {host!r}; use 127.0.0.1"
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origins:
            raise AuthorizationError(f"pages of {origin!r} may not use this platform")
        if scope["path"] in OPEN_PATHS:
            return None
        token = _password(headers) if is_registry(scope["path"]) else _token(headers, scope)
        caller = self._users.of_token(token) if token else None
        if caller is None and scope["path"] != CONFIG_PATH:
            raise AuthenticationError("401: Unauthorized")
        return caller


def _check_single(scope: Scope) -> None:
    """Refuse a request with two headers of which two readers could take a different one."""
    names = [name for name, _ in scope["headers"] if name in SINGLE_HEADERS]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1).decode()
        raise IllegalArgumentError(f"the header {twice!r} is there more than once")


def _password(headers: Headers) -> str:
    """Find the caller's token where Docker engines put it: whatever the user's name may be."""
    authorization = headers.get("authorization")
    if authorization is None:
        return ""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise IllegalArgumentError("Unexpected authorization scheme")
    try:
        _, colon, token = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        colon = token = ""
    if not colon or not token:
        raise IllegalArgumentError("No credentials")
    return token


def _token(headers: Headers, scope: Scope) -> str | None:
    """Find the caller's token: in the header, among the subprotocols, or in the query."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, space, token = authorization.partition(" ")
        if not space or not token.strip():
            raise IllegalArgumentError("No credentials")
        if scheme.lower() != "bearer":
            raise IllegalArgumentError("Unexpected authorization scheme")
        return token.strip()
    for offer in headers.get("sec-websocket-protocol", "").replace(",", " ").split():
        if offer.startswith(SUBPROTOCOL_PREFIX):
            return offer.removeprefix(SUBPROTOCOL_PREFIX)
    query: dict[str, list[str]] = parse_qs(scope["query_string"].decode("latin-1"))
    return query.get("neuro-auth-token", [""])[0]
