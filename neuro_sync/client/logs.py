"""A job's log as lines, whatever happens to the connections below."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from typing_extensions import Self

from neuro_sync.errors import ConnectionFailed, NeuroError, StreamInterrupted
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.stream import LineSplitter, Stream

_STAMPED = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|[+-]\d\d:\d\d)? ", re.ASCII
)

MOST_FAILURES = 6
"""How often in a row a stream may break without a new line in between."""


class LogLines(Iterator[str]):
    """The lines of a log, each once and in order, until the job is over.

    A connection that ends while the job goes on is opened again at the last line that was handed
    out. Every line is asked for with its time, since that is the only mark of position a
    platform knows; lines of the same microsecond are told apart by counting them.
    """

    def __init__(
        self,
        open_stream: Callable[[str | None], Stream],
        is_finished: Callable[[], bool],
        *,
        since: str | None,
        timestamps: bool,
        clock: Clock,
    ) -> None:
        self._open_stream = open_stream
        self._is_finished = is_finished
        self._timestamps = timestamps
        self._clock = clock
        self._last: tuple[str, int] = (since or "", 0)
        self._repeats = 0
        self._closed = False
        self._stream = open_stream(since)  # before it is returned: a missing job raises now
        self._lines = self._follow()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._lines)

    def close(self) -> None:
        """End the iteration and give the connection back; any thread may call it."""
        self._closed = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _follow(self) -> Iterator[str]:
        failures = 0
        while True:
            before = self._last
            splitter = LineSplitter()
            cut: NeuroError | None = None
            try:
                for piece in self._stream:
                    yield from self._unseen(splitter.feed(piece))
                finished = self._closed or self._is_finished()
            except ConnectionFailed as error:
                finished, cut = self._closed, error
            if finished:
                if splitter.rest and not self._closed:
                    yield from self._unseen([splitter.rest])
                return
            failures = 0 if self._last != before else failures + 1
            failures = self._reopen(failures, cut)

    def _reopen(self, failures: int, cut: NeuroError | None) -> int:
        """Open the log again at the last line; return how often that failed so far."""
        stamp, self._repeats = self._last
        while failures <= MOST_FAILURES:
            self._clock.sleep(min(0.05 * 2**failures, 5.0))
            try:
                self._stream = self._open_stream(stamp or None)
            except ConnectionFailed as error:
                cut = error
                failures += 1
            else:
                if self._closed:  # by another thread, while it was being opened
                    self._stream.close()
                return failures
        raise StreamInterrupted(
            f"the log broke off {failures} times in a row without a new line, "
            "and the job is not over"
        ) from cut

    def _unseen(self, lines: Iterable[bytes]) -> Iterator[str]:
        """Yield the lines after the last one; what a resumed stream repeats is passed over."""
        for line in lines:
            match = _STAMPED.match(line)
            if match is None:
                yield line.decode(errors="replace")
                continue
            last, count = self._last
            stamp = f"{match[1].decode()}.{(match[2] or b'').decode()[:6]:0<6}+00:00"
            if stamp < last:
                continue
            if stamp == last and self._repeats:
                self._repeats -= 1
                continue
            self._last = (stamp, count + 1 if stamp == last else 1)
            text = line if self._timestamps else line[match.end() :]
            yield text.decode(errors="replace")
