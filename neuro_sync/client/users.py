"""Users: what they may do, and what is shared with whom."""

from __future__ import annotations

from contextlib import suppress

from pydantic import TypeAdapter
from yarl import URL

from neuro_sync.errors import AuthError, IllegalArgumentError, ProtocolError
from neuro_sync.models.base import read_answer
from neuro_sync.models.uris import TENANT_SCHEMES, complete, parse_resource
from neuro_sync.models.users import NewAccount, Permission, Quota, Share, Subroles
from neuro_sync.transport.encoding import segment
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry

from .config import Config, Section

_PERMISSIONS = TypeAdapter(tuple[Permission, ...], config={"defer_build": True})
_SHARES = TypeAdapter(tuple[Share, ...], config={"defer_build": True})


class Users(Section):
    """The users section of a session, ``session.users``.

    A user is given by name, a role of theirs as ``alice/roles/editors``. Addresses such as
    ``job:my-job`` or ``storage:data`` are completed with the session's cluster, organisation and
    project. A permission on an address covers everything below it.
    """

    def __init__(self, transport: HttpTransport, config: Config) -> None:
        self._transport = transport
        self._config = config

    def get_acl(
        self, user: str, scheme: str | None = None, *, uri: URL | str | None = None
    ) -> tuple[Permission, ...]:
        """Return what a user may do: with everything, things of one scheme, or one resource.

        What comes from a permission on something above `uri` is told as one on `uri` itself.

        Raises:
            ResourceNotFound: There is no such user.

        Endpoint: GET /users/{user}/permissions
        """
        answer = self._transport.request(
            "GET",
            self._api(user, "permissions"),
            retry=Retry.ALWAYS,
            query=self._filter(scheme, uri),
        )
        return read_answer(_PERMISSIONS, answer.content, "list of permissions")

    def get_shares(
        self, user: str, scheme: str | None = None, *, uri: URL | str | None = None
    ) -> tuple[Share, ...]:
        """Return what of a user's own others may use, and who.

        Raises:
            ResourceNotFound: There is no such user.

        Endpoint: GET /users/{user}/permissions/shared
        """
        answer = self._transport.request(
            "GET",
            self._api(user, "permissions", "shared"),
            retry=Retry.ALWAYS,
            query=self._filter(scheme, uri),
        )
        return read_answer(_SHARES, answer.content, "list of shares")

    def get_subroles(self, user: str) -> tuple[str, ...]:
        """Return the names of a user's own roles.

        Endpoint: GET /users/{user}/subroles
        """
        answer = self._transport.request("GET", self._api(user, "subroles"), retry=Retry.ALWAYS)
        return Subroles.from_answer(answer.content).subroles

    def share(self, user: str, permission: Permission) -> Permission:
        """Permit a user or a role something, and return what it may do from now on.

        That is more than `permission` if it was allowed more already. To share takes `MANAGE`.

        Raises:
            ResourceNotFound: There is no such user.
            AuthorizationError: It is not yours to share.

        Endpoint: POST /users/{user}/permissions
        """
        asked = {"uri": self._complete(permission.uri), "action": permission.action.value}
        answer = self._transport.request(
            "POST", self._api(user, "permissions"), retry=Retry.ALWAYS, body=[asked]
        )
        resulting = read_answer(_PERMISSIONS, answer.content, "list of permissions")
        if not resulting:
            raise ProtocolError("the platform's answer to a share lists no permission")
        return resulting[0]

    def revoke(self, user: str, uri: URL | str) -> None:
        """Take back what a user or a role was permitted on exactly this address.

        Raises:
            ResourceNotFound: There is no such user.
            IllegalArgumentError: Nothing was permitted there.
            AuthorizationError: It is not yours to revoke.

        Endpoint: DELETE /users/{user}/permissions
        """
        query = [("uri", self._complete(uri))]
        self._transport.request(
            "DELETE", self._api(user, "permissions"), retry=Retry.ALWAYS, query=query
        )

    def add(self, role_name: str) -> None:
        """Make a role, such as ``alice/roles/editors``, to which things can be shared.

        Who may read ``role://alice/roles/editors`` may do whatever the role may do.

        Endpoint: POST /users
        """
        body = NewAccount(name=role_name).model_dump()
        self._transport.request(
            "POST", f"{self._config.api_url}/users", retry=Retry.NEVER, body=body
        )

    def remove(self, role_name: str) -> None:
        """Remove a role, and with it what was shared to it.

        Endpoint: DELETE /users/{role}
        """
        self._transport.request("DELETE", self._api(role_name), retry=Retry.REMOVAL)

    def get_quota(self) -> Quota:
        """Return what the caller may use on the current cluster; without limits, nothing but None.

        Endpoint: GET {admin}/clusters/{cluster}/orgs/{org}/users/{user}
        """
        user, org = segment(self._config.username), self._config.org_name
        if org:
            with suppress(AuthError):  # not a member of the organisation, but of the cluster
                return self._quota("orgs", segment(org), "users", user)
        return self._quota("users", user)

    def get_org_quota(self) -> Quota | None:
        """Return what the current organisation may use on the current cluster; None without one.

        Endpoint: GET {admin}/clusters/{cluster}/orgs/{org}
        """
        org = self._config.org_name
        return self._quota("orgs", segment(org)) if org else None

    def _quota(self, *path: str) -> Quota:
        admin_url = self._config.platform.admin_url
        if admin_url is None:
            return Quota()
        cluster = segment(self._config.cluster_name)
        url = "/".join((admin_url, "clusters", cluster, *path))
        return Quota.from_answer(self._transport.request("GET", url, retry=Retry.ALWAYS).content)

    def _api(self, user: str, *path: str) -> str:
        if not user or ":" in user:
            raise IllegalArgumentError(f"{user!r} is no name of a user or a role")
        name = segment(user.replace("/", ":"), safe=":")
        return "/".join((str(self._config.api_url), "users", name, *path))

    def _filter(self, scheme: str | None, uri: URL | str | None) -> list[tuple[str, str]]:
        if scheme is not None and uri is not None:
            raise IllegalArgumentError("give a scheme or a uri, not both")
        if scheme is not None:
            return [("uri", f"{scheme}:")]
        return [] if uri is None else [("uri", self._complete(uri))]

    def _complete(self, uri: URL | str) -> str:
        """Return the full form of an address, as the wire takes it."""
        try:
            address = parse_resource(str(uri))
        except ValueError as error:
            raise IllegalArgumentError(str(error)) from error
        if address.scheme in TENANT_SCHEMES:
            config = self._config
            cluster, org, project = config.cluster_name, config.org_name, config.project_name
            address = complete(address, cluster=cluster, org=org, project=project)
        return str(address).rstrip("/")
