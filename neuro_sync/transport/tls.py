"""TLS contexts that read their files while a connection is being made, and resume sessions."""

from __future__ import annotations

import os
import ssl
import sys
import threading
from contextlib import suppress
from typing import Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from typing_extensions import Self

from neuro_sync.errors import ConfigError

Certificate = str | tuple[str, str]
"""The path of a client's certificate; and of its key, if that is in another file."""

MOST_SESSIONS = 64
"""Servers whose session a context keeps."""

Server = tuple[str | None, object]
"""The name that the certificate is checked for, and the address of the peer."""


class TlsContext(ssl.SSLContext):
    """Trusts and shows what `requests` would.

    A thread reads the bundle of certificates, which takes some 20 ms. The first connection needs
    it only when the server has accepted it. Without that thread every process would wait longer.

    The sessions that connections resume belong to the context. So a session that was made with
    one bundle, or with one client certificate, is never resumed with another one.
    """

    def __new__(cls, *_: object) -> Self:
        """Make a context for clients; the library's own takes the protocol here."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, verify: bool | str, cert: Certificate | None) -> None:
        """Trust a bundle, the usual one if `verify` is True, or anybody if it is False."""
        self._sessions: dict[Server, ssl.SSLSession] = {}
        self._failure: ConfigError | None = None
        if not verify:
            self.check_hostname = False
            self.verify_mode = ssl.CERT_NONE
        if sys.version_info >= (3, 13):  # as `ssl.create_default_context`
            self.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
        if not sys.flags.ignore_environment and (log := os.environ.get("SSLKEYLOGFILE")):
            self.keylog_filename = log
        self._reader = threading.Thread(
            target=self._read, args=(verify, cert), name="neuro-tls", daemon=True
        )
        self._reader.start()

    def _read(self, verify: bool | str, cert: Certificate | None) -> None:
        try:
            if verify:
                _load_bundle(self, verify)
            if cert is not None:
                _load_certificate(self, cert)
        except ConfigError as error:
            self._failure = error

    def wait_until_read(self) -> None:
        """Wait for the files.

        Raises:
            ConfigError: They cannot be used.
        """
        self._reader.join()
        if self._failure is not None:
            raise self._failure

    def wrap_socket(  # type: ignore[override]  # the library's own has positional booleans
        self, sock: Any, *, server_hostname: str | None = None, **options: Any
    ) -> ssl.SSLSocket:
        """Shake hands; a server that does not know the session any more makes a new one."""
        self.wait_until_read()
        server = (server_hostname, sock.getpeername())
        session = self._sessions.get(server)
        try:
            return super().wrap_socket(
                sock, server_hostname=server_hostname, session=session, **options
            )
        except ssl.SSLError:
            self._sessions.pop(server, None)
            raise

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Return a connection within another one, as to a platform behind an HTTPS proxy."""
        self.wait_until_read()
        return super().wrap_bio(*arguments, **options)

    def remember(self, connected: ssl.SSLSocket) -> None:
        """Keep a connection's session for the next one; called when an answer has come.

        Before that, a server with TLS 1.3 has not sent what resumes it.
        """
        session = connected.session
        if session is None or not session.has_ticket:
            return
        with suppress(OSError):  # it is closed by now
            server = (connected.server_hostname, connected.getpeername())
            if server in self._sessions or len(self._sessions) < MOST_SESSIONS:
                self._sessions[server] = session


def remember_session(connected: object) -> None:
    """Keep the session of a connection over which something was received, if it is one of TLS."""
    if isinstance(connected, ssl.SSLSocket) and isinstance(connected.context, TlsContext):
        connected.context.remember(connected)


def _load_bundle(context: ssl.SSLContext, verify: bool | str) -> None:
    bundle = DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
    try:
        if os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except OSError as error:
        # Without this check it would look like a cut.
        raise ConfigError(
            f"{bundle!r} is no usable bundle of certificates: {error}; it is what `verify`, "
            "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE names"
        ) from error


def _load_certificate(context: ssl.SSLContext, cert: Certificate) -> None:
    try:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    except OSError as error:
        raise ConfigError(f"cert = {cert!r} cannot be used: {error}") from error
