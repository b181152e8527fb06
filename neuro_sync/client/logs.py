"""A job's log as lines, whatever happens to the connections below."""

from __future__ import annotations

import math
import queue
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NoReturn

from typing_extensions import Self

from neuro_sync.closing import CloseWhenDropped, Closing
from neuro_sync.errors import (
    APIError,
    ConnectionFailed,
    NeuroError,
    ServerError,
    StreamInterrupted,
)
from neuro_sync.models.jobs import JobDescription
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.deadlines import seconds_left
from neuro_sync.transport.stream import Stream

from .log_position import (
    NS_PER_S,
    LineBlocks,
    LogPosition,
    PositionLostError,
    line_time,
    nanoseconds,
)

MAX_FAILURES = 6
"""How often in a row a connection may fail without a new line in between."""
LASTING_CONNECTION_S = 5.0
"""A connection that breaks after so long did not fail, but end."""
MAX_RETRY_DELAY_S = 5.0
PART_DELAY_S = 0.25
"""Silence after which `LogLines.pieces` returns a line that has no newline yet."""
LIVE_SILENCE_S = 1.0
"""Silence of a live log after which all that was there has come."""
UNKNOWN_SILENCE_S = 5.0
"""The same where the platform does not say that its archive is through."""
FIRST_POLL_S = 2.0
"""Silence after which the job is asked for: is it over, or has it nothing to say?"""
MAX_POLL_INTERVAL_S = 30.0
REOPEN_SILENCE_S = 5.0
"""Silence after the end of the job after which an old connection is given up for a new one."""
ARCHIVE_DELAY_S = 10.0
"""Until then after a job's end its last lines may be on their way to the archive."""
PIECES_AHEAD = 256
"""How many pieces are read before somebody asks for them."""
MAX_CATCHING_UP_S = 10.0
"""How long a live log without a pause is believed to have been written before the call."""

_NOTES = re.compile(
    rb"^(?:(=== Live logs from since=)|~~~ |rpc error: code =|failed to try resolving"
    rb"|Unable to retrieve).*\n",
    re.MULTILINE,
)
"""Lines of the platform itself, which have no time; the first says that the live log begins."""


@dataclass(frozen=True)
class LogRequest:
    """What is wanted of a log."""

    since: datetime | None = None
    timestamps: bool = False
    tail: int | None = None
    follow: bool = True


@dataclass(frozen=True)
class LogSource:
    """Where a log comes from."""

    open: Callable[[datetime | None, str, bool], Stream]
    """Open it at a time, with a separator between archive and live log, and with notes or not."""
    job: Callable[[], JobDescription]
    """Ask what the job is like now."""
    silence_timeout: float
    """Seconds for which the log of a job that is over may be silent."""


class LogLines(Closing, Iterator[str]):
    """The lines of a log, each once and in order, until the job is over.

    A connection that ends while the job goes on is opened again where it ended. A thread reads
    ahead until the end, `close`, or the last reference to this object is gone.
    """

    def __init__(
        self, source: LogSource, wanted: LogRequest, clock: Clock, job: JobDescription | None = None
    ) -> None:
        """Open the log; a job that is known to be over is not asked for."""
        self._follower = _Follower(source, wanted, clock, job)
        self._batch: Iterator[str] = iter(())
        # Called by close(), and at once when a loop that was left drops this object: the follower
        # does not know it, so that nothing but its users keeps it alive.
        self._stop = CloseWhenDropped(self, self._follower.close)
        self._follower.open()

    @property
    def job(self) -> JobDescription | None:
        """The job at its end, once the platform has told it; None before that."""
        return self._follower.ended_job

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return self._next(parts=False).removesuffix("\n")

    def pieces(self) -> Iterator[str]:
        """Yield the lines with their newlines, and a line under way as far as it has come.

        Put together the pieces are what the job wrote. This is for terminals, where a progress bar
        is seen before its line is whole; the iteration itself yields whole lines only.
        """
        while True:
            try:
                yield self._next(parts=True)
            except StopIteration:
                return

    def _next(self, *, parts: bool) -> str:
        while True:
            for piece in self._batch:
                return piece
            try:
                self._batch = iter(self._follower.next_batch(parts=parts))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End the iteration and give the connection back; any thread may call it."""
        self._stop()


class _Phase(Enum):
    """How far a follower has come."""

    CATCHING_UP = "reading what was written before the call"
    FOLLOWING = "reading what is written"
    CONFIRMING = "the job is over: asking once more for lines that came late"
    ENDED = "there is no more"


class _Connection:
    """One opened log, and what came of it."""

    def __init__(self, stream: Stream, now: float, *, has_notes: bool) -> None:
        self.date = stream.date
        self.has_notes = has_notes
        """Whether the platform was asked to send lines of its own."""
        self.opened_at = now
        self.reader = _Reader(stream)
        self.blocks = LineBlocks()
        self.silent = 0.0
        """Seconds since something came."""
        self.next_poll = FIRST_POLL_S
        """Seconds of silence after which the job is asked for next."""
        self.has_lines = False
        self.has_new_lines = False
        self.has_separator = False
        """Whether the line between archive and live log has come."""
        self.is_live = False
        """Whether the platform has said that the archive is through."""

    def was_opened_after(self, end: datetime | None, by: float = 0.0) -> bool:
        """Return whether it was opened so many seconds after a time or later."""
        return end is not None and self.date is not None and self.date - end > timedelta(seconds=by)


class _Follower:
    """Reads one connection after the other.

    Only an end that the platform sent is an end. When it comes, the job is asked for; if it is
    over, the log is opened once more at its last lines, unless it was opened long after the end.
    """

    def __init__(
        self, source: LogSource, wanted: LogRequest, clock: Clock, job: JobDescription | None
    ) -> None:
        self.ended_job = job if job is not None and job.status.is_finished else None
        self._source = source
        self._clock = clock
        self._wanted = wanted
        self._closed = False
        needs_present = wanted.tail is not None or not wanted.follow
        # Of a job that is over all is there, and the platform ends it.
        self._phase = (
            _Phase.CATCHING_UP if needs_present and self.ended_job is None else _Phase.FOLLOWING
        )
        self._held: deque[str] | None = None if wanted.tail is None else deque(maxlen=wanted.tail)
        """The last lines, until it is known that no more were there."""
        self._position = LogPosition(wanted.since, keep_times=wanted.timestamps)
        # Any text of a job may look like a fixed one.
        self._separator = f"=== {secrets.token_hex(16)} ==="
        self._failures = 0
        self._retries = 0
        self._is_pending = False
        self._opened: _Connection | None = None
        self._opened_before = math.inf
        """Nanoseconds since 1970: a moment after the call, by the platform's clock."""
        self._opened_at = math.inf
        """The same moment by our clock."""

    def open(self) -> None:
        """Open the log before anything is returned: a missing job raises."""
        self._connect(self._wanted.since)
        opened = self._connection.date
        if opened is not None:
            self._opened_before = nanoseconds(opened + timedelta(seconds=1))
            self._opened_at = self._connection.opened_at

    def close(self) -> None:
        self._closed = True
        if self._opened is not None:
            self._opened.reader.close()

    @property
    def _connection(self) -> _Connection:
        assert self._opened is not None  # noqa: S101  # nothing is read before `open`
        return self._opened

    def next_batch(self, *, parts: bool) -> list[str]:
        """Return what comes next: lines with their newlines, and parts of lines if wanted.

        Raises:
            StopIteration: There is no more.
        """
        batch: list[str] = []
        while not batch:
            if self._closed or self._phase is _Phase.ENDED:
                raise StopIteration
            try:
                piece = self._connection.reader.get(wait := self._patience(parts=parts))
            except queue.Empty:
                batch = self._on_silence(wait, parts=parts)
            except (ConnectionFailed, ServerError) as cut:
                batch = self._on_cut(cut)
            else:
                batch = self._on_data(piece) if piece else self._on_end()
        return batch

    def _patience(self, *, parts: bool) -> float:
        """Return for how many seconds to wait before something has to be decided."""
        if parts and self._connection.silent < PART_DELAY_S and self._connection.blocks.rest:
            return PART_DELAY_S
        if self._phase is _Phase.CATCHING_UP or self.ended_job is not None:
            return min(LIVE_SILENCE_S, self._source.silence_timeout)
        return self._connection.next_poll - self._connection.silent

    def _on_data(self, piece: bytes) -> list[str]:
        self._connection.silent, self._connection.next_poll = 0.0, FIRST_POLL_S
        block = self._connection.blocks.feed(piece)
        if not block:
            return []
        self._connection.has_lines = True
        if not self._connection.has_separator:
            separator = self._separator.encode() + b"\n"
            before, found, after = block.partition(separator)
            if found:
                self._connection.has_separator = self._connection.is_live = True
                batch = self._on_lines(before)
                # One line may be on both sides.
                self._position.expect_overlap()
                return batch + self._on_lines(after)
        return self._on_lines(block)

    def _on_lines(self, block: bytes) -> list[str]:
        if not block:
            return []
        if self._phase is not _Phase.CATCHING_UP:
            notes = self._connection.has_notes
            return self._release(_NOTES.sub(b"", block) if notes else block)
        present, later = self._split_at_present(block)
        batch = self._release(present)
        if later is None:
            return batch
        batch += self._end_catching_up()
        return batch + self._release(later) if self._wanted.follow else batch

    def _split_at_present(self, block: bytes) -> tuple[bytes, bytes | None]:
        """Return what was written before the call, and if there is more the lines after that."""
        present: list[bytes] = []
        lines = [line + b"\n" for line in block[:-1].split(b"\n")]
        for number, line in enumerate(lines):
            time = line_time(line)
            if time is None and (note := _NOTES.match(line)):
                self._connection.is_live |= note[1] is not None
                continue
            present.append(line)
            if time is not None and self._was_written_after_call(time):
                return b"".join(present), b"".join(lines[number + 1 :])
        return b"".join(present), None

    def _was_written_after_call(self, time: int) -> bool:
        """Return whether a line of some time (ns) is younger than the call.

        A line from the future is an old one: the clock was set back since. If a live log goes on
        so for long, the job's machine has a clock that is ahead of the platform's.
        """
        elapsed = self._clock.now() - self._opened_at
        is_ahead = self._connection.is_live and elapsed > MAX_CATCHING_UP_S
        latest = math.inf if is_ahead else self._opened_before + elapsed * NS_PER_S
        return self._opened_before <= time <= latest

    def _release(self, block: bytes) -> list[str]:
        """Return the new lines of a block, or hold them."""
        new = self._position.read(block) if block else b""
        if not new:
            return []
        self._connection.has_new_lines = True
        self._failures = 0
        batch = _split(new)
        if self._held is None:
            return batch
        self._held.extend(batch)
        return []

    def _end_catching_up(self) -> list[str]:
        """Return the lines that were held; all that was written before the call has come."""
        held, self._held = self._held or (), None
        if self._wanted.follow:
            self._phase = _Phase.FOLLOWING
            return [*held]
        self._phase = _Phase.ENDED
        return [*held, *self._last_line()]

    def _last_line(self) -> list[str]:
        return _split(self._position.finish(self._connection.blocks.rest))

    def _on_silence(self, waited: float, *, parts: bool) -> list[str]:
        self._connection.silent += waited
        if self._phase is _Phase.CATCHING_UP:
            if self._is_all_there():
                return self._end_catching_up()
        elif (
            parts
            and self._held is None
            and (part := self._position.part(self._connection.blocks.rest))
        ):
            return [part.decode(errors="replace")]
        if self.ended_job is None and self._connection.silent >= self._connection.next_poll:
            self._connection.next_poll += min(self._connection.next_poll, MAX_POLL_INTERVAL_S)
            self._poll()
        limit = self._source.silence_timeout
        must_come = self.ended_job is not None or self._phase is _Phase.CATCHING_UP
        if self._is_superseded(min(REOPEN_SILENCE_S, limit)):
            self._phase = _Phase.CONFIRMING
            return self._reopen()
        if must_come and self._connection.silent >= limit:
            if self._connection.has_new_lines:
                return self._reopen()  # it hangs; another one may bring the rest
            state = "is over" if self.ended_job else "goes on"
            raise StreamInterrupted(
                f"the job {state}, but for {limit:g} s the platform has sent neither the rest of "
                "its log nor its end; read the log again later, or with a longer timeout"
            )
        return []

    def _is_superseded(self, patience: float) -> bool:
        """Return whether a connection that saw the job run is silent since the job is over.

        It may hang; a connection that is opened now comes to an end by itself.
        """
        return (
            self.ended_job is not None
            and self._phase is not _Phase.CONFIRMING
            and self._connection.silent >= patience
            and not self._connection.was_opened_after(self.ended_job.history.finished_at)
        )

    def _is_all_there(self) -> bool:
        """Return whether silence means that all has come that was written before the call."""
        if self.ended_job is not None:
            return False  # the platform will end it
        if self._connection.is_live:
            return self._connection.silent >= LIVE_SILENCE_S
        if self._connection.has_lines:
            return self._connection.silent >= UNKNOWN_SILENCE_S
        return self._is_pending

    def _poll(self) -> None:
        try:
            job = self._source.job()
        except (ConnectionFailed, ServerError):
            return  # its log may be well
        self._note(job)

    def _note(self, job: JobDescription) -> None:
        self._is_pending = job.status.is_pending
        if job.status.is_finished:
            self.ended_job = job

    def _on_end(self) -> list[str]:
        """Decide what the end of a connection means, which the platform sent."""
        job = self.ended_job
        if job is None:
            try:
                job = self._source.job()
            except (ConnectionFailed, ServerError) as error:
                return self._on_cut(error)
            self._note(job)
        if not job.status.is_finished:
            if self._phase is _Phase.CATCHING_UP:
                batch = self._end_catching_up()
                return batch + self._reopen() if self._wanted.follow else batch
            return self._reopen()
        if self._connection.was_opened_after(job.history.finished_at, ARCHIVE_DELAY_S) or (
            self._phase is _Phase.CONFIRMING and not self._connection.has_new_lines
        ):
            self._phase = _Phase.ENDED
            batch, held = self._last_line(), self._held
            if held is None:
                return batch
            held.extend(batch)
            return [*held]
        self._phase = _Phase.CONFIRMING
        return self._reopen()

    def _on_cut(self, cut: NeuroError) -> list[str]:
        if self._closed:
            return []
        if (
            not self._connection.has_new_lines
            and self._clock.now() - self._connection.opened_at < LASTING_CONNECTION_S
        ):
            self._failures += 1
            if self._failures > MAX_FAILURES:
                self._give_up(cut)
        return self._reopen()

    def _reopen(self) -> list[str]:
        """Open the log again at its last lines, with patience for a platform that restarts."""
        self._connection.reader.close()
        batch = _split(self._position.disconnect(self._connection.blocks.rest))
        fruitful = (
            self._connection.has_new_lines
            or self._clock.now() - self._connection.opened_at > LASTING_CONNECTION_S
        )
        self._retries = 0 if fruitful else self._retries + 1
        try:
            since = self._position.resume()
        except PositionLostError:
            raise StreamInterrupted(
                "the log broke off, and it cannot be told which lines were read already: the clock "
                "of the job's machine has gone back; read the log again from its beginning"
            ) from None
        while not self._closed:
            if self._retries or self._phase is not _Phase.CONFIRMING:
                delay = min(0.05 * 2**self._retries, MAX_RETRY_DELAY_S)
                self._clock.sleep(min(delay, seconds_left()))
            try:
                self._connect(since)
            except (ConnectionFailed, ServerError) as error:
                self._retries += 1
                self._failures += 1
                if self._failures > MAX_FAILURES:
                    self._give_up(error)
            except APIError as error:
                raise StreamInterrupted(f"the log broke off, and then: {error}") from error
            else:
                if self._closed:  # by another thread, while it was being opened
                    self._connection.reader.close()
                break
        return batch

    def _connect(self, since: datetime | None) -> None:
        with_notes = self._phase is _Phase.CATCHING_UP
        stream = self._source.open(since, self._separator, with_notes)
        self._opened = _Connection(stream, self._clock.now(), has_notes=with_notes)
        self._opened.reader.start()

    def _give_up(self, cut: NeuroError) -> NoReturn:
        raise StreamInterrupted(
            f"the log broke off {self._failures} times in a row without a new line, and the job is "
            "not over"
        ) from cut


def _split(text: bytes) -> list[str]:
    """Split at newlines alone, and keep them."""
    *lines, rest = text.decode(errors="replace").split("\n")
    batch = [line + "\n" for line in lines]
    return [*batch, rest] if rest else batch


class _Reader:
    """Reads a stream in a thread, so that whoever waits for a piece can stop waiting."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pieces: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        # Reading on without end would keep in memory what nobody may ever ask for.
        self._room = threading.Semaphore(PIECES_AHEAD)
        self._thread = threading.Thread(target=self._run, name="neuro-log", daemon=True)

    def start(self) -> None:
        """Begin to read, once somebody knows of the thread who can end it."""
        self._thread.start()

    def _run(self) -> None:
        try:
            for piece in self._stream:
                self._pieces.put(piece)
                self._room.acquire()
        except BaseException as error:  # noqa: BLE001  # the caller's thread raises it
            self._pieces.put(error)
        else:
            self._pieces.put(b"")

    def get(self, timeout: float) -> bytes:
        """Return the next piece; an empty one is the end that the platform sent.

        Raises:
            queue.Empty: Nothing came in time.
            ConnectionFailed: The stream was cut.
        """
        piece = self._pieces.get(timeout=timeout)
        self._room.release()
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def close(self) -> None:
        self._stream.close()
        self._room.release()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(1)
