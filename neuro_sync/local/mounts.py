"""What the addresses of a job's volumes, disks and secrets stand for on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from neuro_sync.errors import IllegalArgumentError, NeuroError, ResourceNotFound
from neuro_sync.models.jobs import Container
from neuro_sync.models.uris import path_of

from .disks import DiskStore
from .runtimes.base import Mount
from .secrets import SecretStore
from .storage import StorageFolder, parts_of


class Missing(NeuroError):
    """Something that a job needs is not there; the text is the job's reason, as on the wire."""


@dataclass(frozen=True)
class Mounts:
    """Looks up what jobs need, at their launch: no value of a secret is kept anywhere."""

    storage: StorageFolder
    secrets: SecretStore
    disks: DiskStore

    def of(self, job_id: str, container: Container) -> tuple[Mount, ...]:
        """Return a job's mounts. Folders of the storage are made, disks are the job's from now on.

        Raises:
            Missing: There are no such secrets or disks.
            IllegalArgumentError: A folder of the storage cannot be used.
        """
        disk_ids = dict(self._disks(container))
        secrets = {file.container_path: file.secret_uri for file in container.secret_files}
        files = self._secrets(secrets)
        self.disks.take(job_id, disk_ids.values())
        return (
            *(
                Mount(self._folder(volume.storage_uri), volume.container_path, volume.read_only)
                for volume in container.volumes
            ),
            *(
                Mount(
                    self.disks.path(disk_ids[volume.disk_uri]),
                    volume.container_path,
                    volume.read_only,
                )
                for volume in container.disk_volumes
            ),
            *(
                Mount(self.secrets.path(*place), path, read_only=True)
                for path, place in files.items()
            ),
        )

    def environment(self, container: Container) -> dict[str, str]:
        """Return a job's variables, those with the values of secrets among them.

        Raises:
            Missing: There are no such secrets.
            IllegalArgumentError: A secret's value cannot be that of a variable.
        """
        found = dict(container.env)
        for name, place in self._secrets(container.secret_env).items():
            value = self.secrets.value(*place)
            if b"\0" in value:
                raise IllegalArgumentError(
                    f"the secret {place[-1]!r} has a zero byte, which no variable can have; "
                    "let the job read it from a file, with secret_files"
                )
            found[name] = value.decode("utf-8", "surrogateescape")
        return found

    def release(self, job_id: str) -> None:
        """Note that a job is over."""
        self.disks.release(job_id)

    def release_others(self, job_ids: Iterable[str]) -> None:
        """Note that all jobs but these are over."""
        self.disks.release_others(job_ids)

    def _folder(self, uri: URL) -> Path:
        try:
            return self.storage.path(uri)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise IllegalArgumentError(f"{uri} cannot be mounted: {why}") from error

    def _disks(self, container: Container) -> Iterator[tuple[URL, str]]:
        """Yield the id of each disk that a job uses.

        The one in use elsewhere that the protocol knows does not occur: here is no elsewhere.
        """
        missing = []
        for uri in dict.fromkeys(volume.disk_uri for volume in container.disk_volumes):
            *tenant, key = _parts(uri)
            try:
                org, project = tenant
                yield uri, self.disks.find(key, org, project, is_to_be_used=True).id
            except (ResourceNotFound, ValueError):
                missing.append(key)
        if missing:
            raise Missing(f"Missing disks: {', '.join(map(repr, missing))}")

    def _secrets(self, wanted: Mapping[str, URL]) -> dict[str, tuple[str, str, str]]:
        """Return organisation, project and key of each secret."""
        found, missing = {}, []
        for name, uri in wanted.items():
            *tenant, key = _parts(uri)
            try:
                org, project = tenant
                self.secrets.path(org, project, key)
                found[name] = (org, project, key)
            except (ResourceNotFound, ValueError):
                missing.append(key)
        if missing:
            raise Missing(f"Missing secrets: {', '.join(map(repr, missing))}")
        return found


def _parts(uri: URL) -> tuple[str, ...]:
    return parts_of(path_of(uri)) or ("",)
