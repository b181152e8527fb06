"""Files and folders as they are named on the command line: paths here, addresses there."""

from __future__ import annotations

import glob as glob_module
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yarl import URL

from neuro_sync.client.transfers import local_path
from neuro_sync.client.windows_names import check_local_name
from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.models.storage import child
from neuro_sync.models.uris import path_of

from . import output

if TYPE_CHECKING:
    from neuro_sync.client.session import Session

SCHEME = "storage:"
WILD = frozenset("*?[")


@dataclass(frozen=True)
class Place:
    """A file or folder, here or on the storage."""

    text: str
    """As it was typed."""
    where: Path | URL
    """A path of this machine, or the full address of something on the storage."""

    def __str__(self) -> str:
        return self.text

    @property
    def is_remote(self) -> bool:
        return isinstance(self.where, URL)

    @property
    def name(self) -> str:
        if isinstance(self.where, URL):
            return path_of(self.where).rstrip("/").rpartition("/")[2]
        return os.path.basename(os.path.abspath(self.where))

    def child(self, name: str) -> Path | URL:
        """Return where something of a name is in this folder, whatever characters it has.

        Raises:
            StorageError: No file of this machine can have that name.
        """
        if isinstance(self.where, URL):
            return child(self.where, name)
        check_local_name(name)
        return self.where / name

    def is_folder(self, session: Session) -> bool:
        """Return whether there is a folder."""
        if isinstance(self.where, Path):
            return self.where.is_dir()
        try:
            return session.storage.stat(self.where).is_dir()
        except ResourceNotFound:
            return False


def place(session: Session, text: str) -> Place:
    """Read a path of this machine, a ``file:`` or a ``storage:`` address.

    Raises:
        IllegalArgumentError: It is no address.
    """
    if text.startswith(SCHEME):
        return Place(text, session.parse.str_to_uri(text, allowed_schemes=("storage",)))
    if not text:
        raise IllegalArgumentError("a path is empty; write '.' for this folder")
    return Place(text, local_path(text))


def expanded(session: Session, texts: Sequence[str], glob: bool | None) -> Iterator[Place]:
    """Yield what is named, and what patterns on the storage match.

    Patterns of this machine's files the shell has expanded; on Windows it does not. Unless `glob`
    is given, a file of the very name of the pattern is what is meant.

    Raises:
        ResourceNotFound: Nothing matches.
    """
    for text in texts:
        if os.name == "nt" and glob is not False and not text.startswith((SCHEME, "file:")):
            yield from (place(session, path) for path in local_matches(text))
            continue
        if glob is False or not is_pattern(text):
            yield place(session, text)
            continue
        with session.storage.glob(text, names_first=glob is None) as found:
            matches = [Place(str(uri), uri) for uri in found]
        if not matches:
            raise ResourceNotFound(f"nothing matches {text}")
        if glob is None and named(session, text).where in [match.where for match in matches]:
            output.note(f"{text} is taken for a name; with --glob it is a pattern.")
        yield from matches


def local_matches(text: str) -> list[str]:
    """Return the files here that a pattern matches; the text itself if it is none, or a name.

    Raises:
        ResourceNotFound: Nothing matches.
    """
    if WILD.isdisjoint(text) or os.path.lexists(text):
        return [text]
    matches = sorted(glob_module.glob(text))
    if not matches:
        raise ResourceNotFound(f"nothing matches {text}")
    return matches


def is_pattern(text: str) -> bool:
    return text.startswith(SCHEME) and not WILD.isdisjoint(text)


def named(session: Session, pattern: str) -> Place:
    """Return the file whose name is the pattern itself."""
    return place(session, pattern.replace("?", "%3F"))
