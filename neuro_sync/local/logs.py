"""The log of one job: read it, follow it, with or without the time of each line."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from array import array
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

from .durable_files import create_file, make_one_folder, sync_folder

PIECE = 2**16
STAMP = struct.Struct(">QQ")
"""Place in the log, and nanoseconds since the epoch when the bytes from there on came.

The first byte of the place is the stream that they came from, the other seven are the offset.
"""
CROSSING = 10**9
"""Nanoseconds by which the times of two streams of a container may cross, and much more."""
RECORDS_AT_ONCE = 2**14
"""How many times are looked through before others have their turn."""
TAIL_BYTES = 2000
"""How much of a failed job's output becomes its description."""
EPOCH = datetime.fromtimestamp(0, timezone.utc)
OFFSET = 2**56 - 1
"""The bits of a place that are the offset."""


class Pulse:
    """Wakes all who wait for something to have changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def beat(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def watch(self) -> asyncio.Future[None]:
        """Return what the next beat fulfils; ask before you look, then nothing is missed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        waiter.add_done_callback(self._waiting.discard)
        return waiter


class JobLog:
    """Output in ``log``, its times in ``log.times``; `ended` once no more of it can come."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        self._times = folder / "log.times"
        self.pulse = Pulse()
        self.ended = False

    def create(self) -> None:
        """Make both files, so that there is something to follow before the first line."""
        make_one_folder(self._log.parent)
        for path in (self._log, self._times):
            with suppress(FileExistsError):
                os.close(create_file(path))

    @property
    def exists(self) -> bool:
        return self._log.exists()

    def end(self) -> None:
        """Note that no more output can come."""
        self.ended = True
        self.pulse.beat()

    async def until_ended(self) -> None:
        while not self.ended:
            await self.pulse.watch()

    async def follow(
        self, *, since: datetime | None = None, timestamps: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the log from its beginning, or from the first line not before `since`, to its end.

        While more may come it waits; a piece may end anywhere. Every line after that first one
        comes too, also one with an earlier time: the machine's clock may have been set back, and
        who goes on from the last line he has must not miss those that came later.
        """
        with (
            open(self._log, "rb", buffering=0) as log,
            open(self._times, "rb", buffering=0) as times,
        ):
            offset = 0
            if since is not None:
                start = (since - EPOCH) // timedelta(microseconds=1) * 1000
                offset = await self._wait_for_start(log, times, start)
            log.seek(offset)
            stamper = Stamper(times, offset) if timestamps else None
            async for piece in self._pieces(log):
                yield stamper.stamp(piece) if stamper else piece

    @property
    def size(self) -> int:
        """How many bytes there are by now."""
        return self._log.stat().st_size

    def tail(self) -> str:
        """Return the end of it, as it describes a job that failed."""
        with open(self._log, "rb") as file:
            file.seek(max(self.size - TAIL_BYTES, 0))
            return file.read().decode(errors="replace").strip()

    async def streams(
        self, offset: int, largest: int, is_over: Callable[[], bool]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield the log from an offset to its end, each piece with its stream.

        That is 1 for standard output and 2 for standard error; a terminal has only the first.
        `largest` is the size of a piece in bytes. Its end may also be told by `is_over`, and then
        by a beat of the pulse.
        """
        with (
            open(self._log, "rb", buffering=0) as log,
            open(self._times, "rb", buffering=0) as times,
        ):
            log.seek(offset)
            records = _Records(times, _first_record(times, offset) - 1)
            async for piece in self._pieces(log, largest, is_over):
                for stream, part in _by_stream(piece, offset, records):
                    yield stream, part
                offset += len(piece)

    async def _pieces(
        self, log: BinaryIO, largest: int = PIECE, is_over: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[bytes]:
        while True:
            change = self.pulse.watch()
            ended = self.ended or is_over()
            piece = log.read(largest)
            if piece:
                change.cancel()
                yield piece
                # A long log must not keep everybody else waiting.
                await asyncio.sleep(0)
            elif ended:
                change.cancel()
                return
            else:
                await change

    async def _wait_for_start(self, log: BinaryIO, times: BinaryIO, start: int) -> int:
        """Return where the first line begins that came at or after a time (ns)."""
        read = 0
        begin: int | None = None
        while True:
            change = self.pulse.watch()
            ended = self.ended
            records = _times_from(times, read)
            read += len(records)
            if begin is None and records and max(records) >= start:
                index = next(index for index, at in enumerate(records) if at >= start)
                begin = _offset_of(times, read - len(records) + index)
            if begin is not None and (offset := _line_from(log, begin)) is not None:
                change.cancel()
                return offset
            if begin is None and len(records) == RECORDS_AT_ONCE:
                change.cancel()
                # A long log must not keep everybody else waiting.
                await asyncio.sleep(0)
            elif ended:
                change.cancel()
                return log.seek(0, os.SEEK_END)
            else:
                await change


class LogWriter:
    """Appends to a job's log what the platform itself was told of it.

    A supervisor writes the same format for a process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._log = os.open(folder / "log", flags, 0o600)
        self._times = os.open(folder / "log.times", flags, 0o600)
        self.size = os.fstat(self._log).st_size
        records = self._drop_what_never_came()
        last = os.pread(self._times, STAMP.size, (records - 1) * STAMP.size) if records else b""
        self._latest: int = STAMP.unpack(last)[1] if last else 0

    def _drop_what_never_came(self) -> int:
        """Remove records that a platform wrote before it was killed; return how many are left.

        It writes the times of some bytes before the bytes, so that the end may be records of bytes
        that are not there, and half a record.
        """
        records = os.fstat(self._times).st_size // STAMP.size
        while records:
            place, _ = STAMP.unpack(os.pread(self._times, STAMP.size, (records - 1) * STAMP.size))
            if place & OFFSET < self.size:
                break
            records -= 1
        os.truncate(self._times, records * STAMP.size)
        return records

    def append(self, pieces: Iterable[tuple[int, int, bytes]]) -> None:
        """Append pieces of output: from which stream each came, when (ns), and its bytes."""
        stamps: list[bytes] = []
        output: list[bytes] = []
        for stream, time, data in pieces:
            # Streams are told apart by the engine, and their times may cross by a little. More than
            # that is a clock that was set back.
            if not 0 < self._latest - time < CROSSING:
                self._latest = time
            stamps.append(STAMP.pack(stream << 56 | self.size, self._latest))
            output.append(data)
            self.size += len(data)
        # The time first: a reader that sees the bytes finds their time.
        _write(self._times, b"".join(stamps))
        _write(self._log, b"".join(output))

    def count(self, begin: int) -> Counter[int]:
        """Return how many bytes of each stream there are from an offset on."""
        found: Counter[int] = Counter()
        at, stream = begin, 1
        with open(self._times, "rb", closefd=False) as times:
            times.seek(0)
            while data := times.read(STAMP.size * 4096):
                for place, _ in STAMP.iter_unpack(data):
                    offset = min(max(place & OFFSET, begin), self.size)
                    found[stream] += offset - at
                    at, stream = offset, place >> 56 or 1
        found[stream] += self.size - at
        return found

    def sync(self) -> None:
        """Bring to the disk what was appended."""
        for file in (self._log, self._times):
            os.fsync(file)
        for folder in (self._folder, self._folder.parent):
            sync_folder(folder)

    def close(self) -> None:
        os.close(self._log)
        os.close(self._times)


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


class Stamper:
    """Puts the time before each line of a log that is read piece by piece."""

    def __init__(self, times: BinaryIO, offset: int) -> None:
        self._offset = offset
        self._times = _Times(times)
        self._at_line_start = True

    def stamp(self, piece: bytes) -> bytes:
        parts: list[bytes] = []
        for line in piece.splitlines(keepends=True) if b"\r" not in piece else _lines(piece):
            if self._at_line_start:
                parts.append(self._times.prefix(self._offset))
            parts.append(line)
            self._offset += len(line)
            self._at_line_start = line.endswith(b"\n")
        return b"".join(parts)


class _Times:
    """Formats the time at which each line came."""

    def __init__(self, file: BinaryIO) -> None:
        self._records = _Records(file)
        self._formatted = 0
        self._prefix = _format(0)

    def prefix(self, offset: int) -> bytes:
        """Return the time at which the byte at an offset came, as it stands before a line."""
        records = self._records
        if records.end is None or records.end <= offset:
            records.advance(offset)
        if records.time != self._formatted:
            self._prefix, self._formatted = _format(records.time), records.time
        return self._prefix


class _Records:
    """Reads ``log.times`` forwards; between two records the earlier one holds."""

    def __init__(self, file: BinaryIO, index: int = 0) -> None:
        """Begin with a record, given by its number."""
        self.stream = 1
        self.time = 0
        self.end: int | None = None
        """The offset up to which the record holds, if the next one was read already."""
        self._file = file
        self._file.seek(max(index, 0) * STAMP.size)
        self._records: Iterator[tuple[int, ...]] = iter(())
        self._next: tuple[int, ...] | None = None

    def advance(self, offset: int) -> None:
        """Go to the record that holds at an offset, which is not before the last one asked for."""
        while True:
            if self._next is None:
                self._next = next(self._records, None) or self._refill()
            if self._next is None:
                self.end = None
                return
            self.end = self._next[0] & OFFSET
            if self.end > offset:
                return
            # What was written before there were streams has a zero.
            self.stream = self._next[0] >> 56 or 1
            self.time = self._next[1]
            self._next = None

    def _refill(self) -> tuple[int, ...] | None:
        data = self._file.read(STAMP.size * 4096)
        whole = len(data) - len(data) % STAMP.size
        if whole < len(data):  # the writer is at it; the rest is read the next time
            self._file.seek(whole - len(data), os.SEEK_CUR)
        self._records = STAMP.iter_unpack(data[:whole])
        return next(self._records, None)


def _by_stream(piece: bytes, offset: int, records: _Records) -> Iterator[tuple[int, bytes]]:
    """Split a piece, which begins at an offset, where its stream changes."""
    begin = at = 0
    stream: int | None = None
    while at < len(piece):
        records.advance(offset + at)
        if stream is not None and records.stream != stream:
            yield stream, piece[begin:at]
            begin = at
        stream = records.stream
        at = len(piece) if records.end is None else records.end - offset
    if stream is not None:
        yield stream, piece[begin:]


def _format(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(nanoseconds, 10**9)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09}Z ".encode()


def _lines(piece: bytes) -> list[bytes]:
    """Split at newlines alone, and keep them."""
    *lines, last = piece.split(b"\n")
    return [*(line + b"\n" for line in lines), *([last] if last else [])]


def _times_from(times: BinaryIO, index: int) -> array[int]:
    """Return when pieces came (ns), from the one of this number on; they may go back.

    The last record may be in the making, and is left out then.
    """
    times.seek(index * STAMP.size)
    data = times.read(RECORDS_AT_ONCE * STAMP.size)
    numbers = array("Q", data[: len(data) - len(data) % STAMP.size])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers[1::2]


def _offset_of(times: BinaryIO, index: int) -> int:
    """Return where the piece of a number begins."""
    times.seek(index * STAMP.size)
    return int(STAMP.unpack(times.read(STAMP.size))[0]) & OFFSET


def _line_from(log: BinaryIO, offset: int) -> int | None:
    """Return where the first line begins that does not begin before an offset, if it has."""
    if offset == 0:
        return 0
    log.seek(offset - 1)
    while piece := log.read(PIECE):
        end = piece.find(b"\n")
        if end >= 0:
            # The newline itself may be the byte before: then the line begins at the offset.
            return log.tell() - len(piece) + end + 1
    return None


def _first_record(times: BinaryIO, offset: int) -> int:
    """Return the number of the first record that is not before an offset.

    Found by halving; if there is none it is the number of records.
    """
    low, high = 0, os.fstat(times.fileno()).st_size // STAMP.size
    while low < high:
        middle = (low + high) // 2
        if _offset_of(times, middle) < offset:
            low = middle + 1
        else:
            high = middle
    return low
