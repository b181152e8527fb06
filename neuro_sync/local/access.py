"""Who may call: checked here, for every request and every websocket, before anything else."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from neuro_sync.errors import AuthenticationError, AuthorizationError, IllegalArgumentError

OPEN_PATHS = frozenset({"/ping", "/api/v1/ping"})
"""What answers without a token, and says nothing."""
CONFIG_PATH = "/api/v1/config"
SUBPROTOCOL_PREFIX = "bearer.apolo.us-"


@dataclass(frozen=True)
class Users:
    """Whose token is whose."""

    names: Mapping[str, str]
    """Token to user name."""

    def of_token(self, token: str) -> str | None:
        found = None
        for known, name in self.names.items():
            # All are compared, and each in constant time: the time tells nothing.
            if hmac.compare_digest(known.encode(), token.encode()):
                found = name
        return found


class AccessRules:
    """Lets a request through when it comes from this machine's own programs, with a token.

    A web page in a browser on this machine can send requests here too, under a host name of its
    own that it has pointed at the loopback address, or from its own origin; so both headers are
    checked on every method. The caller's name is left in ``scope["state"]["user"]``.
    """

    def __init__(self, app: ASGIApp, users: Users, port: int) -> None:
        self._app = app
        self._users = users
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["user"] = self._admit(scope)
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> str | None:
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
        token = _token(headers, scope)
        user = self._users.of_token(token) if token else None
        if user is None and scope["path"] != CONFIG_PATH:
            raise AuthenticationError("401: Unauthorized")
        return user


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
