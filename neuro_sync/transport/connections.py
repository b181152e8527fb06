"""The connections of a session, and what they are set to: timeouts, proxies, certificates."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connectionpool import ConnectionPool

from neuro_sync.errors import ConfigError, NeuroError, NotSupported
from neuro_sync.models.durations import Duration, in_seconds

from .answers import POOLS, socks_pools
from .tokens import ForkSafeLock

Timeout = Duration | tuple[Duration, Duration]
"""How long to connect, and how long an answer may be silent while it is read; or one for both."""

LONGEST_TIMEOUT_S = 20 * 86400.0
"""What is longer sets no limit: the kernel counts milliseconds, in 31 bits."""

Certificate = str | tuple[str, str]
"""The path of a client's certificate; and of its key, if that is in another file."""


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


@dataclass(frozen=True)
class ConnectionSettings:
    """What a connection needs that is not made by `HttpTransport`, to be of the same kind."""

    user_agent: str
    timeout: tuple[float | None, float | None]
    proxy: str | None = field(repr=False)
    """The address of the proxy to go through, which may hold a password."""
    proxy_headers: Mapping[str, str] = field(repr=False)
    """What the proxy alone is told: the login in its address."""
    verify: bool | str
    """The path of a CA bundle; True is the usual one, False trusts anybody."""
    cert: Certificate | None

    def tls(self) -> ssl.SSLContext:
        """Return what `requests` trusts, for connections that it does not make."""
        return tls_context(self.verify, self.cert)


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
        # Guards the pools against two threads that both notice a fork.
        self._lock = ForkSafeLock()
        self.closed: bool = False
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        self._session = requests.Session()
        self._session.trust_env = self._trust_env
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, Adapter())
        self._settings: dict[str, Mapping[str, Any]] = {}

    def check_open(self) -> None:
        if self.closed:
            raise NeuroError("this session is closed; make a new one")

    def close(self) -> None:
        self.closed = True
        self._session.close()

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
        if host.startswith("https:"):
            _check(verify, self._cert)
        return settings

    def _trusted(self, found: bool | str | None) -> bool | str:
        """Return what was given, else what the environment names."""
        if self._verify is not None:
            return self._verify
        if isinstance(found, str):
            return found
        # What OpenSSL itself reads, and `requests` does not.
        return (self._trust_env and os.environ.get("SSL_CERT_FILE")) or True


def is_this_machine(host: str) -> bool:
    """Tell whether an address is one of the machine itself, which no proxy is asked for."""
    name = urlsplit(host).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        name = name.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")


def _check(verify: bool | str, cert: Certificate | None) -> None:
    """Raise a ConfigError for files that cannot be used; it would else look like a cut."""
    if isinstance(verify, str):
        try:
            tls_context(verify, None)
        except OSError as error:
            text = f"{verify!r} is no usable bundle of certificates: {error}"
            raise ConfigError(
                f"{text}; it is what `verify`, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE "
                "names"
            ) from error
    if cert is not None:
        try:
            tls_context(False, cert)
        except OSError as error:
            raise ConfigError(f"cert = {cert!r} cannot be used: {error}") from error


def tls_context(verify: bool | str, cert: Certificate | None) -> ssl.SSLContext:
    """Return what `requests` trusts and shows."""
    bundle = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    if not bundle:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif os.path.isdir(bundle):
        context = ssl.create_default_context(capath=bundle)
    else:
        context = ssl.create_default_context(cafile=bundle)
    if isinstance(cert, str):
        context.load_cert_chain(cert)
    elif cert:
        context.load_cert_chain(*cert)
    return context


class Adapter(HTTPAdapter):
    """Connections that notice a peer that is gone, even while they are silent."""

    def __init__(self) -> None:
        # More pools than anybody has hosts: one that is known here is never thrown out there.
        super().__init__(pool_connections=1024, pool_maxsize=64)
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
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            super().cert_verify(pool, url, verify, cert)  # type: ignore[no-untyped-call]
            self._known[host] = pool
        return pool

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
