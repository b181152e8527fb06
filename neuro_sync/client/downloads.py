"""Copies from the storage to this machine."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from yarl import URL

from neuro_sync.errors import ProtocolError, StorageError, StorageIsDirectory
from neuro_sync.models.storage import (
    FileStatus,
    StorageProgressComplete,
    StorageProgressEnterDir,
    StorageProgressFail,
    StorageProgressStart,
    StorageProgressStep,
    child,
)

from .transfers import Crew, Filter, Folder, Mode, Report, file_uri
from .uploads import STEP, listing

if TYPE_CHECKING:
    from .storage import Storage


def download_file(
    storage: Storage, src: URL, status: FileStatus, dst: Path, mode: Mode, report: Report
) -> None:
    """Copy one file; until it is whole it has another name."""
    if status.is_dir():
        raise StorageIsDirectory(f"{src} is a folder", payload={"errno": "EISDIR"})
    if not status.is_file():
        raise StorageError(f"{src} is no file, but {status.type}", payload={"errno": "EINVAL"})
    # A link of the user's own stays one.
    dst = Path(os.path.realpath(dst))
    if dst.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(dst))
    if dst.exists() and not dst.is_file():  # a terminal, a pipe: nothing to be put in its place
        with open(dst, "wb", buffering=0) as file:
            _fetch(storage, src, status, file, dst, 0, report)
        return
    if mode.looks and not _take_up(storage, status, dst, mode):
        return
    with _partial(status, dst) as (file, partial):
        offset = _usable(storage, status, file) if mode.continue_ else 0
        file.truncate(offset)
        file.seek(offset)
        _fetch(storage, src, status, file, dst, offset, report)
        os.replace(partial, dst)
    report(StorageProgressComplete(src, file_uri(dst), status.size))


def _take_up(storage: Storage, status: FileStatus, dst: Path, mode: Mode) -> bool:
    """Tell whether there is anything to do; the beginning of a file becomes a partial one."""
    try:
        found = dst.stat()
    except FileNotFoundError:
        return True
    newer = storage.clock_skew.may_be_newer_there(found.st_mtime, status.modification_time)
    offset = mode.offset(status.size, found.st_size, source_is_newer=newer)
    if offset:
        os.replace(dst, _partial_name(status, dst))
    return offset is not None


def _usable(storage: Storage, status: FileStatus, file: FileIO) -> int:
    """Return how many bytes of a partial file are surely those of its source."""
    found = os.fstat(file.fileno())
    newer = storage.clock_skew.may_be_newer_there(found.st_mtime, status.modification_time)
    return 0 if newer or found.st_size > status.size else found.st_size


def _fetch(
    storage: Storage,
    src: URL,
    status: FileStatus,
    file: FileIO,
    dst: Path,
    offset: int,
    report: Report,
) -> None:
    """Write what is missing of a file, and make sure that it is all of it."""
    here, size = file_uri(dst), status.size
    report(StorageProgressStart(src, here, size))
    if offset:
        report(StorageProgressStep(src, here, offset, size))
    if offset == size:
        return
    told = offset
    with storage.open(src, offset) as content:
        if content.stop != size:
            raise StorageError(
                f"{src} has {content.stop} bytes now instead of {size}", payload={"errno": "EIO"}
            )
        for piece in content:
            _write(file, piece)
            if content.position - told >= STEP or content.position == size:
                told = content.position
                report(StorageProgressStep(src, here, told, size))


def _write(file: FileIO, piece: bytes) -> None:
    written = file.write(piece) or 0
    while written < len(piece):  # a full disk, or a pipe
        written += file.write(memoryview(piece)[written:]) or 0


@contextmanager
def _partial(status: FileStatus, dst: Path) -> Iterator[tuple[FileIO, Path]]:
    """Open the file that grows until it is whole; nobody else writes to it meanwhile.

    What there is of it stays when the download fails, for another one to go on with.
    """
    path = _partial_name(status, dst)
    file = _locked(path)
    if file is None:  # somebody else is at it
        path = path.with_name(f"{path.name}.{uuid4().hex[:8]}")
        file = FileIO(path, "x")
    with file:
        try:
            yield file, path
        except BaseException:
            if not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)
            raise


def _partial_name(status: FileStatus, dst: Path) -> Path:
    """Return the name of a partial file, which says of which version of which file it is."""
    version = f"{dst.name}\0{status.size}\0{status.modification_time}"
    digest = hashlib.sha256(version.encode("utf-8", "surrogateescape")).hexdigest()
    return dst.with_name(f".neuro-{digest[:20]}.part")


def _locked(path: Path) -> FileIO | None:
    """Open a file that nobody else has open to write; None if somebody has."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where an open file cannot be replaced anyway
        return None
    while True:
        file = FileIO(path, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        # Whoever had it has just given it its name.
        file.close()


class FolderDownload:
    """The copy of a folder: each folder and each file of it is a task of the crew."""

    def __init__(self, storage: Storage, crew: Crew, mode: Mode, filter: Filter | None) -> None:
        self._storage = storage
        self._crew = crew
        self._mode = mode
        self._filter = filter

    def start(self, src: URL, dst: Path) -> None:
        """Begin to copy."""
        self._enter(Folder(src, file_uri(dst)), dst, "")

    def _enter(self, folder: Folder, dst: Path, name: str) -> None:
        self._crew.enter(lambda: self._copy(folder, dst, name), folder)

    def _copy(self, folder: Folder, dst: Path, name: str) -> None:
        """Make a folder, and add a task for each thing that the storage has in it."""
        found = listing(self._storage, folder.src)
        dst.mkdir(parents=True, exist_ok=True)
        self._crew.report(StorageProgressEnterDir(folder.src, folder.dst))
        for status in sorted(found.values(), key=lambda status: status.path, reverse=True):
            self._add(status, folder, dst, name)

    def _add(self, status: FileStatus, folder: Folder, dst: Path, name: str) -> None:
        _check_name(status.path)
        below = f"{name}{status.path}" + ("/" if status.is_dir() else "")
        if self._filter is not None and not self._filter(below):
            return
        src, path = child(folder.src, status.path), dst / status.path
        if status.is_dir():
            self._enter(Folder(src, file_uri(path), folder), path, below)
        elif status.is_file():
            crew, storage, mode = self._crew, self._storage, self._mode
            crew.add(lambda: download_file(storage, src, status, path, mode, crew.report), folder)
        else:
            message = f"{src}: it is neither a file nor a folder, but {status.type}"
            self._crew.report(StorageProgressFail(src, file_uri(path), message))


def _check_name(name: str) -> None:
    """Refuse a name that would lead out of the folder that is written to."""
    separators = {"/", os.sep, os.altsep or "/"}
    if name in ("", ".", "..") or "\0" in name or any(mark in name for mark in separators):
        raise ProtocolError(f"the platform lists a file by the name {name!r}, which none can have")
