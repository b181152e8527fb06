"""What matches a pattern on the storage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING

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
    storage: Storage, root: URL, pattern: Sequence[str], *, folders_only: bool
) -> Iterator[URL]:
    """Yield what below a folder matches a pattern, given name by name."""
    # Several in a row mean the same as one, and would find things more than once.
    names = [
        name
        for key, group in groupby(pattern)
        for name in ([key] if key == ANY_DEPTH else list(group))
    ]
    return _below(storage, root, names, folders_only)


def _below(
    storage: Storage, folder: URL, pattern: Sequence[str], folders_only: bool
) -> Iterator[URL]:
    name, *rest = pattern
    if name == ANY_DEPTH:
        if rest:
            yield from _below(storage, folder, rest, folders_only)
        else:
            yield folder
    elif not has_magic(name):
        yield from _literal(storage, child(folder, name), rest, folders_only)
        return
    needs_folder = bool(rest) or folders_only
    folders = []
    for status in _listing(storage, folder):
        if status.name.startswith(".") and not name.startswith("."):
            continue
        if name == ANY_DEPTH:
            if status.is_dir():
                folders.append(status.uri)
            elif not needs_folder:
                yield status.uri
        elif fnmatchcase(status.name, name) and (status.is_dir() or not needs_folder):
            if rest:
                folders.append(status.uri)
            else:
                yield status.uri
    # Only now, so that no more than one listing is open at a time.
    for below in folders:
        yield from _below(storage, below, pattern if name == ANY_DEPTH else rest, folders_only)


def _literal(storage: Storage, uri: URL, rest: Sequence[str], folders_only: bool) -> Iterator[URL]:
    try:
        status = storage.stat(uri)
    except (StorageNotFound, StorageNotDirectory):
        return
    if rest and status.is_dir():
        yield from _below(storage, uri, rest, folders_only)
    elif not rest and (status.is_dir() or not folders_only):
        yield uri


def _listing(storage: Storage, folder: URL) -> Iterator[FileStatus]:
    try:
        with storage.list(folder) as found:
            yield from found
    except (StorageNotFound, StorageNotDirectory):
        return  # it has gone in the meantime
