"""Files of the platform's storage: what they are, how much room there is, what a copy reports."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from pydantic import Field, SkipValidation, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import Self
from yarl import URL

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


def _is_none(value: object) -> bool:
    return value is None


class _Named(Model):
    """What holds a file's name, which may have bytes that are no text.

    They come as lone surrogates, which are JSON for Python and not for pydantic. Such an answer
    is read as one that has to be repaired.
    """

    @classmethod
    def _from_value(cls, value: object) -> Self:
        return cls.model_validate(value, extra="ignore", context=ANSWER)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Read JSON, in which a name may have lone surrogates."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError:
            text = json_data if isinstance(json_data, str) else json_data.decode(errors="replace")
            if not re.search(r"(?i)\\ud[89a-f]", text):
                raise
            with suppress(json.JSONDecodeError, RecursionError):
                return cls.model_validate(json.loads(text), **options)
            raise

    def model_dump_json(self, **options: Any) -> str:
        """Return JSON, in which a name may have lone surrogates."""
        try:
            return super().model_dump_json(**options)
        except PydanticSerializationError:
            indent = options.pop("indent", None)
            return json.dumps(self.model_dump(mode="json", **options), indent=indent)


class FileStatus(_Named):
    """A file or folder of the storage."""

    path: Annotated[str, SkipValidation]  # it may hold bytes that are no text, as surrogates
    """As the platform tells it: in a listing the name alone."""
    type: FileStatusType = FileStatusType.UNKNOWN
    size: Annotated[int, Field(alias="length")]
    """Bytes; 0 of a folder."""
    modification_time: Annotated[int, Field(alias="modificationTime")]
    """Seconds since 1970, by the platform's clock."""
    permission: Action = Action.READ
    """The most that the caller may do with it."""
    target: str | None = None
    """Where a link points, if the platform tells."""
    # The client knows them, and they are not on the wire. A listing has one text for the folder of
    # all its files, since to build each address takes longer than all the rest of reading it.
    location: Annotated[str | None, Field(alias="uri", repr=False, exclude_if=_is_none)] = None
    folder: Annotated[str | None, Field(repr=False, exclude_if=_is_none)] = None

    def at(self, uri: URL) -> Self:
        """Set the address that it has."""
        self.__dict__["location"] = str(uri)
        return self

    def within(self, folder: str) -> Self:
        """Set the address of the folder that it is in."""
        self.__dict__.update(folder=folder, location=None)
        return self

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @cached_property
    def uri(self) -> URL:
        """Its full address."""
        if self.location is not None:
            return URL(self.location, encoded=True)
        return child(URL(self.folder or "storage:", encoded=True), self.name)

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
    free: Annotated[
        int, Field(default_factory=lambda data: data.get("total", 0) - data.get("used", 0))
    ]
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
    is_dir: bool = False


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
