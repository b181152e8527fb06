"""The threads of a platform, by kind of work.

Work of one kind waits for its like alone: while clients measure a disk of a million files, uploads
go on. What has no kind, and is short, is left to the event loop's default executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import TypeVar

from typing_extensions import ParamSpec

P = ParamSpec("P")
T = TypeVar("T")


class Work(Enum):
    """What threads are for; the value is how many there are."""

    UPLOADS = ("uploads", 8)
    """Writing the content of files."""
    FOLDERS = ("folders", 4)
    """Listing, moving and making folders; a page of a listing at a time."""
    DELETIONS = ("deletions", 2)
    """Removing what a client waits for, some entries at a time."""
    CLEANING = ("cleaning", 1)
    """Removing whole trees that nobody waits for."""
    MEASURING = ("measuring", 2)
    """Adding up the files of whole trees."""
    TELEMETRY = ("telemetry", 2)
    """Looking at the processes of jobs."""
    PARSING = ("parsing", 1)
    """Reading large bodies of requests."""

    def __init__(self, label: str, threads: int) -> None:
        self.label = label
        self.threads = threads


class Executors:
    """The executors of one event loop; each starts its threads when it is first used."""

    def __init__(self) -> None:
        self._pools = {
            work: ThreadPoolExecutor(work.threads, thread_name_prefix=f"neuro-local-{work.label}")
            for work in Work
        }

    def __getitem__(self, work: Work) -> ThreadPoolExecutor:
        return self._pools[work]

    def close(self) -> None:
        """End the threads when their work is done, and wait for that."""
        for pool in self._pools.values():
            pool.shutdown()


def submit(
    work: Work, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Start work in a thread of its kind; it goes on if nobody waits for it.

    On an event loop that is no platform's, all kinds of work share the default executor.
    """
    loop = asyncio.get_running_loop()
    executors: Executors | None = getattr(loop, "executors", None)
    executor = None if executors is None else executors[work]
    return loop.run_in_executor(executor, partial(call, *args, **kwargs))
