"""Disks: make and look after folders that outlive jobs."""

from __future__ import annotations

from collections.abc import Iterator

from yarl import URL

from neuro_sync.errors import NotSupported
from neuro_sync.models.config import ClusterConfig
from neuro_sync.models.disks import Disk, NewDisk
from neuro_sync.models.durations import Duration, deadline
from neuro_sync.models.jobs import LONGEST_LIFE_SPAN_MINUTES
from neuro_sync.transport.encoding import segment
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry

from .arguments import BadValuesRefused
from .config import Config, ResourceLocation, Section


class Disks(Section):
    """The disks section of a session, ``session.disks``.

    A disk is found by its id, or by its name in the session's current organisation and project,
    unless others are named; or by its address, such as ``disk:/PROJECT/NAME``. Jobs get disks by
    ``disk_volumes``.
    """

    def __init__(self, transport: HttpTransport, config: Config) -> None:
        self._transport = transport
        self._config = config

    def create(
        self,
        storage: int,
        timeout_unused: Duration | None = None,
        name: str | None = None,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> Disk:
        """Make a disk of so many bytes.

        It is deleted when no job has used it for `timeout_unused`; by default it is kept.

        Raises:
            IllegalArgumentError: A value was refused.
            Conflict: The project has a disk of this name.
            AuthorizationError: The project's disks would be larger than it may have.

        Endpoint: POST {disks}
        """
        cluster = self._config.cluster(cluster_name)
        life_span = deadline(timeout_unused, 0, "timeout_unused")
        with BadValuesRefused():
            disk = NewDisk(
                storage=storage,
                life_span=None if life_span > LONGEST_LIFE_SPAN_MINUTES * 60 else life_span,
                name=name,
                **self._config.tenant(org_name, project_name),
            )
        answer = self._transport.request(
            "POST", _base_url(cluster), retry=Retry.NEVER, body=disk.model_dump(mode="json")
        )
        return _of(Disk.from_answer(answer.content), cluster)

    def get(
        self,
        disk_id_or_name: str | URL,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> Disk:
        """Describe a disk.

        Raises:
            ResourceNotFound: There is none of this id or name.

        Endpoint: GET {disks}/{id_or_name}
        """
        disk = self._locate(disk_id_or_name, cluster_name, org_name, project_name)
        answer = self._transport.request(
            "GET", _url(disk), retry=Retry.ALWAYS, query=disk.tenant.items()
        )
        return _of(Disk.from_answer(answer.content), disk.cluster)

    def rm(
        self,
        disk_id_or_name: str | URL,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> None:
        """Delete a disk and all that is on it; one in use goes when the last job leaves it.

        Its name is free at once.

        Raises:
            ResourceNotFound: There is none of this id or name.

        Endpoint: DELETE {disks}/{id_or_name}
        """
        disk = self._locate(disk_id_or_name, cluster_name, org_name, project_name)
        self._transport.request(
            "DELETE", _url(disk), retry=Retry.REMOVAL, query=disk.tenant.items()
        )

    def list(
        self,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> Iterator[Disk]:
        """Yield the disks that the caller may read.

        Endpoint: GET {disks}
        """
        cluster = self._config.cluster(cluster_name)
        query = self._config.tenant(org_name, project_name).items()
        answer = self._transport.request("GET", _base_url(cluster), retry=Retry.ALWAYS, query=query)
        for disk in Disk.list_from_answer(answer.content):
            yield _of(disk, cluster)

    def _locate(
        self, disk: str | URL, cluster: str | None, org: str | None, project: str | None
    ) -> ResourceLocation:
        return self._config.locate("disk", disk, cluster, org, project)


def _url(disk: ResourceLocation) -> str:
    return f"{_base_url(disk.cluster)}/{segment(disk.name)}"


def _base_url(cluster: ClusterConfig) -> str:
    if not cluster.disks_url:
        raise NotSupported(f"the cluster {cluster.name} has no disks; use storage volumes instead")
    return cluster.disks_url


def _of(disk: Disk, cluster: ClusterConfig) -> Disk:
    return disk.model_copy(update={"cluster_name": cluster.name})
