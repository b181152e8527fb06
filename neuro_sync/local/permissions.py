"""The rules of permissions: values in, values out.

A permission is an action on a resource, and covers whatever lies below it. Which permissions
somebody has is the business of others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.models.users import Action

_PLAIN = "!$&'()*+,;=:@"
"""Beside letters and digits, what an address has unquoted in its path."""


@dataclass(frozen=True)
class Resource:
    """What a permission is about: ``Resource("job", "local", "local", "alice", "job-1")``.

    The parts are as they are, unquoted; `parse` reads an address, ``str()`` writes one.
    """

    parts: tuple[str, ...]
    """The scheme first, then the cluster (or the user, of a role), then each part of the path."""

    def __init__(self, scheme: str, *path: str) -> None:
        object.__setattr__(self, "parts", (scheme, *path))
        if any(part in ("", ".", "..") for part in self.parts):
            raise IllegalArgumentError(f"Invalid path: {str(self)!r}")

    @classmethod
    def parse(cls, uri: str) -> Resource:
        """Read an address; a bare scheme, such as ``job:``, is all of that kind.

        Raises:
            IllegalArgumentError: It is not absolute, or is no address at all.
        """
        scheme, colon, rest = uri.partition(":")
        if not colon or not scheme.isalpha() or (rest and not rest.startswith("//")):
            raise IllegalArgumentError(f"{uri!r} should look like job://CLUSTER/ORG/PROJECT/NAME")
        if "?" in rest or "#" in rest:
            raise IllegalArgumentError(f"{uri!r} has a query or a fragment")
        try:
            host, *path = unquote(rest, errors="strict").strip("/").split("/")
        except UnicodeDecodeError as error:
            raise IllegalArgumentError(f"{uri!r} is not UTF-8") from error
        if "@" in host or ":" in host:
            raise IllegalArgumentError(f"{uri!r} has a user, a password or a port")
        return cls(scheme.lower(), *filter(None, (host.lower(), *path)))

    def __str__(self) -> str:
        scheme, *path = self.parts
        if not path:
            return f"{scheme}:"
        return f"{scheme}://" + "/".join(quote(part, safe=_PLAIN) for part in path)

    def is_within(self, other: Resource) -> bool:
        """Whether it is the other one, or lies below it."""
        return self.parts[: len(other.parts)] == other.parts


class Grants:
    """All permissions of one user or role, to be asked whether they cover something."""

    def __init__(self, permissions: Iterable[tuple[Resource, Action]] = ()) -> None:
        self._actions: dict[tuple[str, ...], Action] = {}
        for resource, action in permissions:
            known = self._actions.get(resource.parts, Action.DENY)
            self._actions[resource.parts] = max(known, action, key=_power)

    def action_on(self, resource: Resource) -> Action:
        """Return the most that is allowed on a resource, be it granted there or above."""
        parts = resource.parts
        found = (self._actions.get(parts[:end]) for end in range(1, len(parts) + 1))
        return max((action for action in found if action), key=_power, default=Action.DENY)

    def allow(self, action: Action, resource: Resource) -> bool:
        return self.action_on(resource).power >= action.power


def _power(action: Action) -> int:
    return action.power
