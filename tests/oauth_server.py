"""An OAuth server, and a front door that lets its tokens into a local platform."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import requests
from typing_extensions import Self
from yarl import URL

from neuro_sync.local.server import LocalPlatform
from tests.relays import LOOPBACK, FrontDoor

CLIENT_ID = "cli-4711"
CANARY = "canary"
"""Part of each secret that is handed out, or handed in."""


@dataclass
class OAuthServer:
    """Codes with PKCE for tokens, refresh tokens for the next; its clock is set by hand."""

    user: str
    lifetime: float = 3600.0
    """Seconds that a token lasts."""
    now: float = 0.0
    """What a test sets forward, so that tokens expire without anybody waiting."""
    rotates: bool = False
    """Whether a refresh token is good for one token only, and the next comes with it."""
    error: str | None = None
    """What the page for logging in says instead of handing out a code."""
    refusal: tuple[int, dict[str, str]] | None = None
    """What the token endpoint answers instead of a token."""
    forms: list[dict[str, str]] = field(default_factory=list)
    """The forms that the token endpoint was sent."""
    logged_out: list[str] = field(default_factory=list)
    """The client ids that the page for logging out was told."""
    callback_ports: list[int] = field(default_factory=lambda: [0])
    success_url: str | None = None

    def __post_init__(self) -> None:
        self._codes: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, float] = {}
        self.refresh_tokens: set[str] = set()
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://{LOOPBACK}:{self._server.server_port}"

    @property
    def login_keys(self) -> dict[str, Any]:
        """What ``/config`` tells of logging in."""
        # The official clients cannot read an answer with this key and no address.
        success = {"success_redirect_url": self.success_url} if self.success_url else {}
        return success | {
            "auth_url": f"{self.address}/authorize",
            "token_url": f"{self.address}/token",
            "logout_url": f"{self.address}/logout?returnTo=home",
            "client_id": CLIENT_ID,
            "audience": "https://platform.example.org",
            "callback_urls": [f"http://{LOOPBACK}:{port}" for port in self.callback_ports],
            "headless_callback_url": f"{self.address}/show-code",
        }

    @property
    def refreshes(self) -> int:
        return sum(form["grant_type"] == "refresh_token" for form in self.forms)

    def accepts(self, token: str) -> bool:
        """Tell whether a token is one of ours, and not over."""
        return self._tokens.get(token, 0.0) > self.now

    def new_token(self) -> str:
        """Return a token with the user's name in it, as the platform's are."""
        claims = {"identity": self.user, CANARY: secrets.token_hex(8)}
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({}, claims)]
        token = b".".join(parts).decode().replace("=", "") + f".{CANARY}-{secrets.token_hex(8)}"
        self._tokens[token] = self.now + self.lifetime
        return token

    def new_refresh_token(self) -> str:
        token = f"{CANARY}-refresh-{secrets.token_hex(8)}"
        self.refresh_tokens.add(token)
        return token

    def revoke_tokens(self) -> None:
        """Refuse all that were handed out, long before they are over."""
        self._tokens.clear()

    def authorize(self, query: dict[str, str]) -> str:
        """Return where a browser is sent on to, once its user has logged in."""
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert query["client_id"] == CLIENT_ID
        assert query["scope"] == "offline_access"
        back = {"state": query["state"]} if "state" in query else {}
        if self.error:
            back |= {"error": self.error, "error_description": "you may not, said the server"}
        else:
            code = f"{CANARY}-code-{secrets.token_hex(8)}"
            self._codes[code] = query
            back["code"] = code
        return f"{query['redirect_uri']}?{urlencode(back)}"

    def give(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Answer at the token endpoint."""
        with self._lock:
            self.forms.append(form)
            if self.refusal is not None:
                return self.refusal
            answer: dict[str, Any] = {"expires_in": self.lifetime}
            if form["grant_type"] == "authorization_code":
                asked = self._codes.pop(form["code"], None)
                if asked is None or not _belongs(form, asked):
                    return 403, {"error": "invalid_grant", "error_description": "Wrong code"}
                answer["refresh_token"] = self.new_refresh_token()
            elif form["refresh_token"] not in self.refresh_tokens:
                # As careless servers do, it repeats what it does not like.
                told = f"Unknown refresh token {form['refresh_token']}"
                return 403, {"error": "invalid_grant", "error_description": told}
            elif self.rotates:
                self.refresh_tokens.remove(form["refresh_token"])
                answer["refresh_token"] = self.new_refresh_token()
            return 200, answer | {"access_token": self.new_token()}

    def browse(self, address: URL) -> requests.Response:
        """Do what a user with a browser does: log in, and be sent back."""
        return requests.get(str(address), timeout=10)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(address.query).items()}
                if address.path == "/authorize":
                    self.send_response(302)
                    self.send_header("Location", server.authorize(query))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif address.path == "/logout":
                    server.logged_out.append(query["client_id"])
                    self._say(200, b"bye")
                else:
                    self._say(200, query.get("code", "welcome").encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"
                assert "Authorization" not in self.headers
                form = {name: values[0] for name, values in parse_qs(body).items()}
                status, answer = server.give(form)
                self._say(status, json.dumps(answer).encode(), "application/json")

            def _say(self, status: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        options = {"poll_interval": 0.01}
        threading.Thread(target=self._server.serve_forever, kwargs=options, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _belongs(form: dict[str, str], asked: dict[str, str]) -> bool:
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return (challenge, form["redirect_uri"], form["client_id"]) == (
        asked["code_challenge"],
        asked["redirect_uri"],
        asked["client_id"],
    )


AUTHORIZATION = re.compile(rb"(?i)authorization: (bearer|basic) (\S+)\r\n")


def _token_of(found: re.Match[bytes]) -> str:
    if found[1] == b"Basic":
        return base64.b64decode(found[2]).decode().partition(":")[2]
    return found[2].decode()


class TokenDoor(FrontDoor):
    """A platform that takes the tokens of an OAuth server, and sees that they are not over."""

    def __init__(self, platform: LocalPlatform, oauth: OAuthServer) -> None:
        super().__init__(urlsplit(platform.url).port or 0)
        self._platform = platform
        self._oauth = oauth
        self.refused = 0
        """How many requests came with a token that is over."""

    def _admitted(self, head: bytes) -> bytes | None:
        found = AUTHORIZATION.search(head)
        if found is None:
            return head
        token = _token_of(found)
        if self._oauth.accepts(token):
            bearer = b"Authorization: Bearer %s\r\n" % self._platform.token.encode()
            basic = base64.b64encode(f"{self._oauth.user}:{self._platform.token}".encode())
            as_basic = b"Authorization: Basic %s\r\n" % basic
            return head.replace(found[0], as_basic if found[1] == b"Basic" else bearer)
        self.refused += 1
        # Of /config alone, which says so in its answer.
        is_config = head.startswith(b"GET /api/v1/config ")
        return head.replace(found[0], b"") if is_config else None

    def _refusal(self, head: bytes) -> bytes:
        # As careless servers do, it repeats what it does not like.
        found = AUTHORIZATION.search(head)
        body = json.dumps({"error": f"bad token {_token_of(found) if found else ''}"}).encode()
        return (
            b"HTTP/1.1 401 Unauthorized\r\nX-Error: %s\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (body, len(body), body)
        )

    def _described(self, config: dict[str, Any]) -> dict[str, Any]:
        return config | self._oauth.login_keys
