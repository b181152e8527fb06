"""The way in: a `Session` speaks with one platform."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Self
from yarl import URL

from neuro_sync.closing import CloseWhenDropped, Closing
from neuro_sync.errors import ConfigError
from neuro_sync.models.config import Preset
from neuro_sync.monotonic import monotonic
from neuro_sync.secret_text import SecretText

if TYPE_CHECKING:
    from neuro_sync.local.server import LocalPlatform, RuntimeName
    from neuro_sync.transport.clock import Clock
    from neuro_sync.transport.connections import Timeout
    from neuro_sync.transport.http import HttpTransport
    from neuro_sync.transport.tls import Certificate

    from .config import Config
    from .disks import Disks
    from .images import Images
    from .parse import Parser
    from .secrets import Secrets
    from .settings import Settings
    from .storage import Storage
    from .users import Users


OTHER_START_TIMEOUT_S = 15.0
"""How long another process may take to start a platform on a folder, or to end one there."""
SECTIONS = ("storage", "images", "parse", "secrets", "disks", "users")


class Session(Closing):
    """A user's view of one platform. Any number of threads may share it.

    Without arguments the platform is found in the environment, or is where somebody has logged in.
    Making a session contacts nobody and starts no thread; the first call does.
    """

    def __init__(
        self,
        url: str | URL | None = None,
        token: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
        timeout: Timeout = (10.0, 60.0),
        verify: bool | str | None = None,
        cert: Certificate | None = None,
        proxies: Mapping[str, str] | None = None,
        trust_env: bool = True,
        application: str | None = None,
        allow_http_services: bool | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Say where the platform is, as whom to talk to it, and on which cluster and project.

        `url` is that of its API, such as ``https://HOST/api/v1``. `path` is the config folder with
        the saved login and ``user.toml``; `settings` stand for that file and the project's.
        `timeout` is seconds to connect and seconds of silence; `verify` is the path of a CA bundle,
        True for the usual one whatever the environment names, or False to trust anybody; `cert`
        the path of a client's certificate, and of its key; `proxies` are by scheme, and without
        them this machine itself is reached directly. Without `trust_env` the environment names
        neither proxies nor a bundle. `application`, such as ``my-app/1.2``, is told to the
        platform. A platform that is reached over https may name no service that is reached over
        http, unless `allow_http_services` is given, or NEURO_SYNC_ALLOW_HTTP_SERVICES is 1.

        Raises:
            ConfigError: There is no address or no token; the text lists where it was looked for.
                Or a file of settings has what does not belong there.
        """
        # Loaded with the first session: a third of the time of `import neuro_sync` would be theirs.
        from neuro_sync.transport.clock import Clock as RealClock
        from neuro_sync.transport.http import HttpTransport
        from neuro_sync.transport.tokens import NO_TOKEN, FixedToken

        from .config import Config
        from .lookup import find_platform
        from .platform import Platform
        from .saved_login import current_store
        from .settings import read_settings
        from .tokens import SavedToken

        # From here on no traceback shows it.
        secret = SecretText(token) if token else None
        del token
        found = find_platform(url, secret, path)
        if settings is None:
            store = found.store or current_store(path)
            settings = read_settings(store.folder if store else None)
        clock = clock or RealClock()
        anonymous = HttpTransport(
            NO_TOKEN,
            timeout=timeout,
            verify=verify,
            cert=cert,
            proxies=proxies,
            trust_env=trust_env,
            application=application,
            allow_http_services=allow_http_services,
            clock=clock,
        )
        tokens = (
            SavedToken(found.store, found.login, anonymous, clock)
            if found.store and found.login
            else FixedToken(found.token)
        )
        self._clock = clock
        self._stop_platform: CloseWhenDropped | None = None
        # Of a view, the session it is one of: the connections and the platform end with that one.
        self._origin: Session | None = None
        names = {
            "cluster_name": cluster_name,
            "org_name": org_name,
            "project_name": project_name,
        }
        transport = anonymous.with_options(tokens=tokens)
        platform = Platform(transport, found, clock)
        config = Config(transport, found, settings, names, platform)
        self._open_sections(transport.with_options(addresses=platform), config)

    def _open_sections(self, transport: HttpTransport, config: Config) -> None:
        from .jobs import Jobs

        self._transport = transport
        self.config = config
        self.jobs: Jobs = Jobs(transport, config, self._clock)

    # The other sections are loaded when they are first asked for.

    @cached_property
    def storage(self) -> Storage:
        """The files of the platform's storage."""
        from .storage import Storage

        return Storage(self._transport, self.config, self._clock)

    @cached_property
    def images(self) -> Images:
        """The platform's registry of images."""
        from .images import Images

        return Images(self._transport, self.config)

    @cached_property
    def parse(self) -> Parser:
        """Addresses, volumes, images and variables, as they are written on a command line."""
        from .parse import Parser

        return Parser(self.config)

    @cached_property
    def secrets(self) -> Secrets:
        """Values that jobs are given, and nobody else sees."""
        from .secrets import Secrets

        return Secrets(self._transport, self.config)

    @cached_property
    def disks(self) -> Disks:
        """Folders that outlive jobs."""
        from .disks import Disks

        return Disks(self._transport, self.config)

    @cached_property
    def users(self) -> Users:
        """Users, roles, and what is shared with whom."""
        from .users import Users

        return Users(self._transport, self.config)

    def with_options(
        self,
        *,
        timeout: Timeout | None = None,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> Self:
        """Return the same session with some settings changed; it shares all connections.

        Closing what is returned does nothing: the connections are closed with this session.
        """
        names = {
            "cluster_name": cluster_name,
            "org_name": org_name,
            "project_name": project_name,
        }
        other = copy.copy(self)
        other._origin = self  # noqa: SLF001  # a copy of ours
        for section in SECTIONS:  # they speak for this session
            vars(other).pop(section, None)
        transport = self._transport.with_options(timeout=timeout)
        other._open_sections(transport, self.config.with_options(names))  # noqa: SLF001
        return other

    @classmethod
    def local(
        cls,
        *,
        state: str | Path | None = None,
        ephemeral: bool = False,
        start: bool = True,
        runtime: RuntimeName | None = None,
        timeout: Timeout = (10.0, 60.0),
    ) -> Self:
        """Talk to the local platform of a state folder; start one in this process if none runs.

        `state` is ``.neuro-local`` in the current folder, unless given here or in the variable
        ``NEURO_LOCAL_STATE``. A platform that is started here ends with the session, and so do
        its jobs. With `ephemeral` it is always one of its own, in a temporary folder; without
        `start` it is only one that runs already. Of several processes that call this at the same
        time one starts a platform and the others use it.

        Raises:
            ConfigError: The extra ``local`` is not installed, the state folder is unusable, or
                no platform runs there and none is to be started.
        """
        try:
            from neuro_sync.local.state import FolderInUse, folder_of, running_platform
        except ImportError as error:
            raise _lacks(error) from error
        give_up_at = monotonic() + OTHER_START_TIMEOUT_S
        while True:
            address = None if ephemeral else running_platform(state)
            if address is not None:
                address.check_version()
                if runtime not in (None, address.runtime):
                    raise ConfigError(
                        f"the local platform at {address.url} runs jobs with {address.runtime!r}, "
                        f"not {runtime!r}; stop it, or name another state folder"
                    )
                return cls(address.url, address.token, timeout=timeout)
            if not start:
                raise ConfigError(
                    f"no local platform runs on {folder_of(state)}; start one with: neuro local up"
                )
            try:
                from neuro_sync.local.server import LocalPlatform
            except ImportError as error:
                raise _lacks(error) from error
            platform = LocalPlatform(state, ephemeral=ephemeral, runtime=runtime or "process")
            try:
                platform.start()
            except FolderInUse:  # another process is about to start one, or to end it
                if monotonic() > give_up_at:
                    raise
                time.sleep(0.02)
            else:
                session = cls(platform.url, platform.token, timeout=timeout)
                session._end_with(platform)
                return session

    def _end_with(self, platform: LocalPlatform) -> None:
        # Also when nobody calls close(). At the end of the interpreter the platform ends by itself.
        self._stop_platform = CloseWhenDropped(self, platform.close, at_exit=False)

    @property
    def username(self) -> str:
        """Who the token says we are."""
        return self.config.username

    @property
    def api_url(self) -> URL:
        return self.config.api_url

    @property
    def cluster_name(self) -> str:
        """The cluster that calls mean unless they name another one."""
        return self.config.cluster_name

    @property
    def org_name(self) -> str | None:
        return self.config.org_name

    @property
    def project_name(self) -> str:
        return self.config.project_name

    @property
    def presets(self) -> Mapping[str, Preset]:
        """The presets of the current cluster by name, in the platform's order."""
        return self.config.presets

    def close(self) -> None:
        """Close all connections, and the local platform that this session started.

        It may be called more than once; any other call afterwards raises.
        """
        if self._origin is not None:
            return
        self._transport.close()
        if self._stop_platform is not None:
            self._stop_platform()

    def __repr__(self) -> str:
        if "config" not in vars(self):  # in the traceback of a session that could not be made
            return "<Session>"
        try:
            return f"<Session {self.username!r} at {self.api_url}>"
        except ConfigError:  # a token that tells no name
            return f"<Session at {self.api_url}>"


get = Session
"""The same, by the name that the reference has for it: ``with neuro_sync.get() as session``."""


def _lacks(error: ImportError) -> ConfigError:
    return ConfigError(f"the local platform needs {error.name}: pip install 'neuro-sync[local]'")


Client = Session
"""Another name of `Session`, for code that is being ported."""
