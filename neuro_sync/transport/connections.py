"""The connections of a session, and what they are set to: timeouts, proxies, certificates."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict
from urllib.parse import urlsplit
from weakref import WeakSet

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connectionpool import ConnectionPool

from neuro_sync.closing import Closing
from neuro_sync.errors import ConfigError, NeuroError, NotSupported
from neuro_sync.models.durations import Duration, in_seconds
from neuro_sync.secret_text import SecretText

from .answers import POOLS, LendingPool, socks_pools
from .interception import Interceptor, find_interceptor, is_changed, is_replaced
from .tls import Certificate, TlsContext
from .tokens import ForkSafeLock

Timeout = Duration | tuple[Duration, Duration]
"""How long to connect, and how long an answer may be silent while it is read; or one for both."""

ALLOW_HTTP_SERVICES = "NEURO_SYNC_ALLOW_HTTP_SERVICES"

LONGEST_TIMEOUT_S = 20 * 86400.0
"""What is longer sets no limit: the kernel counts milliseconds, in 31 bits."""


PAIR_WANTED = "should be how long to connect and how long to be silent, such as (10, 60)"


class ConnectionOptions(TypedDict, total=False):
    """How a platform is reached; whatever opens connections takes these by name."""

    timeout: Timeout
    verify: bool | str | None
    """The path of a CA bundle; None is the one that the environment names, else the usual one.

    True is the usual one whatever the environment names, False trusts anybody.
    """
    cert: Certificate | None
    proxies: Mapping[str, str] | None
    """By scheme, ``http``, ``https`` or ``all``; they win over those of the environment.

    This machine itself is reached directly unless they are given here.
    """
    trust_env: bool
    """Whether the environment may name proxies and a CA bundle."""
    application: str | None
    """Who asks, such as ``my-app/1.2``; it goes before our own name."""
    allow_http_services: bool | None
    """Whether a platform reached over https may name services reached over http.

    The token travels to them unencrypted. None is what NEURO_SYNC_ALLOW_HTTP_SERVICES says, or no.
    """


@dataclass(frozen=True)
class ConnectionSettings:
    """What a connection needs that is not made by `HttpTransport`, to be of the same kind."""

    user_agent: str
    timeout: tuple[float | None, float | None]
    proxy: str | None = field(repr=False)
    """The address of the proxy to go through, which may hold a password."""
    proxy_headers: Mapping[str, str] = field(repr=False)
    """What the proxy alone is told: the login in its address."""
    tls: ssl.SSLContext | None
    """Whom to trust, and what to show; None without TLS."""


def socket_timeouts(timeout: Timeout) -> tuple[float | None, float | None]:
    """Return the seconds to connect and to be silent; None is no limit.

    Raises:
        ConfigError: They are no such times.
    """
    pair = timeout if isinstance(timeout, tuple | list) else (timeout, timeout)
    try:
        connect, read = (in_seconds(each, "timeout") for each in pair)
    except ValueError as error:
        raise ConfigError(f"timeout = {timeout!r}: {PAIR_WANTED}") from error
    if connect <= 0 or read <= 0:
        raise ConfigError(f"timeout = {timeout!r}: should be more than 0 seconds")
    return _limited(connect), _limited(read)


def _limited(seconds: float) -> float | None:
    return None if seconds > LONGEST_TIMEOUT_S else seconds


class Connections:
    """The connections of one session: shared by its threads, opened again in a child of `fork`."""

    def __init__(
        self,
        verify: bool | str | None,
        cert: Certificate | None,
        proxies: Mapping[str, str] | None,
        *,
        trust_env: bool,
    ) -> None:
        self._verify = verify
        self._cert = cert
        self._proxies = dict(proxies or {})
        self._trust_env = trust_env
        # Guards what `_open` makes against threads that do the same thing at once.
        self._lock = ForkSafeLock()
        self.closed: bool = False
        self._open()

    def _open(self) -> None:
        session = requests.Session()
        session.trust_env = self._trust_env
        self.adapter: Adapter = Adapter(self.tls)
        for scheme in ("http://", "https://"):
            session.mount(scheme, self.adapter)
        self._session = session
        self._plain_session: requests.Session | None = None
        self._settings: dict[str, Mapping[str, Any]] = {}
        self._contexts: dict[object, TlsContext] = {}
        self._in_use: WeakSet[Closing] = WeakSet()
        # The last: other threads use all this as soon as it is their process's.
        self._process = os.getpid()

    def check_open(self) -> None:
        if self.closed:
            raise NeuroError("this session is closed; make a new one")

    def track(self, connection: Closing) -> None:
        """Close a stream or a websocket with the session, if it is still open then."""
        with self._lock:
            self._in_use.add(connection)

    def close(self) -> None:
        """Close all sockets: the idle ones, and those of streams that nobody has closed."""
        self.closed = True
        if self._process == os.getpid():  # else they are those of the parent, which goes on
            with self._lock:
                in_use = list(self._in_use)
            for connection in in_use:
                connection.close()
        self._session.close()
        if self._plain_session is not None:
            self._plain_session.close()

    def tls(self, verify: bool | str, cert: Certificate | None) -> ssl.SSLContext:
        """Return the TLS context of these settings: one for all connections of the session."""
        key = (verify, cert)
        with self._lock:
            if key not in self._contexts:
                self._contexts[key] = TlsContext(verify, cert)
            return self._contexts[key]

    def to(self, url: str) -> tuple[requests.Session, Mapping[str, Any]]:
        """Return the connections and, for an address, its proxies and certificates.

        `requests` looks both up in the environment for every request; here it is done once for
        each host. A child of `fork` gets connections of its own.
        """
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._open()
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        settings = self._settings.get(host)
        if settings is None:
            settings = self._settings[host] = self._look_up(host)
        return self._session, settings

    def interceptor(self, url: str) -> Interceptor | None:
        """Return what stands between requests to an address and the network, if anything does.

        What this package sends past the functions of `requests`, it must not see then.
        """
        found = find_interceptor()
        if found is not None:
            return found
        if is_changed(self._session):
            return Interceptor("a method of the session", is_mock=True, is_replaced_for_all=False)
        if self._session.get_adapter(url) is not self.adapter:
            return Interceptor("the session's adapter", is_mock=True, is_replaced_for_all=False)
        return None

    def send(
        self, session: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        """Send a request, by what may stand in the place of the library's own functions."""
        url = str(request.url)
        interceptor = self.interceptor(url)
        if interceptor is None:
            return session.get_adapter(url).send(request, **options)
        if interceptor.is_replaced_for_all and interceptor.is_mock:
            # Our connections are derived from classes that may have been replaced since.
            session = self._plain()
        if interceptor.is_mock or is_replaced(session, "request"):
            # Mocks compare what is sent, and `Session.request` checks it.
            _write_plainly(request)
        if is_replaced(session, "request"):
            return session.request(
                str(request.method),
                url,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                **options,
            )
        if is_replaced(session, "send"):
            return session.send(request, allow_redirects=False, **options)
        return session.get_adapter(url).send(request, **options)

    def _plain(self) -> requests.Session:
        """Return a session of the library's own connections, or of what stands for them."""
        if type(self._plain_session) is not requests.Session:
            self._plain_session = requests.Session()
            self._plain_session.trust_env = False  # what it says is in the options of each request
        return self._plain_session

    def pool(self, url: str) -> LendingPool:
        """Return the connections to the host of an address."""
        _, settings = self.to(url)
        request = requests.PreparedRequest()
        request.method, request.url = "GET", url
        pool: Any = self.adapter.get_connection_with_tls_context(request, **settings)
        return pool  # type: ignore[no-any-return]

    def _look_up(self, host: str) -> Mapping[str, Any]:
        scheme, _, name = host.partition("://")
        if not scheme or not name:
            raise NotSupported(
                "the platform has no address for this: the cluster lacks the service; "
                "session.config.cluster() lists those that it has"
            )
        merged = self._session.merge_environment_settings(
            host, self._proxies.copy(), True, None, self._cert
        )
        # A proxy cannot reach what is on this machine, and would be told its token.
        found = self._proxies if is_this_machine(host) else merged["proxies"]
        proxies = {
            # Without a scheme, as many write it, it is an HTTP proxy.
            kind: proxy if "://" in proxy else f"http://{proxy}"
            for kind, proxy in found.items()
        }
        verify = self._trusted(merged["verify"])
        settings = {"verify": verify, "cert": self._cert, "proxies": proxies}
        if is_https(host):
            self.tls(verify, self._cert)  # begins to read the files
        return settings

    def _trusted(self, found: bool | str | None) -> bool | str:
        """Return what was given, else what the environment names."""
        if self._verify is not None:
            return self._verify
        if isinstance(found, str):
            return found
        # What OpenSSL itself reads, and `requests` does not.
        return (self._trust_env and os.environ.get("SSL_CERT_FILE")) or True


def _write_plainly(request: requests.PreparedRequest) -> None:
    """Put plain text and bytes into a request, which code that is not ours is going to read."""
    headers: dict[str, Any] = request.headers  # type: ignore[assignment]  # ours, see HttpTransport
    for name, value in headers.items():
        if isinstance(value, SecretText):
            headers[name] = value.reveal()
    body: Any = request.body
    if not isinstance(body, bytes | None):
        request.body = b"".join(body)


def allows_http_services(given: bool | None) -> bool:
    """Return whether a service may be reached over http though the platform is not."""
    if given is not None:
        return given
    return os.environ.get(ALLOW_HTTP_SERVICES, "").lower() in ("1", "true", "yes", "on")


def check_encrypted(platform_url: str, name: str, address: str) -> None:
    """Check that a platform reached over https names no address that is reached without.

    Raises:
        ConfigError: It does; what is sent there could be read, and answered, by anybody between.
    """
    if is_https(platform_url) and address[:5].lower() == "http:":
        raise ConfigError(
            f"the platform {platform_url} is reached over https and names {name} = {address}, "
            "where the token would travel unencrypted, so nothing was sent there. Ask whoever runs "
            "the platform to correct that, or accept it with allow_http_services=True or "
            f"{ALLOW_HTTP_SERVICES}=1"
        )


def is_https(url: str) -> bool:
    """Return whether an address is reached over TLS."""
    return url[:6].lower() == "https:"


def is_this_machine(host: str) -> bool:
    """Tell whether an address is one of the machine itself, which no proxy is asked for."""
    name = urlsplit(host).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        name = name.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")


Tls = Callable[[bool | str, Certificate | None], ssl.SSLContext]
"""Returns the context of a session for what it trusts and shows."""


class Adapter(HTTPAdapter):
    """Connections that notice a peer that is gone, even while they are silent."""

    def __init__(self, tls: Tls) -> None:
        # More pools than anybody has hosts: one that is known here is never thrown out there.
        super().__init__(pool_connections=1024, pool_maxsize=64)
        self._tls = tls
        self._known: dict[str, ConnectionPool] = {}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=socket_options(), **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, socket_options=socket_options(), **kwargs)
        is_socks = proxy.lower().startswith("socks")
        manager.pool_classes_by_scheme = socks_pools() if is_socks else POOLS
        return manager

    # What follows does once for each host what `requests` does for each request.

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: Any = None,
    ) -> ConnectionPool:
        url = str(request.url)
        host = "/".join(url.split("/", 3)[:3])
        pool = self._known.get(host)
        if pool is None:
            proxy = select_proxy(url, proxies)
            if proxy and proxy.lower().startswith("https:"):
                # The proxy is checked like the platform. The client's certificate is not shown.
                context = self._tls(verify or False, None)
                self.proxy_manager_for(proxy, proxy_ssl_context=context)
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._known[host] = pool
        return pool

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: bool | str | None, cert: Any = None
    ) -> tuple[Any, Any]:
        """Return the host, and the one context of the session instead of files to read."""
        host, _ = super().build_connection_pool_key_attributes(request, verify or False, cert)
        is_secure = host["scheme"] == "https"
        return host, {"ssl_context": self._tls(verify or False, cert)} if is_secure else {}

    def close(self) -> None:
        """Close the idle connections; those that are in use are closed when they come back."""
        for pool in self._known.values():
            pool.close()
        super().close()

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        pass

    def request_url(
        self, request: requests.PreparedRequest, proxies: Mapping[str, str] | None
    ) -> str:
        return super().request_url(request, proxies) if proxies else request.path_url

    def build_response(
        self, req: requests.PreparedRequest, resp: urllib3.BaseHTTPResponse
    ) -> requests.Response:
        """Wrap the answer; nobody here wants its cookies, history or encoding."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = resp.headers  # type: ignore[assignment]  # ignores case as well
        response.raw = resp
        response.reason = resp.reason or ""
        response.url = str(req.url)
        response.request = req
        return response


def socket_options() -> list[tuple[int, int, int | bytes]]:
    """Return what each connection is set to: send at once, and notice a peer that is gone."""
    options: list[tuple[int, int, int | bytes]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
