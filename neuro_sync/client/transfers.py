"""What copies in both directions have in common: what to copy, who does it, who hears of it."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from yarl import URL

from neuro_sync.closing import Closing
from neuro_sync.errors import (
    APIError,
    CopyFailure,
    CopyIncomplete,
    FileChanged,
    IllegalArgumentError,
    NDJSONError,
    NeuroError,
    StorageError,
)
from neuro_sync.models import storage as models
from neuro_sync.models.uris import build, file_parts, file_path
from neuro_sync.secret_text import drop_frames

from .arguments import BadValuesRefused

T = TypeVar("T")

OCTETS = {"Content-Type": "application/octet-stream"}

WORKERS = 8
"""Files that are copied at a time."""
SMALL = 2**16
"""Bytes of a file that is copied as a whole; if that fails, it is copied as a large one is."""
BATCH = 200
"""Small files that are copied by one task."""
ENOUGH_BATCHES = 32
"""While so many wait, no more folders are read."""
ENDING_STATUSES = frozenset({401, 429, 502, 503, 504})
"""With these the platform refuses the caller, or is not there, whatever the file."""
ENDING_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""What fails every file after the first: a full or read-only disk, no more descriptors."""
LONGEST_FAREWELL = 1.0
"""Seconds that a worker may take to notice that it is to stop; then it is left to itself."""

Event = (
    models.StorageProgressStart
    | models.StorageProgressStep
    | models.StorageProgressComplete
    | models.StorageProgressEnterDir
    | models.StorageProgressLeaveDir
    | models.StorageProgressFail
)
Report = Callable[[Callable[[], Event]], None]
"""Is given what makes an event: many copies have nobody who hears of them."""
Task = Callable[[], None]
Filter = Callable[[str], bool]
"""Says of a path below the copied folder whether to copy it; a folder's ends with ``/``."""

_METHODS = {
    models.StorageProgressStart: "start",
    models.StorageProgressStep: "step",
    models.StorageProgressComplete: "complete",
    models.StorageProgressEnterDir: "enter",
    models.StorageProgressLeaveDir: "leave",
    models.StorageProgressFail: "fail",
}


def reporter(progress: models.AbstractFileProgress) -> Report:
    """Return what calls the method of `progress` that an event belongs to."""
    return lambda make: _tell(progress, make())


def _tell(progress: models.AbstractFileProgress, event: Event) -> None:
    getattr(progress, _METHODS[type(event)])(event)


def ends_copy(error: Exception) -> bool:
    """Return whether what failed one file would fail all others, too."""
    if isinstance(error, APIError) and error.status in ENDING_STATUSES:
        return True
    if getattr(error, "errno", None) in ENDING_ERRNOS:
        return True
    # The rest of ours: no connection, no login, or an answer that cannot be read.
    is_about_one_file = isinstance(error, APIError | NDJSONError | FileChanged | CopyIncomplete)
    return isinstance(error, NeuroError) and not is_about_one_file


class Location:
    """Where something in the storage is."""

    def __init__(self, url: str, make_uri: Callable[[], URL]) -> None:
        self.url = url
        """Where requests about it go."""
        self._make_uri = make_uri
        self._uri: URL | None = None

    @property
    def uri(self) -> URL:
        """Its full address."""
        # Built when somebody asks: of most small files nobody does, and it takes its time.
        if self._uri is None:
            self._uri = self._make_uri()
        return self._uri

    def child(self, name: str) -> Location:
        """Return where something in this folder is."""
        quoted = quote(name, safe="", errors="surrogateescape")
        above = self.url.rstrip("/")
        return Location(f"{above}/{quoted}", lambda: models.child(self.uri, name))


class ClockSkew(NamedTuple):
    """Between which seconds our clock is ahead of the platform's, as the last answer showed.

    Its ``Date`` has whole seconds, and was written at some time while we waited.
    """

    low: float = 0.0
    high: float = 0.0

    @classmethod
    def seen(cls, sent: float, received: float, date: str | None) -> ClockSkew | None:
        """Return what an exchange shows; None if the answer has no date."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return None
        return cls(sent - told - 1, received - told)

    def may_be_newer_here(self, here: float, there: float) -> bool:
        """Whether a local file may have changed after the platform's was written."""
        return here - there > self.low - 1.0

    def may_be_newer_there(self, here: float, there: float) -> bool:
        """Whether the platform's file may have changed after the local one was written."""
        return here - there < self.high + 2.0


@dataclass(frozen=True)
class Mode:
    """Whether what is there may be kept; without either, everything is copied."""

    update: bool = False
    """Leave out what is not older than its source."""
    continue_: bool = False
    """The same, and go on where a copy has broken off."""

    @property
    def looks(self) -> bool:
        """Whether it matters what is there."""
        return self.update or self.continue_

    def offset(self, source_size: int, target_size: int, *, source_is_newer: bool) -> int | None:
        """Return from where to copy, or None if there is nothing to do."""
        if not self.looks or source_is_newer:
            return 0
        if self.update or source_size == target_size:
            return None
        return target_size if target_size < source_size else 0


class Stopped(Exception):
    """The copy was given up, because another part of it failed; only workers see it."""


@dataclass
class Folder:
    """A folder that is being copied; it is done when all in it is."""

    src: URL
    dst: URL
    above: Folder | None = None
    pending: int = 0
    """What in it is not done yet."""
    is_entered: bool = False
    """Whether its beginning was reported, and so will be its end."""
    check: Callable[[], None] = field(default=lambda: None)
    """What remains to be looked at when all of it has been copied."""


class _Done(Exception):
    """All tasks are over."""


class _Job(NamedTuple):
    task: Task
    folder: Folder
    is_batch: bool = False


class Crew(Closing):
    """Threads that carry tasks out, while the thread of the caller hears what they report.

    A task may add more tasks. What copies files goes before what finds more of them, and the newest
    folder before the others, so that little of a tree is held in memory. A file that cannot be
    copied is skipped; what would fail the others too ends the rest.
    """

    def __init__(
        self, progress: models.AbstractFileProgress | None, workers: int = WORKERS
    ) -> None:
        """Say who hears what tasks report; without anybody, nothing is handed over."""
        self._progress = progress
        self._hears_failures = _overrides_fail(progress)
        self._failures: list[CopyFailure] = []
        self._limit = workers
        self._threads: list[threading.Thread] = []
        self._folders: list[_Job] = []
        self._files: list[_Job] = []
        self._batches: list[_Job] = []
        self._has_batch = False
        self._idle = 0
        self._unfinished = 0
        self._stopped = False
        # Guards all of the above and the folders' counts; waited on for new tasks.
        self._changed = threading.Condition()
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()

    def enter(self, task: Task, folder: Folder) -> None:
        """Have a task carried out that reads a folder and adds what is in it."""
        if folder.above is not None:
            with self._changed:
                folder.above.pending += 1
        self._add(self._folders, _Job(task, folder))

    def add(self, task: Task, folder: Folder) -> None:
        """Have a task carried out that copies a file of a folder."""
        self._add(self._files, _Job(task, folder))

    def add_batch(self, task: Task, folder: Folder) -> None:
        """Have a task carried out that copies several files at a time, alone of its kind."""
        self._add(self._batches, _Job(task, folder, is_batch=True))

    def _add(self, queue: list[_Job], job: _Job) -> None:
        with self._changed:
            job.folder.pending += 1
            queue.append(job)
            self._unfinished += 1
            if self._idle:
                self._changed.notify()
            elif len(self._threads) < self._limit and not (job.is_batch and self._has_batch):
                # Daemons: a worker that hangs in a dead connection must not keep the program.
                thread = threading.Thread(target=self._work, name="neuro-storage", daemon=True)
                self._threads.append(thread)
                thread.start()

    def report(self, make: Callable[[], Event]) -> None:
        """Tell the caller something; raises when the work is to end."""
        if self._stopped:
            raise Stopped
        if self._progress is not None:
            self._events.put(make())

    def enter_folder(self, folder: Folder) -> None:
        """Report the beginning of a folder."""
        folder.is_entered = True
        self.report(partial(models.StorageProgressEnterDir, folder.src, folder.dst))

    def skip(self, src: URL, dst: URL, error: NeuroError | OSError) -> None:
        """Go on without a file or folder that cannot be copied.

        Raises:
            NeuroError, OSError: The same error, if it would fail the other files as well.
        """
        if ends_copy(error):
            raise error
        drop_frames(error)  # they would hold the contents of files
        self._note(CopyFailure(src, dst, error), is_failure=True)

    def leave_out(self, src: URL, dst: URL, reason: str) -> None:
        """Go on without what is neither a file nor a folder.

        That is no failure of the copy, unless `progress` has no `fail` to be told by.
        """
        error = StorageError(reason, payload={"errno": "EINVAL"})
        self._note(CopyFailure(src, dst, error), is_failure=not self._hears_failures)

    def _note(self, failure: CopyFailure, *, is_failure: bool) -> None:
        if is_failure:
            with self._changed:
                self._failures.append(failure)
        self.report(lambda: models.StorageProgressFail(failure.src, failure.dst, failure.message))

    def run(self) -> None:
        """Wait until everything is done, and report each event in this thread.

        Raises:
            CopyIncomplete: Files were skipped. All others are copied.
            BaseException: What ended the copy.
        """
        while True:
            event = self._events.get()
            if isinstance(event, _Done):
                if self._failures:
                    raise CopyIncomplete(self._failures)
                return
            if isinstance(event, BaseException):
                raise event
            if self._progress is not None:
                _tell(self._progress, event)

    def close(self) -> None:
        """Give up what is not done."""
        if self.is_inherited:
            return
        with self._changed:
            self._stopped = True
            for queue in (self._folders, self._files, self._batches):
                queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(LONGEST_FAREWELL)

    def _work(self) -> None:
        job: _Job | None = None
        while (job := self._next(job)) is not None:
            try:
                job.task()
                self._leave(job.folder)
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
                self._events.put(error)
                return

    def _next(self, done: _Job | None) -> _Job | None:
        """Take a task for done, and return another one, or None when all are."""
        # Both at once: of small files there are many, and each lock is one to wait for.
        with self._changed:
            if done is not None:
                self._has_batch = self._has_batch and not done.is_batch
                self._unfinished -= 1
                if not self._unfinished:
                    self._events.put(_Done())
                    self._changed.notify_all()
            while (job := self._pick()) is None and self._unfinished and not self._stopped:
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if self._idle:  # there may be something for another one, too
                self._changed.notify()
            return job

    def _pick(self) -> _Job | None:
        if self._batches and not self._has_batch:
            self._has_batch = True
            return self._batches.pop()
        if self._files:
            return self._files.pop()
        if self._folders and len(self._batches) < ENOUGH_BATCHES:
            return self._folders.pop()
        return None

    def _leave(self, folder: Folder) -> None:
        """Take something in a folder for done, and the folder too if it was the last."""
        ended: Folder | None = folder
        while ended is not None:
            with self._changed:
                ended.pending -= 1
                if ended.pending:
                    return
            ended.check()
            if ended.is_entered:
                self.report(partial(models.StorageProgressLeaveDir, ended.src, ended.dst))
            ended = ended.above


def _overrides_fail(progress: models.AbstractFileProgress | None) -> bool:
    default = models.AbstractRecursiveFileProgress.fail
    return getattr(type(progress), "fail", default) is not default


def is_file(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer holds a file.

    The hosted platform answers for a folder too: with nothing, and then with a second answer to
    the same request. Its connection is of no more use.
    """
    return headers.get("X-File-Type", "FILE") == "FILE"


def other_size(uri: URL, size: int | None, expected: int) -> StorageError:
    """Return the error that tells of a file which somebody else has written to."""
    text = f"{uri} has {size} bytes now instead of {expected}; somebody else writes to it"
    return StorageError(text, payload={"errno": "EIO"})


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield items in portions for `Crew.add_batch`, the last ones first, as it takes them."""
    for end in range(len(items), 0, -BATCH):
        yield items[max(end - BATCH, 0) : end]


def file_uri(path: PurePath) -> URL:
    """Return the address of a local file."""
    return build("file", *file_parts(path))


def local_path(place: str | Path | URL) -> Path:
    """Return the local file that is meant by a path, or by a ``file:`` address.

    Text that begins with ``~/`` lies in the user's home folder, and text that begins with
    ``file:`` is an address. Any other text, and a ``Path``, is the path as it is.

    Raises:
        IllegalArgumentError: It is an address of something else.
    """
    if isinstance(place, URL) and place.scheme != "file":
        raise IllegalArgumentError(
            f"{place} is no local file; give a path, or a URL such as file:///a/b"
        )
    if isinstance(place, Path):
        return place
    if isinstance(place, URL) or place.startswith("file:"):
        with BadValuesRefused():
            return file_path(str(place))
    is_in_home = place == "~" or place.startswith(("~/", f"~{os.sep}"))
    return Path(os.path.expanduser(place) if is_in_home else place)
