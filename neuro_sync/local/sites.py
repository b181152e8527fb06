"""The web servers of jobs, each at a port of its own of this machine.

A port, and not a path below the platform's own: a notebook's links start at the root, and what one
job's pages may do in a browser must not reach another job, or the platform. Each request has a
connection of its own to the job; what follows its head is passed on as it is, both ways, so that
websockets and answers of any length need no care here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode

import h11

from neuro_sync.monotonic import monotonic

from .access import Caller
from .http import LARGEST_HEAD, LINGER_S, MOST_REFUSED, TOO_MANY, Connections, refusal
from .peers import Address, Program, program_at

if TYPE_CHECKING:
    from .users import Users

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
COOKIE = "neuro-local-login"
"""How the name of each sign-in's cookie begins; the site's port follows.

Browsers send a cookie to all ports of a host, so no job is passed a cookie with such a name.
"""
LOGIN_PATH = "/.neuro-login"
TOKEN_PARAMETER = "neuro-auth-token"  # noqa: S105  # the name of a parameter
ACCEPTED_AT_ONCE = 16
"""Connections to one site that are accepted before the first of them is counted."""
BACKLOG = 512
"""Connections to one site that wait in the kernel to be accepted."""
LARGEST_FORM = 2**13
HEAD_TIMEOUT = 20.0
"""Seconds in which a request has to be there; so nobody holds connections with half ones."""
DIAL_TIMEOUT_S = 20.0
"""Within which a job has to accept a connection to its port."""
HALF_CLOSED_TIMEOUT_S = 60.0
"""How long a job may be silent when its client sends nothing any more, and has probably left."""
LOGIN_LIFETIME_S = 12 * 3600.0
PIECE = 2**16
MOST_LOGINS = 1000
"""To one site; of more, the oldest are forgotten."""

Dial = Callable[[str, int], Awaitable[tuple[StreamReader, StreamWriter]]]
"""Connects to a port of a job; OSError says that nobody listens there."""
Authorize = Callable[[Caller, str], bool]
"""Whether a user may see a job's pages."""


@dataclass(frozen=True)
class Login:
    """A sign-in to one site, valid as long as the token that it was made with."""

    token_digest: str
    expires: float
    program: Program | None
    """The browser that signed in, and the only one that may use it; None if it is not known."""


@dataclass
class Site:
    """One job's web server."""

    job_id: str
    target: int
    """The port inside the job."""
    requires_auth: bool
    listener: socket.socket
    logins: dict[str, Login] = field(default_factory=dict)
    """By the value of the cookie."""
    server: asyncio.Task[asyncio.Server] | None = None

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def cookie(self) -> str:
        return f"{COOKIE}-{self.port}"

    def add_login(self, value: str, login: Login) -> None:
        self.logins[value] = login
        while len(self.logins) > MOST_LOGINS:
            del self.logins[next(iter(self.logins))]


class Refused(Exception):
    """A request that is answered here, and not by the job."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Sites:
    """Opens and closes them; all of it happens on one event loop."""

    def __init__(
        self, dial: Dial, users: Users, authorize: Authorize, counted: Connections
    ) -> None:
        self._dial = dial
        self._users = users
        self._authorize = authorize
        self._counted = counted
        self._sites: dict[str, Site] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._refused: set[asyncio.Task[None]] = set()
        # Finds the programs of clients, which may have many files to be looked through.
        self._looking = ThreadPoolExecutor(2, "neuro-local: peers")

    def open(self, job_id: str, target: int, *, requires_auth: bool, port: int = 0) -> str:
        """Listen for a job, at `port` if it is free, and return the address.

        Requests are answered from now on, and reach the job as soon as it listens itself.
        """
        site = Site(job_id, target, requires_auth, _listen(port))
        self._sites[job_id] = site

        async def serve() -> asyncio.Server:
            server = await asyncio.start_server(
                lambda reader, writer: self._on_connection(site, reader, writer),
                sock=site.listener,
                limit=LARGEST_HEAD,
                backlog=ACCEPTED_AT_ONCE,
            )
            with suppress(OSError):  # closed meanwhile
                site.listener.listen(BACKLOG)
            return server

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
        connections = [*self._connections, *self._refused]
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*servers, *connections, return_exceptions=True)
        self._looking.shutdown()

    def _on_connection(self, site: Site, reader: StreamReader, writer: StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        if self._counted.has_room_for_page:
            task = loop.create_task(self._converse(site, reader, writer))
            self._connections.add(task)
            self._counted.pages += 1
            task.add_done_callback(self._on_end)
        elif len(self._refused) < MOST_REFUSED:
            task = loop.create_task(_refuse(reader, writer))
            self._refused.add(task)
            task.add_done_callback(self._refused.discard)
        else:
            writer.write(refusal(503, TOO_MANY))
            loop.call_soon(writer.close)

    def _on_end(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        self._counted.pages -= 1

    async def _converse(self, site: Site, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            request = await _read_request(reader)
            if request is not None:
                await self._answer(site, request, reader, writer)
        except Refused as refused:
            with suppress(OSError):
                await _say(writer, refused.status, str(refused))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass  # somebody hung up
        except Exception:
            logger.exception("job %s: its web page could not be passed on", site.job_id)
        finally:
            # It counts until its last byte was sent; who does not read it has no other instead.
            await _close(writer)

    async def _answer(
        self, site: Site, request: Request, reader: StreamReader, writer: StreamWriter
    ) -> None:
        _check_origin(site, request)
        if site.requires_auth:
            if request.path == LOGIN_PATH and request.method == "POST":
                await self._log_in(site, request, reader, writer)
                return
            if await self._turned_away(site, request, writer):
                return
        try:
            dialing = self._dial(site.job_id, site.target)
            job_reader, job_writer = await asyncio.wait_for(dialing, DIAL_TIMEOUT_S)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise Refused(
                HTTPStatus.BAD_GATEWAY,
                f"{site.job_id} does not listen on its port {site.target} (yet); try again",
            ) from error
        try:
            job_writer.write(request.for_job(is_ours=self._is_ours))
            await _splice((reader, job_writer), (job_reader, writer))
        finally:
            # Nothing that is left to be sent matters to a job whose answer is over.
            job_writer.transport.abort()

    def _is_ours(self, token: str) -> bool:
        return self._users.of_token(token) is not None

    async def _turned_away(self, site: Site, request: Request, writer: StreamWriter) -> bool:
        """Answer whoever has not signed in, or has just done it with a token in the address."""
        tokens = filter(None, (request.bearer, request.query_token))
        user = next(filter(None, map(self._users.of_token, tokens)), None)
        if user is None:
            user = await self._signed_in(site, request, writer)
            if user is not None and request.is_from_elsewhere:
                if request.wants_page:
                    page = _question(request.target)
                    await _say(writer, HTTPStatus.FORBIDDEN, page, html=True)
                    return True
                raise Refused(HTTPStatus.FORBIDDEN, "other pages may not use a sign-in to this one")
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
            raise Refused(
                HTTPStatus.FORBIDDEN, f"{user.name} may not see the pages of {site.job_id}"
            )
        if request.query_token and request.method == "GET" and not request.is_websocket:
            await self._remember(site, user, request.without_token, writer)
            return True
        return False

    async def _signed_in(self, site: Site, request: Request, writer: StreamWriter) -> Caller | None:
        """Return who has signed in with this browser, by a token that is still valid."""
        loop = asyncio.get_running_loop()
        for value in request.cookies(site.cookie):
            login = site.logins.get(value)
            if login is None:
                continue
            user = self._users.of_digest(login.token_digest)
            if user is None or login.expires < monotonic():
                del site.logins[value]
                continue
            program = login.program
            if program is None or await loop.run_in_executor(
                self._looking, program.is_at, *_ends(writer)
            ):
                return user
        return None

    async def _log_in(
        self, site: Site, request: Request, reader: StreamReader, writer: StreamWriter
    ) -> None:
        if request.is_from_elsewhere:
            raise Refused(HTTPStatus.FORBIDDEN, "other pages may not sign anybody in")
        fields = dict(parse_qsl((await request.form(reader)).decode("utf-8", "replace")))
        target = fields.get("next", "/")
        user = self._users.of_token(fields.get("token", "").strip())
        if user is None:
            page = _form(target, "The platform does not know this token.")
            await _say(writer, HTTPStatus.UNAUTHORIZED, page, html=True)
            return
        await self._remember(site, user, target, writer)

    async def _remember(self, site: Site, user: Caller, target: str, writer: StreamWriter) -> None:
        value = secrets.token_urlsafe(32)
        assert user.token_digest is not None  # noqa: S101  # it was found by its token
        loop = asyncio.get_running_loop()
        program = await loop.run_in_executor(self._looking, program_at, *_ends(writer))
        site.add_login(value, Login(user.token_digest, monotonic() + LOGIN_LIFETIME_S, program))
        headers = {
            "Location": own_path(target),
            "Set-Cookie": f"{site.cookie}={value}; Path=/; HttpOnly; SameSite=Lax",
        }
        await _say(writer, HTTPStatus.SEE_OTHER, "", headers=headers)


def own_path(target: str) -> str:
    """Return the path and query of a site that a link names, or ``/`` if it may lead elsewhere.

    Browsers read a backslash as a slash, and pass over control characters; and what is encoded in
    a path may be decoded by whoever gets it next.
    """
    is_plain = target.startswith("/") and all("!" <= character <= "~" for character in target)
    path = target.partition("?")[0].partition("#")[0]
    decoded = "".join(c for c in unquote(path) if c > " " and c != "\x7f").replace("\\", "/")
    return target if is_plain and "\\" not in path and not decoded.startswith("//") else "/"


def _ends(writer: StreamWriter) -> tuple[Address, Address]:
    """Return the client's address of a connection, and this side's."""
    return writer.get_extra_info("peername"), writer.get_extra_info("sockname")


async def _close(writer: StreamWriter) -> None:
    """Close a connection, and wait until everything was sent."""
    try:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    finally:
        writer.transport.abort()


async def _refuse(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer that there are too many connections, once a client has asked for something."""
    try:
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1), 1.0)
            writer.write(refusal(503, TOO_MANY))
            writer.write_eof()
            # Closed at once, with something unread, it would be reset, and the answer lost.
            await asyncio.wait_for(reader.read(), LINGER_S)
    finally:
        writer.transport.abort()


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
        return dict(parse_qsl(self.target.partition("?")[2])).get(TOKEN_PARAMETER)

    @property
    def without_token(self) -> str:
        """The target without the token that is in it."""
        path, _, query = self.target.partition("?")
        left = [item for item in parse_qsl(query, True) if item[0] != TOKEN_PARAMETER]
        return f"{path}?{urlencode(left)}" if left else path

    @property
    def is_from_elsewhere(self) -> bool:
        """Whether a browser says that it was not the site's own page or its user who asked."""
        return self.header(b"sec-fetch-site") not in (None, "same-origin", "none")

    def cookies(self, name: str) -> list[str]:
        """Return the values of the cookies of a name; what else there is may be malformed."""
        items = (self.header(b"cookie") or "").split(";")
        pairs = (item.strip(" \t").partition("=") for item in items)
        return [value for key, _, value in pairs if key == name]

    async def form(self, reader: StreamReader) -> bytes:
        length = self.header(b"content-length") or ""
        if not re.fullmatch("[0-9]{1,8}", length) or int(length) > LARGEST_FORM:
            raise Refused(HTTPStatus.BAD_REQUEST, "that is no login form")
        return await asyncio.wait_for(reader.readexactly(int(length)), HEAD_TIMEOUT)

    def for_job(self, is_ours: Callable[[str], bool]) -> bytes:
        """Return the head as the job gets it: no token or login of the platform is in it."""
        dropped = _OURS | ({b"authorization"} if self.bearer and is_ours(self.bearer) else set())
        kept = [
            (name, _without_logins(value) if name == b"cookie" else value)
            for name, value in self.headers
            if name not in dropped
        ]
        kept = [(name, value) for name, value in kept if value or name != b"cookie"]
        # One request for each connection; so what comes after it need not be understood here.
        kept.append((b"connection", b"upgrade" if self.is_websocket else b"close"))
        kept += [(b"x-forwarded-proto", b"http"), (b"x-forwarded-for", HOST.encode())]
        token = self.query_token
        target = self.without_token if token and is_ours(token) else self.target
        lines = [f"{self.method} {target} HTTP/1.1".encode("latin-1")]
        return b"\r\n".join([*lines, *(name + b": " + value for name, value in kept), b"", b""])


_SINGLE = (b"host", b"authorization", b"cookie", b"origin", b"sec-fetch-site")
"""Headers by which is decided who may do what; of two, the job could heed the other one."""
_OURS = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"x-forwarded-for",
        b"x-forwarded-proto",
    }
)


def _without_logins(cookies: bytes) -> bytes:
    """Return a header without the sign-ins to this and other sites; the rest is as it came."""
    prefix = COOKIE.encode()
    items = cookies.split(b";")
    kept = [item for item in items if not item.strip(b" \t").startswith(prefix)]
    return cookies if len(kept) == len(items) else b";".join(kept).strip()


def _listen(port: int) -> socket.socket:
    """Listen at a port, or at any other if somebody else has it by now."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.bind((HOST, 0))
    listener.listen(BACKLOG)
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
    except (h11.RemoteProtocolError, ValueError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"that is no HTTP request: {error}") from error
    if not isinstance(event, h11.Request):
        raise Refused(HTTPStatus.BAD_REQUEST, "that is no HTTP request")
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            text = f"the header {name.decode()!r} is there more than once"
            raise Refused(HTTPStatus.BAD_REQUEST, text)
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
    """Pass bytes on both ways, until the job has sent everything."""
    answered = _Count()
    sending = asyncio.ensure_future(_copy(*upward, _Count()))
    receiving = asyncio.ensure_future(_copy_answer(*downward, answered))
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() or sending.exception() is None:
            # The request may be sent long before its answer comes; but nothing tells a client that
            # has sent everything from one that has left, until something is sent to it.
            while not receiving.done():
                before = answered.bytes
                await asyncio.wait({receiving}, timeout=HALF_CLOSED_TIMEOUT_S)
                if answered.bytes == before:
                    break
            if receiving.done():
                await receiving
    finally:
        sending.cancel()
        receiving.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)


@dataclass
class _Count:
    """How much was passed on one way."""

    bytes: int = 0


async def _copy_answer(reader: StreamReader, writer: StreamWriter, count: _Count) -> None:
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
    count.bytes += len(head)
    await _copy(reader, writer, count)


_OF_CONNECTIONS = (b"connection:", b"keep-alive:")


async def _copy(reader: StreamReader, writer: StreamWriter, count: _Count) -> None:
    while piece := await reader.read(PIECE):
        count.bytes += len(piece)
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


def _page(title: str, content: str) -> str:
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px sans-serif; max-width: 32em; margin: 4em auto; padding: 0 1em }}
input, button {{ font: inherit; padding: .4em; width: 100%; box-sizing: border-box;
margin-top: .5em }}</style>
<h1>{title}</h1>
{content}</html>
"""


def _form(target: str, complaint: str = "") -> str:
    return _page(
        "Sign in",
        f"""<p>This job's page is for users of the local platform.
<code>neuro config show-token</code> prints the token.</p>
<p role="alert"><strong>{escape(complaint)}</strong></p>
<form method="post" action="{LOGIN_PATH}">
<input type="hidden" name="next" value="{escape(target)}">
<label>Token <input type="password" name="token" autofocus autocomplete="off" required></label>
<button>Sign in</button>
</form>""",
    )


def _question(target: str) -> str:
    return _page(
        "Open this page?",
        f"""<p>Another page leads here. What it asks of this job would be done in your name.</p>
<p><a href="{escape(own_path(target))}">Open <code>{escape(own_path(target))}</code></a></p>""",
    )
