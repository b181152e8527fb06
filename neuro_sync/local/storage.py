"""The files of the platform's storage: one folder, ``<org>/<project>/…`` below it.

Jobs write into the same folder, and a job may put a symbolic link anywhere, at any moment. So no
path is ever handed to the kernel whole: each is walked a name at a time, from one open folder to
the next, and a link ends the walk. What is found is then used by its descriptor.

All of it is blocking. What goes wrong is an `OSError`, as the kernel tells it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from yarl import URL

from neuro_sync.closing import Closing
from neuro_sync.models.uris import path_of

from . import trees
from .durable_files import create_file, make_folder
from .private_files import FILE, FOLDER
from .trees import Removed

LONGEST_PATH = 4095
"""Bytes; of most systems no program can use a longer path."""

Parts = Sequence[str]
"""The names of a path below the root; none of them is ``.`` or ``..``."""


def parts_of(path: str) -> tuple[str, ...]:
    """Split a path as POSIX does by its text alone; ``..`` stops at the root.

    Raises:
        OSError: It is longer than any path may be.
    """
    if len(path) > LONGEST_PATH or len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, "File name too long")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


class NotAFile(OSError):
    """What is in the place is neither file nor folder, so it is not replaced."""


class Entry(NamedTuple):
    """What a folder tells of something in it."""

    name: str
    kind: str
    """``FILE``, ``DIRECTORY``, ``SYMLINK``, or ``UNKNOWN`` for devices, pipes and sockets."""
    length: int
    modified: int
    """Seconds since 1970."""


class Usage(NamedTuple):
    """Bytes of a file system."""

    total: int
    used: int
    free: int


class OpenedFile(NamedTuple):
    """A file that is read, with what it was when it was opened."""

    content: FileIO
    entry: Entry


class WrittenFile(Closing):
    """A file of which a part is being written; not closed while another thread writes."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._closed = False
        # Held while it is used: the number of a closed one is soon that of another file.
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write behind what was written before."""
        with self._lock:
            for piece in pieces:
                view = memoryview(piece)
                while view and not self._closed:
                    written = os.pwrite(self._descriptor, view, self._offset)
                    self._offset += written
                    view = view[written:]

    def commit(self) -> None:
        """Do what remains to be done when all is written."""


class NewFile(WrittenFile):
    """The content of a file before it gets its name, so that half an upload is never seen."""

    def __init__(self, scratch: Path, folder: int, name: str) -> None:
        self._path = scratch / uuid.uuid4().hex
        self._folder = folder
        self._name = name
        self._is_named = False
        super().__init__(create_file(self._path), 0)

    def commit(self) -> None:
        """Put the file in its place, where it replaces another one."""
        with self._lock:
            replaced = _check_replaceable(self._folder, self._name)
            if replaced is not None:
                os.fchmod(self._descriptor, stat.S_IMODE(replaced.st_mode))
            os.rename(self._path, self._name, dst_dir_fd=self._folder)
            self._is_named = True

    def close(self) -> None:
        if not self._closed:
            super().close()
            os.close(self._folder)
            if not self._is_named:
                self._path.unlink()


class StorageFolder:
    """The storage of one platform."""

    def __init__(self, root: Path, scratch: Path) -> None:
        """Say where files are kept, and where uploads grow: on the same file system."""
        self._root = root
        self._scratch = scratch

    @property
    def root(self) -> Path:
        """The folder of all organisations."""
        return self._root

    def open(self, *project: str) -> None:
        """Make the folder, one project's in it, and clear away what uploads were never ended."""
        for folder in (self._root, self._scratch):
            make_folder(folder)
        self.make(project)
        for unfinished in self._scratch.iterdir():
            unfinished.unlink()

    def path(self, uri: URL) -> Path:
        """Return where the folder or file of a full ``storage:`` address is, for a job to mount.

        A folder that is missing is made, as the hosted platform does.

        Raises:
            OSError: There is a link or a file on the way, or it is itself a link.
        """
        parts = parts_of(path_of(uri))
        with suppress(FileNotFoundError):
            if parts and self.status(parts).kind == "FILE":
                return self._root.joinpath(*parts)
        with self._folder(parts, make=True):
            return self._root.joinpath(*parts)

    def make(self, parts: Parts) -> None:
        """Make a folder and those above it."""
        with self._folder(parts, make=True):
            pass

    def status(self, parts: Parts) -> Entry:
        """Tell what is there; a link is told of, not followed."""
        if not parts:
            with self._folder(()) as root:
                return _entry("", os.fstat(root))
        with self._folder(parts[:-1]) as folder:
            return _entry(parts[-1], _lstat(folder, parts[-1]))

    def entries(self, parts: Parts) -> Iterator[Entry]:
        """Yield what is in a folder, in no order, while it is being read."""
        with self._folder(parts) as folder, os.scandir(folder) as found:
            for item in found:
                # One that has gone in the meantime is not there.
                with suppress(FileNotFoundError):
                    yield _entry(item.name, item.stat(follow_symlinks=False))

    def read(self, parts: Parts) -> OpenedFile:
        """Open a file for reading."""
        if not parts:
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        with self._folder(parts[:-1]) as folder:
            descriptor = _open_file(folder, parts[-1], os.O_RDONLY)
        return OpenedFile(FileIO(descriptor), _entry(parts[-1], os.fstat(descriptor)))

    def write(self, parts: Parts, offset: int) -> WrittenFile:
        """Open a file that is there for writing from an offset on."""
        if not parts:
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        with self._folder(parts[:-1]) as folder:
            return WrittenFile(_open_file(folder, parts[-1], os.O_WRONLY), offset)

    def create(self, parts: Parts) -> NewFile:
        """Begin a file that takes its place when it is whole; folders above it are made."""
        if not parts:
            raise IsADirectoryError(errno.EISDIR, "Destination is a directory")
        folder = self._enter(parts[:-1], make=True)
        try:
            _check_replaceable(folder, parts[-1])
            return NewFile(self._scratch, folder, parts[-1])
        except BaseException:
            os.close(folder)
            raise

    def rename(self, source: Parts, target: Parts) -> None:
        """Move within the storage; a file or an empty folder that is there is replaced."""
        if not source or not target:
            raise PermissionError(errno.EPERM, "Incorrect destination")
        with self._folder(source[:-1]) as folder, self._folder(target[:-1]) as other:
            moved = _lstat(folder, source[-1])
            with suppress(FileNotFoundError):
                there = _lstat(other, target[-1])
                if stat.S_ISDIR(there.st_mode) and not stat.S_ISDIR(moved.st_mode):
                    raise IsADirectoryError(errno.EISDIR, "Destination is a directory")
                if stat.S_ISDIR(moved.st_mode) and not stat.S_ISDIR(there.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "Destination is not a directory")
            try:
                os.rename(source[-1], target[-1], src_dir_fd=folder, dst_dir_fd=other)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EINVAL):
                    number = errno.EINVAL if error.errno == errno.EINVAL else errno.ENOTEMPTY
                    raise OSError(number, "Incorrect destination") from error
                raise

    def remove(self, parts: Parts, *, recursive: bool) -> Iterator[Removed]:
        """Remove a file, or a folder with all that is in it, and yield each, the inmost first.

        Nothing happens before the first item is asked for. What lies too deep for a path is
        removed and not yielded.
        """
        if not parts:
            raise PermissionError(errno.EPERM, "The root cannot be removed")
        with self._folder(parts[:-1]) as folder:
            found = _lstat(folder, parts[-1])
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(parts[-1], dir_fd=folder)
                yield _removed(parts, is_dir=False)
                return
            if not recursive:
                raise IsADirectoryError(errno.EISDIR, "Target is a directory")
            for path, is_dir in trees.remove(folder, parts[-1]):
                yield _removed((*parts, path) if path else parts, is_dir=is_dir)

    def usage(self, parts: Parts) -> Usage:
        """Tell how full the file system is that holds a folder or file."""
        if parts and self.status(parts).kind != "DIRECTORY":
            parts = parts[:-1]
        with self._folder(parts) as folder:
            figures = os.fstatvfs(folder)
        unit = figures.f_frsize
        used = (figures.f_blocks - figures.f_bfree) * unit
        return Usage(figures.f_blocks * unit, used, figures.f_bavail * unit)

    @contextmanager
    def _folder(self, parts: Parts, *, make: bool = False) -> Iterator[int]:
        descriptor = self._enter(parts, make=make)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _enter(self, parts: Parts, *, make: bool = False) -> int:
        """Return a descriptor of a folder, having followed no link on the way."""
        folder = os.open(self._root, FOLDER)
        try:
            for place, name in enumerate(parts, start=1):
                below = self._enter_one(folder, name, make=make, is_last=place == len(parts))
                os.close(folder)
                folder = below
        except BaseException:
            os.close(folder)
            raise
        return folder

    @staticmethod
    def _enter_one(folder: int, name: str, *, make: bool, is_last: bool) -> int:
        try:
            return os.open(name, FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory") from error
            if make and is_last:
                raise FileExistsError(errno.EEXIST, "File exists") from error
            text = "Predecessor is not a directory" if make else "Not a directory"
            raise NotADirectoryError(errno.ENOTDIR, text) from error
        with suppress(FileExistsError):  # somebody else was as quick
            _make_folder(folder, name)
        return os.open(name, FOLDER, dir_fd=folder)


def os_error_name(error: OSError) -> str:
    """Return the symbol of what went wrong, such as ``ENOSPC``."""
    return errno.errorcode.get(error.errno or errno.EIO, "EIO")


def _lstat(folder: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _entry(name: str, found: os.stat_result) -> Entry:
    modified = int(found.st_mtime)
    if stat.S_ISREG(found.st_mode):
        return Entry(name, "FILE", found.st_size, modified)
    if stat.S_ISDIR(found.st_mode):
        return Entry(name, "DIRECTORY", 0, modified)
    if stat.S_ISLNK(found.st_mode):
        return Entry(name, "SYMLINK", 1, modified)
    return Entry(name, "UNKNOWN", 0, modified)


def _make_folder(folder: int, name: str) -> None:
    """Make a folder for its owner alone, whatever the umask."""
    os.mkdir(name, 0o700, dir_fd=folder)
    if sys.platform != "linux" or _lstat(folder, name).st_mode & 0o700 == 0o700:
        return
    # The umask took rights away from its owner; and a job may have put a link in its place by now.
    made = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{made}", 0o700)
    finally:
        os.close(made)


def _open_file(folder: int, name: str, mode: int) -> int:
    found = _lstat(folder, name)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    # Looked at before it is opened, since to open a device can set it going, and after it, since
    # it may have been exchanged in between.
    if stat.S_ISREG(found.st_mode):
        descriptor = os.open(name, FILE | mode, dir_fd=folder)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "No such file")


def _check_replaceable(folder: int, name: str) -> os.stat_result | None:
    """Return what a new file is going to replace, if there is anything."""
    try:
        found = _lstat(folder, name)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Destination is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(errno.ENOENT, "Destination is not a file")
    return found


def _removed(parts: Parts, *, is_dir: bool) -> Removed:
    return Removed("/" + "/".join(parts), is_dir)
