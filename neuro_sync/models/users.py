"""Who may do what: actions, permissions, and what was shared with whom."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Annotated

from pydantic import AliasPath, Field

from .base import Model, written
from .uris import ResourceURI


class Action(str, Enum):
    """What a permission allows; each includes the ones before it."""

    # Set below, and no property: each request of the local platform compares a dozen of them.
    power: int
    """How much it allows, to compare it with others."""

    UNKNOWN = "unknown"
    """An action that this version has never heard of; it includes nothing."""
    DENY = "deny"
    LIST = "list"
    READ = "read"
    WRITE = "write"
    MANAGE = "manage"
    """To give permissions to others too."""

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def _missing_(cls, _: object) -> Action:
        return cls.UNKNOWN


for _power, _action in enumerate(Action):
    _action.power = _power


def _granted(action: Action) -> Action:
    if action not in (Action.READ, Action.WRITE, Action.MANAGE):
        raise ValueError("value doesn't match any variant: read, write, manage")
    return action


class Permission(Model):
    """What somebody may do with a resource, and with everything below it."""

    uri: ResourceURI
    """Such as ``job:my-job``, ``storage:data`` or ``role://alice/roles/editors``."""
    action: Annotated[Action, written(_granted)]
    """`Action.READ`, `Action.WRITE` or `Action.MANAGE`."""


class Share(Permission):
    """A permission on something of one's own that somebody else has."""

    user: str
    """The user or role who has it."""

    @property
    def permission(self) -> Permission:
        return Permission.model_construct(uri=self.uri, action=self.action)


class Quota(Model):
    """What a user, or all of an organisation, may use on a cluster; None is no limit."""

    credits: Annotated[Decimal | None, Field(validation_alias=AliasPath("balance", "credits"))] = (
        None
    )
    total_running_jobs: Annotated[
        int | None, Field(validation_alias=AliasPath("quota", "total_running_jobs"))
    ] = None


class Subroles(Model):
    """The answer to ``GET /users/{user}/subroles``."""

    subroles: tuple[str, ...] = ()


class NewAccount(Model):
    """The body of ``POST /users``."""

    name: Annotated[str, Field(max_length=256)]
