"""The small server to which a browser comes back with the code of a login."""

from __future__ import annotations

import errno
import hmac
import http.server
import logging
import os
import queue
import secrets
import threading
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from typing_extensions import Self

from neuro_sync.closing import Closing
from neuro_sync.errors import AuthError, ConfigError
from neuro_sync.secret_text import SecretText

logger: logging.Logger = logging.getLogger("neuro_sync")

LOOPBACK = ("127.0.0.1", "localhost")
REFUSALS = {"unauthorized": 401, "access_denied": 403}
"""With which status a browser is told of an error of the login; 400 for any other."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it lets two programs listen on one port

    def handle_error(self, *_: object) -> None:
        # A browser that leaves is its own business; the usual one would print all of it.
        logger.debug("a browser left before it was answered")


class CallbackServer(Closing):
    """Listens on the first free one of the addresses that a platform allows, for one login."""

    def __init__(self, addresses: Sequence[str], success_url: str | None = None) -> None:
        """Listen; a browser that brings a code is sent on to `success_url`.

        Raises:
            ConfigError: All of the addresses are in use, or none is this machine's own.
        """
        self._answers: queue.SimpleQueue[tuple[SecretText, str]] = queue.SimpleQueue()
        self.state: str = secrets.token_urlsafe(16)
        """What an answer has to repeat to belong to this login."""
        self._success_url = success_url
        self.address: str
        self._server, self.address = self._listen(addresses)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="neuro-sync: login", daemon=True
        )

    def _listen(self, addresses: Sequence[str]) -> tuple[_Server, str]:
        handler = self._handler()
        for address in addresses:
            parts = urlsplit(address)
            if parts.hostname not in LOOPBACK:
                raise ConfigError(
                    f"the platform wants the login to come back to {address}, "
                    "which is not this machine alone; use login_headless or login_with_token"
                )
            port = 80 if parts.port is None else parts.port
            try:
                server = _Server((parts.hostname, port), handler)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise ConfigError(f"{address} cannot be listened on: {error}") from error
            return server, f"http://{parts.hostname}:{server.server_port}"
        raise ConfigError(
            f"other programs use all of {', '.join(addresses)}, where the browser is to come back; "
            "end one of them, or use login_headless or login_with_token"
        )

    def code(self, timeout: float) -> SecretText:
        """Wait for the browser, and return the code that it brings.

        Raises:
            AuthError: It brought an error instead, or did not come.
        """
        try:
            code, refusal = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise AuthError(f"nobody logged in within {timeout:.0f} seconds") from None
        if refusal:
            raise AuthError(refusal)
        return code

    def _answer(self, query: dict[str, list[str]]) -> tuple[int, str]:
        """Take in what a browser was sent here with; return what it is told."""
        state, code, error = (query.get(name, [""])[0] for name in ("state", "code", "error"))
        if not hmac.compare_digest(state.encode(), self.state.encode()):
            # Not taken for an end of this login: any page can send a browser here.
            return 400, "This is not the answer to the login that is under way."
        if error:
            told = query.get("error_description", [error])[0]
            self._answers.put((SecretText(""), told))
            return REFUSALS.get(error, 400), told
        if not code:
            self._answers.put((SecretText(""), "the login was cancelled"))
            return 400, "There is no code."
        self._answers.put((SecretText(code), ""))
        return 200, "OK"

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        answer, success_url = self._answer, self._success_url

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10.0  # browsers open connections that they never use

            def do_GET(self) -> None:
                address = urlsplit(self.path)
                if address.path not in ("", "/"):
                    self._say(404, "Not found.")
                    return
                status, text = answer(parse_qs(address.query))
                if status == 200 and success_url:
                    self._say(302, "", ("Location", success_url))
                else:
                    self._say(status, text)

            def _say(self, status: int, text: str, *headers: tuple[str, str]) -> None:
                body = text.encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: the address holds the code."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop to listen."""
        if self.is_inherited:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
