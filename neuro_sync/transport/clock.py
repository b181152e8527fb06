"""Time as whatever waits sees it, so that a test of a long wait takes none."""

from __future__ import annotations

import time

from neuro_sync.monotonic import monotonic


class Clock:
    """The real one; a test hands in another."""

    def now(self) -> float:
        """Return seconds that only ever go forward."""
        return monotonic()

    def date(self) -> float:
        """Return the seconds since 1970, by which a token's end is told."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
