"""What a family of processes uses, as psutil sees it."""

from __future__ import annotations

import time

import psutil

from neuro_sync.models.jobs import JobTelemetry
from neuro_sync.monotonic import monotonic


class Meter:
    """Measures all processes below one; each sample covers the time since the one before."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._busy: float | None = None
        self._at = 0.0

    def sample(self) -> JobTelemetry | None:
        """Return what the family uses now, or None when it is gone.

        CPU time of processes that ended since the last sample is not counted. The first sample
        covers the whole life of the processes that are there.
        """
        family = self._family()
        if not family:
            return None
        now, steady = time.time(), monotonic()
        busy, memory, oldest = 0.0, 0, now
        for process in family:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    busy += times.user + times.system
                    memory += process.memory_info().rss
                    oldest = min(oldest, process.create_time())
            except psutil.NoSuchProcess:
                continue
        took, before = (
            (now - oldest, 0.0) if self._busy is None else (steady - self._at, self._busy)
        )
        self._busy, self._at = busy, steady
        return JobTelemetry(
            timestamp=now,
            cpu=max(busy - before, 0.0) / max(took, 0.01),
            memory_bytes=memory,
        )

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._root).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
