"""The web servers of jobs, each at a port of its own of this machine.

A port, and not a path below the platform's own: a notebook's links start at the root, and what one
job's pages may do in a browser must not reach another job, or the platform. Each request has a
connection of its own to the job; what follows its head is passed on as it is, both ways, so that
websockets and answers of any length need no care here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

import h11

from .http import LARGEST_HEAD

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
COOKIE = "neuro-local-login"
"""One for all ports: browsers do not tell them apart. Jobs never see it."""
LOGIN_PATH = "/.neuro-login"
TOKEN_PARAMETER = "neuro-auth-token"  # noqa: S105  # the name of a parameter
LARGEST_FORM = 2**13
HEAD_TIMEOUT = 20.0
"""Seconds in which a request has to be there; so nobody holds connections with half ones."""
PIECE = 2**16
MOST_LOGINS = 1000

Dial = Callable[[str, int], Awaitable[tuple[StreamReader, StreamWriter]]]
"""Connects to a port of a job; OSError says that nobody listens there."""
Authenticate = Callable[[str], str | None]
"""Returns whose token it is."""
Authorize = Callable[[str, str], bool]
"""Whether a user may see a job's pages."""


@dataclass
class Site:
    """One job's web server."""

    job_id: str
    target: int
    """The port inside the job."""
    requires_auth: bool
    listener: socket.socket
    server: asyncio.Task[asyncio.Server] | None = None

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


class Refused(Exception):
    """A request that is answered here, and not by the job."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Sites:
    """Opens and closes them; all of it happens on one event loop."""

    def __init__(self, dial: Dial, authenticate: Authenticate, authorize: Authorize) -> None:
        self._dial = dial
        self._authenticate = authenticate
        self._authorize = authorize
        self._sites: dict[str, Site] = {}
        self._logins: dict[str, str] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def open(self, job_id: str, target: int, *, requires_auth: bool, port: int = 0) -> str:
        """Listen for a job, at `port` if it is free, and return the address.

        Requests are answered from now on, and reach the job as soon as it listens itself.
        """
        site = Site(job_id, target, requires_auth, _listen(port))
        self._sites[job_id] = site

        async def serve() -> asyncio.Server:
            return await asyncio.start_server(
                lambda reader, writer: self._on_connection(site, reader, writer),
                sock=site.listener,
                limit=LARGEST_HEAD,
            )

        site.server = asyncio.get_running_loop().create_task(serve())
        return site.url

    def close(self, job_id: str) -> None:
        """Listen no more for a job; answers under way go on as long as it does."""
        site = self._sites.pop(job_id, None)
        if site is None or site.server is None:
            return

        def close(serving: asyncio.Task[asyncio.Server]) -> None:
            if not serving.cancelled() and serving.exception() is None:
                serving.result().close()
            site.listener.close()

        site.server.add_done_callback(close)

    async def close_all(self) -> None:
        """Close everything, also what is under way."""
        servers = [site.server for site in self._sites.values() if site.server is not None]
        for job_id in list(self._sites):
            self.close(job_id)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*servers, *self._connections, return_exceptions=True)

    def _on_connection(self, site: Site, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(site, reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, site: Site, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            request = await _read_request(reader)
            if request is not None:
                await self._answer(site, request, reader, writer)
        except Refused as refusal:
            with suppress(OSError):
                await _say(writer, refusal.status, str(refusal))
        except (OSError, asyncio.IncompleteReadError):
            pass  # somebody hung up
        except Exception:
            logger.exception("job %s: its web page could not be passed on", site.job_id)
        finally:
            writer.close()

    async def _answer(
        self, site: Site, request: Request, reader: StreamReader, writer: StreamWriter
    ) -> None:
        _check_origin(site, request)
        if site.requires_auth:
            if request.path == LOGIN_PATH and request.method == "POST":
                await self._log_in(request, reader, writer)
                return
            if await self._turned_away(site, request, writer):
                return
        try:
            job_reader, job_writer = await self._dial(site.job_id, site.target)
        except (OSError, ValueError) as error:
            raise Refused(
                HTTPStatus.BAD_GATEWAY,
                f"{site.job_id} does not listen on its port {site.target} (yet); try again",
            ) from error
        try:
            job_writer.write(request.for_job(is_ours=self._is_ours))
            await _splice((reader, job_writer), (job_reader, writer))
        finally:
            job_writer.close()

    def _is_ours(self, token: str) -> bool:
        return self._authenticate(token) is not None

    async def _turned_away(self, site: Site, request: Request, writer: StreamWriter) -> bool:
        """Answer whoever has not signed in, or has just done it with a token in the address."""
        tokens = filter(None, (request.bearer, request.query_token))
        users = [self._logins.get(request.login or ""), *map(self._authenticate, tokens)]
        user = next(filter(None, users), None)
        if user is None:
            if request.wants_page:
                await _say(writer, HTTPStatus.UNAUTHORIZED, _form(request.target), html=True)
                return True
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "sign in: send the platform's token as 'Authorization: Bearer TOKEN', "
                "or open the address in a browser",
            )
        if not self._authorize(user, site.job_id):
            raise Refused(HTTPStatus.FORBIDDEN, f"{user} may not see the pages of {site.job_id}")
        if request.query_token and request.method == "GET" and not request.is_websocket:
            await self._remember(user, request.without_token, writer)
            return True
        return False

    async def _log_in(self, request: Request, reader: StreamReader, writer: StreamWriter) -> None:
        fields = dict(parse_qsl((await request.form(reader)).decode("utf-8", "replace")))
        target = fields.get("next", "/")
        user = self._authenticate(fields.get("token", "").strip())
        if user is None:
            page = _form(target, "The platform does not know this token.")
            await _say(writer, HTTPStatus.UNAUTHORIZED, page, html=True)
            return
        await self._remember(user, target, writer)

    async def _remember(self, user: str, target: str, writer: StreamWriter) -> None:
        login = secrets.token_urlsafe(32)
        self._logins[login] = user
        while len(self._logins) > MOST_LOGINS:
            del self._logins[next(iter(self._logins))]
        # Only a path of this site; anything else would lead wherever a link says.
        path = target if target.startswith("/") and target[1:2] not in ("/", "\\") else "/"
        headers = {
            "Location": "".join(character for character in path if character.isprintable()),
            "Set-Cookie": f"{COOKIE}={login}; Path=/; HttpOnly; SameSite=Lax",
        }
        await _say(writer, HTTPStatus.SEE_OTHER, "", headers=headers)


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: bytes) -> str | None:
        found = [value for key, value in self.headers if key == name]
        return b", ".join(found).decode("latin-1") if found else None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def is_websocket(self) -> bool:
        return (self.header(b"upgrade") or "").lower() == "websocket"

    @property
    def wants_page(self) -> bool:
        return self.method == "GET" and "text/html" in (self.header(b"accept") or "")

    @property
    def bearer(self) -> str | None:
        scheme, _, token = (self.header(b"authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    @property
    def query_token(self) -> str | None:
        return dict(parse_qsl(urlsplit(self.target).query)).get(TOKEN_PARAMETER)

    @property
    def without_token(self) -> str:
        """The target without the token that is in it."""
        path, _, query = self.target.partition("?")
        left = [item for item in parse_qsl(query, True) if item[0] != TOKEN_PARAMETER]
        return f"{path}?{urlencode(left)}" if left else path

    @property
    def login(self) -> str | None:
        cookies: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            cookies.load(self.header(b"cookie") or "")
        return cookies[COOKIE].value if COOKIE in cookies else None

    async def form(self, reader: StreamReader) -> bytes:
        length = self.header(b"content-length") or ""
        if not length.isdigit() or int(length) > LARGEST_FORM:
            raise Refused(HTTPStatus.BAD_REQUEST, "that is no login form")
        return await asyncio.wait_for(reader.readexactly(int(length)), HEAD_TIMEOUT)

    def for_job(self, is_ours: Callable[[str], bool]) -> bytes:
        """Return the head as the job gets it: no token or login of the platform is in it."""
        dropped = _OURS | ({b"authorization"} if self.bearer and is_ours(self.bearer) else set())
        kept = [(name, value) for name, value in self.headers if name not in dropped]
        cookies = _foreign_cookies(self.header(b"cookie") or "")
        if cookies:
            kept.append((b"cookie", cookies.encode("latin-1")))
        # One request for each connection; so what comes after it need not be understood here.
        kept.append((b"connection", b"upgrade" if self.is_websocket else b"close"))
        kept += [(b"x-forwarded-proto", b"http"), (b"x-forwarded-for", HOST.encode())]
        token = self.query_token
        target = self.without_token if token and is_ours(token) else self.target
        lines = [f"{self.method} {target} HTTP/1.1".encode("latin-1")]
        return b"\r\n".join([*lines, *(name + b": " + value for name, value in kept), b"", b""])


_OURS = frozenset(
    {
        b"connection",
        b"cookie",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"x-forwarded-for",
        b"x-forwarded-proto",
    }
)


def _foreign_cookies(text: str) -> str:
    items = (item.strip() for item in text.split(";"))
    return "; ".join(item for item in items if item and not item.startswith(f"{COOKIE}="))


def _listen(port: int) -> socket.socket:
    """Listen at a port, or at any other if somebody else has it by now."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.bind((HOST, 0))
    listener.listen(128)
    return listener


async def _read_request(reader: StreamReader) -> Request | None:
    """Read the head of a request; None if nobody asked for anything."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT)
    except asyncio.TimeoutError as error:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time") from error
    except asyncio.LimitOverrunError as error:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise Refused(status, "the head of the request is too long") from error
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"that is no HTTP request: {error}") from error
    if not isinstance(event, h11.Request):
        raise Refused(HTTPStatus.BAD_REQUEST, "that is no HTTP request")
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    return Request(event.method.decode("latin-1"), event.target.decode("latin-1"), headers)


def _check_origin(site: Site, request: Request) -> None:
    """Refuse what a page of somebody else had a browser send, or a name made to point here."""
    hosts = {f"{name}:{site.port}" for name in (HOST, "localhost")}
    host = (request.header(b"host") or "").lower()
    if host not in hosts:
        text = f"this site does not answer to the name {host!r}; use {site.url}"
        raise Refused(HTTPStatus.FORBIDDEN, text)
    origin = request.header(b"origin")
    if origin is not None and origin.lower() not in {f"http://{name}" for name in hosts}:
        raise Refused(HTTPStatus.FORBIDDEN, f"pages of {origin!r} may not use this site")


async def _splice(
    upward: tuple[StreamReader, StreamWriter], downward: tuple[StreamReader, StreamWriter]
) -> None:
    """Pass bytes on both ways, until the job has said everything."""
    sending = asyncio.ensure_future(_copy(*upward))
    receiving = asyncio.ensure_future(_copy_answer(*downward))
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() or sending.exception() is None:
            await receiving  # the request may be sent long before its answer comes
    finally:
        sending.cancel()
        receiving.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)


async def _copy_answer(reader: StreamReader, writer: StreamWriter) -> None:
    """Pass on an answer, which tells the browser that no other one follows it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            status = first.split(b" ")[1]
            if status == b"101":
                writer.write(head)
                break
            if not status.startswith(b"1"):
                kept = [line for line in lines if not line.lower().startswith(_OF_CONNECTIONS)]
                writer.write(b"\r\n".join([first, *kept, b"Connection: close", b"", b""]))
                break
            writer.write(head)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError) as error:
        raise Refused(HTTPStatus.BAD_GATEWAY, "the job gave no answer in HTTP") from error
    await _copy(reader, writer)


_OF_CONNECTIONS = (b"connection:", b"keep-alive:")


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def _say(
    writer: StreamWriter,
    status: HTTPStatus,
    text: str,
    *,
    html: bool = False,
    headers: dict[str, str] | None = None,
) -> None:
    body = text.encode()
    fields = {
        "Content-Type": f"text/{'html' if html else 'plain'}; charset=utf-8",
        "Content-Length": str(len(body)),
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
        "form-action 'self'; frame-ancestors 'none'",
        # Not "no-referrer": then browsers would hide where the login form was sent from.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Connection": "close",
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    start = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
    writer.write(f"{start}{head}\r\n".encode("latin-1", "replace") + body)
    await writer.drain()


def _form(target: str, complaint: str = "") -> str:
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Sign in</title>
<style>body {{ font: 16px sans-serif; max-width: 32em; margin: 4em auto; padding: 0 1em }}
input, button {{ font: inherit; padding: .4em; width: 100%; box-sizing: border-box;
margin-top: .5em }}</style>
<h1>Sign in</h1>
<p>This job's page is for users of the local platform. <code>neuro config show-token</code> prints
the token.</p>
<p role="alert"><strong>{escape(complaint)}</strong></p>
<form method="post" action="{LOGIN_PATH}">
<input type="hidden" name="next" value="{escape(target)}">
<label>Token <input type="password" name="token" autofocus autocomplete="off" required></label>
<button>Sign in</button>
</form></html>
"""
