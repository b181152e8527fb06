"""Who may do what on this platform: what is stored of the accounts, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.models.users import Action

from .access import Caller
from .accounts import PROJECT_ROLES, Accounts, digest
from .jobs import Tenant
from .permissions import Grants, Permission, Resource, with_roles
from .state import make_token

SCHEMES = ("blob", "disk", "flow", "image", "job", "secret", "storage")
"""What a project has its own of."""


@dataclass
class _Known:
    """What was read of the accounts, until one of them changes."""

    version: tuple[int, int]
    users: dict[str, str]
    """By the digest of a token."""
    created_at: dict[str, float]
    """When each account was added, by which two of the same name are told apart."""
    own: dict[str, list[Permission]]
    """What each account was granted, by somebody or by its projects, without its roles."""
    projects: dict[str, dict[str, str]]
    """The projects of each user, and the role there."""
    _callers: dict[str, Caller] = field(default_factory=dict)

    def caller(self, name: str) -> Caller:
        caller = self._callers.get(name)
        if caller is None:
            roles = (account for account in self.own if "/" in account)
            grants = Grants(with_roles(name, self.own, roles))
            caller = self._callers[name] = Caller(name, grants)
        return caller


class Users:
    """The users of one platform: whose token is whose, and what each may do.

    All of it is kept in memory, and read again when it has changed, be it by another program.
    The user who runs the platform, `home.project` by name, may do everything; `token` is theirs.
    """

    def __init__(self, accounts: Accounts, home: Tenant, token: str) -> None:
        self.accounts = accounts
        self.home = home
        self._token = digest(token)
        if home.project not in accounts.names():
            accounts.add_user(home.project)
        self._last = self._read()
        self._lent: dict[str, tuple[str, float | None]] = {}

    def of_token(self, token: str) -> Caller | None:
        return self.of_digest(digest(token))

    def of_digest(self, key: str) -> Caller | None:
        """Return the user of a token that is valid now, by the token's digest."""
        known = self._known()
        name = known.users.get(key) or self._borrower(key)
        if name not in known.own:
            return None
        return replace(known.caller(name), token_digest=key)

    def _borrower(self, key: str) -> str | None:
        name, created_at = self._lent.get(key, ("", None))
        return name if self._known().created_at.get(name) == created_at else None

    @contextmanager
    def lend(self, name: str) -> Iterator[str]:
        """Make a token of a user that is accepted as long as the block lasts, and the user exists.

        By it the platform does something for the user that the user has to be permitted. It comes
        from no other token, so it stays valid when the user gets a new one.
        """
        token = make_token(name)
        self._lent[digest(token)] = name, self._known().created_at.get(name)
        try:
            yield token
        finally:
            del self._lent[digest(token)]

    def caller(self, name: str) -> Caller:
        """Return a user or a role, to be asked what it may do.

        Raises:
            ResourceNotFound: There is none of that name.
        """
        known = self._known()
        if name not in known.own:
            raise ResourceNotFound(f'user "{name}" was not found')
        return known.caller(name)

    def without_roles(self, caller: Caller) -> Grants:
        """Return what a user or a role may do even without using another role."""
        return Grants(self._known().own[caller.name])

    def role_of(self, name: str) -> str:
        """Return a user's role on the cluster and in its only organisation."""
        return "admin" if name == self.home.project else "user"

    def remove(self, name: str) -> None:
        """Remove a user or a role.

        Raises:
            IllegalArgumentError: It is the user who runs the platform.
        """
        if name == self.home.project:
            raise IllegalArgumentError(f"{name!r} runs this platform, and cannot be removed")
        self.accounts.remove(name)

    def projects_of(self, name: str) -> dict[str, str]:
        """Return a user's projects with the role in each, the user's own first."""
        roles = self._known().projects.get(name, {})
        return dict(sorted(roles.items(), key=lambda item: (item[0] != name, item[0])))

    def shares_of(self, name: str, within: Resource | None) -> Iterator[tuple[str, Permission]]:
        """Yield what others were granted on what a user manages, and to whom."""
        manager = self.caller(name)
        for account, permissions in sorted(self.accounts.grants().items()):
            shared = [item for item in permissions if manager.may(Action.MANAGE, item[0])]
            if account != name:
                yield from ((account, item) for item in Grants(shared).within(within))

    def _known(self) -> _Known:
        if self._last.version != self.accounts.version():
            self._last = self._read()
        return self._last

    def _read(self) -> _Known:
        with self.accounts.reading():
            return self._read_all(self.accounts)

    def _read_all(self, accounts: Accounts) -> _Known:
        version = accounts.version()
        names = {*accounts.names(), self.home.project}
        own = {name: self._personal(name) for name in names}
        for account, granted in accounts.grants().items():
            own[account] += granted
        projects: dict[str, dict[str, str]] = {}
        for member in accounts.members():
            projects.setdefault(member.user, {})[member.project] = member.role
            own[member.user] += self._on_project(member.project, PROJECT_ROLES[member.role])
        for project in accounts.projects():
            own[self.home.project] += self._on_project(project, Action.MANAGE)
        users = {**accounts.tokens(self._token), self._token: self.home.project}
        return _Known(version, users, accounts.created_at(), own, projects)

    def _personal(self, name: str) -> list[Permission]:
        """Return what nobody has to grant."""
        cluster = Resource("cluster", self.home.cluster)
        if name == self.home.project:
            managed = (cluster, Resource("user"), Resource("role"))
            # To change something takes a project that exists, so that no typing error makes one.
            read = (Resource(scheme, self.home.cluster) for scheme in SCHEMES)
            return [(resource, Action.MANAGE) for resource in managed] + [
                (resource, Action.READ) for resource in read
            ]
        if "/" in name:
            return []
        return [
            (Resource(*cluster.parts, "access"), Action.READ),
            (Resource("user", name), Action.READ),
            (Resource("role", name), Action.MANAGE),
        ]

    def _on_project(self, project: str, action: Action) -> list[Permission]:
        tenant = (self.home.cluster, self.home.org, project)
        return [(Resource(scheme, *tenant), action) for scheme in SCHEMES]
