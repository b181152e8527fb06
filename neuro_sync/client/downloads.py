"""Copies from the storage to this machine."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from io import FileIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from neuro_sync.errors import NeuroError, ProtocolError, StorageError, StorageIsDirectory
from neuro_sync.models.storage import (
    FileStatus,
    StorageProgressComplete,
    StorageProgressStart,
    StorageProgressStep,
)
from neuro_sync.transport.overlap import Call, Overlap

from . import file_lock
from .local_folder import (
    MAX_LINKS,
    FolderPlace,
    OpenFolder,
    is_own_file,
    kept_permissions,
    make_root,
    open_folder,
    too_many_links,
)
from .transfers import (
    SMALL,
    Crew,
    Filter,
    Folder,
    Location,
    Mode,
    Report,
    batches,
    file_uri,
    is_file,
    other_size,
)
from .uploads import STEP, listing
from .windows_names import check_local_name

if TYPE_CHECKING:
    from .storage import Storage


_NUMBERS = count()
"""Of small files under way."""


def download_file(
    storage: Storage, src: Location, status: FileStatus, dst: Path, mode: Mode, report: Report
) -> None:
    """Copy one file; until it is whole it has another name. A link of the user's own stays one."""
    for _ in range(MAX_LINKS + 1):
        with _opened(dst) as here:
            found = here.lstat(dst.name or ".")
            if found is None or not stat.S_ISLNK(found.st_mode):
                _download(storage, src, status, _Target(here, dst.name, found), mode, report)
                return
            dst = dst.parent / here.read_own_link(dst.name)
    raise too_many_links(dst)


@contextmanager
def _opened(dst: Path) -> Iterator[OpenFolder]:
    """Open the folder of a file; an error names the file."""
    with ExitStack() as stack:
        try:
            here = stack.enter_context(open_folder(dst.parent))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(dst)) from error
        yield here


class _Target(NamedTuple):
    """Where a file is written."""

    here: OpenFolder
    name: str
    found: os.stat_result | None
    """What has the name already."""

    @property
    def path(self) -> Path:
        return self.here.path / self.name


def _download(
    storage: Storage,
    src: Location,
    status: FileStatus,
    target: _Target,
    mode: Mode,
    report: Report,
) -> None:
    here, name, found = target
    dst = target.path
    if status.is_dir():
        raise StorageIsDirectory(f"{src.uri} is a folder", payload={"errno": "EISDIR"})
    if not status.is_file():
        text = f"{src.uri} is no file, but {status.type}"
        raise StorageError(text, payload={"errno": "EINVAL"})
    if len(dst.parts) > 1:  # else it may well be the device NUL that is meant
        check_local_name(name)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(dst))
    if found is not None and not stat.S_ISREG(found.st_mode):
        # A terminal, a pipe: nothing to be put in its place.
        with here.open_special(name, found) as file:
            _fetch(storage, src, status, file, dst, 0, report)
        return
    if mode.looks and found is not None and not _take_up(storage, status, target, found, mode):
        return
    if status.size <= SMALL:
        _place(_whole(storage, src, status), src, target, report)
    else:
        with _partial(status, target) as file:
            offset = _usable(storage, status, file) if mode.continue_ else 0
            file.truncate(offset)
            file.seek(offset)
            _fetch(storage, src, status, file, dst, offset, report)
            _set_permissions(file.fileno(), kept_permissions(target.found))
        report(lambda: StorageProgressComplete(src.uri, file_uri(dst), status.size))


def _take_up(
    storage: Storage, status: FileStatus, target: _Target, found: os.stat_result, mode: Mode
) -> bool:
    """Return whether there is anything to do; the beginning of a file becomes a partial one."""
    offset = _offset(storage, status, found, mode)
    if offset and is_own_file(found):
        target.here.replace(target.name, _partial_name(status, target.name))
    return offset is not None


def _offset(storage: Storage, status: FileStatus, found: os.stat_result, mode: Mode) -> int | None:
    """Return from where to copy over a file that is there, or None if there is nothing to do."""
    newer = storage.clock_skew.may_be_newer_there(found.st_mtime, status.modification_time)
    return mode.offset(status.size, found.st_size, source_is_newer=newer)


def _usable(storage: Storage, status: FileStatus, file: FileIO) -> int:
    """Return how many bytes of a partial file are surely those of its source."""
    found = os.fstat(file.fileno())
    newer = storage.clock_skew.may_be_newer_there(found.st_mtime, status.modification_time)
    return 0 if newer or found.st_size > status.size else found.st_size


def _fetch(
    storage: Storage,
    src: Location,
    status: FileStatus,
    file: FileIO,
    dst: Path,
    offset: int,
    report: Report,
) -> None:
    """Write what is missing of a file, and make sure that it is all of it."""
    size = status.size

    def step(position: int) -> None:
        report(lambda: StorageProgressStep(src.uri, file_uri(dst), position, size))

    report(lambda: StorageProgressStart(src.uri, file_uri(dst), size))
    if offset:
        step(offset)
    if offset == size:
        return
    told = offset
    with storage.open(src.uri, offset) as content:
        if content.stop not in (None, size):
            raise other_size(src.uri, content.stop, size)
        for piece in content:
            if content.position > size:
                raise other_size(src.uri, content.position, size)
            _write(file, piece, dst)
            # Pieces are of any size: whenever a multiple was passed.
            if content.position // STEP > told // STEP or content.position == size:
                told = content.position
                step(told)
        if content.position != size:
            raise other_size(src.uri, content.position, size)


def _whole(storage: Storage, src: Location, status: FileStatus) -> bytes:
    """Return a file that is not worth being continued by another download."""
    if not status.size:
        return b""
    with storage.open(src.uri) as opened:
        if opened.stop not in (None, status.size):
            raise other_size(src.uri, opened.stop, status.size)
        content = b"".join(opened)
    if len(content) != status.size:
        raise other_size(src.uri, len(content), status.size)
    return content


def _place(content: bytes, src: Location, target: _Target, report: Report) -> None:
    """Write a small file; of such there are many, so that each call of the kernel counts."""
    here, name, found = target
    dst, size = target.path, len(content)
    report(lambda: StorageProgressStart(src.uri, file_uri(dst), size))
    # Not one that an earlier process of the same number has left behind.
    growing = f".neuro-{os.getpid()}-{time.monotonic_ns()}-{next(_NUMBERS)}.part"
    try:
        file = here.create(growing)
        try:
            try:
                _set_permissions(file, kept_permissions(found))
                done = 0
                while done < size:
                    done += os.write(file, content[done:])
            finally:
                os.close(file)
            here.replace(growing, name)
        except BaseException:
            here.unlink(growing)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(dst)) from error
    if size:
        report(lambda: StorageProgressStep(src.uri, file_uri(dst), size, size))
    report(lambda: StorageProgressComplete(src.uri, file_uri(dst), size))


def _set_permissions(descriptor: int, permissions: int | None) -> None:
    """Give a file those of the one that it replaces; on Windows it has those of its folder."""
    if permissions is not None and hasattr(os, "fchmod"):
        os.fchmod(descriptor, permissions)


def _write(file: FileIO, piece: bytes, dst: Path) -> None:
    try:
        written = file.write(piece) or 0
        while written < len(piece):  # a full disk, or a pipe
            written += file.write(memoryview(piece)[written:]) or 0
    except OSError as error:
        # Both are named: what there is of the file stays, and takes up room.
        names = [str(dst)] if file.name == dst else [str(file.name), None, str(dst)]
        raise OSError(error.errno, error.strerror, *names) from error


@contextmanager
def _partial(status: FileStatus, target: _Target) -> Iterator[FileIO]:
    """Open the file that grows until it is whole and gets its name; nobody else writes to it.

    What there is of it stays when the download fails, for another one to go on with. What another
    user has put in its place stays as well, and the file grows under a third name.
    """
    here, final, _ = target
    name = _partial_name(status, final)
    try:
        file = _locked(here, name)
        if file is None:  # somebody else is at it, or it is not ours
            name = f"{name}.{uuid4().hex[:8]}"
            file = here.create_file(name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target.path)) from error
    with file:
        try:
            yield file
        except BaseException:
            is_empty = not os.fstat(file.fileno()).st_size
            file.close()
            if is_empty:
                here.unlink(name)
            raise
        if file_lock.has_flock():  # so that no other download begins to write to it just now
            here.replace(name, final)
    if not file_lock.has_flock():  # Windows renames no file that is open
        here.replace(name, final)


def _partial_name(status: FileStatus, name: str) -> str:
    """Return the name of a partial file, which says of which version of which file it is."""
    version = f"{name}\0{status.size}\0{status.modification_time}"
    digest = hashlib.sha256(version.encode("utf-8", "surrogateescape")).hexdigest()
    return f".neuro-{digest[:20]}.part"


def _locked(here: OpenFolder, name: str) -> FileIO | None:
    """Open a partial file that nobody else has open to write; None if somebody has, or owns it."""
    while True:
        file = here.open_own(name)
        if file is None:
            return None
        if not file_lock.try_lock(file.fileno()):
            file.close()
            return None
        if here.has(name, file.fileno()):
            return file
        # Whoever had it has just given it its name.
        file.close()


class _Wanted(NamedTuple):
    """Something in a folder that is copied."""

    src: Location
    status: FileStatus
    dst: Path
    folder: FolderPlace
    """The one that `dst` lies in."""


class FolderDownload:
    """The copy of a folder: each folder and each file of it is a task of the crew.

    A file or folder that cannot be copied is skipped; of the copied folder itself it raises.
    """

    def __init__(
        self,
        storage: Storage,
        crew: Crew,
        lane: Overlap | None,
        mode: Mode,
        filter: Filter | None,
    ) -> None:
        self._storage = storage
        self._crew = crew
        self._lane = lane
        self._mode = mode
        self._filter = filter

    def start(self, src: Location, dst: Path) -> None:
        """Begin to copy."""
        self._enter(src, Folder(src.uri, file_uri(dst)), dst, "", None)

    def _enter(
        self, src: Location, folder: Folder, dst: Path, name: str, above: FolderPlace | None
    ) -> None:
        self._crew.enter(lambda: self._copy(src, folder, dst, name, above), folder)

    def _copy(
        self, src: Location, folder: Folder, dst: Path, name: str, above: FolderPlace | None
    ) -> None:
        """Make a folder, and add a task for each thing that the storage has in it."""
        try:
            found = listing(self._storage, folder.src)
            place = _made(dst, above)
        except (NeuroError, OSError) as error:
            if folder.above is None:
                raise
            self._crew.skip(folder.src, folder.dst, error)
            return
        self._crew.enter_folder(folder)
        small: list[_Wanted] = []
        for status in sorted(found.values(), key=lambda status: status.path, reverse=True):
            wanted = _Wanted(src.child(status.path), status, dst / status.path, place)
            self._add(wanted, folder, name, small)
        if self._lane is not None:
            for batch in batches(small[::-1]):
                fetch_all = partial(self._fetch_all, place, batch, self._lane)
                self._crew.add_batch(fetch_all, folder)

    def _add(self, wanted: _Wanted, folder: Folder, name: str, small: list[_Wanted]) -> None:
        src, status, dst, place = wanted
        try:
            _check_name(status.path)
        except StorageError as error:
            self._skip(wanted, error)
            return
        below = f"{name}{status.path}" + ("/" if status.is_dir() else "")
        if self._filter is not None and not self._filter(below):
            return
        if status.is_dir():
            self._enter(src, Folder(src.uri, file_uri(dst), folder), dst, below, place)
        elif not status.is_file():
            reason = f"it is neither a file nor a folder, but {status.type}"
            self._crew.leave_out(src.uri, file_uri(dst), reason)
        elif status.size <= SMALL and self._lane is not None:
            small.append(wanted)
        else:
            self._crew.add(lambda: self._fetch(wanted), folder)

    def _fetch(self, wanted: _Wanted) -> None:
        src, status, dst, folder = wanted
        report = self._crew.report
        try:
            with folder.opened() as here:
                found = here.lstat(dst.name)
                if found is not None and _is_special(found):
                    raise _special(dst)
                if found is None or not stat.S_ISLNK(found.st_mode):
                    target = _Target(here, dst.name, found)
                    _download(self._storage, src, status, target, self._mode, report)
                    return
                dst = here.path / here.read_own_link(dst.name)
            download_file(self._storage, src, status, dst, self._mode, report)
        except (NeuroError, OSError) as error:
            self._skip(wanted, error)

    def _skip(self, wanted: _Wanted, error: NeuroError | OSError) -> None:
        self._crew.skip(wanted.src.uri, file_uri(wanted.dst), error)

    def _fetch_all(self, folder: FolderPlace, batch: Sequence[_Wanted], lane: Overlap) -> None:
        """Copy small files of a folder; each that fails is tried again by itself."""
        with ExitStack() as stack:
            try:
                here = stack.enter_context(folder.opened())
            except OSError as error:
                for wanted in batch:
                    self._skip(wanted, error)
                return
            for (wanted, target), answer in lane.answers(self._calls(here, batch), len(batch)):
                if answer is None or len(answer.content) != wanted.status.size:
                    self._fetch(wanted)
                    continue
                try:
                    _place(answer.content, wanted.src, target, self._crew.report)
                except OSError as error:
                    self._skip(wanted, error)

    def _calls(
        self, here: OpenFolder, batch: Sequence[_Wanted]
    ) -> Iterator[tuple[tuple[_Wanted, _Target], Call]]:
        """Ask for what of a batch has to be fetched."""
        for wanted in batch:
            name = wanted.dst.name
            try:
                found = here.lstat(name)
            except OSError as error:
                self._skip(wanted, error)
                continue
            target = _Target(here, name, found)
            is_file = found is None or stat.S_ISREG(found.st_mode)
            if not wanted.status.size or not is_file:
                self._fetch(wanted)
            elif found is None or (
                _offset(self._storage, wanted.status, found, self._mode) is not None
            ):
                yield (wanted, target), _call(wanted.src)


def _made(dst: Path, above: FolderPlace | None) -> FolderPlace:
    """Make a folder within one that is known, or the one that the user names."""
    if above is None:
        with make_root(dst) as folder:
            return folder.place
    with above.opened() as here, here.make_folder(dst.name) as folder:
        return folder.place


def _is_special(status: os.stat_result) -> bool:
    kind = stat.S_IFMT(status.st_mode)
    return kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def _special(dst: Path) -> OSError:
    text = "It is a pipe, a socket or a device, and no copy of a folder writes to one"
    return OSError(errno.EINVAL, text, str(dst))


def _call(src: Location) -> Call:
    return Call("GET", src.url, (("op", "OPEN"),), accepts=is_file)


def _check_name(name: str) -> None:
    """Raise for a name that would lead out of the folder, or that a file here cannot have."""
    if name in ("", ".", "..") or "\0" in name or "/" in name:
        raise ProtocolError(f"the platform lists a file by the name {name!r}, which none can have")
    check_local_name(name)
