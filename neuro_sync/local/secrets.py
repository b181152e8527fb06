"""The platform's secrets: a file each, ``<org>/<project>/<key>``, which only its owner may read.

Nothing else of the platform holds a value: a job is given it when it is launched, in its
environment or as a mount of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.models.secrets import NewSecret

from .durable_files import UNFINISHED, make_folder, replace_file, sync_folder


class SecretStore:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self) -> None:
        """Make the folder, and clear away what an earlier platform did not write to its end."""
        make_folder(self._root)
        for unfinished in self._root.glob(f"*/*/*{UNFINISHED}"):
            unfinished.unlink()

    def add(self, secret: NewSecret) -> None:
        """Store a value; one that is there is replaced, and whoever has it mounted keeps that.

        When this returns, the value is on the disk.

        Raises:
            IllegalArgumentError: The file system does not tell the key from another one.
        """
        folder = self._folder(secret.org_name, secret.project_name)
        for made in (folder.parent, folder):
            make_folder(made)
        for known in self.keys(secret.org_name, secret.project_name):
            if known != secret.key and known.lower() == secret.key.lower():
                self._check_case(folder, known, secret.key)
        replace_file(folder / secret.key, secret.value)

    def _check_case(self, folder: Path, known: str, key: str) -> None:
        if (folder / key).exists() and (folder / key).samefile(folder / known):
            raise IllegalArgumentError(
                f"this machine's file system does not tell {key!r} from {known!r}; "
                "choose another key"
            )

    def keys(self, org: str, project: str) -> Iterator[str]:
        """Yield the keys of a project in their order."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._folder(org, project))):
                if not name.endswith(UNFINISHED):
                    yield name

    def value(self, org: str, project: str, key: str) -> bytes:
        return self.path(org, project, key).read_bytes()

    def remove(self, org: str, project: str, key: str) -> None:
        path = self.path(org, project, key)
        path.unlink()
        sync_folder(path.parent)

    def path(self, org: str, project: str, key: str) -> Path:
        """Return the file of a secret.

        Raises:
            ResourceNotFound: There is none of this key.
        """
        # Compared with what is there, so that a key can be any text and never leads elsewhere.
        if key not in self.keys(org, project):
            raise ResourceNotFound(f"Secret {key!r} not found")
        return self._folder(org, project) / key

    def _folder(self, org: str, project: str) -> Path:
        return self._root / org / project
