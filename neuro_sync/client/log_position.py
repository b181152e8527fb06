"""What of a log was read already. Bytes in, new bytes out: no socket, clock or thread.

The time of a line is the only mark of position that a platform knows, and it is a weak one. An
archive rounds times to microseconds where the live log has nanoseconds; two output streams, or a
clock that is set back, make times go backwards; many lines share one time. So times are used for
one thing only: after a log was opened again, to recognize the lines that are sent a second time. A
line is one of those if a line of the same text and nearly the same time was read before.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from operator import neg
from typing import NamedTuple

NS_PER_S = 10**9
TIME_TOLERANCE_NS = 1_500
"""How much an archived time may differ: it was rounded to microseconds, through a float."""
OVERLAP_NS = 3 * NS_PER_S
"""How much of a log is asked for again; it covers lines whose times are out of order."""
SETTLED_NS = NS_PER_S
"""A line that is so much later than all that was read before is not sent a second time."""
REMEMBERED_BYTES = 2**23
"""Bytes of the newest lines that are kept to recognize them."""

STAMP = re.compile(
    rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)? ", re.ASCII | re.MULTILINE
)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class PositionLostError(Exception):
    """More was written since the time to ask for than is remembered."""


class LineBlocks:
    """Cuts bytes that come in pieces of any size after their last newline."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []

    def feed(self, piece: bytes) -> bytes:
        """Return the lines that a piece completes, with their newlines; mostly more than one."""
        cut = piece.rfind(b"\n") + 1
        if not cut:
            self._pending.append(piece)
            return b""
        block = piece[:cut]
        if self._pending:
            block = b"".join([*self._pending, block])
        self._pending = [piece[cut:]] if cut < len(piece) else []
        return block

    @property
    def rest(self) -> bytes:
        """What came after the last newline."""
        return b"".join(self._pending)


class LogPosition:
    """Leaves out the lines that were read before, takes off times, and remembers what it read."""

    def __init__(
        self,
        since: datetime | None = None,
        *,
        keep_times: bool = False,
        remembered_bytes: int = REMEMBERED_BYTES,
    ) -> None:
        self._since = None if since is None else nanoseconds(since)
        self._keep_times = keep_times
        self._limit = remembered_bytes
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._forgotten_until: int | None = None
        """The latest time in what is no longer remembered."""
        self._shown = 0
        """Bytes of the text of the line under way that were returned by `part`."""
        self._carried: _Unfinished | None = None
        """The line that an earlier connection did not finish."""
        # Some sources know whole seconds only, and begin with lines before `since`.
        self._overlap = None if self._since is None else _Overlap((), self._since)

    def read(self, block: bytes) -> bytes:
        """Return what is new of a block of whole lines.

        Of a line whose beginning was returned by `part`, that is the remainder.
        """
        if self._overlap is None and self._carried is None and not self._shown:
            self._remember(block)
            return block if self._keep_times else STAMP.sub(b"", block)
        return b"".join(map(self._read_line, block[:-1].split(b"\n")))

    def part(self, rest: bytes) -> bytes:
        """Return what is new of a line that has no newline yet, in whole characters."""
        line = _Line.parse(rest)
        if line.time is None:  # half of a time, or a line of the platform itself
            return b""
        shown = self._shown or self._carried_bytes(line)
        if not shown and self._overlap is not None and not self._overlap.is_before(line.time):
            return b""  # possibly a line that was read before
        text = _whole_characters(line.text)
        if len(text) <= shown:
            return b""
        self._shown, self._carried = len(text), None
        return text[shown:] if shown else self._prefix(line) + text

    def disconnect(self, rest: bytes) -> bytes:
        """Note the end of a connection; return what cannot be completed any more.

        The line that it did not finish is mostly sent again, whole.
        """
        line = _Line.parse(rest)
        shown, self._shown = self._shown, 0
        if line.time is None or not line.text or (not shown and self._is_repeated(line)):
            return b""
        before = b""
        if not shown:
            shown = self._carried_bytes(line)
            if self._carried is not None and not self._carried.begins(line):
                before = self._give_up_carried()
        self._carried = _Unfinished(line, shown)
        return before

    def resume(self) -> datetime | None:
        """Return the time from which to ask again, and expect lines that were read before.

        Raises:
            PositionLostError: It cannot be told from which time on all lines are known.
        """
        lines = self._remembered()
        times = [line.time for line in lines if line.time is not None]
        start = self._since
        if times:
            earlier = times[-1] - OVERLAP_NS
            if self._forgotten_until is not None:
                if times[0] > earlier - SETTLED_NS:
                    earlier = min(times[len(times) // 2 :])
                if earlier <= self._forgotten_until:
                    raise PositionLostError
            start = earlier if start is None else max(start, earlier)
        self._overlap = _Overlap(lines, start)
        return None if start is None else _EPOCH + timedelta(microseconds=start // 1000)

    def expect_overlap(self) -> None:
        """Expect lines that were read before, as where an archive meets the live log."""
        self._overlap = _Overlap(self._remembered(), None)

    def finish(self, rest: bytes) -> bytes:
        """Return what is new of the end of the log, which needs no newline."""
        if rest and _Line.parse(rest).time is None:
            return self._give_up_carried() + rest
        before = self.disconnect(rest)
        return before + self._give_up_carried().removesuffix(b"\n")

    def _read_line(self, raw: bytes) -> bytes:
        line = _Line.parse(raw)
        shown, self._shown = self._shown, 0
        before = b""
        if not shown:
            if self._overlap is not None and self._overlap.contains(line):
                return b""
            if self._carried is not None:
                if self._carried.begins(line):
                    shown, self._carried = self._carried.shown, None
                elif self._carried.is_overdue(line):
                    before = self._give_up_carried()
        if self._overlap is not None and self._overlap.is_over(line):
            self._overlap = None
        self._remember(raw + b"\n")
        text = line.text[shown:] if shown else self._prefix(line) + line.text
        return before + text + b"\n"

    def _prefix(self, line: _Line) -> bytes:
        return line.prefix if self._keep_times else b""

    def _carried_bytes(self, line: _Line) -> int:
        """Return how much of a line was returned while an earlier connection sent it."""
        carried = self._carried
        return carried.shown if carried is not None and carried.begins(line) else 0

    def _give_up_carried(self) -> bytes:
        """Return the rest of a line that will not be completed."""
        carried, self._carried = self._carried, None
        if carried is None:
            return b""
        text = carried.line.text[carried.shown :]
        return (text if carried.shown else self._prefix(carried.line) + text) + b"\n"

    def _is_repeated(self, line: _Line) -> bool:
        return self._overlap is not None and self._overlap.may_contain(line)

    def _remember(self, block: bytes) -> None:
        self._blocks.append(block)
        self._size += len(block)
        while self._size > self._limit and len(self._blocks) > 1:
            dropped = self._blocks.popleft()
            self._size -= len(dropped)
            last = dropped.rfind(b"\n", 0, -1) + 1
            for line in (dropped, dropped[last:]):
                time = _Line.parse(line).time
                if time is not None and time > (self._forgotten_until or 0):
                    self._forgotten_until = time

    def _remembered(self) -> list[_Line]:
        return [_Line.parse(line) for block in self._blocks for line in block[:-1].split(b"\n")]


class _Line(NamedTuple):
    """A line without its newline, or what came of it."""

    time: int | None
    """Nanoseconds since 1970; None for a line that does not begin with a time."""
    prefix: bytes
    text: bytes

    @classmethod
    def parse(cls, raw: bytes) -> _Line:
        match = STAMP.match(raw)
        time = None if match is None else _time(match)
        if match is None or time is None:
            return cls(None, b"", raw)
        return cls(time, match[0], raw[match.end() :])

    @property
    def key(self) -> str:
        # An archive keeps text: what is no UTF-8 was replaced there.
        return self.text.decode(errors="replace")


class _Unfinished(NamedTuple):
    """A line whose newline had not come when its connection ended."""

    line: _Line
    shown: int
    """Bytes of its text that were returned."""

    def begins(self, line: _Line) -> bool:
        """Return whether a line is this one, with more of its text or all of it."""
        return _is_same_time(self.line.time, line.time) and line.key.startswith(
            _whole_characters(self.line.text).decode(errors="replace")
        )

    def is_overdue(self, line: _Line) -> bool:
        """Return whether a line is so much later that this one will not come any more."""
        mine = self.line.time
        return mine is not None and line.time is not None and line.time > mine + SETTLED_NS


class _Overlap:
    """The lines that may be sent a second time, each of which is recognized once."""

    def __init__(self, lines: list[_Line] | tuple[()], start: int | None) -> None:
        self._start = start
        self._has_begun = start is None
        self._times: dict[str, list[int]] = {}
        """By text, the times of the lines, the latest first; 0 for none."""
        self._latest = 0
        for line in lines:
            time = line.time or 0
            self._times.setdefault(line.key, []).append(time)
            self._latest = max(self._latest, time)
        for times in self._times.values():
            times.sort(reverse=True)

    def contains(self, line: _Line) -> bool:
        """Return whether a line was read before, or is older than what was asked for."""
        time = line.time or 0
        is_early = not self._has_begun and 0 < time < (self._start or 0) - TIME_TOLERANCE_NS
        if not is_early and time:
            self._has_begun = True
        times = self._times.get(line.key)
        if times:
            # The latest first: lines come by time, and what is deleted is mostly near the end.
            at = bisect_left(times, -time, key=neg)
            near = min(times[max(at - 1, 0) : at + 1], key=lambda known: abs(known - time))
            if abs(near - time) <= TIME_TOLERANCE_NS:
                del times[bisect_left(times, -near, key=neg)]
                return True
        return is_early

    def may_contain(self, line: _Line) -> bool:
        """Return whether a line that is not whole may be one that was read before."""
        text = _whole_characters(line.text).decode(errors="replace")
        return any(
            any(_is_same_time(time, line.time) for time in times)
            for key, times in self._times.items()
            if key.startswith(text)
        )

    def is_before(self, time: int) -> bool:
        """Return whether all lines that were read are older than a time."""
        return time > self._latest + TIME_TOLERANCE_NS

    def is_over(self, line: _Line) -> bool:
        """Return whether no line after this one can be one that was read before."""
        return self._has_begun and line.time is not None and line.time > self._latest + SETTLED_NS


def nanoseconds(moment: datetime) -> int:
    """Return the nanoseconds from 1970 to a moment, which has a zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def line_time(line: bytes) -> int | None:
    """Return the time of a line, in nanoseconds since 1970, if it begins with one."""
    return _Line.parse(line).time


def _time(match: re.Match[bytes]) -> int | None:
    seconds = _seconds(match[1], match[3] or b"Z")
    if seconds is None:
        return None
    return seconds * NS_PER_S + int((match[2] or b"0")[:9].ljust(9, b"0"))


@lru_cache(maxsize=256)
def _seconds(second: bytes, zone: bytes) -> int | None:
    offset = "+00:00" if zone == b"Z" else zone.decode()
    try:
        return int(datetime.fromisoformat(second.decode() + offset).timestamp())
    except (ValueError, OverflowError):  # a text that only looks like a time
        return None


def _is_same_time(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= TIME_TOLERANCE_NS


def _whole_characters(text: bytes) -> bytes:
    """Leave out the beginning of a character whose other bytes have not come yet."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:  # the first byte of a character says how many there are
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if length > back else text
        if byte < 0x80:
            break
    return text
