"""Copies from this machine to the storage."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from neuro_sync.errors import (
    ConnectionFailed,
    NeuroError,
    ServerNotAvailable,
    StorageError,
    StorageExists,
    StorageIsDirectory,
    StorageNotDirectory,
    StorageNotFound,
    StreamInterrupted,
)
from neuro_sync.models.storage import (
    FileStatus,
    StorageProgressComplete,
    StorageProgressStart,
    StorageProgressStep,
    child,
)
from neuro_sync.transport.overlap import Call, Overlap
from neuro_sync.transport.retry import Retry

from .ignore import IgnoreRules
from .transfers import (
    OCTETS,
    SMALL,
    Crew,
    Filter,
    Folder,
    Location,
    Mode,
    Report,
    batches,
    file_uri,
    other_size,
)

if TYPE_CHECKING:
    from .storage import Storage

PART = 64 * 2**20
"""Bytes of a file that are sent in one request. A connection that breaks costs no more than one."""
SMALLEST_PART = 2**20
"""Bytes. On connections that break, parts become smaller, down to this, which is tried again."""
PIECE = 2**17
"""Bytes that are read and sent at a time, within one timeout of the session."""
STEP = 2**20
"""Bytes between two reports of the progress."""
LISTINGS = 4
"""How often a folder is listed when the connection breaks."""
LEADS_NOWHERE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR})
"""What a link fails with that dangles, or leads to itself."""
MINIMAL_DEPTH = 3
"""Parts of an address that is a project's; nobody makes one by copying into it."""


def upload_file(storage: Storage, src: Path, dst: Location, mode: Mode, report: Report) -> None:
    """Copy one file, and make sure that it has arrived whole."""
    with open(src, "rb", buffering=0) as file:
        found = _target(storage, dst.uri)
        size = _upload(storage, file, src, dst, found, mode, report)
    if size is not None:
        _check_size(storage.stat(dst.uri), size)


def _target(storage: Storage, dst: URL) -> FileStatus | None:
    """Return what is there already; that it can be replaced has been checked then."""
    try:
        found = storage.stat(dst)
    except StorageNotFound:
        found = None
    if found is not None:
        if found.is_dir():
            raise StorageIsDirectory(f"{dst} is a folder", payload={"errno": "EISDIR"})
        return found
    _check_folder(storage, dst.parent)
    return None


def _check_folder(storage: Storage, uri: URL) -> None:
    try:
        is_dir = storage.stat(uri).is_dir()
    except StorageNotFound:
        is_dir = False
    if not is_dir:
        text = f"there is no folder {uri}; make it first, with mkdir"
        raise StorageNotDirectory(text, payload={"errno": "ENOTDIR"})


def _upload(
    storage: Storage,
    file: FileIO,
    src: Path,
    dst: Location,
    found: FileStatus | None,
    mode: Mode,
    report: Report,
) -> int | None:
    """Send what is missing, and return how long the file is; None if there was nothing to do."""
    status = os.fstat(file.fileno())
    size = status.st_size
    if not stat.S_ISREG(status.st_mode) or (not size and _has_content(file)):
        return _upload_pipe(storage, file, src, dst, report)
    offset = _offset(storage, status, found, mode)
    if offset is None:
        return None
    report(lambda: StorageProgressStart(file_uri(src), dst.uri, size))

    def tell(position: int) -> None:
        report(lambda: StorageProgressStep(file_uri(src), dst.uri, position, size))

    if offset:
        tell(offset)
    told = offset

    def step(position: int) -> None:
        nonlocal told
        # What is sent again after a failure is not told again.
        if position - told >= STEP or (position == size and position > told):
            told = position
            tell(position)

    if not size:
        storage.send(dst, b"", 0)
    parts = _PartSizes()
    while offset < size:
        content = _FilePart(file, offset, min(parts.size, size - offset), step)
        is_smallest = content.size <= SMALLEST_PART
        try:
            storage.send(dst, content, offset, retry=Retry.ALWAYS if is_smallest else Retry.REFUSED)
        except (ConnectionFailed, ServerNotAvailable):
            if is_smallest:
                raise
            parts.shrink(content.size, content.sent)
        except _Unreadable as unreadable:
            raise unreadable.reason from unreadable
        else:
            offset += content.size
            parts.grow()
    report(lambda: StorageProgressComplete(file_uri(src), dst.uri, size))
    return size


def _has_content(file: FileIO) -> bool:
    """Return whether there is something to read; a file of /proc says that it is empty."""
    found = file.read(1)
    file.seek(0)
    return bool(found)


def _offset(
    storage: Storage, status: os.stat_result, found: FileStatus | None, mode: Mode
) -> int | None:
    """Return from where to copy, or None if there is nothing to do."""
    if found is None:
        return 0
    newer = storage.clock_skew.may_be_newer_here(status.st_mtime, found.modification_time)
    return mode.offset(status.st_size, found.size, source_is_newer=newer)


def _upload_pipe(storage: Storage, file: FileIO, src: Path, dst: Location, report: Report) -> int:
    """Send what is no regular file, such as the standard input, until it ends."""
    here = file_uri(src)
    report(lambda: StorageProgressStart(here, dst.uri, 0))
    size = 0

    def pieces() -> Iterator[bytes]:
        nonlocal size
        while piece := file.read(PIECE):
            size += len(piece)
            report(partial(StorageProgressStep, here, dst.uri, size, size))
            yield piece

    storage.create(dst.uri, pieces())
    report(lambda: StorageProgressComplete(here, dst.uri, size))
    return size


def _tell_whole(src: Path, dst: Location, size: int, report: Report) -> None:
    """Tell of a file that was sent at once."""
    report(lambda: StorageProgressStart(file_uri(src), dst.uri, size))
    if size:
        report(lambda: StorageProgressStep(file_uri(src), dst.uri, size, size))
    report(lambda: StorageProgressComplete(file_uri(src), dst.uri, size))


def _check_size(status: FileStatus, size: int) -> None:
    if status.size != size:
        raise other_size(status.uri, status.size, size)


class _Unreadable(Exception):
    """A local file failed while it was sent; the transport must not take it for its own failure."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _PartSizes:
    """How many bytes are sent in one request, by what connections have let through."""

    def __init__(self) -> None:
        self.size = PART
        self._limit = PART

    def shrink(self, tried: int, sent: int) -> None:
        """Send no more at a time than had got through when a connection broke.

        Some of it may be in buffers on the way, so at most half of what was tried. If nothing got
        through, the size of the part is not the reason: a small one tries whether anybody is there.
        """
        if sent:
            self._limit = max(min(sent, tried // 2), SMALLEST_PART)
        self.size = self._limit if sent else SMALLEST_PART

    def grow(self) -> None:
        """Send more at a time again, after a part has arrived."""
        self.size = min(2 * self.size, self._limit)


class _FilePart:
    """A part of a file as the body of a request, read anew for each attempt."""

    def __init__(self, file: FileIO, offset: int, size: int, step: Callable[[int], None]) -> None:
        self._file = file
        self._offset = offset
        self._step = step
        self.size = size
        self.sent = 0
        """Bytes that the last attempt has handed to the connection."""

    def __iter__(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(PIECE, self.size)))
        done = self.sent = 0
        self._file.seek(self._offset)
        while done < self.size:
            piece = buffer[: self.size - done]
            try:
                read = self._file.readinto(piece)
            except OSError as error:
                raise _Unreadable(error) from error
            if not read:
                text = "the file has become shorter while it was sent"
                raise _Unreadable(OSError(errno.EIO, text, str(self._file.name)))
            yield piece[:read]
            done += read
            self.sent = done
            self._step(self._offset + done)


class _Source(NamedTuple):
    """A local folder that is copied."""

    path: Path
    name: str
    """Of it below the copied one, with a slash at its end."""
    rules: IgnoreRules
    above: tuple[str, ...]
    """The folders around it, to which a link may lead back."""


class _File(NamedTuple):
    """A local file that is copied."""

    path: Path
    dst: Location
    found: FileStatus | None
    """What is there already, if that matters."""
    mode: Mode


class FolderUpload:
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
        ignore_file_names: tuple[str, ...],
    ) -> None:
        self._storage = storage
        self._crew = crew
        self._lane = lane
        self._mode = mode
        self._filter = filter
        self._ignore_file_names = ignore_file_names

    def start(self, src: Path, dst: Location) -> None:
        """Make the folder, whose own one has to be there, and begin to copy into it."""
        src = Path(os.path.realpath(src))  # of a loop of links, Path.resolve raises RuntimeError
        if not src.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(src))
        rules = IgnoreRules.above(src, self._ignore_file_names)
        if len(dst.uri.parts) > MINIMAL_DEPTH:
            _check_folder(self._storage, dst.uri.parent)
        self._enter(_Source(src, "", rules, ()), dst, self._mode, None)

    def _enter(self, src: _Source, dst: Location, mode: Mode, above: Folder | None) -> None:
        folder = Folder(file_uri(src.path), dst.uri, above)
        self._crew.enter(lambda: self._copy(src, dst, mode, folder), folder)

    def _copy(self, src: _Source, dst: Location, mode: Mode, folder: Folder) -> None:
        """Prepare a folder, and add a task for each thing in it."""
        try:
            rules = src.rules.with_folder(src.path, self._ignore_file_names)
            with os.scandir(src.path) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
            there = self._prepare(folder.dst, mode)
        except (NeuroError, OSError) as error:
            if folder.above is None:
                raise
            self._crew.skip(folder.src, folder.dst, error)
            return
        if there is None:
            there, mode = {}, Mode()
        self._crew.enter_folder(folder)
        sizes: dict[str, int] = {}
        folder.check = lambda: self._check(src.path, folder, sizes)
        above = (*src.above, os.path.realpath(src.path))
        small: list[_File] = []
        for entry in entries:  # the newest task is the first
            path, target = src.path / entry.name, dst.child(entry.name)
            status = _stat(path)
            kind = stat.S_IFMT(status.st_mode) if isinstance(status, os.stat_result) else 0
            is_dir = kind == stat.S_IFDIR
            name = f"{src.name}{entry.name}" + ("/" if is_dir else "")
            if not self._wants(rules, path, name):
                continue
            if not isinstance(status, os.stat_result):
                self._give_up(path, target, status, is_link=entry.is_symlink())
            elif is_dir and entry.is_symlink() and os.path.realpath(path) in above:
                self._leave_out(path, target, "the link leads back to a folder above it")
            elif is_dir:
                self._enter(_Source(path, name, rules, above), target, mode, folder)
            elif kind == stat.S_IFREG:
                file = _File(path, target, there.get(entry.name), mode)
                if self._lane is not None and status.st_size <= SMALL:
                    small.append(file)
                else:
                    self._crew.add(partial(self._send, file, sizes), folder)
            else:
                self._leave_out(path, target, "it is neither a file nor a folder")
        if self._lane is not None:
            for batch in batches(small[::-1]):
                send_all = partial(self._send_all, batch, self._lane, sizes)
                self._crew.add_batch(send_all, folder)

    def _prepare(self, dst: URL, mode: Mode) -> dict[str, FileStatus] | None:
        """Return what is in the target, as far as that matters; None if the folder is new."""
        if mode.looks:
            with suppress(StorageNotFound):
                return listing(self._storage, dst)
        _make(self._storage, dst)
        return None

    def _wants(self, rules: IgnoreRules, path: Path, name: str) -> bool:
        ignored = rules.verdict(path, is_dir=name.endswith("/"))
        if ignored is None:
            return self._filter is None or self._filter(name)
        return not ignored

    def _leave_out(self, path: Path, dst: Location, reason: str) -> None:
        self._crew.leave_out(file_uri(path), dst.uri, reason)

    def _give_up(self, path: Path, dst: Location, error: OSError, *, is_link: bool) -> None:
        """Go on without what is there by name only."""
        if is_link and error.errno in LEADS_NOWHERE:
            self._leave_out(path, dst, "the link leads nowhere")
        else:  # it has gone since the folder was read, or is not ours to see
            self._crew.skip(file_uri(path), dst.uri, error)

    def _skip(self, file: _File, error: NeuroError | OSError) -> None:
        self._crew.skip(file_uri(file.path), file.dst.uri, error)

    def _send(self, file: _File, sizes: dict[str, int]) -> None:
        path, dst, found, mode = file
        try:
            if found is not None and found.is_dir():
                raise StorageIsDirectory(f"{dst.uri} is a folder", payload={"errno": "EISDIR"})
            with open(path, "rb", buffering=0) as content:
                size = _upload(self._storage, content, path, dst, found, mode, self._crew.report)
        except (NeuroError, OSError) as error:
            self._skip(file, error)
            return
        if size is not None:
            sizes[path.name] = size

    def _send_all(self, batch: Sequence[_File], lane: Overlap, sizes: dict[str, int]) -> None:
        """Copy small files, each of which is tried again by itself if need be."""
        for (file, size), answer in lane.answers(self._calls(batch, sizes), len(batch)):
            if answer is None:
                self._send(file, sizes)
            else:
                _tell_whole(file.path, file.dst, size, self._crew.report)
                sizes[file.path.name] = size

    def _calls(
        self, batch: Sequence[_File], sizes: dict[str, int]
    ) -> Iterator[tuple[tuple[_File, int], Call]]:
        """Ask for what of a batch has to be sent."""
        for file in batch:
            try:
                with open(file.path, "rb", buffering=0) as opened:
                    status, content = os.fstat(opened.fileno()), opened.read(SMALL + 1)
            except OSError as error:
                self._skip(file, error)
                continue
            if len(content) > SMALL or (file.found is not None and file.found.is_dir()):
                self._send(file, sizes)
            elif _offset(self._storage, status, file.found, file.mode) is not None:
                call = Call("PUT", file.dst.url, (("op", "CREATE"),), content, OCTETS)
                yield (file, len(content)), call

    def _check(self, src: Path, folder: Folder, sizes: Mapping[str, int]) -> None:
        """Make sure that what was sent into a folder has arrived whole."""
        try:
            there = listing(self._storage, folder.dst) if sizes else {}
        except (NeuroError, OSError) as error:
            self._crew.skip(folder.src, folder.dst, error)
            return
        for name, size in sizes.items():
            dst = child(folder.dst, name)
            try:
                if name not in there:
                    raise StorageNotFound(f"{dst} has gone since it was uploaded")
                _check_size(there[name], size)
            except StorageError as error:
                self._crew.skip(file_uri(src / name), dst, error)


def _stat(path: Path) -> os.stat_result | OSError:
    """Return what is there, behind links; or why nothing can be found."""
    try:
        return os.stat(path)
    except OSError as error:
        return error


def _make(storage: Storage, dst: URL) -> None:
    try:
        storage.mkdir(dst, parents=True, exist_ok=True)
    except StorageExists as error:
        raise StorageNotDirectory(f"{dst} is a file", payload={"errno": "ENOTDIR"}) from error


def listing(storage: Storage, folder: URL) -> dict[str, FileStatus]:
    """Return what is in a folder by name, asking again when the connection breaks."""
    for _ in range(LISTINGS - 1):
        with suppress(StreamInterrupted), storage.list(folder) as found:
            return {status.name: status for status in found}
    with storage.list(folder) as found:
        return {status.name: status for status in found}
