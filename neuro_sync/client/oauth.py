"""The platform's OAuth: a code for a token, a refresh token for the next one."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yarl import URL

from neuro_sync.errors import APIError, AuthenticationError, ConfigError, ProtocolError
from neuro_sync.secret_text import SecretText
from neuro_sync.transport.deadlines import call_deadline
from neuro_sync.transport.retry import Retry
from neuro_sync.transport.tokens import checked_token, masked

if TYPE_CHECKING:
    import requests

    from neuro_sync.models.config import LoginConfig
    from neuro_sync.transport.http import HttpTransport

PASSING = frozenset({429, *range(500, 600)})
"""Refusals that tell of the server's state, not of what it was given."""


@dataclass(frozen=True)
class Grant:
    """What the token endpoint gives."""

    token: SecretText
    expires_in: float
    """Seconds."""
    refresh_token: SecretText | None
    """Another one than before, if there is one."""


@dataclass(frozen=True)
class AuthorizationRequest:
    """One login by code: what is asked of the browser, and what proves that it was we."""

    redirect_uri: str
    state: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(16))
    verifier: SecretText = field(default_factory=lambda: SecretText(secrets.token_urlsafe(32)))

    def url(self, keys: LoginConfig) -> URL:
        """Return the address at which the user logs in."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return URL(keys.auth_url).with_query(
            response_type="code",
            code_challenge=base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            code_challenge_method="S256",
            client_id=keys.client_id,
            redirect_uri=self.redirect_uri,
            scope="offline_access",
            audience=keys.audience,
            state=self.state,
        )

    def exchange(self, transport: HttpTransport, keys: LoginConfig, code: SecretText) -> Grant:
        """Turn the code that the browser came back with into a token.

        Raises:
            AuthenticationError: The code is not accepted.
        """
        form: dict[str, str | SecretText] = {
            "grant_type": "authorization_code",
            "code_verifier": self.verifier,
            "code": code,
            "client_id": keys.client_id,
            "redirect_uri": self.redirect_uri,
        }
        return _ask(transport, keys.token_url, form, (self.verifier, code))


def refresh(
    transport: HttpTransport, token_url: str, client_id: str, refresh_token: SecretText
) -> Grant:
    """Ask for the next token.

    Raises:
        AuthenticationError: The refresh token is not accepted, or not any more.
    """
    form: dict[str, str | SecretText] = {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "client_id": client_id,
    }
    return _ask(transport, token_url, form, (refresh_token,))


def _ask(
    transport: HttpTransport,
    token_url: str,
    form: Mapping[str, str | SecretText],
    told: tuple[SecretText, ...],
) -> Grant:
    refusal = None
    try:
        # A code and a refresh token can be used once: if the answer is lost, so is the login. So it
        # is not sent again, and no deadline of a call ends it, only the session's timeouts.
        with call_deadline(math.inf):
            answer = transport.request(
                "POST", token_url, retry=Retry.NEVER, form=form, accept="application/json"
            )
    except APIError as error:
        refusal = _refusal(error, URL(token_url).path, told)
    if refusal is not None:
        # When nothing is handled any more: what a server says may repeat what it was told.
        raise refusal
    grant = _read_grant(answer)
    if grant is None:
        raise ProtocolError(f"the answer of {token_url} is none about a token")
    return grant


def _read_grant(answer: requests.Response) -> Grant | None:
    # It returns, since an error would show the tokens in its frames.
    try:
        content = json.loads(answer.content)
        following = content.get("refresh_token")
        return Grant(
            checked_token(SecretText(str(content["access_token"]))),
            float(content["expires_in"]),
            SecretText(str(following)) if following else None,
        )
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _refusal(error: APIError, path: str, told: tuple[SecretText, ...]) -> APIError:
    said = error.payload if isinstance(error.payload, dict) else {}
    text = masked(str(said.get("error_description") or error.text), *told)
    kind = type(error) if error.status in PASSING else AuthenticationError
    return kind(
        text,
        status=error.status,
        method="POST",
        path=path,
        request_id=error.request_id,
        retry_after=error.retry_after,
    )
