"""One place through which every request leaves: address, token, timeout, retry, error."""

from __future__ import annotations

import copy
import json
import logging
import platform
import random
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import quote, urlencode, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from typing_extensions import Self

from neuro_sync.errors import (
    APIError,
    AuthenticationError,
    ConfigError,
    ConnectionFailed,
    NeuroError,
    RequestTimeout,
    error_from_answer,
)
from neuro_sync.version import __version__

from .answers import Connection, SecureConnection, wait_for_ever
from .clock import Clock
from .connections import (
    Certificate,
    Connections,
    ConnectionSettings,
    Timeout,
    socket_options,
)
from .stream import Stream, close_dropped
from .tokens import FixedToken, TokenSource, masked

if TYPE_CHECKING:
    from .overlap import Call, Overlap

logger: logging.Logger = logging.getLogger("neuro_sync")

Query = Iterable[tuple[str, str | bytes]]

# The only PATCH of the platform writes bytes at an offset, which may be done twice.
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
PASSING = frozenset({429, 502, 503, 504})
"""Statuses that may be gone a moment later."""

PROXY_WANTS_LOGIN = 407

BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What the libraries below raise when there is no answer; the last one for one that is nonsense."""

LASTING = ("CERTIFICATE_VERIFY_FAILED", ": 407 ")
"""What no second attempt changes: whom we trust, and the login of a proxy, which more attempts may
lock out. The libraries below wrap these too deep to ask for a class."""

ATTEMPTS = 4
FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0


class Content(Protocol):
    """A body of bytes, which can be read again for each attempt to send it."""

    size: int

    def __iter__(self) -> Iterator[memoryview]:
        """Begin to read it; a piece is sent before the next one is asked for."""


class HttpTransport:
    """Requests to one platform, from any number of threads.

    `timeout` holds for every request; only a stream that has begun may be silent for longer.
    GET, HEAD, PUT, PATCH and DELETE are tried up to four times when the connection fails or the
    platform is unavailable for the moment; anything else is sent once.
    """

    def __init__(
        self,
        token: TokenSource | str,
        *,
        timeout: Timeout = (10.0, 60.0),
        verify: bool | str | None = None,
        cert: Certificate | None = None,
        proxies: Mapping[str, str] | None = None,
        trust_env: bool = True,
        application: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Say as whom to ask, and how; `connections.ConnectionOptions` explains the options.

        Raises:
            ConfigError: The token or the application's name cannot be sent.
        """
        self.tokens: TokenSource = FixedToken(token) if isinstance(token, str) else token
        self._timeout = timeout
        self._clock = clock or Clock()
        self._headers = {
            "User-Agent": _user_agent(application),
            "Accept-Encoding": "identity",
            "Accept": "*/*",
        }
        self._connections = Connections(verify, cert, proxies, trust_env=trust_env)

    def with_options(
        self, *, timeout: Timeout | None = None, tokens: TokenSource | None = None
    ) -> Self:
        """Return the same connections, used in another way."""
        other = copy.copy(self)
        if timeout is not None:
            other._timeout = timeout  # noqa: SLF001  # a copy of ours
        if tokens is not None:
            other.tokens = tokens
        return other

    def request(
        self,
        method: str,
        url: str,
        *,
        query: Query = (),
        body: object = None,
        form: Mapping[str, str] | None = None,
        content: bytes | Content | None = None,
        accept: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        login: str | None = None,
    ) -> requests.Response:
        """Return the whole answer; a status of 300 or more raises.

        `body` is sent as JSON, `form` as a form, `content` as it is. With `login` the token is the
        password of that user, as registries want it.

        Raises:
            APIError: The platform said no.
            ConnectionFailed: It did not say anything.
        """
        request = self._prepare(method, url, query, body, form, accept)
        request.headers.update(headers)
        if content is not None:
            _put_content(request, content)
        response = self._send(request, login)
        logger.debug("%s %s: %s", method, urlsplit(url).path, response.status_code)
        return response

    def stream(
        self,
        url: str,
        *,
        method: str = "GET",
        query: Query = (),
        body: object = None,
        accept: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        is_silent: bool = False,
        attempts: int | None = None,
    ) -> Stream:
        """Return an answer while it is still being sent; raises as `request` does.

        What is not `is_silent` is cut when nothing comes for the session's timeout.
        """
        request = self._prepare(method, url, query, body, None, accept)
        request.headers.update(headers)
        response = self._send(request, stream=True, attempts=attempts)
        if is_silent:
            # Its head has to come in time. Then silence is no sign of trouble, and keepalive
            # notices a dead peer.
            wait_for_ever(response.raw)
        return Stream(response, f"{method} {urlsplit(url).path}")

    def overlap(self, url: str) -> Overlap | None:
        """Return connections for many small requests to the host of an address.

        None where a proxy stands in between.
        """
        # Loaded for whoever copies folders; a single request begins sooner without it.
        from .overlap import Overlap

        self._connections.check_open()
        settings, parts = self.connection_settings(url), urlsplit(url)
        if settings.proxy is not None:
            return None
        host, port, (timeout, read) = str(parts.hostname), parts.port, settings.timeout
        context = settings.tls() if parts.scheme == "https" else None

        def connect() -> Connection | SecureConnection:
            options = socket_options()
            connection: Connection | SecureConnection = (
                Connection(host, port, timeout=timeout, socket_options=options)
                if context is None
                else SecureConnection(
                    host, port, timeout=timeout, socket_options=options, ssl_context=context
                )
            )
            connection.connect()
            connection.timeout = read
            return connection

        return Overlap(self._prepare_call, connect)

    def _prepare_call(self, call: Call) -> requests.PreparedRequest:
        request = self._prepare(call.method, call.url, call.query, None, None, None)
        request.headers.update(call.headers)
        if call.content is not None:
            _put_content(request, call.content)
        _authorize(request, self.tokens.token(), None)
        return request

    def connection_settings(self, url: str) -> ConnectionSettings:
        """Return how requests to an address are made, for one that is no plain request."""
        self._connections.check_open()
        session, settings = self._connections.to(url)
        proxy = select_proxy(url, settings["proxies"])
        adapter = cast("HTTPAdapter", session.get_adapter(url))
        return ConnectionSettings(
            user_agent=self._headers["User-Agent"],
            timeout=self._timeout,
            proxy=proxy,
            proxy_headers=adapter.proxy_headers(proxy) if proxy else {},
            verify=settings["verify"],
            cert=settings["cert"],
        )

    def close(self) -> None:
        """Close all connections. Calls after this one raise."""
        close_dropped()
        self._connections.close()

    def _send(
        self,
        request: requests.PreparedRequest,
        login: str | None = None,
        *,
        stream: bool = False,
        attempts: int | None = None,
    ) -> requests.Response:
        self._connections.check_open()
        close_dropped()
        token = self.tokens.token()
        attempts = attempts or (ATTEMPTS if request.method in REPEATABLE else 1)
        _authorize(request, token, login)
        try:
            return self._send_patiently(request, attempts, stream=stream)
        except AuthenticationError:
            # Whatever it was, it was not done, so that it may be repeated.
            fresh = self.tokens.renew(token)
            if fresh is None:
                raise
        _authorize(request, fresh, login)
        return self._send_patiently(request, attempts, stream=stream)

    def _send_patiently(
        self,
        request: requests.PreparedRequest,
        attempts: int,
        *,
        stream: bool,
    ) -> requests.Response:
        for attempt in range(1, attempts + 1):
            try:
                return self._send_once(request, stream=stream)
            except ConnectionFailed as error:
                if attempt == attempts or any(text in str(error) for text in LASTING):
                    raise
                reason: NeuroError = error
                delay = FIRST_DELAY * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311
            except _Passing as passing:
                reason = passing.error
                delay = passing.retry_after or FIRST_DELAY * 2**attempt
                if attempt == attempts or delay > LONGEST_DELAY:
                    raise reason from None
            logger.info("%s; trying again in %.1f s", reason, delay)
            self._clock.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    def _prepare(
        self,
        method: str,
        url: str,
        query: Query,
        body: object,
        form: Mapping[str, str] | None,
        accept: str | None,
    ) -> requests.PreparedRequest:
        """Build the request by its attributes.

        `prepare()` parses and checks again what was built here, and costs as much time as
        sending it.
        """
        parameters = urlencode(list(query))
        request = requests.PreparedRequest()
        request.method = method
        request.url = f"{url}?{parameters}" if parameters else url
        request.hooks = {"response": []}
        headers = self._headers.copy()
        request.headers = headers  # type: ignore[assignment]  # written by us, so no case to ignore
        if accept:
            headers["Accept"] = accept
        if body is not None:
            request.body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(request.body))
        elif form is not None:
            request.body = urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            headers["Content-Length"] = str(len(request.body))
        elif method not in ("GET", "HEAD"):
            headers["Content-Length"] = "0"
        return request

    def _send_once(self, request: requests.PreparedRequest, *, stream: bool) -> requests.Response:
        method, url = str(request.method), str(request.url)
        session, settings = self._connections.to(url)
        try:
            response = session.get_adapter(url).send(
                request, stream=True, timeout=self._timeout, **settings
            )
            if not stream or response.status_code >= 300:
                response.content  # noqa: B018  # reads it
        except BROKEN as error:
            raise _connection_error(error, method, url) from error
        if not _announces_end(response):
            response.close()
            raise _connection_error(ConnectionError("within the headers"), method, url)
        if response.status_code == PROXY_WANTS_LOGIN:
            raise proxy_error(f"it answered: 407 {response.reason}", _where(method, url))
        if response.status_code >= 300:
            raise _refusal(response, method, url)
        return response

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{', closed' if self._connections.closed else ''}>"


def _user_agent(application: str | None) -> str:
    name = f"neuro-sync/{__version__} ({sys.platform}) Python/{platform.python_version()}"
    if application is None:
        return name
    if not application.isascii() or not application.isprintable():
        raise ConfigError(f"application = {application!r}: should look like my-app/1.2")
    return f"{application} {name}"


def _authorize(request: requests.PreparedRequest, token: str, login: str | None) -> None:
    if token and login is not None:
        basic = b64encode(f"{login}:{token}".encode()).decode()
        request.headers["Authorization"] = f"Basic {basic}"
    elif token:
        request.headers["Authorization"] = f"Bearer {token}"


def _secrets(request: requests.PreparedRequest) -> tuple[str, ...]:
    """Return what a request was sent with that nobody else shall read."""
    kind, _, sent = request.headers.get("Authorization", "").partition(" ")
    return (sent, b64decode(sent).decode().partition(":")[2]) if kind == "Basic" else (sent,)


def _refusal(response: requests.Response, method: str, url: str) -> Exception:
    status, path = response.status_code, urlsplit(url).path
    # A server may repeat what it was sent; nobody else shall read a token for that.
    secrets = _secrets(response.request)
    if status < 400:
        where = masked(response.headers.get("Location", "nowhere"), *secrets)
        text = f"the platform sends us on to {where}; use that address instead"
        return APIError(text, status=status, method=method, path=path)
    said = masked(response.content.decode(errors="replace"), *secrets)
    error = error_from_answer(status, said, method=method, path=path)
    if status in PASSING:
        return _Passing(error, _retry_after(response.headers))
    return error


def _put_content(request: requests.PreparedRequest, content: bytes | Content) -> None:
    # The libraries below send what they can iterate over piece by piece, as soon as the headers
    # tell its length; they begin anew for each attempt.
    request.body = content  # type: ignore[assignment]  # the stub knows no iterables
    size = len(content) if isinstance(content, bytes) else content.size
    request.headers["Content-Length"] = str(size)


class _Passing(Exception):
    """A refusal that may be gone a moment later; it never leaves this module."""

    def __init__(self, error: APIError, retry_after: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        """Seconds; 0 if it was not told."""


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds after which a platform wants to be asked again; 0 if it does not say."""
    told = headers.get("Retry-After", "")
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        # Both by the clock of whoever answered.
        left = parsedate_to_datetime(told) - parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError):
        return 0
    return max(left.total_seconds(), 0)


def _announces_end(response: requests.Response) -> bool:
    """Tell whether an answer says where it ends.

    One that does not ends with its connection. In HTTP/1.1 it has to say that; if it does not, its
    headers were cut off in the middle, which the library below does not notice.
    """
    headers = response.headers
    return (
        response.status_code in (204, 304)
        or response.raw.version < 11
        or "Content-Length" in headers
        or headers.get("Transfer-Encoding", "").lower() == "chunked"
        or headers.get("Connection", "").lower() == "close"
    )


def segment(text: str) -> str:
    """Quote one part of a path."""
    return quote(text, safe="")


def _connection_error(error: Exception, method: str, url: str) -> ConnectionFailed:
    where = _where(method, url)
    if isinstance(error, requests.exceptions.ProxyError):
        # It is raised only until there is a way to the platform, so nothing was sent to it.
        reason = getattr(error.args[0], "reason", error)
        return proxy_error(getattr(reason, "original_error", reason), where)
    if isinstance(error, requests.ConnectTimeout):
        return RequestTimeout(f"no connection within the timeout: {where}")
    within = error.args[0] if error.args else None  # a body that stops coming
    timeouts = requests.Timeout | urllib3.exceptions.TimeoutError
    if isinstance(error, timeouts) or isinstance(within, urllib3.exceptions.ReadTimeoutError):
        return RequestTimeout(f"no answer within the timeout: {where}")
    never_sent = _reached_nobody(error)
    doubt = "" if never_sent or method in REPEATABLE else "; it may have been carried out"
    cause = "nobody answers there" if never_sent else f"the connection broke ({error})"
    return ConnectionFailed(f"{cause}: {where}{doubt}")


def proxy_error(reason: object, where: str) -> ConnectionFailed:
    """Tell that it was the proxy which failed, not the platform."""
    text = f"the proxy does not let us through ({reason}): {where}"
    if ": 407 " in text:
        text += "; give its login in its address, as in http://USER:PASSWORD@HOST:PORT"
    return ConnectionFailed(text)


def _where(method: str, url: str) -> str:
    parts = urlsplit(url)
    return f"{method} {parts.path} at {parts.scheme}://{parts.netloc}"


def _reached_nobody(error: BaseException | None) -> bool:
    """Tell whether no connection came about, from the cause at the root of an error."""
    while error is not None:
        if isinstance(error, urllib3.exceptions.NewConnectionError | ConnectionRefusedError):
            return True
        reason = error.args[0] if error.args else None
        inner = getattr(reason, "reason", None) or getattr(error, "reason", None)
        error = inner if isinstance(inner, BaseException) else None
    return False
