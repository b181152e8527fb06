"""Limits how often a line is repeated in the log, so that nobody can fill a disk with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from neuro_sync.monotonic import monotonic

LINES = 10
"""Warnings and errors of one kind that are logged within `WINDOW_S`; the rest are counted."""
WINDOW_S = 60.0
MOST_KINDS = 1000
SHARED = ("asyncio", "uvicorn.error")
"""Loggers that the program around a platform may use too."""


@dataclass
class _Window:
    begin: float
    count: int = 0


class RepeatFilter(logging.Filter):
    """Drops warnings and errors of a kind that was logged often in the last minute.

    A kind is a logger, a level and the first line of a message before its values are filled in.
    The first line after a pause says how many were dropped. Less important lines, which are
    logged only where somebody asks for them, all pass.
    """

    def __init__(self, thread: int) -> None:
        """Name the thread of the platform; of shared loggers, lines of other threads all pass."""
        super().__init__()
        self._thread = thread
        self._windows: dict[tuple[str, int, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        is_others = record.name in SHARED and record.thread != self._thread
        if record.levelno < logging.WARNING or is_others:
            return True
        now = monotonic()
        kind = (record.name, record.levelno, str(record.msg).partition("\n")[0])
        window = self._windows.get(kind)
        if window is None or now - window.begin > WINDOW_S:
            dropped = max(0, window.count - LINES) if window else 0
            if len(self._windows) >= MOST_KINDS:
                self._windows.clear()
            window = self._windows[kind] = _Window(now)
            if dropped:
                record.msg = f"{record.getMessage()} ({dropped} more like this one were left out)"
                record.args = ()
        window.count += 1
        return window.count <= LINES


@contextmanager
def limit_repeats() -> Iterator[None]:
    """Limit the repeated lines of a platform whose thread this is, as long as the block lasts."""
    known = [*logging.root.manager.loggerDict]
    names = [*SHARED, *(name for name in known if name.startswith(f"{__package__}."))]
    repeats = RepeatFilter(threading.get_ident())
    for name in names:
        logging.getLogger(name).addFilter(repeats)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(repeats)
