"""Remove jobs that finished long ago, with their logs: once, or now and then while a platform runs.

Jobs that are not finished, and those whose processes may still be ending, are never removed. A
job's folder goes before its row, so that a prune that was cut short is completed by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from neuro_sync.errors import ConfigError, NeuroError

from .clock import Clock, Timer
from .durable_files import sync_folder
from .executors import Work, submit
from .state import StateFolder
from .store import FinishedJob, Store
from .trees import remove_tree

logger = logging.getLogger(__name__)

BATCH = 100
"""Jobs that are removed in one transaction; a running platform waits for it."""
PRUNE_PERIOD_S = 3600.0
"""How often a platform with a retention removes jobs."""


@dataclass(frozen=True)
class Retention:
    """Which finished jobs are removed; with both limits, those that are beyond both.

    Raises:
        ConfigError: There is no limit, or one is no sensible number.
    """

    older_than_s: float | None = None
    """Seconds since the job ended."""
    keep: int | None = None
    """How many finished jobs are kept, the newest."""

    def __post_init__(self) -> None:
        if self.older_than_s is None and self.keep is None:
            raise ConfigError("say which jobs to remove: older than what, or how many to keep")
        for name, value in (("older than", self.older_than_s), ("keep", self.keep)):
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} {value}: a retention needs a number from 0 on")


class Pruner:
    """Removes the jobs that a retention does not keep."""

    def __init__(self, store: Store, folder: Path, retention: Retention) -> None:
        """`folder` is the state folder."""
        self._store = store
        self._folder = folder / "jobs"
        self._retention = retention

    def batches(self, now: datetime) -> Iterator[list[FinishedJob]]:
        """Yield what is to be removed, a few jobs at a time, oldest first."""
        age = self._retention.older_than_s
        ended_until = now if age is None else _earlier(now, age)
        last = self._store.last_finished(but=self._retention.keep or 0, created_until=ended_until)
        after = 0
        while page := self._store.finished_between(after, last, BATCH):
            after = page[-1].number
            old = [job for job in page if job.finished_at <= ended_until]
            if old:
                yield old

    def remove_folders(self, jobs: list[FinishedJob]) -> list[FinishedJob]:
        """Remove the logs and folders of jobs, and return the jobs of which nothing is left.

        It may be called in any thread.
        """
        for job in jobs:
            remove_tree(self._folder / job.id)
        if self._folder.exists():
            sync_folder(self._folder)
        left = [job for job in jobs if (self._folder / job.id).exists()]
        for job in left:
            logger.warning("%s is kept: %s cannot be removed", job.id, self._folder / job.id)
        return [job for job in jobs if job not in left]

    def remove_rows(self, jobs: list[FinishedJob]) -> None:
        self._store.remove([job.number for job in jobs])


def prune(state: str | Path | None, retention: Retention) -> int:
    """Remove finished jobs of a state folder, and return how many; a platform may run on it.

    Raises:
        ConfigError: The folder is of another version, or cannot be used.
        ServerError: The database cannot be written.
    """
    folder = StateFolder(state)
    folder.prepare()
    count = 0
    with closing(Store(folder.database)) as store:
        pruner = Pruner(store, folder.path, retention)
        for batch in pruner.batches(datetime.now(timezone.utc)):
            removed = pruner.remove_folders(batch)
            pruner.remove_rows(removed)
            count += len(removed)
        store.shrink()
    return count


class AutomaticPruning:
    """Prunes when a platform starts, and every hour; all of it on the platform's event loop."""

    def __init__(self, pruner: Pruner, clock: Clock) -> None:
        self._pruner = pruner
        self._clock = clock
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._prune())

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _prune(self) -> None:
        try:
            for batch in self._pruner.batches(self._clock.now()):
                removed = await submit(Work.CLEANING, self._pruner.remove_folders, batch)
                self._pruner.remove_rows(removed)
                logger.info("%d finished jobs are removed", len(removed))
        except (NeuroError, OSError) as error:
            logger.warning("old jobs are not removed yet: %s", error)
        self._timer = self._clock.call_later(PRUNE_PERIOD_S, self.open)


def _earlier(now: datetime, seconds: float) -> datetime:
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=timezone.utc)
