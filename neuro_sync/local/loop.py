"""The event loop of a local platform, in a thread of a program that has other things to do."""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack

from neuro_sync.monotonic import monotonic

from .executors import Executors

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class PlatformLoop(asyncio.SelectorEventLoop):
    """An event loop that copes with what its program does: freeze time, fork, end."""

    def __init__(self) -> None:
        self._watched = selectors.DefaultSelector()
        self.executors = Executors()
        super().__init__(self._watched)

    def time(self) -> float:
        return monotonic()

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[Arguments]], T],
        *args: Unpack[Arguments],
    ) -> asyncio.Future[T]:
        """Call a function in another thread, or in this one while the interpreter ends.

        Threads are not to be had then any more, and nobody else waits for this one.
        """
        try:
            return super().run_in_executor(executor, func, *args)
        except RuntimeError:
            done: asyncio.Future[T] = self.create_future()
            try:
                done.set_result(func(*args))
            except Exception as error:  # noqa: BLE001  # raised where it is awaited
                done.set_exception(error)
            return done

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end, and close the loop, as `asyncio.run` does."""
        asyncio.set_event_loop(self)
        try:
            self.run_until_complete(main)
        finally:
            try:
                left = asyncio.all_tasks(self)
                for task in left:
                    task.cancel()
                if left:
                    self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
                self.run_until_complete(self.shutdown_asyncgens())
                with suppress(RuntimeError):  # the interpreter ends
                    self.run_until_complete(self.run_in_executor(None, self.executors.close))
                    self.run_until_complete(self.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                self.close()

    def release_descriptors(self) -> None:
        """Release the connections and pipes of the loop in a child of `fork`.

        The child's copies would keep connections open that the parent closes. Their numbers stay
        taken, since objects that are left in the child still name them.
        """
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for key in [*self._watched.get_map().values()]:
            os.dup2(null, key.fd, inheritable=False)
        os.close(null)
