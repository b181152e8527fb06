"""Where the token of a request comes from, and the lock that whoever renews one needs."""

from __future__ import annotations

import base64
import json
import os
import threading
from types import TracebackType
from typing import Protocol

from neuro_sync.errors import ConfigError
from neuro_sync.secret_text import MASK, SecretText

from .deadlines import DeadlinePassed, bounded

USER_CLAIMS = ("identity", "https://platform.neuromation.io/user")


class TokenSource(Protocol):
    """Asked for a token before each request, by any thread."""

    def token(self) -> SecretText:
        """Return the token to send now; an empty one means none is sent.

        Raises:
            AuthenticationError: The old one is over, and there is no new one to be had.
        """

    def renew(self, refused: SecretText) -> SecretText | None:
        """Return another token, since the platform did not accept one; None if there is none.

        Raises:
            AuthenticationError: There was to be a new one, but there is not.
        """


class FixedToken:
    """A token that lasts as long as the platform likes; an empty one is none."""

    def __init__(self, token: SecretText) -> None:
        self._token = checked_token(token) if token else token

    def token(self) -> SecretText:
        return self._token

    def renew(self, refused: SecretText) -> None:  # noqa: ARG002  # the protocol's
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {MASK}>"


NO_TOKEN = FixedToken(SecretText(""))
"""Of requests that tell nobody who asks."""


def masked(text: str, *secrets: SecretText) -> str:
    """Return a text that somebody else wrote, without what we had told them."""
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), MASK)
    return text


def checked_token(token: SecretText) -> SecretText:
    """Return a token without the space around it, as the end of a file leaves.

    Raises:
        ConfigError: It cannot be sent. The libraries below would say so too, and repeat it.
    """
    token = SecretText(token.reveal().strip())
    size = len(token.reveal())
    for place, character in enumerate(token.reveal()):
        if not "!" <= character <= "~":
            raise ConfigError(
                f"the token is no token: character {place + 1} of {size} is {character!r}"
            )
    if not token:
        raise ConfigError("the token is empty")
    return token


def user_of(token: SecretText | str) -> str:
    """Read the user's name from a token; nobody but the platform checks its signature.

    Raises:
        ConfigError: It is no token of such a platform.
    """
    token = SecretText(token)
    user = _find_user(token)
    if user is None:
        raise ConfigError("the token is no token of this kind of platform: no user in it")
    return user


def _find_user(token: SecretText) -> str | None:
    # It returns, since an error would show parts of the token in its frames.
    try:
        payload = token.reveal().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(next(claims[claim] for claim in USER_CLAIMS if claim in claims))
    except (IndexError, ValueError, StopIteration, TypeError):
        return None


class ForkSafeLock:
    """A lock that is free in a child of ``fork``, whoever held it in the parent."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def _of_this_process(self) -> threading.Lock:
        # Two threads that both find none agree on one: setdefault() is one step.
        process = os.getpid()
        return self._locks.get(process) or self._locks.setdefault(process, threading.Lock())

    def __enter__(self) -> None:
        left = bounded(None)
        lock = self._of_this_process()
        if not lock.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
            raise DeadlinePassed("another thread was asking the platform when the deadline passed")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._of_this_process().release()
