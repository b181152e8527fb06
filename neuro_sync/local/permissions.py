"""The rules of permissions: values in, values out.

A permission is an action on a resource, and covers whatever lies below it. Which permissions
somebody has is the business of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.models.users import Action

_PLAIN = "!$&'()*+,;=:@"
"""Beside letters and digits, what an address has unquoted in its path."""
_ACTIONS = sorted(Action, key=lambda action: action.power)


@dataclass(frozen=True)
class Resource:
    """What a permission is about: ``Resource("job", "local", "local", "alice", "job-1")``.

    The parts are as they are, unquoted; `parse` reads an address, ``str()`` writes one.
    """

    parts: tuple[str, ...]
    """The scheme first, then the cluster (or the user, of a role), then each part of the path."""

    def __init__(self, scheme: str, *path: str) -> None:
        object.__setattr__(self, "parts", (scheme, *path))
        if "" in self.parts or "." in self.parts or ".." in self.parts:
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


Permission = tuple[Resource, Action]


class _Node:
    """What was granted on one resource, and on what lies below it."""

    __slots__ = ("below", "has_readable", "power")

    def __init__(self) -> None:
        # As powers: to look an action itself up takes ten times as long.
        self.power = 0
        self.has_readable = False
        """Whether something below it may be read; so it may be listed."""
        self.below: dict[str, _Node] = {}


class Grants:
    """All permissions of one user or role, to be asked what they come to.

    They are a tree, so that neither its size nor a question is worse than linear in the depth of
    a resource.
    """

    def __init__(self, permissions: Iterable[Permission] = ()) -> None:
        self._root = _Node()
        self._granted: set[Resource] = set()
        self._readable: dict[str, tuple[str, ...] | None] = {}
        self.add(permissions)

    def add(self, permissions: Iterable[Permission]) -> None:
        self._readable.clear()
        for resource, action in permissions:
            self._granted.add(resource)
            is_readable = action.power >= Action.READ.power
            node = self._root
            for part in resource.parts:
                node.has_readable = node.has_readable or is_readable
                node = node.below.setdefault(part, _Node())
            node.power = max(node.power, action.power)

    def action_on(self, resource: Resource) -> Action:
        """Return the most that is allowed on a resource, be it granted there or above.

        What lies above something readable may be listed.
        """
        return _ACTIONS[self._power_on(resource.parts)]

    def allow(self, action: Action, resource: Resource) -> bool:
        return self._power_on(resource.parts) >= action.power

    def _power_on(self, parts: tuple[str, ...]) -> int:
        node, power = self._find(parts)
        return power if node is None else _power(node, power)

    def _find(self, parts: tuple[str, ...]) -> tuple[_Node | None, int]:
        """Return what is at a place of the tree, and the most that is granted there or above."""
        node, power = self._root, Action.DENY.power
        for part in parts:
            below = node.below.get(part)
            if below is None:
                return None, power
            node = below
            if node.power > power:
                power = node.power
        return node, power

    def within(self, resource: Resource | None = None) -> list[Permission]:
        """Return the permissions on a resource and below it, in the order of their addresses.

        What comes from above is told as a permission on the resource itself.
        """
        found = self._granted
        if resource is not None:
            found = {below for below in found if below.is_within(resource)} | {resource}
        actions = ((below, self.action_on(below)) for below in found)
        readable = [item for item in actions if item[1].power >= Action.READ.power]
        return sorted(readable, key=lambda permission: permission[0].parts)

    def readable(self, scheme: str) -> tuple[str, ...] | None:
        """Return the paths below which everything of a kind may be read; None is everywhere."""
        if scheme not in self._readable:
            self._readable[scheme] = self._outermost(scheme)
        return self._readable[scheme]

    def _outermost(self, scheme: str) -> tuple[str, ...] | None:
        outermost: list[Resource] = []
        for resource, _ in self.within(Resource(scheme)):  # what lies above comes first
            if not outermost or not resource.is_within(outermost[-1]):
                outermost.append(resource)
        paths = tuple("/".join(resource.parts[1:]) for resource in outermost)
        return None if "" in paths else paths

    def tree(self, resource: Resource, depth: int | None = None) -> dict[str, Any]:
        """Return what is allowed on a resource and, level by level, on what is granted below."""
        top, power_on_top = self._find(resource.parts)
        root = _described(top, power_on_top)
        for granted, _ in self.within(resource):
            described, node, power = root, top, power_on_top
            for name in granted.parts[len(resource.parts) :][:depth]:
                assert node is not None  # noqa: S101  # what was granted is in the tree
                node = node.below[name]
                power = max(power, node.power)
                children = described["children"]
                if name not in children:
                    children[name] = _described(node, power)
                described = children[name]
        return root


def _power(node: _Node, power: int) -> int:
    """Return the power on a node, of which `power` is granted on it or above."""
    return max(power, Action.LIST.power) if node.has_readable else power


def _described(node: _Node | None, power: int) -> dict[str, Any]:
    found = power if node is None else _power(node, power)
    return {"action": _ACTIONS[found].value, "children": {}}


def role_resource(name: str) -> Resource:
    """Return what is granted to whoever may use a role such as ``alice/roles/editors``."""
    return Resource("role", *name.split("/"))


def with_roles(
    name: str, own: Mapping[str, Sequence[Permission]], roles: Iterable[str]
) -> list[Permission]:
    """Return the permissions of a user, and of all roles that these allow to use, and so on."""
    permissions = list(own.get(name, ()))
    others = _Roles(role for role in roles if role != name)
    done = 0
    while done < len(permissions):
        resource, action = permissions[done]
        done += 1
        if resource.parts[0] == "role" and action.power >= Action.READ.power:
            for role in others.take(resource.parts[1:]):
                permissions += own.get(role, ())
    return permissions


class _Roles:
    """Roles that nobody uses yet, to be found by their names and by what these begin with."""

    def __init__(self, roles: Iterable[str]) -> None:
        self._below: dict[tuple[str, ...], dict[str, None]] = {}
        for role in roles:
            for prefix in _prefixes(role):
                self._below.setdefault(prefix, {})[role] = None

    def take(self, prefix: tuple[str, ...]) -> list[str]:
        """Return the roles whose names begin so, and forget them."""
        found = [*self._below.get(prefix, ())]
        for role in found:
            for other in _prefixes(role):
                del self._below[other][role]
        return found


def _prefixes(role: str) -> Iterator[tuple[str, ...]]:
    parts = tuple(role.split("/"))
    return (parts[:end] for end in range(len(parts) + 1))
