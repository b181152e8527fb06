"""Who may do what: actions, permissions, and what was shared with whom."""

from __future__ import annotations

from enum import Enum


class Action(str, Enum):
    """What a permission allows; each includes the ones before it."""

    DENY = "deny"
    LIST = "list"
    READ = "read"
    WRITE = "write"
    MANAGE = "manage"
    """To give permissions to others too."""
    UNKNOWN = "unknown"
    """An action that this version has never heard of; it includes nothing."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, _: object) -> Action:
        return cls.UNKNOWN

    @property
    def power(self) -> int:
        """How much it allows, for comparison."""
        return _POWERS[self]


_POWERS = {
    action: power
    for power, action in enumerate(
        (Action.UNKNOWN, Action.DENY, Action.LIST, Action.READ, Action.WRITE, Action.MANAGE)
    )
}
