"""The token of a saved login, which renews itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from neuro_sync.errors import AuthenticationError, ConfigError
from neuro_sync.secret_text import MASK, SecretText
from neuro_sync.transport.connections import check_encrypted
from neuro_sync.transport.tokens import ForkSafeLock, user_of

from . import oauth
from .saved_login import LoginStore, SavedLogin, logger

if TYPE_CHECKING:
    from neuro_sync.transport.clock import Clock
    from neuro_sync.transport.http import HttpTransport

LIFE_USED = 0.75
"""The part of a token's life after which the official clients renew it; so do we."""


def expiration(expires_in: float, now: float) -> float:
    """Return when a token is to be renewed, somewhat before it ends."""
    return now + LIFE_USED * expires_in


class SavedToken:
    """Renews the token once for all threads, and all processes that share the saved login.

    Who finds it expired asks the store first: another process may have renewed it already.
    """

    def __init__(
        self, store: LoginStore, login: SavedLogin, anonymous: HttpTransport, clock: Clock
    ) -> None:
        """Begin with what the store has; `anonymous` asks without a token."""
        self._store = store
        self._login = login
        self._username = user_of(login.token)
        self._anonymous = anonymous
        self._clock = clock
        # Held while one thread renews; the others wait for its token.
        self._lock = ForkSafeLock()

    def token(self) -> SecretText:
        login = self._login
        if self._is_fresh(login):
            return login.token
        with self._lock:
            if not self._is_fresh(self._login):
                self._renew(self._login.token)
            return self._login.token

    def renew(self, refused: SecretText) -> SecretText | None:
        with self._lock:
            if self._login.token == refused:
                self._renew(refused)
            return self._login.token

    def _is_fresh(self, login: SavedLogin) -> bool:
        # One without a refresh token is used until the platform says no.
        return not login.refresh_token or login.expiration_time > self._clock.date()

    def _renew(self, old: SecretText) -> None:
        with self._store.lock():
            saved = self._read_again()
            if saved.token != old and self._is_fresh(saved):
                self._login = saved
                return
            if not saved.refresh_token:
                raise AuthenticationError(f"the token is not accepted; {self._log_in_again()}")
            now = self._clock.date()
            token_url = str(saved.auth_config["token_url"])
            if not self._anonymous.allow_http_services:
                check_encrypted(saved.url, "token_url", token_url)
            try:
                grant = oauth.refresh(
                    self._anonymous,
                    token_url,
                    str(saved.auth_config["client_id"]),
                    saved.refresh_token,
                )
            except AuthenticationError as error:
                raise AuthenticationError(
                    f"the token could not be renewed ({error}); {self._log_in_again()}"
                ) from error
            self._login = replace(
                saved,
                token=grant.token,
                expiration_time=expiration(grant.expires_in, now),
                refresh_token=grant.refresh_token or saved.refresh_token,
            )
            self._save()
            logger.debug("the token of the saved login %s was renewed", self._store.file)

    def _read_again(self) -> SavedLogin:
        """Return what is saved now; what we have, if it is gone or cannot be read."""
        try:
            saved = self._store.read()
            if saved.url == self._login.url and user_of(saved.token) == self._username:
                return saved
        except ConfigError as error:
            logger.info("%s", error)
            return self._login
        raise AuthenticationError(
            f"the saved login {self._store.file} is somebody else's by now; make a new session"
        )

    def _save(self) -> None:
        login = self._login
        try:
            self._store.update(
                login.url,
                self._username,
                token=login.token,
                expiration_time=login.expiration_time,
                refresh_token=login.refresh_token,
            )
        except ConfigError as error:  # a folder that cannot be written to: this process goes on
            logger.info("%s", error)

    def _log_in_again(self) -> str:
        again = "login" if self._login.refresh_token else "login_with_token"
        first = "" if self._login.refresh_token else "TOKEN, "
        return (
            f"log in again with neuro_sync.{again}({first}url={self._login.url!r}), "
            f"since the saved login {self._store.file} is over"
        )

    def __repr__(self) -> str:
        return f"<SavedToken of {self._username!r} {MASK}, in {self._store.file}>"
