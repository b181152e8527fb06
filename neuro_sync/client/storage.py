"""Files of the platform's storage: look at them, read, write and remove them, copy them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from typing_extensions import Buffer
from yarl import URL

from neuro_sync.errors import (
    ConnectionFailed,
    IllegalArgumentError,
    StorageExists,
    StorageIsDirectory,
    StorageNotFound,
)
from neuro_sync.models.storage import (
    AbstractDeleteProgress,
    AbstractFileProgress,
    AbstractRecursiveFileProgress,
    DiskUsageInfo,
    FileListing,
    FileStatus,
    ListedFile,
    RemovedFile,
    StorageProgressDelete,
)
from neuro_sync.models.uris import build, complete, parse_address, path_of
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.http import Content, HttpTransport, Query
from neuro_sync.transport.overlap import Overlap
from neuro_sync.transport.retry import Retry
from neuro_sync.transport.stream import NDJSON, Records, Stream, read_models

from . import downloads, uploads
from .arguments import at_most, strings, whole_number
from .config import Config, Section
from .content import ATTEMPTS, DELAY, FileContent, missing
from .globbing import has_magic, matches
from .transfers import (
    OCTETS,
    ClockSkew,
    Crew,
    Filter,
    Location,
    Mode,
    local_path,
    reporter,
)

T = TypeVar("T")

COLLECTED = 8 * 2**20
"""Bytes of an iterator that are sent together."""

Place = str | Path | URL
"""A local file: a path, or a ``file:`` address. In text, ``~/`` at the beginning is your home."""


class Storage(Section):
    """The storage section of a session, ``session.storage``.

    Addresses are text or ``yarl.URL``, short (``storage:data/a``), of another project
    (``storage:/project/a``) or full (``storage://cluster/org/project/a``). In text, the characters
    ``#``, ``?`` and ``%`` of a name are written ``%23``, ``%3F`` and ``%25``.
    """

    def __init__(self, transport: HttpTransport, config: Config, clock: Clock) -> None:
        self._transport = transport
        self._config = config
        self._clock = clock
        self.clock_skew: ClockSkew = ClockSkew()
        """How our clock and the platform's differ, as the last answer about files showed."""

    def stat(self, uri: URL | str) -> FileStatus:
        """Describe a file or a folder.

        Raises:
            StorageNotFound: There is nothing, or nothing that you may know of.

        Endpoint: GET /storage/…?op=GETFILESTATUS
        """
        full, url = self._locate(uri)
        sent = time.time()
        with missing(full):
            answer = self._transport.request(
                "GET", url, retry=Retry.ALWAYS, query=[("op", "GETFILESTATUS")]
            )
        self._note_time(sent, answer.headers.get("Date"))
        return ListedFile.from_answer(answer.content).status.at(full)

    def disk_usage(self, uri: URL | str = "storage:") -> DiskUsageInfo:
        """Tell how full the file system is that holds a folder, the project's unless named.

        Endpoint: GET /storage/…?op=GETDISKUSAGE
        """
        full, url = self._locate(uri)
        sent = time.time()
        with missing(full):
            answer = self._transport.request(
                "GET", url, retry=Retry.ALWAYS, query=[("op", "GETDISKUSAGE")]
            )
        self._note_time(sent, answer.headers.get("Date"))
        org, project, *_ = [*path_of(full).strip("/").split("/"), "", ""]
        where = {
            "cluster_name": full.host,
            "org_name": org or None,
            "project_name": project or None,
        }
        return DiskUsageInfo.from_answer(answer.content).model_copy(update={**where, "uri": full})

    def mkdir(self, uri: URL | str, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder, and with `parents` those above it.

        Raises:
            StorageExists: There is something, and it is a file, or `exist_ok` was not given.
            StorageNotFound: The folder above is missing, and `parents` was not given.

        Endpoint: PUT /storage/…?op=MKDIRS
        """
        full, url = self._locate(uri)
        # The platform always makes what is missing and takes what is there, so look first.
        if not exist_ok:
            try:
                self.stat(full)
            except StorageNotFound:
                pass
            else:
                raise StorageExists(f"{full} exists already", payload={"errno": "EEXIST"})
        if not parents and len(_names(full)) > 1:
            above = _above(full)
            try:
                self.stat(above)
            except StorageNotFound as error:
                text = f"there is no {above} to make it in; with parents, that is made, too"
                raise StorageNotFound(text, payload={"errno": "ENOENT"}) from error
        with missing(full):
            self._transport.request("PUT", url, retry=Retry.ALWAYS, query=[("op", "MKDIRS")])

    def create(self, uri: URL | str, data: Buffer | Iterable[Buffer]) -> None:
        """Write a whole file, in place of one that is there; missing folders above it are made.

        What an iterable yields is sent as it comes, some megabytes at a time. When it fails, or
        the connection does for good, the file is shorter than it should be.

        Raises:
            TypeError: It is text, of which only you know the encoding.

        Endpoint: PUT /storage/…?op=CREATE
        """
        place = self._location(uri)
        offset = 0
        pieces = (data,) if isinstance(data, str | Buffer) else data
        for piece in _collected(_as_bytes(piece) for piece in pieces):
            self.send(place, piece, offset)
            offset += len(piece)
        if not offset:
            self.send(place, b"", 0)

    def write(self, uri: URL | str, data: Buffer, offset: int) -> None:
        """Write into a file that is there; beyond its end, the gap is filled with zeros.

        Raises:
            StorageNotFound: There is no such file.
            TypeError: It is text, of which only you know the encoding.

        Endpoint: PATCH /storage/…?op=WRITE
        """
        content = _as_bytes(data)
        if not content:
            raise ValueError("there is no data to write")
        self._write(self._location(uri), content, whole_number("offset", offset))

    def send(
        self,
        place: Location,
        content: bytes | Content,
        offset: int,
        *,
        retry: Retry = Retry.ALWAYS,
    ) -> None:
        """Write a part of a file; what begins at offset 0 replaces a file that is there.

        To write the same bytes at the same place twice changes nothing.
        """
        if offset:
            self._write(place, content, offset, retry=retry)
            return
        with missing(place.uri):
            self._transport.request(
                "PUT",
                place.url,
                query=[("op", "CREATE")],
                content=content,
                headers=OCTETS,
                retry=retry,
            )

    def _write(
        self,
        place: Location,
        content: bytes | Content,
        offset: int,
        *,
        retry: Retry = Retry.ALWAYS,
    ) -> None:
        size = len(content) if isinstance(content, bytes) else content.size
        headers = {**OCTETS, "Content-Range": f"bytes {offset}-{offset + size - 1}/*"}
        with missing(place.uri):
            self._transport.request(
                "PATCH",
                place.url,
                query=[("op", "WRITE")],
                content=content,
                headers=headers,
                retry=retry,
            )

    def open(self, uri: URL | str, offset: int = 0, size: int | None = None) -> FileContent:
        """Read a file, from an offset on and so many bytes of it, as an iterator of bytes.

        A connection that breaks is opened again where it ended.

        Raises:
            StorageNotFound: There is no such file.
            StorageIsDirectory: It is a folder.
            IllegalArgumentError: The file ends before the offset.

        Endpoint: GET /storage/…?op=OPEN
        """
        offset, size = whole_number("offset", offset), at_most("size", size)
        full, url = self._locate(uri)
        return FileContent(self._transport, self._clock, full, url, offset, size)

    def rm(
        self,
        uri: URL | str,
        *,
        recursive: bool = False,
        progress: AbstractDeleteProgress | None = None,
    ) -> None:
        """Remove a file, or with `recursive` a folder and all that is in it.

        Raises:
            StorageNotFound: There is nothing.
            StorageIsDirectory: It is a folder, and `recursive` was not given.

        Endpoint: DELETE /storage/…
        """
        full, url = self._locate(uri)
        query = [("op", "DELETE"), ("recursive", str(recursive).lower())]
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # Line by line also when nobody listens: a large tree takes its time.
                with missing(full), self._open(url, query, "DELETE", attempts=1) as lines:
                    for removed in read_models(lines, RemovedFile):
                        if progress is not None:
                            gone = build(full.scheme, full.host or "", removed.path)
                            progress.delete(StorageProgressDelete(gone, removed.is_dir))
                return
            except StorageNotFound:
                if attempt == 1:
                    raise
                return  # an earlier attempt has done it, and its answer was lost
            except StorageIsDirectory as error:
                text = f"{full} is a folder; recursive removes it, and all that is in it"
                raise StorageIsDirectory(text, payload=error.payload) from error
            except ConnectionFailed:
                if attempt == ATTEMPTS:
                    raise
            self._clock.sleep(DELAY * attempt)

    def mv(self, src: URL | str, dst: URL | str) -> None:
        """Rename or move a file or folder; a file, or an empty folder, that is there is replaced.

        Raises:
            StorageNotFound: There is nothing to move, or no folder to move it to.
            StorageError: It cannot be there: a folder in place of a file, or within itself.

        Endpoint: POST /storage/…?op=RENAME
        """
        full, url = self._locate(src)
        target, _ = self._locate(dst)
        if full.host != target.host:
            raise IllegalArgumentError(f"{full} and {target} are on different clusters")
        destination = path_of(target).encode("utf-8", "surrogateescape")
        query: Query = [("op", "RENAME"), ("destination", destination)]
        try:
            with missing(full):
                self._transport.request("POST", url, retry=Retry.NEVER, query=query)
        except StorageNotFound as error:
            self.stat(full)  # raises if that is what there is not
            text = f"there is no folder {_above(target)} to move {full} to"
            raise StorageNotFound(text, payload=error.payload) from error

    def glob(
        self, uri: URL | str, *, dironly: bool = False, names_first: bool = False
    ) -> Records[URL]:
        """Find what matches a pattern, with ``*``, ``?``, ``[…]``, and ``**`` for any depth.

        Names that begin with a dot match only a pattern that does. A pattern that ends with ``/``
        finds folders only. Without any of these marks, the address is yielded as it is, whether
        there is something or not. With `names_first`, a file or folder whose name is the pattern
        itself, such as ``run[1].csv``, is the only match.
        """
        # In an address a question mark begins a query; no pattern has one.
        pattern = str(uri).replace("?", "%3F")
        full, _ = self._locate(pattern)
        found: Iterator[URL] = iter([full])
        if has_magic(path_of(full)):
            root = build(full.scheme, full.host or "", "/")
            only = dironly or pattern.endswith("/")
            found = matches(self, root, _names(full), folders_only=only, names_first=names_first)
        if pattern.endswith("/"):
            found = (
                build(match.scheme, match.host or "", path_of(match).rstrip("/") + "/")
                for match in found
            )
        return Records(_Generated(found), found)

    def upload_file(
        self,
        src: Place,
        dst: URL | str,
        *,
        update: bool = False,
        continue_: bool = False,
        progress: AbstractFileProgress | None = None,
    ) -> None:
        """Copy a local file, to a name in a folder that is there.

        With `update` nothing is done if the file there is not older; with `continue_` a file there
        that is shorter, and not older, is taken for its beginning.

        Raises:
            OSError: The local file cannot be read.
            StorageIsDirectory: There is a folder of that name.
            StorageNotDirectory: There is no folder to put it in.
        """
        mode = Mode(update, continue_)
        report = reporter(progress or AbstractFileProgress())
        uploads.upload_file(self, local_path(src), self._location(dst), mode, report)

    def upload_dir(
        self,
        src: Place,
        dst: URL | str,
        *,
        update: bool = False,
        continue_: bool = False,
        filter: Filter | None = None,
        ignore_file_names: str | Iterable[str] = (".apoloignore", ".neuroignore"),
        progress: AbstractRecursiveFileProgress | None = None,
    ) -> None:
        """Copy what is in a local folder into one of the storage, which is made if it is missing.

        Eight files are copied at a time. `filter` is asked for each path below `src`, that of a
        folder with a ``/`` at its end. What the ignore files say, in `src`, the folders above it
        and below it, is left out; they are written as for git.

        Raises:
            CopyIncomplete: Some files could not be copied. All others were.
            OSError: `src` is no folder, or cannot be read.
        """
        ignore_files = strings("ignore_file_names", ignore_file_names)
        place = self._location(dst)
        mode = Mode(update, continue_)
        with self._lane(place) as lane, Crew(progress) as crew:
            copy = uploads.FolderUpload(self, crew, lane, mode, filter, ignore_files)
            copy.start(local_path(src), place)
            crew.run()

    def download_file(
        self,
        src: URL | str,
        dst: Place,
        *,
        update: bool = False,
        continue_: bool = False,
        progress: AbstractFileProgress | None = None,
    ) -> None:
        """Copy a file of the storage to a local one.

        It grows under another name beside it, and gets its own when it is whole. With
        `continue_`, what an earlier attempt has left is not fetched again, unless the source has
        changed since.

        Raises:
            StorageNotFound: There is no such file.
            StorageIsDirectory: It is a folder.
            OSError: The local file cannot be written.
        """
        place = self._location(src)
        status = self.stat(place.uri)
        mode = Mode(update, continue_)
        report = reporter(progress or AbstractFileProgress())
        downloads.download_file(self, place, status, local_path(dst), mode, report)

    def download_dir(
        self,
        src: URL | str,
        dst: Place,
        *,
        update: bool = False,
        continue_: bool = False,
        filter: Filter | None = None,
        progress: AbstractRecursiveFileProgress | None = None,
    ) -> None:
        """Copy what is in a folder of the storage into a local one, which is made if missing.

        Raises:
            CopyIncomplete: Some files could not be copied. All others were.
            StorageNotFound: There is no such folder.
        """
        place = self._location(src)
        mode = Mode(update, continue_)
        with self._lane(place) as lane, Crew(progress) as crew:
            copy = downloads.FolderDownload(self, crew, lane, mode, filter)
            copy.start(place, local_path(dst))
            crew.run()

    def _lane(self, place: Location) -> AbstractContextManager[Overlap | None]:
        """Return what copies small files, if there is nothing in its way."""
        return self._transport.overlap(place.url) or nullcontext()

    def _location(self, uri: URL | str) -> Location:
        full, url = self._locate(uri)
        return Location(url, lambda: full)

    def _locate(self, uri: URL | str) -> tuple[URL, str]:
        """Return the full address, and where the platform has it."""
        try:
            full = parse_address(str(uri), "storage")
        except ValueError as error:
            raise IllegalArgumentError(str(error)) from error
        config = self._config
        if not full.host:  # to look up what is current takes longer than all the rest
            full = complete(
                full,
                cluster=config.cluster_name,
                org=config.org_name,
                project=config.project_name,
            )
        cluster = config.cluster(full.host)
        path = "/".join(quote(name, safe="", errors="surrogateescape") for name in _names(full))
        return full, f"{cluster.storage_url.rstrip('/')}/{path}"

    def _open(
        self, url: str, query: Query, method: str = "GET", attempts: int | None = None
    ) -> Stream:
        return self._transport.stream(
            url, retry=Retry.ALWAYS, method=method, query=query, accept=NDJSON, attempts=attempts
        )

    def _note_time(self, sent: float, date: str | None) -> None:
        self.clock_skew = ClockSkew.seen(sent, time.time(), date) or self.clock_skew

    # Last in the class: below it, the word no longer means the type.
    def list(self, uri: URL | str = "storage:") -> Records[FileStatus]:
        """List what is in a folder, in no order, each as it comes; it is opened at the call.

        Raises:
            StorageNotFound: There is no such folder.
            StorageNotDirectory: It is a file.

        Endpoint: GET /storage/…?op=LISTSTATUS
        """
        full, url = self._locate(uri)
        sent = time.time()
        with missing(full):
            stream = self._open(url, [("op", "LISTSTATUS")])
        self._note_time(sent, stream.headers.get("Date"))
        found: Iterator[FileStatus]
        if stream.content_type == NDJSON:
            found = (line.status for line in read_models(stream, ListedFile))
        else:
            found = _whole_listing(stream)
        folder = str(full)
        return Records(stream, (status.within(folder) for status in found))


class _Generated:
    """Closes what a generator has open."""

    def __init__(self, generator: Iterator[T]) -> None:
        self._close: Callable[[], None] = getattr(generator, "close", lambda: None)

    def close(self) -> None:
        self._close()


def _whole_listing(stream: Stream) -> Iterator[FileStatus]:
    yield from FileListing.from_answer(b"".join(stream)).statuses.items


def _as_bytes(data: Buffer) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        text = f"bytes are needed, not {type(data).__name__}; those of a text are text.encode()"
        raise TypeError(text) from None


def _collected(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces, and leave large ones as they are."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= COLLECTED:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    if size:
        yield b"".join(waiting)


def _names(uri: URL) -> list[str]:
    return [name for name in path_of(uri).split("/") if name not in ("", ".")]


def _with_slash(uri: URL) -> URL:
    return build(uri.scheme, uri.host or "", path_of(uri).rstrip("/") + "/")


def _above(uri: URL) -> URL:
    return build(uri.scheme, uri.host or "", "/" + "/".join(_names(uri)[:-1]))
