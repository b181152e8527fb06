"""What the platform says of itself: from the saved login while that is recent, else asked for.

A saved answer to ``GET /config`` saves a request in every process. It may be out of date, so it is
replaced by a new one

- when it is older than `MAX_AGE_S`,
- when a name is looked up that is not in it (a cluster, an organisation, a project, a preset),
- when nobody answers at the address of a service, or something else than the service does,

and it is removed when the platform refuses the token, or the user, or a new job: what it says of
the user's projects and presets may have changed. What this process has fetched itself stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from neuro_sync.errors import SERVICE_HEADER, AuthenticationError, ConfigError, NeuroError
from neuro_sync.models.config import PlatformConfig
from neuro_sync.transport.connections import check_encrypted, is_https
from neuro_sync.transport.retry import Retry
from neuro_sync.transport.tokens import ForkSafeLock, user_of

from .lookup import Found
from .saved_login import SavedAnswer

if TYPE_CHECKING:
    from neuro_sync.transport.clock import Clock
    from neuro_sync.transport.http import HttpTransport

logger: logging.Logger = logging.getLogger("neuro_sync")

T = TypeVar("T")

MAX_AGE_S = 3600.0
"""Seconds after which a saved answer is not used any more."""

ADDRESSES = (
    "monitoring_url",
    "storage_url",
    "registry_url",
    "secrets_url",
    "disks_url",
    "users_url",
    "buckets_url",
)


@dataclass(frozen=True)
class _Description:
    """What is known of the platform; it is replaced as a whole, so that threads need no lock."""

    config: PlatformConfig
    answer: SavedAnswer
    was_saved: bool
    """Whether it comes from the saved login, and was not confirmed in this process."""


class Platform:
    """The platform of a session: asked once by all threads, in each process."""

    def __init__(self, transport: HttpTransport, found: Found, clock: Clock) -> None:
        self._transport = transport
        self._found = found
        self._clock = clock
        # So that threads that need it at the same time ask once.
        self._lock = ForkSafeLock()
        self._known: _Description | None = None
        self._saved_is_usable = found.login is not None and found.store is not None
        self.revision: int = 0
        """How often another description has taken the place of the one before."""
        self._moves: dict[str, str] = {}
        """Addresses of services that were in the saved answer, and where these are now."""

    @property
    def config(self) -> PlatformConfig:
        """What the platform says.

        Raises:
            AuthenticationError: The platform does not accept the token.
        """
        return self._description().config

    @property
    def service(self) -> str:
        """Who answers at the platform's address, by its own header."""
        return self._description().answer.service

    @property
    def answer(self) -> bytes:
        """The answer as it came."""
        return self._description().answer.answer

    def _description(self) -> _Description:
        found = self._known
        if found is None:
            with self._lock:
                found = self._known = self._known or self._read_saved() or self._fetch()
        return found

    def fetch(self) -> None:
        """Ask the platform, whatever is known."""
        with self._lock:
            self._replace(self._fetch())

    def confirm(self, *, attempts: int | None = None) -> bool:
        """Ask the platform if what is known was saved; return whether it was."""
        seen = self._known
        if seen is None or not seen.was_saved:
            return False
        with self._lock:
            if self._known is seen:
                self._replace(self._fetch(attempts))
        return True

    def doubt(self) -> None:
        """Do not use what was saved any more, here or in another process."""
        with self._lock:
            known, self._known = self._known, None
            if known is not None and not known.was_saved:
                self._known = known
                return
            self.revision += 1
            was_usable, self._saved_is_usable = self._saved_is_usable, False
        if was_usable and self._found.login is not None and self._found.login.config is not None:
            self._save(None)

    def current_address(self, url: str) -> str:
        """Return an address as it is now; one of a service may have been saved, and have moved.

        Raises:
            ConfigError: It is unencrypted, and the platform is not.
        """
        if self._moves:
            url = _replace_base(url, self._moves) or url
        if not (is_https(url) or self._transport.allow_http_services):
            check_encrypted(self._found.url, self._name_of(url), url)
        return url

    def _name_of(self, url: str) -> str:
        """Return what the platform calls the service at an address."""
        known = self._known
        host = "/".join(url.split("/", 3)[:3])
        found = [
            (address, f"{name} of the cluster {cluster!r}" if cluster else name)
            for (cluster, name), address in (_addresses(known.config) if known else {}).items()
            if url.startswith(address) or address.startswith(host)  # a registry's path is dropped
        ]
        found.sort(key=lambda each: (url.startswith(each[0]), len(each[0])))
        return found[-1][1] if found else "a service"

    def moved_address(self, url: str) -> str | None:
        """Return where a service is now that does not answer at a saved address; None if there."""
        known = self._known
        if known is None or not known.was_saved:
            return None
        services = {address: address for address in _addresses(known.config).values()}
        if _replace_base(url, services) is None:
            return None
        try:
            # Once: whoever asks has waited for a connection in vain already.
            self.confirm(attempts=1)
        except NeuroError as error:
            logger.info("%s", error)
            return None
        moved = self.current_address(url)
        if moved == url:
            return None
        logger.info("the service at %s has moved to %s", url, moved)
        return moved

    def _replace(self, fetched: _Description) -> None:
        if self._known is not None:
            now = _addresses(fetched.config)
            self._moves = {
                old: now[place]
                for place, old in _addresses(self._known.config).items()
                if now.get(place, old) != old
            }
            self.revision += 1
        self._known = fetched

    def _read_saved(self) -> _Description | None:
        login = self._found.login
        if login is None or login.config is None or not self._saved_is_usable:
            return None
        age = self._clock.date() - login.config.fetched
        if not 0 <= age < MAX_AGE_S:
            return None
        try:
            config = PlatformConfig.from_answer(login.config.answer)
        except NeuroError as error:
            logger.info("the saved answer of the platform cannot be read: %s", error)
            return None
        return _Description(config, login.config, True) if config.clusters else None

    def _fetch(self, attempts: int | None = None) -> _Description:
        tokens = self._transport.tokens
        sent = tokens.token()
        found = self._ask(attempts)
        # A token that is not accepted is no error here, so that the transport did not see it.
        if not found.config.clusters and not found.config.authorized and tokens.renew(sent):
            found = self._ask(attempts)
        if not found.config.clusters:
            is_known = found.config.authorized
            why = "knows no cluster for you" if is_known else "does not accept the token"
            raise AuthenticationError(f"{self._found.url} {why}", method="GET", path="/config")
        self._save(found.answer)
        return found

    def _ask(self, attempts: int | None) -> _Description:
        answer = self._transport.request(
            "GET", f"{self._found.url}/config", retry=Retry.ALWAYS, attempts=attempts
        )
        service = answer.headers.get(SERVICE_HEADER, "")
        fetched = SavedAnswer(answer.content, service, self._clock.date())
        return _Description(PlatformConfig.from_answer(answer.content), fetched, False)

    def _save(self, answer: SavedAnswer | None) -> None:
        login, store = self._found.login, self._found.store
        if login is None or store is None:
            return
        try:
            store.save_config(login.url, user_of(login.token), answer)
        except ConfigError as error:  # in a folder that cannot be written to, every process asks
            logger.info("%s", error)


def _addresses(config: PlatformConfig) -> dict[tuple[str, str], str]:
    """Return the addresses of all services, each by its cluster and its name."""
    found = {
        (cluster.name, name): getattr(cluster, name) or ""
        for cluster in config.clusters
        for name in ADDRESSES
    }
    found |= {
        ("", name): str(getattr(config, name) or "") for name in ("admin_url", "vcluster_url")
    }
    return {place: address.rstrip("/") for place, address in found.items() if address}


def _replace_base(url: str, bases: Mapping[str, str]) -> str | None:
    """Return an address with its longest base replaced; None if it has none of them."""
    place = len(url)
    while place > 0:
        if (base := bases.get(url[:place])) is not None:
            return base + url[place:]
        place = max(url.rfind("/", 0, place), url.rfind("?", 0, place))
    return None


class ConfirmedMapping(Mapping[str, T]):
    """Parts of the description by name; the platform is asked before a name counts as missing."""

    def __init__(self, platform: Platform, find: Callable[[], Mapping[str, T]]) -> None:
        self._platform = platform
        self._find = find
        self._found = find()

    def __getitem__(self, name: str) -> T:
        if name not in self._found and self._platform.confirm():
            with suppress(ConfigError):  # the current cluster is gone
                self._found = self._find()
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __reduce__(self) -> tuple[type[dict[str, T]], tuple[dict[str, T]]]:
        return dict, (dict(self._found),)

    def __repr__(self) -> str:
        return repr(self._found)
