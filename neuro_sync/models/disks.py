"""Disks: folders that outlive jobs, each for as long as it is used now and then."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Annotated, ClassVar

from pydantic import Field
from yarl import URL

from .base import NUMBER, Model, at_least
from .jobs import NAME_PATTERN, Instant, TenantName
from .uris import build


class DiskStatus(str, Enum):
    """Whether a disk can be mounted."""

    PENDING = "Pending"
    READY = "Ready"
    BROKEN = "Broken"
    UNKNOWN = "Unknown"
    """A status that this version has never heard of."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, _: object) -> DiskStatus:
        return cls.UNKNOWN


DiskName = Annotated[str, Field(min_length=3, max_length=40, pattern=NAME_PATTERN)]


class Disk(Model):
    """A disk as its platform describes it."""

    Status: ClassVar[type[DiskStatus]] = DiskStatus

    id: str
    storage: int
    """Bytes that it holds."""
    used_bytes: int | None = None
    """``None`` while that is not known."""
    owner: str = ""
    name: str | None = None
    status: DiskStatus = DiskStatus.UNKNOWN
    cluster_name: str = ""
    """It is not on the wire; the client knows whom it asked."""
    org_name: str | None = None
    project_name: str = ""
    created_at: Instant
    last_usage: Instant | None = None
    """When a job last used it."""
    life_span: float | None = None
    """The seconds after which it is deleted if no job uses it; ``None`` keeps it."""

    @property
    def timeout_unused(self) -> timedelta | None:
        """`life_span` as a ``timedelta``."""
        return None if self.life_span is None else timedelta(seconds=self.life_span)

    @property
    def uri(self) -> URL:
        """What a `DiskVolume` names it by."""
        tenant = (self.org_name, self.project_name, self.id)
        return build("disk", self.cluster_name, "/" + "/".join(part for part in tenant if part))


class NewDisk(Model):
    """The body of ``POST {disks}``."""

    storage: Annotated[int, NUMBER, at_least(1)]
    life_span: Annotated[float, NUMBER, at_least(0)] | None = None
    name: DiskName | None = None
    org_name: TenantName
    project_name: TenantName
