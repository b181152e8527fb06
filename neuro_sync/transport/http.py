"""One place through which every request leaves: address, token, timeout, retry, error."""

from __future__ import annotations

import copy
import http.client
import logging
import math
import platform
import random
import socket
import ssl
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from typing_extensions import Self

from neuro_sync.closing import Closing
from neuro_sync.errors import (
    APIError,
    AuthenticationError,
    AuthError,
    ConfigError,
    ConnectionFailed,
    NeuroError,
    RequestTimeout,
    ResourceNotFound,
    error_from_answer,
)
from neuro_sync.secret_text import SecretText
from neuro_sync.version import __version__

from .answers import LendingPool, ProxyLoginRequired, wait_for_ever
from .clock import Clock
from .connections import (
    Connections,
    ConnectionSettings,
    Timeout,
    allows_http_services,
    is_https,
    socket_timeouts,
)
from .deadlines import DeadlinePassed, bounded, seconds_left
from .encoding import form_body, json_body, query_text
from .retry import Retry
from .stream import Stream, close_dropped
from .tls import Certificate
from .tokens import FixedToken, TokenSource, masked

if TYPE_CHECKING:
    from .overlap import Call, Overlap

logger: logging.Logger = logging.getLogger("neuro_sync")

Query = Iterable[tuple[str, str | bytes]]

PASSING = frozenset({429, 502, 503, 504})
"""Statuses that may be gone a moment later."""

PROXY_WANTS_LOGIN = 407
UNKNOWN_ADDRESS = frozenset({404, 405, 410, 421})
"""Statuses of an address that means nothing to who answers."""

NOT_CONNECTED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    ConnectionRefusedError,
    socket.gaierror,
)

TIMEOUTS = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)

WRAPPED = ("reason", "original_error")
"""Attributes in which errors of the libraries below keep the one that they wrap."""

BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What the libraries below raise when there is no answer; the last one for one that is nonsense."""

PERMANENT = (ssl.SSLCertVerificationError, ProxyLoginRequired)
"""What no second attempt changes: whom we trust, and the login of a proxy, which more attempts may
lock out."""

ATTEMPTS = 4
FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0


class Content(Protocol):
    """A body of bytes, which can be read again for each attempt to send it."""

    size: int

    def __iter__(self) -> Iterator[memoryview]:
        """Begin to read it; a piece is sent before the next one is asked for."""


class Addresses(Protocol):
    """Where the services of a platform are; what is known of that may be out of date."""

    def current_address(self, url: str) -> str:
        """Return where an address is now, as far as is known; may refuse to tell."""

    def moved_address(self, url: str) -> str | None:
        """Find out where an address is now at which nobody answered; None if it did not move."""

    def doubt(self) -> None:
        """Ask the platform before anything else is read from what is known."""


class HttpTransport:
    """Requests to one platform, from any number of threads.

    `timeout` holds for every request; only a stream that has begun may be silent for longer.
    Unless its `retry` forbids it, a request is tried up to four times when the connection fails or
    the platform is unavailable for the moment.
    """

    def __init__(
        self,
        token: TokenSource | SecretText | str,
        *,
        timeout: Timeout = (10.0, 60.0),
        verify: bool | str | None = None,
        cert: Certificate | None = None,
        proxies: Mapping[str, str] | None = None,
        trust_env: bool = True,
        application: str | None = None,
        allow_http_services: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Say as whom to ask, and how; `connections.ConnectionOptions` explains the options.

        Raises:
            ConfigError: The token or the application's name cannot be sent.
        """
        token = SecretText(token) if isinstance(token, str) else token
        self.tokens: TokenSource = FixedToken(token) if isinstance(token, SecretText) else token
        self._timeout = socket_timeouts(timeout)
        self._clock = clock or Clock()
        self._headers = {
            "User-Agent": _user_agent(application),
            "Accept-Encoding": "identity",
            "Accept": "*/*",
        }
        self._connections = Connections(verify, cert, proxies, trust_env=trust_env)
        self._addresses: Addresses | None = None
        self.allow_http_services: bool = allows_http_services(allow_http_services)
        """Whether services may be reached over http though the platform is reached over https."""

    def with_options(
        self,
        *,
        timeout: Timeout | None = None,
        tokens: TokenSource | None = None,
        addresses: Addresses | None = None,
    ) -> Self:
        """Return the same connections, used in another way."""
        other = copy.copy(self)
        if timeout is not None:
            other._timeout = socket_timeouts(timeout)  # noqa: SLF001  # a copy of ours
        if tokens is not None:
            other.tokens = tokens
        if addresses is not None:
            other._addresses = addresses  # noqa: SLF001  # as above
        return other

    @property
    def read_timeout(self) -> float:
        """Seconds of silence after which an answer that is being read counts as lost."""
        read = self._timeout[1]
        return math.inf if read is None else read

    def request(
        self,
        method: str,
        url: str,
        *,
        retry: Retry,
        query: Query = (),
        body: object = None,
        form: Mapping[str, str | SecretText] | None = None,
        content: bytes | Content | None = None,
        accept: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        login: str | None = None,
        attempts: int | None = None,
    ) -> requests.Response:
        """Return the whole answer; a status of 300 or more raises.

        `retry` states whether it may be sent again, `attempts` how often it is sent at most, if
        not as often as usual.
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
        response = self._send(request, retry, attempts, login=login)
        logger.debug("%s %s: %s", method, urlsplit(url).path, response.status_code)
        return response

    def stream(
        self,
        url: str,
        *,
        retry: Retry,
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
        response = self._send(request, retry, attempts, stream=True)
        if is_silent:
            # Its head has to come in time. Then silence is no sign of trouble, and keepalive
            # notices a dead peer.
            wait_for_ever(response.raw)
        stream = Stream(response, f"{method} {urlsplit(url).path}")
        self._connections.track(stream)
        return stream

    def track(self, connection: Closing) -> None:
        """Close a connection together with all others of the session."""
        self._connections.track(connection)

    def overlap(self, url: str) -> Overlap | None:
        """Return connections for many small requests to the host of an address.

        None where a proxy, a mock or an instrumentation stands in between.
        """
        # Loaded for whoever copies folders; a single request begins sooner without it.
        from .overlap import Overlap

        self._connections.check_open()
        url = self.current_address(url)
        _, settings = self._connections.to(url)
        if select_proxy(url, settings["proxies"]) or self._connections.interceptor(url):
            return None
        pool = self._connections.pool(url)
        return Overlap(self._prepare_call, pool, self._timeout)

    def connect_ahead(self, url: str) -> None:
        """Begin to connect to a host, while a request to it is still being put together."""
        self._connections.check_open()
        if self._connections.interceptor(url):  # who may not want a connection at all
            return
        pool = self._connections.pool(url)
        if isinstance(pool, LendingPool):  # else it is that of a proxy of another kind
            pool.connect_ahead(self._timeout[0])

    def _prepare_call(self, call: Call) -> requests.PreparedRequest:
        url = self.current_address(call.url)
        request = self._prepare(call.method, url, call.query, None, None, None)
        request.headers.update(call.headers)
        if call.content is not None:
            _put_content(request, call.content)
        _authorize(request, self.tokens.token(), None)
        return request

    def connection_settings(self, url: str) -> ConnectionSettings:
        """Return how requests to an address are made, for one that is no plain request.

        Raises:
            ConnectionFailed: Requests are mocked, so that nothing may be sent past them.
        """
        self._connections.check_open()
        session, settings = self._connections.to(url)
        interceptor = self._connections.interceptor(url)
        if interceptor is not None and interceptor.is_mock:
            raise ConnectionFailed(
                f"no connection to {_where('GET', url)}: requests are mocked "
                f"({interceptor.name} is replaced), and no mock speaks websocket; "
                "test this with the fixtures of neuro_sync.testing"
            )
        proxy = select_proxy(url, settings["proxies"])
        adapter = cast("HTTPAdapter", session.get_adapter(url))
        return ConnectionSettings(
            user_agent=self._headers["User-Agent"],
            timeout=self._timeout,
            proxy=proxy,
            proxy_headers=adapter.proxy_headers(proxy) if proxy else {},
            tls=(
                self._connections.tls(settings["verify"], settings["cert"])
                if is_https(url)
                else None
            ),
        )

    def close(self) -> None:
        """Close all connections. Calls after this one raise."""
        close_dropped()
        self._connections.close()

    def current_address(self, url: str) -> str:
        """Return where an address is now, if its service is known to have moved.

        Raises:
            ConfigError: It is unencrypted, and the platform is not.
        """
        return url if self._addresses is None else self._addresses.current_address(url)

    def moved_address(self, retry: Retry, url: str, error: NeuroError) -> str | None:
        """Return where to send a request again that failed; None if it shall not be sent again.

        It is sent again only if the address was that of a service which has moved since it was
        saved, and if the request was not carried out, or may be repeated.
        """
        if self._addresses is None:
            return None
        if isinstance(error, AuthError):
            self._addresses.doubt()
            return None
        if not _came_from_nowhere(retry, error):
            return None
        return self._addresses.moved_address(url)

    def _send(
        self,
        request: requests.PreparedRequest,
        retry: Retry,
        attempts: int | None,
        *,
        login: str | None = None,
        stream: bool = False,
    ) -> requests.Response:
        if self._addresses is None:
            return self._send_as_user(request, retry, attempts, login, stream=stream)
        request.url = url = self._addresses.current_address(str(request.url))
        try:
            return self._send_as_user(request, retry, attempts, login, stream=stream)
        except NeuroError as error:
            moved = self.moved_address(retry, url, error)
            if moved is None:
                raise
        request.url = moved
        return self._send_as_user(request, retry, attempts, login, stream=stream)

    def _send_as_user(
        self,
        request: requests.PreparedRequest,
        retry: Retry,
        attempts: int | None,
        login: str | None,
        *,
        stream: bool,
    ) -> requests.Response:
        self._connections.check_open()
        close_dropped()
        token = self.tokens.token()
        _authorize(request, token, login)
        try:
            return self._send_patiently(request, retry, attempts, stream=stream)
        except AuthenticationError:
            # Whatever it was, it was not done, so that it may be repeated.
            fresh = self.tokens.renew(token)
            if fresh is None:
                raise
        _authorize(request, fresh, login)
        return self._send_patiently(request, retry, attempts, stream=stream)

    def _send_patiently(
        self, request: requests.PreparedRequest, retry: Retry, attempts: int | None, *, stream: bool
    ) -> requests.Response:
        attempts = 1 if retry is Retry.NEVER else attempts or ATTEMPTS
        may_be_done = False
        for attempt in range(1, attempts + 1):
            try:
                return self._send_once(request, retry, stream=stream)
            except DeadlinePassed:
                raise
            except ConnectionFailed as error:
                if attempt == attempts or retry is Retry.REFUSED or _is_permanent(error):
                    raise
                reason: NeuroError = error
                may_be_done |= not _reached_nobody(error.__cause__)
                delay = FIRST_DELAY * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311
            except _Passing as passing:
                reason = passing.error
                may_be_done = True
                delay = passing.error.retry_after or FIRST_DELAY * 2**attempt
                if attempt == attempts or delay > LONGEST_DELAY:
                    raise reason from None
            except ResourceNotFound:
                if retry is Retry.REMOVAL and may_be_done:
                    return _nothing_left()
                raise
            logger.info("%s; trying again in %.1f s", reason, delay)
            self._clock.sleep(min(delay, seconds_left()))
            if not seconds_left():
                raise DeadlinePassed(f"{reason}; there is no time to try again") from reason
        raise AssertionError("the last attempt returns or raises")

    def _prepare(
        self,
        method: str,
        url: str,
        query: Query,
        body: object,
        form: Mapping[str, str | SecretText] | None,
        accept: str | None,
    ) -> requests.PreparedRequest:
        """Build the request by its attributes.

        `prepare()` parses and checks again what was built here, and costs as much time as
        sending it.
        """
        parameters = query_text(query)
        request = requests.PreparedRequest()
        request.method = method
        request.url = f"{url}?{parameters}" if parameters else url
        request.hooks = {"response": []}
        headers = self._headers.copy()
        request.headers = headers  # type: ignore[assignment]  # written by us, so no case to ignore
        if accept:
            headers["Accept"] = accept
        if body is not None:
            request.body = json_body(body)
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(request.body))
        elif form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            _put_content(request, form_body(form))
        elif method not in ("GET", "HEAD"):
            headers["Content-Length"] = "0"
        return request

    def _send_once(
        self, request: requests.PreparedRequest, retry: Retry, *, stream: bool
    ) -> requests.Response:
        method, url = str(request.method), str(request.url)
        session, settings = self._connections.to(url)
        connect, read = (bounded(timeout) for timeout in self._timeout)
        try:
            response = self._connections.send(
                session, request, stream=True, timeout=(connect, read), **settings
            )
            if not stream or response.status_code >= 300:
                response.content  # noqa: B018  # reads it
        except BROKEN as error:
            if not seconds_left():
                text = f"no answer before the deadline: {_where(method, url)}"
                raise DeadlinePassed(text) from error
            raise _connection_error(error, method, url, retry) from error
        if response.status_code == PROXY_WANTS_LOGIN:
            refusal = ProxyLoginRequired(f"it answered: 407 {response.reason}")
            raise proxy_error(refusal, _where(method, url)) from refusal
        if response.status_code >= 300:
            raise _refusal(request, response)
        return response

    def __repr__(self) -> str:
        # One that could not be made has none; tracebacks show it as well.
        connections = vars(self).get("_connections")
        return f"<{type(self).__name__}{', closed' if connections and connections.closed else ''}>"


def _user_agent(application: str | None) -> str:
    name = f"neuro-sync/{__version__} ({sys.platform}) Python/{platform.python_version()}"
    if application is None:
        return name
    if not application.isascii() or not application.isprintable():
        raise ConfigError(f"application = {application!r}: should look like my-app/1.2")
    return f"{application} {name}"


def _authorize(request: requests.PreparedRequest, token: SecretText, login: str | None) -> None:
    if not token:
        return
    # No `str`, so that no traceback shows it: `http.client` encodes the value of a header.
    headers: dict[str, Any] = request.headers  # type: ignore[assignment]  # ours, see _prepare
    headers["Authorization"] = (
        SecretText(f"Bearer {token.reveal()}")
        if login is None
        else SecretText(f"Basic {b64encode(f'{login}:{token.reveal()}'.encode()).decode()}")
    )


def _secrets(request: requests.PreparedRequest) -> tuple[SecretText, ...]:
    """Return what a request was sent with that nobody else shall read."""
    sent = SecretText(request.headers.get("Authorization", ""))
    credentials = SecretText(sent.reveal().partition(" ")[2])
    if not sent.reveal().startswith("Basic "):
        return (credentials,)
    return credentials, SecretText(b64decode(credentials.reveal()).decode().partition(":")[2])


def _refusal(request: requests.PreparedRequest, response: requests.Response) -> Exception:
    method, status = str(request.method), response.status_code
    path = urlsplit(str(request.url)).path
    # A server may repeat what it was sent; nobody else shall read a token for that.
    secrets = _secrets(request)
    if status < 400:
        return redirection(status, method, path, response.headers.get("Location"), *secrets)
    said = masked(response.content.decode(errors="replace"), *secrets)
    headers = {name: masked(value, *secrets) for name, value in response.headers.items()}
    error = error_from_answer(status, said, method=method, path=path, headers=headers)
    return _Passing(error) if status in PASSING else error


def redirection(
    status: int, method: str, path: str, location: str | None, *secrets: SecretText
) -> APIError:
    """Return the error of an answer that sends us elsewhere, which is not done."""
    where = masked(location or "nowhere", *secrets)
    text = f"the platform sends us on to {where}; use that address instead"
    return APIError(text, status=status, method=method, path=path)


def _put_content(request: requests.PreparedRequest, content: bytes | Content) -> None:
    # The libraries below send what they can iterate over piece by piece, as soon as the headers
    # tell its length; they begin anew for each attempt.
    request.body = content  # type: ignore[assignment]  # the stub knows no iterables
    size = len(content) if isinstance(content, bytes) else content.size
    request.headers["Content-Length"] = str(size)


class _Passing(Exception):
    """A refusal that may be gone a moment later; it never leaves this module."""

    def __init__(self, error: APIError) -> None:
        super().__init__(str(error))
        self.error = error


def _nothing_left() -> requests.Response:
    """Return the answer to a removal whose own answer was lost."""
    answer = requests.Response()
    answer.status_code = http.client.NO_CONTENT
    answer._content = b""  # noqa: SLF001  # nobody else's yet
    return answer


def _connection_error(error: Exception, method: str, url: str, retry: Retry) -> ConnectionFailed:
    where = _where(method, url)
    if isinstance(error, requests.exceptions.ProxyError):
        # It is raised only until there is a way to the platform, so nothing was sent to it.
        reason = getattr(error.args[0], "reason", error)
        return proxy_error(getattr(reason, "original_error", reason), where)
    if isinstance(error, requests.ConnectTimeout):
        return RequestTimeout(f"no connection within the timeout: {where}")
    if any(isinstance(cause, TIMEOUTS) for cause in _causes(error)):
        return RequestTimeout(f"no answer within the timeout: {where}")
    never_sent = _reached_nobody(error)
    doubt = "; it may have been carried out" if retry is Retry.NEVER and not never_sent else ""
    cause = "nobody answers there" if never_sent else f"the connection broke ({error})"
    return ConnectionFailed(f"{cause}: {where}{doubt}")


def proxy_error(reason: object, where: str) -> ConnectionFailed:
    """Return the error of a proxy that failed, so that nobody looks for it at the platform."""
    text = f"the proxy does not let us through ({reason}): {where}"
    if isinstance(reason, ProxyLoginRequired):
        text += "; give its login in its address, as in http://USER:PASSWORD@HOST:PORT"
    return ConnectionFailed(text)


def _came_from_nowhere(retry: Retry, error: NeuroError) -> bool:
    """Return whether no service of the platform carried a request out, by the error of it.

    What is no service of a platform is something in its place, such as a load balancer that does
    not know the address.
    """
    if isinstance(error, ConnectionFailed):
        return retry is not Retry.NEVER or _reached_nobody(error.__cause__)
    if not isinstance(error, APIError) or error.service or error.payload is not None:
        return False
    if error.status in PASSING:
        return retry is not Retry.NEVER
    return error.status < 400 or error.status in UNKNOWN_ADDRESS


def _where(method: str, url: str) -> str:
    parts = urlsplit(url)
    return f"{method} {parts.path} at {parts.scheme}://{parts.netloc}"


def _is_permanent(error: ConnectionFailed) -> bool:
    """Return whether a second attempt would fail the same way."""
    return any(isinstance(cause, PERMANENT) for cause in _causes(error.__cause__))


def _reached_nobody(error: BaseException | None) -> bool:
    """Return whether no connection came about, from the error of a library below."""
    return any(isinstance(cause, NOT_CONNECTED) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it wraps; each library below has a place of its own for them.

    Each is wrapped once, so that there are no circles.
    """
    while error is not None:
        yield error
        inner = [*error.args, *(getattr(error, name, None) for name in WRAPPED)]
        error = next((each for each in inner if isinstance(each, BaseException)), None)
