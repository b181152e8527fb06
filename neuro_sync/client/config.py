"""The config section: which platform this is, as whom, and what is current on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import Self
from yarl import URL

from neuro_sync.errors import ConfigError, IllegalArgumentError
from neuro_sync.models.config import ClusterConfig, PlatformConfig, Preset, Project, ResourcePool
from neuro_sync.models.uris import complete, parse_address, path_of
from neuro_sync.transport.tokens import user_of

from .lookup import Chosen, Found
from .official_columns import official_columns
from .platform import ConfirmedMapping, Platform

if TYPE_CHECKING:
    from neuro_sync.transport.http import HttpTransport

    from .settings import Settings

T = TypeVar("T")

NAMES = ("cluster_name", "org_name", "project_name")
PLATFORM_FIRST = "the platform's first"


@dataclass(frozen=True)
class ResourceLocation:
    """A disk or secret of a cluster, an organisation and a project."""

    cluster: ClusterConfig
    tenant: Mapping[str, str]
    """The organisation and the project, by the wire's names."""
    name: str


class Config:
    """The config section of a session, ``session.config``.

    What the platform says of itself is read from the saved login while it is at most an hour old
    there; else it is fetched when it is first needed, once. Names that are
    current come from the session's arguments, else the project's file, else the passed config or
    the saved login, else they are the platform's first. The names in a project's file are those of
    a hosted platform; on the local one they mean nothing.
    """

    def __init__(
        self,
        transport: HttpTransport,
        found: Found,
        settings: Settings,
        names: Mapping[str, str | None],
        platform: Platform,
    ) -> None:
        self.api_url: URL = URL(found.url)
        self.settings = settings
        """What ``user.toml`` and the project's file say."""
        self._transport = transport
        self._found = found
        self._platform = platform
        # What is chosen as such is taken as it is; what was current when the login was saved
        # holds as long as the platform has it.
        self._given = _given(names)
        self._in_file = _all_by(
            str(settings.project_file), {name: getattr(settings.job, name) for name in NAMES}
        )
        self._saved = dict(found.names)

    def with_options(self, names: Mapping[str, str | None]) -> Self:
        """Return the same platform with other names being current."""
        other = copy.copy(self)
        other._given = self._given | _given(names)  # noqa: SLF001  # a copy of ours
        return other

    @property
    def username(self) -> str:
        """Who the token says we are."""
        return user_of(self._found.token)

    def token(self) -> str:
        """Return the token that a request would be sent with now; it is renewed if need be.

        Raises:
            AuthenticationError: It is over, and there is no new one to be had.
        """
        return self._transport.tokens.token().reveal()

    @property
    def sources(self) -> Mapping[str, str]:
        """Where the address, the token and the current names come from."""
        names = {name: self._choice(name) for name in NAMES}
        return MappingProxyType(
            {
                "api_url": self._found.url_source,
                "token": self._found.token_source,
                **{
                    name: choice.source if choice else PLATFORM_FIRST
                    for name, choice in names.items()
                },
            }
        )

    @property
    def platform(self) -> PlatformConfig:
        """The answer to ``GET /config``; of a saved login one of the last hour.

        Raises:
            AuthenticationError: The platform does not accept the token.
        """
        return self._platform.config

    @property
    def is_local(self) -> bool:
        """Whether this is the local platform, which can do what the hosted one cannot."""
        return self._platform.service.startswith("neuro-local/")

    @property
    def revision(self) -> int:
        """A number that changes with each answer of the platform."""
        return self._platform.revision

    def doubt(self) -> None:
        """Do not use the saved answer any more: the platform refused what follows from it."""
        self._platform.doubt()

    def fetch(self) -> None:
        """Ask the platform again what there is, and save it with the login.

        Raises:
            ConfigError: The current cluster is gone.

        Endpoint: GET /config
        """
        self._platform.fetch()
        self.cluster()
        login, store = self._found.login, self._found.store
        if login is not None and store is not None:
            columns = official_columns(self._platform.answer)
            store.update(login.url, self.username, **columns)

    @property
    def clusters(self) -> Mapping[str, ClusterConfig]:
        """All clusters by name, in the platform's order."""
        return self._confirmed(
            lambda: {cluster.name: cluster for cluster in self.platform.clusters}
        )

    @property
    def projects(self) -> tuple[Project, ...]:
        """The caller's projects on all clusters."""
        return self.platform.projects

    @property
    def available_orgs(self) -> tuple[str, ...]:
        """The organisations on any cluster, each once."""
        found = dict.fromkeys(org for cluster in self.platform.clusters for org in cluster.orgs)
        return tuple(org for org in found if org)

    @property
    def presets(self) -> Mapping[str, Preset]:
        """The presets of the current cluster by name, in the platform's order."""
        return self._confirmed(lambda: {preset.name: preset for preset in self.cluster().presets})

    @property
    def resource_pools(self) -> Mapping[str, ResourcePool]:
        """The kinds of machines of the current cluster by name."""
        return self._confirmed(lambda: {pool.name: pool for pool in self.cluster().resource_pools})

    def _confirmed(self, find: Callable[[], Mapping[str, T]]) -> Mapping[str, T]:
        return ConfirmedMapping(self._platform, find)

    def cluster(self, name: str | None = None) -> ClusterConfig:
        """Return one cluster, the current one unless named.

        Raises:
            ConfigError: There is no such cluster.
        """
        choice = Chosen(name, "") if name else self._choice("cluster_name")
        clusters = self.clusters
        if choice is None:
            return next(iter(clusters.values()))
        if choice.value not in clusters:
            source = f", which {choice.source} chooses" if choice.source else ""
            raise ConfigError(
                f"there is no cluster {choice.value!r}{source}; there are: {', '.join(clusters)}"
            )
        return clusters[choice.value]

    @property
    def cluster_name(self) -> str:
        """The cluster that calls mean unless they name another one."""
        return self.cluster().name

    @property
    def org_name(self) -> str | None:
        chosen = self._settled("org_name")
        if chosen:
            return chosen.value
        orgs = self.cluster().orgs
        saved = self._saved.get("org_name")
        if saved is None:
            return orgs[0] if orgs else None
        if saved.value not in orgs and orgs and self._platform.confirm():
            orgs = self.cluster().orgs
        if saved.value in orgs:
            return saved.value
        return min((org for org in orgs if org), default=None)

    @property
    def project_name(self) -> str:
        """The current project: the alphabetically first one, unless one was chosen."""
        chosen = self._settled("project_name")
        if chosen:
            return chosen.value
        names = self._project_names()
        saved = self._saved.get("project_name")
        if saved and saved.value not in names and self._platform.confirm():
            names = self._project_names()
        if saved and saved.value in names:
            return saved.value
        # A platform without projects keeps what is whose by the user's name.
        return min(names, default=self.username)

    def tenant(self, org_name: str | None, project_name: str | None) -> dict[str, str]:
        """Return where something belongs, by the wire's names; the current ones unless named.

        Services of today fail on a request that leaves one of them out.
        """
        return {
            "org_name": org_name or self.org_name or "",
            "project_name": project_name or self.project_name,
        }

    def locate(
        self,
        scheme: str,
        name_or_uri: str | URL,
        cluster_name: str | None,
        org_name: str | None,
        project_name: str | None,
    ) -> ResourceLocation:
        """Return where a resource is that is given by its name or by its address.

        What an address leaves out is taken from the names, and then from the current ones.

        Raises:
            IllegalArgumentError: It is an address of something else.
            ConfigError: There is no such cluster.
        """
        text = str(name_or_uri)
        tenant = self.tenant(org_name, project_name)
        if not text.lower().startswith(f"{scheme}:"):
            return ResourceLocation(self.cluster(cluster_name), tenant, text)
        try:
            address = parse_address(text, scheme)
        except ValueError as error:
            raise IllegalArgumentError(str(error)) from error
        uri = complete(
            address,
            cluster=cluster_name or self.cluster_name,
            org=tenant["org_name"],
            project=tenant["project_name"],
        )
        *owner, name = path_of(uri).strip("/").split("/")
        # A full address may lie in no organisation, a short one lies in the current one, if any.
        depths = (1, 2) if address.host else (2 if tenant["org_name"] else 1,)
        if not name or len(owner) not in depths:
            raise IllegalArgumentError(
                f"{text!r} is no address of a {scheme}; write {scheme}:NAME, "
                f"{scheme}:/PROJECT/NAME or {scheme}://CLUSTER/ORG/PROJECT/NAME"
            )
        org = owner[0] if len(owner) == 2 else ""
        tenant = {"org_name": org, "project_name": owner[-1]}
        return ResourceLocation(self.cluster(uri.host), tenant, name)

    def _project_names(self) -> list[str]:
        here = (self.cluster_name, self.org_name)
        return [
            project.name
            for project in self.platform.projects
            if (project.cluster_name, project.org_name) == here
        ]

    def switch_cluster(self, name: str) -> None:
        """Make a cluster current, and save that with the login.

        The organisation and the project stay if the cluster has them; else its first ones follow.

        Raises:
            ConfigError: There is no such cluster, or the project's file chooses one.
        """
        self._check_free("cluster_name")
        self.cluster(name)
        org, project = self.org_name, self.project_name
        self._switch(cluster_name=name, org_name=org, project_name=project)

    def switch_org(self, name: str) -> None:
        """Make an organisation current, on the first cluster that has it if this one does not.

        Raises:
            ConfigError: There is no such organisation, or the project's file chooses one.
        """
        self._check_free("org_name")
        with_it = self._clusters_with(name)
        if not with_it and self._platform.confirm():
            with_it = self._clusters_with(name)
        if not with_it:
            known = ", ".join(self.available_orgs)
            raise ConfigError(f"there is no organisation {name!r}; there are: {known}")
        if with_it[0] != self.cluster_name:
            self._check_free("cluster_name")
        self._switch(cluster_name=with_it[0], org_name=name, project_name=self.project_name)

    def _clusters_with(self, org_name: str) -> list[str]:
        clusters = [self.cluster(), *self.platform.clusters]
        return [cluster.name for cluster in clusters if org_name in cluster.orgs]

    def switch_project(self, name: str) -> None:
        """Make a project of the current organisation current, and save that with the login.

        Raises:
            ConfigError: There is no such project, or the project's file chooses one.
        """
        self._check_free("project_name")
        names = self._project_names()
        if name not in names and self._platform.confirm():
            names = self._project_names()
        if name not in names:
            raise ConfigError(
                f"there is no project {name!r} of {self.org_name!r} on {self.cluster_name!r}; "
                f"there are: {', '.join(sorted(names))}"
            )
        self._switch(cluster_name=self.cluster_name, org_name=self.org_name, project_name=name)

    def _choice(self, name: str) -> Chosen | None:
        return self._settled(name) or self._saved.get(name)

    def _settled(self, name: str) -> Chosen | None:
        """Return what counts whether the platform has it or not."""
        return self._given.get(name) or self._found_in_file(name)

    def _found_in_file(self, name: str) -> Chosen | None:
        choice = self._in_file.get(name)
        return None if choice is None or self.is_local else choice

    def _check_free(self, name: str) -> None:
        choice = self._found_in_file(name)
        if choice is not None:
            raise ConfigError(
                f"{choice.source} makes {choice.value!r} the {name.replace('_', '-')}; "
                "change it there"
            )

    def _switch(self, **wanted: str | None) -> None:
        """Make names current; an organisation or project that is not there gives way."""
        before = self._given, self._saved
        login, store = self._found.login, self._found.store
        source = self._found.token_source if store else "a switch in this session"
        self._given = {}
        self._saved = _all_by(source, wanted)
        project = self.project_name
        names = {
            "cluster_name": self.cluster_name,
            "org_name": self.org_name,
            "project_name": project if project in self._project_names() else None,
        }
        self._saved = _all_by(source, names)
        if login is not None and store is not None:
            try:
                store.update(login.url, self.username, **names)
            except ConfigError:
                self._given, self._saved = before
                raise

    def __repr__(self) -> str:
        return f"<Config of {self._found.url}, by {self._found.url_source}>"


class Section:
    """A part of a session: its calls go to the same platform, as the same user."""

    _config: Config

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._config.api_url}>"


def _all_by(source: str, names: Mapping[str, str | None]) -> dict[str, Chosen]:
    return {name: Chosen(value, source) for name, value in names.items() if value}


def _given(names: Mapping[str, str | None]) -> dict[str, Chosen]:
    return {name: Chosen(value, f"the argument {name}") for name, value in names.items() if value}
