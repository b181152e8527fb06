"""Files of the platform's storage: what they are, how much room there is, what a copy reports."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, NamedTuple

from pydantic import Field, SkipValidation
from typing_extensions import Self
from yarl import URL

from neuro_sync.errors import ProtocolError

from .base import ANSWER, Model
from .uris import AsGiven, build, path_of
from .users import Action


class FileStatusType(str, Enum):
    """What something in the storage is."""

    FILE = "FILE"
    DIRECTORY = "DIRECTORY"
    SYMLINK = "SYMLINK"
    """A link that a job has made; the storage tells of it and never follows it."""
    UNKNOWN = "UNKNOWN"
    """A device, a pipe, or what this version has never heard of."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, _: object) -> FileStatusType:
        return cls.UNKNOWN


class _Named(Model):
    """What holds a file's name, which may have bytes that are no text.

    They come as lone surrogates, which are JSON for Python and not for pydantic.
    """

    @classmethod
    def from_answer(cls, body: bytes | str) -> Self:
        try:
            return super().from_answer(body)
        except ProtocolError:
            if not re.search(rb"(?i)\\ud[89a-f]", body.encode() if isinstance(body, str) else body):
                raise
            try:
                return cls.model_validate(json.loads(body), extra="ignore", context=ANSWER)
            except (ValueError, RecursionError) as error:
                raise ProtocolError(f"the platform's answer is no {cls.__name__}") from error


class FileStatus(Model):
    """A file or folder of the storage."""

    path: Annotated[str, SkipValidation]  # it may hold bytes that are no text, as surrogates
    """As the platform tells it: in a listing the name alone."""
    type: FileStatusType
    size: Annotated[int, Field(alias="length")]
    """Bytes; 0 of a folder."""
    modification_time: Annotated[int, Field(alias="modificationTime")]
    """Seconds since 1970, by the platform's clock."""
    permission: Action = Action.READ
    """The most that the caller may do with it."""
    target: str | None = None
    """Where a link points, if the platform tells."""

    _uri: URL | None = None
    _folder: URL | None = None

    def at(self, uri: URL) -> Self:
        """Say at which address it is."""
        self._uri = uri
        return self

    def within(self, folder: URL) -> Self:
        """Say in which folder it is."""
        self._folder = folder
        return self

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def uri(self) -> URL:
        """Its full address."""
        # Built when somebody asks, since that takes longer than all the rest of reading a listing.
        if self._uri is None:
            self._uri = child(self._folder or URL("storage:"), self.name)
        return self._uri

    def is_file(self) -> bool:
        return self.type is FileStatusType.FILE

    def is_dir(self) -> bool:
        return self.type is FileStatusType.DIRECTORY

    def is_symlink(self) -> bool:
        return self.type is FileStatusType.SYMLINK


class ListedFile(_Named):
    """A line of a listing, or the answer about one file."""

    status: Annotated[FileStatus, Field(alias="FileStatus")]


class DiskUsageInfo(Model):
    """How full the file system is that holds a folder or file, in bytes."""

    total: int
    used: int
    free: int
    cluster_name: str = ""
    org_name: str | None = None
    project_name: str | None = None
    uri: Annotated[URL | None, AsGiven()] = None


class FileListing(_Named):
    """A whole listing, from a platform that does not send it line by line."""

    class Statuses(Model):
        items: Annotated[tuple[FileStatus, ...], Field(alias="FileStatus")] = ()

    statuses: Annotated[Statuses, Field(alias="FileStatuses")]


class RemovedFile(_Named):
    """A line of what a removal reports."""

    path: Annotated[str, SkipValidation]
    is_dir: bool


class ByteRange(NamedTuple):
    """The bytes from one offset up to, and without, another."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @classmethod
    def from_header(cls, value: str | None, size: int) -> ByteRange:
        """Read a ``Range`` header of one range; without one, all is meant.

        Raises:
            ValueError: The file has nothing of that.
        """
        if value is None:
            return cls(0, size)
        found = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", value.strip(), re.ASCII)
        if not found:
            raise ValueError(f"{value!r} is no single range of bytes")
        first, last, suffix = found.groups()
        if suffix is not None:
            wanted = cls(max(size - int(suffix), 0), size)
        else:
            wanted = cls(int(first), min(int(last) + 1, size) if last else size)
        if wanted.length <= 0:
            raise ValueError(f"{value!r} of a file of {size} bytes")
        return wanted


def child(folder: URL, name: str) -> URL:
    """Return the address of something in a folder, whatever characters its name has."""
    host, path = folder.host or "", path_of(folder).rstrip("/")
    return build(folder.scheme, host, f"{path}/{name}" if path or host else name)


# What a copy reports while it is under way. The names are those of the official client.


@dataclass(frozen=True)
class StorageProgressStart:
    """A file begins."""

    src: URL
    dst: URL
    size: int


@dataclass(frozen=True)
class StorageProgressStep:
    """Some more of a file is there."""

    src: URL
    dst: URL
    current: int
    size: int


@dataclass(frozen=True)
class StorageProgressComplete:
    """A file is whole."""

    src: URL
    dst: URL
    size: int


@dataclass(frozen=True)
class StorageProgressEnterDir:
    """A folder begins."""

    src: URL
    dst: URL


@dataclass(frozen=True)
class StorageProgressLeaveDir:
    """All that is in a folder is there."""

    src: URL
    dst: URL


@dataclass(frozen=True)
class StorageProgressFail:
    """A file or folder cannot be copied, or is neither, so it is left out."""

    src: URL
    dst: URL
    message: str


@dataclass(frozen=True)
class StorageProgressDelete:
    """Something was removed."""

    uri: URL
    is_dir: bool


class AbstractFileProgress:
    """What is told of a file's copy; override what you want to hear."""

    def start(self, data: StorageProgressStart) -> None:
        """Hear that a file begins."""

    def step(self, data: StorageProgressStep) -> None:
        """Hear how much of it is there."""

    def complete(self, data: StorageProgressComplete) -> None:
        """Hear that it is whole."""


class AbstractRecursiveFileProgress(AbstractFileProgress):
    """What is told of a folder's copy, besides its files."""

    def enter(self, data: StorageProgressEnterDir) -> None:
        """Hear that a folder begins."""

    def leave(self, data: StorageProgressLeaveDir) -> None:
        """Hear that all in a folder is there."""

    def fail(self, data: StorageProgressFail) -> None:
        """Hear what is left out, and why; the copy goes on."""


class AbstractDeleteProgress:
    """What is told of a removal."""

    def delete(self, data: StorageProgressDelete) -> None:
        """Hear what was removed."""
