"""A job's log as lines, whatever happens to the connections below."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NoReturn

from typing_extensions import Self

from neuro_sync.closing import CloseWhenDropped, Closing
from neuro_sync.errors import APIError, ConnectionFailed, NeuroError, ServerError, StreamInterrupted
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.stream import LineSplitter, Stream

MOST_FAILURES = 6
"""How often in a row a stream may break without a new line in between."""
LASTING = 5.0
"""Seconds after which a connection that breaks did not fail, but end."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries to open a log again."""
UNFINISHED_LINE_DELAY = 0.25
"""Seconds of silence after which a line is handed out before its newline came."""
PRESENT_ENDS = 1.0
"""Seconds of silence after which what was there counts as read."""
SILENCE_CHECK = 2.0
"""Seconds of silence after which the job is asked for: is it over, or has it nothing to say?"""
PIECES_AHEAD = 256
"""How many pieces are read before somebody asks for them."""


@dataclass(frozen=True)
class LogRequest:
    """What is wanted of a log."""

    since: str | None = None
    timestamps: bool = False
    tail: int | None = None
    follow: bool = True


class LogLines(Closing, Iterator[str]):
    """The lines of a log, each once and in order, until the job is over.

    A connection that ends while the job goes on is opened again where it ended. A line that stays
    unfinished for a moment, such as a progress bar, is handed out as far as it came, and its rest
    later.

    A thread reads ahead until the end, `close`, or the last reference to this object is gone.
    """

    def __init__(
        self,
        open_stream: Callable[[str | None], Stream],
        is_finished: Callable[[], bool],
        wanted: LogRequest,
        clock: Clock,
    ) -> None:
        follower = _Follower(open_stream, is_finished, wanted, clock)
        self._is_amid_line = False
        # Called by close(), and at once when a loop that was left drops this object: the follower
        # does not know it, so that nothing but its users keeps it alive.
        self._stop = CloseWhenDropped(self, follower.close)
        follower.open()
        self._pieces = follower.pieces()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while True:
            piece = self._next_piece()
            completes, self._is_amid_line = self._is_amid_line, not piece.endswith("\n")
            # A newline alone may be all that was lacking of a line that was handed out before.
            if piece != "\n" or not completes:
                return piece.removesuffix("\n")

    def pieces(self) -> Iterator[str]:
        """Return the same with its newlines: put together it is what the job wrote."""
        return iter(self._next_piece, None)

    def _next_piece(self) -> str:
        try:
            return next(self._pieces)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the iteration and give the connection back; any thread may call it."""
        self._stop()


class _Follower:
    """Reads one connection after the other, and knows what was handed out."""

    def __init__(
        self,
        open_stream: Callable[[str | None], Stream],
        is_finished: Callable[[], bool],
        wanted: LogRequest,
        clock: Clock,
    ) -> None:
        self._open_stream = open_stream
        self._is_finished = is_finished
        self._wanted = wanted
        self._clock = clock
        self._closed = False
        self._present_read = False
        self._position = _Position(wanted.since or "", with_stamp=wanted.timestamps)
        self._opened_before = ""
        self._pump: _Pump | None = None

    def open(self) -> None:
        """Open the log before anything is returned: a missing job raises."""
        stream = self._open_stream(self._wanted.since)
        self._opened_before = stream.opened_before
        self._pump = _Pump(stream)
        self._pump.start()

    def close(self) -> None:
        self._closed = True
        if self._pump is not None:
            self._pump.close()

    def pieces(self) -> Iterator[str]:
        """Yield what was asked for: lines with their newlines, and parts of lines."""
        pieces = self._follow()
        if self._wanted.tail is not None:
            held: deque[str] = deque(maxlen=self._wanted.tail)
            for piece in pieces:
                if piece is None:
                    break
                held.append(piece)
            yield from held
        for piece in pieces:
            if piece is not None:
                yield piece

    def _follow(self) -> Iterator[str | None]:
        """Yield pieces; and None, once, when all that was there at the beginning was read."""
        rounds = 0
        while True:
            before, opened = self._position.last, self._clock.now()
            splitter = LineSplitter()
            cut: NeuroError | None = None
            try:
                hung = yield from self._read(splitter)
                if hung and self._position.last != before:
                    finished = False  # the rest may come by another connection
                else:
                    finished = hung or self._closed or self._at_end() or self._is_finished()
            except (ConnectionFailed, ServerError) as error:
                finished, cut = self._closed, error
            if finished:
                if splitter.rest and not self._closed:
                    yield from self._unseen([splitter.rest], newline="")
                return
            # A connection that brought something, or lasted, is no sign of trouble; one that only
            # ended early is none either: some platforms do so while a job is pending.
            fruitful = self._position.last != before or self._clock.now() - opened > LASTING
            rounds = 0 if fruitful else rounds + 1
            if cut is not None and rounds > MOST_FAILURES:
                self._give_up(rounds, cut)
            self._clock.sleep(min(0.05 * 2**rounds, LONGEST_PAUSE))
            self._reopen()

    def _read(self, splitter: LineSplitter) -> Generator[str | None, None, bool]:
        """Yield the pieces of one connection until it ends, or no more are wanted.

        Returns whether it is still open, although the job is over and nothing comes.
        """
        silent = 0.0
        over = False
        while True:
            patience = UNFINISHED_LINE_DELAY if silent < PRESENT_ENDS else SILENCE_CHECK
            try:
                assert self._pump is not None  # noqa: S101  # it was opened
                piece = self._pump.get(patience)
            except Empty:
                silent += patience
                yield from self._unfinished(splitter)
                if over:
                    return True
                if silent > SILENCE_CHECK:
                    over = self._is_finished()
            else:
                if not piece:
                    return False
                silent = 0.0
                yield from self._unseen(splitter.feed(piece))
            if not self._present_read and (
                silent >= PRESENT_ENDS or self._position.last[0] >= self._opened_before
            ):
                self._present_read = True
                yield None
            if self._at_end():
                return False

    def _at_end(self) -> bool:
        """Tell whether no more is wanted, although more may come."""
        return self._present_read and not self._wanted.follow

    def _reopen(self) -> None:
        """Open the log again at the last line, with patience for a platform that restarts."""
        if self._pump is not None:
            self._pump.close()
        failures = 0
        while not self._closed:
            try:
                stream = self._open_stream(self._position.resume())
            except (ConnectionFailed, ServerError) as error:
                failures += 1
                if failures > MOST_FAILURES:
                    self._give_up(failures, error)
                self._clock.sleep(min(0.05 * 2**failures, LONGEST_PAUSE))
            except APIError as error:
                raise StreamInterrupted(f"the log broke off, and then: {error}") from error
            else:
                self._pump = _Pump(stream)
                self._pump.start()
                if self._closed:  # by another thread, while it was being opened
                    self._pump.close()
                return

    def _give_up(self, times: int, cut: NeuroError) -> NoReturn:
        raise StreamInterrupted(
            f"the log broke off {times} times in a row without a new line, and the job is not over"
        ) from cut

    def _unseen(self, lines: Iterable[bytes], newline: str = "\n") -> Iterator[str]:
        for line in lines:
            text = self._position.take(line)
            if text is not None and (text or newline):
                yield text.decode(errors="replace") + newline

    def _unfinished(self, splitter: LineSplitter) -> Iterator[str]:
        text = self._position.take_part(splitter.rest)
        if text:
            yield text.decode(errors="replace")


class _Position:
    """What of a log was handed out already.

    The time of each line is the only mark of position that a platform knows, so every line is
    asked for with it; lines of the same microsecond are told apart by counting them. An archive
    writes the same times with fewer digits than the live log.
    """

    STAMPED = re.compile(
        rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|[+-]\d\d:\d\d)? ", re.ASCII
    )

    def __init__(self, since: str, *, with_stamp: bool) -> None:
        self.last = (since, 0)
        """The time of the last whole line, and how many of that time there were."""
        self._with_stamp = with_stamp
        self._repeats = 0
        self._part = 0
        """Bytes of the line after the last one that were handed out before it was whole."""

    def resume(self) -> str | None:
        """Return the time to ask for; the lines that are sent again will be passed over."""
        stamp, self._repeats = self.last
        return stamp or None

    def take(self, line: bytes) -> bytes | None:
        """Return what of a whole line is new; None if it was handed out with its newline before."""
        text = self._new_text(line)
        if text is None:
            return None
        match = self.STAMPED.match(line)
        if match is not None:
            stamp = self._stamp(match)
            last, count = self.last
            self.last = (stamp, count + 1 if stamp == last else 1)
        rest, self._part = text[self._part :], 0
        return rest

    def take_part(self, line: bytes) -> bytes:
        """Return what is new of a line that is not whole yet, in whole characters."""
        if self.STAMPED.match(line) is None:
            return b""
        repeats = self._repeats
        text = self._new_text(line)
        self._repeats = repeats  # it is not passed yet
        if text is None:
            return b""
        text = _whole_characters(text)
        part, self._part = text[self._part :], max(len(text), self._part)
        return part

    def _new_text(self, line: bytes) -> bytes | None:
        match = self.STAMPED.match(line)
        if match is None:
            return line
        stamp = self._stamp(match)
        last, _ = self.last
        if stamp < last:
            return None
        if stamp == last and self._repeats:
            self._repeats -= 1
            return None
        return line if self._with_stamp else line[match.end() :]

    @staticmethod
    def _stamp(match: re.Match[bytes]) -> str:
        return f"{match[1].decode()}.{(match[2] or b'').decode()[:6]:0<6}+00:00"


def _whole_characters(text: bytes) -> bytes:
    """Leave out the beginning of a character whose other bytes have not come yet."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:  # the first byte of a character tells how many there are
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if length > back else text
        if byte < 0x80:
            break
    return text


class _Pump:
    """Reads a stream in a thread, so that whoever waits for a piece can stop waiting."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pieces: SimpleQueue[bytes | ConnectionFailed] = SimpleQueue()
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
        except ConnectionFailed as error:
            self._pieces.put(error)
        self._pieces.put(b"")

    def get(self, timeout: float) -> bytes:
        """Return the next piece; an empty one is the end.

        Raises:
            Empty: Nothing came in time.
            ConnectionFailed: The stream was cut.
        """
        piece = self._pieces.get(timeout=timeout)
        self._room.release()
        if isinstance(piece, ConnectionFailed):
            raise piece
        return piece

    def close(self) -> None:
        self._stream.close()
        self._room.release()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(1)
