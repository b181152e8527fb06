"""Whether a request may be sent again; each call states it, since its endpoint decides it."""

from __future__ import annotations

from enum import Enum, auto


class Retry(Enum):
    """After which failures a request is sent again."""

    NEVER = auto()
    """It is sent once: the platform would carry it out a second time."""
    REFUSED = auto()
    """After a refusal that may be temporary, but not after a connection that broke."""
    ALWAYS = auto()
    """After both: to carry it out twice changes nothing."""
    REMOVAL = auto()
    """After both; when a later attempt finds nothing (404), an earlier one has removed it."""
