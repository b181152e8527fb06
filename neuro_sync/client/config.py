"""Where the platform is, and who asks."""

from __future__ import annotations

import base64
import json
import os
import threading
from typing import TYPE_CHECKING

from yarl import URL

from neuro_sync.errors import AuthenticationError, ConfigError
from neuro_sync.models.config import ClusterConfig, PlatformConfig

if TYPE_CHECKING:
    from neuro_sync.transport.http import HttpTransport

URL_VARIABLE = "NEURO_SYNC_URL"
TOKEN_VARIABLE = "NEURO_SYNC_TOKEN"  # noqa: S105  # the name of a variable
USER_CLAIMS = ("identity", "https://platform.neuromation.io/user")


def find_platform(url: str | URL | None, token: str | None) -> tuple[str, str]:
    """Return the platform's address and a token: from the arguments, else the environment.

    Raises:
        ConfigError: One of them is nowhere; the text lists each place looked at.
    """
    url_set, token_set = os.environ.get(URL_VARIABLE), os.environ.get(TOKEN_VARIABLE)
    if (url or url_set) and (token or token_set):
        return _checked(str(url or url_set)), str(token or token_set)
    places = [
        f"the argument url: {'given' if url else 'not given'}",
        f"the argument token: {'given' if token else 'not given'}",
        f"the variable {URL_VARIABLE}: {'set' if url_set else 'not set'}",
        f"the variable {TOKEN_VARIABLE}: {'set' if token_set else 'not set'}",
    ]
    raise ConfigError(
        "no platform to talk to. Looked at:\n  "
        + "\n  ".join(places)
        + "\nGive Session(url=..., token=...), or use Session.local() to run jobs on this machine."
    )


def _checked(text: str) -> str:
    try:
        url = URL(text)
    except ValueError as error:
        raise ConfigError(f"the platform's address {text!r} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"the platform's address {text!r} should look like https://HOST/api/v1")
    return text.rstrip("/")


def user_of(token: str) -> str:
    """Read the user's name from a token; nobody but the platform checks its signature.

    Raises:
        ConfigError: It is no token of such a platform.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(next(claims[claim] for claim in USER_CLAIMS if claim in claims))
    except (IndexError, ValueError, StopIteration, TypeError):
        # Not chained: the original may hold parts of the token.
        raise ConfigError("the token is no token of this kind of platform: no user in it") from None


class Config:
    """The platform's own description, fetched when it is first needed, once."""

    def __init__(
        self,
        transport: HttpTransport,
        api_url: str,
        token: str,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> None:
        self.api_url = api_url
        self._transport = transport
        self._token = token
        self._cluster_name = cluster_name
        self._org_name = org_name
        self._project_name = project_name
        self._platform: PlatformConfig | None = None
        self._service_version = ""
        # So that threads that need it at the same time ask once.
        self._lock = threading.Lock()

    @property
    def username(self) -> str:
        return user_of(self._token)

    @property
    def platform(self) -> PlatformConfig:
        """The answer to ``GET /config``.

        Raises:
            AuthenticationError: The platform does not accept the token.
        """
        with self._lock:
            if self._platform is None:
                self._platform = self._fetch()
            return self._platform

    @property
    def is_local(self) -> bool:
        """Whether this is the local platform, which can do what the hosted one cannot."""
        return bool(self.platform) and self._service_version.startswith("neuro-local/")

    def _fetch(self) -> PlatformConfig:
        url = f"{self.api_url}/config"
        answer = self._transport.request("GET", url)
        self._service_version = answer.headers.get("X-Service-Version", "")
        platform = PlatformConfig.from_answer(answer.content)
        if not platform.authorized or not platform.clusters:
            why = "knows no cluster for you" if platform.authorized else "does not accept the token"
            raise AuthenticationError(f"{self.api_url} {why}", method="GET", path="/config")
        return platform

    def cluster(self, name: str | None = None) -> ClusterConfig:
        """Return one cluster, the current one unless named."""
        wanted = name or self._cluster_name
        clusters = self.platform.clusters
        if wanted is None:
            return clusters[0]
        for cluster in clusters:
            if cluster.name == wanted:
                return cluster
        known = ", ".join(cluster.name for cluster in clusters)
        raise ConfigError(f"there is no cluster {wanted!r}; there are: {known}")

    @property
    def cluster_name(self) -> str:
        return self.cluster().name

    @property
    def org_name(self) -> str | None:
        if self._org_name:
            return self._org_name
        orgs = self.cluster().orgs
        return orgs[0] if orgs else None

    @property
    def project_name(self) -> str:
        """The current project: the alphabetically first one, unless one was chosen."""
        if self._project_name:
            return self._project_name
        cluster, org = self.cluster_name, self.org_name
        names = sorted(
            project.name
            for project in self.platform.projects
            if project.cluster_name == cluster and project.org_name == org
        )
        return names[0] if names else self.username
