"""The way in: a `Session` speaks with one platform."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Self
from yarl import URL

from neuro_sync.closing import Closing
from neuro_sync.errors import ConfigError
from neuro_sync.models.config import Preset

from .config import Config, find_platform

if TYPE_CHECKING:
    from neuro_sync.local.server import LocalPlatform
    from neuro_sync.transport.clock import Clock
    from neuro_sync.transport.http import Timeout


class Session(Closing):
    """A user's view of one platform. Any number of threads may share it.

    Without arguments the platform is found in the environment. Making a session contacts nobody
    and starts no thread; the first call does.
    """

    def __init__(
        self,
        url: str | URL | None = None,
        token: str | None = None,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
        timeout: Timeout = (10.0, 60.0),
        verify: bool | str = True,
        clock: Clock | None = None,
    ) -> None:
        """Say where the platform is, as whom to talk to it, and on which cluster and project.

        `url` is that of its API, such as ``https://HOST/api/v1``. `timeout` is seconds to connect
        and seconds of silence; `verify` is the path of a CA bundle, or False to trust anybody.

        Raises:
            ConfigError: There is no address or no token; the text lists where it was looked for.
        """
        # Loaded with the first session: a third of the time of `import neuro_sync` would be theirs.
        from neuro_sync.transport.clock import Clock as RealClock
        from neuro_sync.transport.http import HttpTransport

        from .jobs import Jobs

        api_url, found_token = find_platform(url, token)
        clock = clock or RealClock()
        self._transport = HttpTransport(found_token, timeout=timeout, verify=verify, clock=clock)
        self._config = Config(
            self._transport,
            api_url,
            found_token,
            cluster_name=cluster_name,
            org_name=org_name,
            project_name=project_name,
        )
        self.jobs = Jobs(self._transport, self._config, clock)
        self._stop_platform: weakref.finalize[[], Session] | None = None

    @classmethod
    def local(
        cls,
        *,
        state: str | Path | None = None,
        ephemeral: bool = False,
        start: bool = True,
        timeout: Timeout = (10.0, 60.0),
    ) -> Self:
        """Talk to the local platform of a state folder; start one in this process if none runs.

        `state` is ``.neuro-local`` in the current folder, unless given here or in the variable
        ``NEURO_LOCAL_STATE``. A platform that is started here ends with the session, and so do
        its jobs. With `ephemeral` it is always one of its own, in a temporary folder; without
        `start` it is only one that runs already.

        Raises:
            ConfigError: The extra ``local`` is not installed, the state folder is unusable, or
                no platform runs there and none is to be started.
        """
        from neuro_sync.local.state import folder_of, running_platform

        address = None if ephemeral else running_platform(state)
        if address is not None:
            return cls(address.url, address.token, timeout=timeout)
        if not start:
            raise ConfigError(
                f"no local platform runs on {folder_of(state)}; start one with: neuro local up"
            )
        try:
            from neuro_sync.local.server import LocalPlatform
        except ImportError as error:
            raise ConfigError(
                f"the local platform needs {error.name}: pip install 'neuro-sync[local]'"
            ) from error
        platform = LocalPlatform(state, ephemeral=ephemeral).start()
        session = cls(platform.url, platform.token, timeout=timeout)
        session._end_with(platform)
        return session

    def _end_with(self, platform: LocalPlatform) -> None:
        # Also when nobody calls close(): at the end of the interpreter, or of the session.
        self._stop_platform = weakref.finalize(self, platform.close)

    @property
    def username(self) -> str:
        """Who the token says we are."""
        return self._config.username

    @property
    def api_url(self) -> URL:
        return URL(self._config.api_url)

    @property
    def cluster_name(self) -> str:
        """The cluster that calls mean unless they name another one."""
        return self._config.cluster_name

    @property
    def org_name(self) -> str | None:
        return self._config.org_name

    @property
    def project_name(self) -> str:
        return self._config.project_name

    @property
    def presets(self) -> Mapping[str, Preset]:
        """The presets of the current cluster by name, in the platform's order."""
        return {preset.name: preset for preset in self._config.cluster().presets}

    def close(self) -> None:
        """Close all connections, and the local platform that this session started.

        It may be called more than once; any other call afterwards raises.
        """
        self._transport.close()
        if self._stop_platform is not None:
            self._stop_platform()

    def __repr__(self) -> str:
        return f"<Session {self.username!r} at {self._config.api_url}>"


def get(
    url: str | URL | None = None, token: str | None = None, *, timeout: Timeout = (10.0, 60.0)
) -> Session:
    """Open a session; the same as ``Session(...)``."""
    return Session(url, token, timeout=timeout)


Client = Session
"""Another name of `Session`, for code that is being ported."""
