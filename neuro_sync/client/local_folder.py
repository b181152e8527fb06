"""Folders of this machine in which files are created, also where other users may write.

Whoever may write to a folder can put a link, a pipe or a device where a file is about to be made,
and can exchange a folder for a link between two system calls. So every file is opened, created and
renamed relative to an open descriptor of its folder, nothing that is opened is a link, and a link
is followed only if it belongs to this user or to root. Windows has no such calls. There, paths are
used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

HAS_DIR_FD: bool = hasattr(os, "O_DIRECTORY") and os.open in os.supports_dir_fd

_BINARY: int = getattr(os, "O_BINARY", 0)
"""Without it Windows writes other bytes for a newline."""
_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
"""A pipe is opened without waiting for the other side."""
_PATH: int = getattr(os, "O_PATH", 0)
"""Opens a folder that may be written to but not listed, and a link itself."""
_DIRECTORY: int = getattr(os, "O_DIRECTORY", 0) | _PATH | _CLOEXEC

MAX_LINKS = 40
"""Links that are followed for one file, as in the kernel."""


class FolderPlace(NamedTuple):
    """A folder that was made or checked, so that it is recognized when it is opened again."""

    path: Path
    identity: tuple[int, int] | None
    """Its device and its inode; None where a folder cannot be opened."""

    @contextmanager
    def opened(self) -> Iterator[OpenFolder]:
        """Open the folder.

        Raises:
            OSError: It has gone, or something else has its path by now.
        """
        with open_folder(self.path) as folder:
            if folder.place.identity != self.identity:
                text = "Another folder has its place by now; it was moved or exchanged"
                raise OSError(errno.ESTALE, text, str(self.path))
            yield folder


@contextmanager
def open_folder(path: Path) -> Iterator[OpenFolder]:
    """Open the folder that a path leads to."""
    descriptor = os.open(path, os.O_RDONLY | _DIRECTORY) if HAS_DIR_FD else None
    try:
        yield OpenFolder(path, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def make_root(path: Path) -> Iterator[OpenFolder]:
    """Open the folder that a user names, and make it and those above it if they are missing.

    Raises:
        OSError: It is a link of another user, or no folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_folder(path.parent) as above, above.make_folder(path.name or ".") as folder:
        yield folder


class OpenFolder:
    """A folder that stays the same while it is open, whatever is done to its path."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor
        # Passed to each call; a path is needed where there is no descriptor.
        self._at: dict[str, int] = {} if descriptor is None else {"dir_fd": descriptor}

    @property
    def place(self) -> FolderPlace:
        """The folder, to be opened again later."""
        if self._descriptor is None:
            return FolderPlace(self.path, None)
        status = os.fstat(self._descriptor)
        return FolderPlace(self.path, (status.st_dev, status.st_ino))

    def _name(self, name: str) -> str:
        return name if self._at else str(self.path / name)

    def lstat(self, name: str) -> os.stat_result | None:
        """Return what has a name, a link itself; None if there is nothing."""
        try:
            return os.stat(self._name(name), follow_symlinks=False, **self._at)
        except FileNotFoundError:
            return None

    def read_own_link(self, name: str) -> str:
        """Return where a link leads that is this user's or root's.

        Raises:
            OSError: It belongs to somebody else.
        """
        if not _PATH:
            status = os.stat(self._name(name), follow_symlinks=False, **self._at)
            self._check_owner(name, status)
            return os.readlink(self._name(name), **self._at)
        # The link that was checked is the one that is read.
        link = os.open(name, _PATH | _NOFOLLOW | _CLOEXEC, **self._at)
        try:
            self._check_owner(name, os.fstat(link))
            return os.readlink("", **dict.fromkeys(("dir_fd",), link))
        finally:
            os.close(link)

    def _check_owner(self, name: str, status: os.stat_result) -> None:
        if not is_trusted(status):
            text = (
                "It is a link, pipe or device of another user, which may lead anywhere; "
                "remove it, or choose another name"
            )
            raise PermissionError(errno.EPERM, text, str(self.path / name))

    @contextmanager
    def make_folder(self, name: str) -> Iterator[OpenFolder]:
        """Open a folder in this one, and make it if it is missing.

        Raises:
            OSError: It is a link of another user, or no folder.
        """
        path = self.path / name
        try:
            if self.lstat(name) is None:
                os.mkdir(self._name(name), **self._at)
        except FileExistsError:  # another download has just made it
            pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if self._descriptor is None:
            os.makedirs(path, exist_ok=True)  # raises if it is a file
            yield OpenFolder(path, None)
            return
        descriptor = self._open_folder(name)
        try:
            yield OpenFolder(path, descriptor)
        finally:
            os.close(descriptor)

    def _open_folder(self, name: str, links: int = MAX_LINKS) -> int:
        status = self.lstat(name)
        if status is not None and stat.S_ISLNK(status.st_mode):
            leads = self.path / self.read_own_link(name)
            if not links:
                raise too_many_links(self.path / name)
            with open_folder(leads.parent) as above:
                return above._open_folder(leads.name or ".", links - 1)  # noqa: SLF001  # the same class
        try:
            return os.open(name, os.O_RDONLY | _DIRECTORY | _NOFOLLOW, **self._at)
        except NotADirectoryError as error:
            # As `os.mkdir` says of what is there and is no folder.
            raise FileExistsError(errno.EEXIST, "File exists", str(self.path / name)) from error

    def create(self, name: str) -> int:
        """Create a file of a name that nothing has; return its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC | _BINARY
        return os.open(self._name(name), flags, 0o666, **self._at)

    def open_own(self, name: str) -> FileIO | None:
        """Open a file to go on with it, or create it.

        Returns:
            None if what has the name is not a regular file of this user alone: a link, a pipe, a
            device, a file of another user, or one that has a second name elsewhere.
        """
        while True:
            try:
                descriptor = self.create(name)
            except FileExistsError:
                try:
                    flags = os.O_RDWR | _NOFOLLOW | _NONBLOCK | _CLOEXEC | _BINARY
                    descriptor = os.open(self._name(name), flags, **self._at)
                except FileNotFoundError:
                    if self.lstat(name) is None:  # it has just gone
                        continue
                    return None
                except OSError:
                    return None
            file = self._file(name, descriptor)
            if is_own_file(os.fstat(descriptor)) and self.has(name, descriptor):
                return file
            file.close()
            found = self.lstat(name)
            if found is not None and not is_own_file(found):
                return None

    def open_special(self, name: str, found: os.stat_result) -> FileIO:
        """Open a pipe, a terminal or a device to write to it.

        Raises:
            OSError: It belongs to another user, or something else has its name by now.
        """
        self._check_owner(name, found)
        descriptor = os.open(self._name(name), os.O_WRONLY | _NOFOLLOW | _CLOEXEC, **self._at)
        if not os.path.samestat(os.fstat(descriptor), found):
            os.close(descriptor)
            text = "Something else has its name by now"
            raise OSError(errno.ESTALE, text, str(self.path / name))
        return self._file(name, descriptor)

    def create_file(self, name: str) -> FileIO:
        """Create a file of a name that nothing has."""
        return self._file(name, self.create(name))

    def _file(self, name: str, descriptor: int) -> FileIO:
        return FileIO(str(self.path / name), "w", opener=lambda *_: descriptor)

    def has(self, name: str, descriptor: int) -> bool:
        """Return whether an open file is the one that has a name."""
        found = self.lstat(name)
        return found is not None and os.path.samestat(os.fstat(descriptor), found)

    def replace(self, name: str, other: str) -> None:
        """Rename a file, in place of one that has the other name."""
        at = {} if self._descriptor is None else dict.fromkeys(BOTH_SIDES, self._descriptor)
        os.replace(self._name(name), self._name(other), **at)

    def unlink(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(self._name(name), **self._at)


BOTH_SIDES = ("src_dir_fd", "dst_dir_fd")


def too_many_links(path: Path) -> OSError:
    """Return the error of links that lead to each other."""
    return OSError(errno.ELOOP, "Too many levels of symbolic links", str(path))


def is_own(status: os.stat_result) -> bool:
    """Return whether a file belongs to this user; on Windows its folder decides that."""
    return status.st_uid == os.geteuid() if hasattr(os, "geteuid") else True


def is_trusted(status: os.stat_result) -> bool:
    """Return whether something belongs to this user or to root."""
    return is_own(status) or status.st_uid == 0


def kept_permissions(found: os.stat_result | None) -> int | None:
    """Return those of a file that is replaced; None if there is none, or it is another user's."""
    return stat.S_IMODE(found.st_mode) if found is not None and is_own(found) else None


def is_own_file(status: os.stat_result) -> bool:
    """Return whether something is a regular file of this user that has no second name."""
    return stat.S_ISREG(status.st_mode) and is_own(status) and status.st_nlink == 1
