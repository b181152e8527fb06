"""What matches a pattern on the storage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from neuro_sync.errors import StorageNotDirectory, StorageNotFound
from neuro_sync.models.storage import FileStatus, child

if TYPE_CHECKING:
    from .storage import Storage

ANY_DEPTH = "**"
_MAGIC = re.compile(r"[*?[]")


def has_magic(text: str) -> bool:
    """Whether a text is a pattern."""
    return _MAGIC.search(text) is not None


def matches(
    storage: Storage,
    root: URL,
    pattern: Sequence[str],
    *,
    folders_only: bool,
    names_first: bool = False,
) -> Iterator[URL]:
    """Yield what below a folder matches a pattern, given name by name.

    With `names_first`, what is there by the very name of the pattern is the only match.
    """
    # Several in a row mean the same as one, and would find things more than once.
    names = [
        name
        for key, group in groupby(pattern)
        for name in ([key] if key == ANY_DEPTH else list(group))
    ]
    return _Search(storage, folders_only, names_first, set()).below(root, names)


class _Search(NamedTuple):
    """Looks for a pattern; see `matches`."""

    storage: Storage
    folders_only: bool
    names_first: bool
    searched: set[tuple[URL, int]]
    """The folders that were searched for so many of the last names of the pattern."""

    def below(self, folder: URL, pattern: Sequence[str]) -> Iterator[URL]:
        """Yield what is below a folder, which need not be there."""
        if (folder, len(pattern)) in self.searched:
            return  # else a pattern with several ** would search a folder for each way to it
        self.searched.add((folder, len(pattern)))
        name, *rest = pattern
        if name == ANY_DEPTH:
            if rest:
                yield from self.below(folder, rest)
            else:
                yield folder
        elif not has_magic(name):
            yield from self._literal(child(folder, name), rest)
            return
        needs_folder = bool(rest) or self.folders_only
        folders = []
        for status in self._candidates(folder, name, needs_folder=needs_folder):
            if status.name.startswith(".") and not name.startswith("."):
                continue
            if name == ANY_DEPTH:
                if status.is_dir():
                    folders.append(status.uri)
                elif not needs_folder:
                    yield status.uri
            elif rest:
                folders.append(status.uri)
            else:
                yield status.uri
        # Only now, so that no more than one listing is open at a time.
        for found in folders:
            yield from self.below(found, pattern if name == ANY_DEPTH else rest)

    def _candidates(self, folder: URL, name: str, *, needs_folder: bool) -> Iterator[FileStatus]:
        listed = self._listing(folder)
        if name == ANY_DEPTH:
            yield from listed
            return
        usable: Iterable[FileStatus] = (
            status for status in listed if status.is_dir() or not needs_folder
        )
        if self.names_first:
            usable = [*usable]
            exact = [status for status in usable if status.name == name]
            if exact:
                yield from exact
                return
        yield from (status for status in usable if fnmatchcase(status.name, name))

    def _literal(self, uri: URL, rest: Sequence[str]) -> Iterator[URL]:
        try:
            status = self.storage.stat(uri)
        except (StorageNotFound, StorageNotDirectory):
            return
        if rest and status.is_dir():
            yield from self.below(uri, rest)
        elif not rest and (status.is_dir() or not self.folders_only):
            yield uri

    def _listing(self, folder: URL) -> Iterator[FileStatus]:
        try:
            with self.storage.list(folder) as found:
                yield from found
        except (StorageNotFound, StorageNotDirectory):
            return  # it has gone in the meantime
