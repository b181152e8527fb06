"""Whoever opens closes: the ``with`` block of everything that has a `close`.

A child of `fork` inherits what its parent has open, and shares connections, folders and jobs with
it. At its end it must close none of them.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType

from typing_extensions import Self


class Closing(ABC):
    """Close at the end of a ``with`` block."""

    _opened_by: int

    def __new__(cls, *args: object, **kwargs: object) -> Self:  # noqa: ARG004  # of `__init__`
        self = super().__new__(cls)
        self._opened_by = os.getpid()
        return self

    @property
    def is_inherited(self) -> bool:
        """Whether another process opened it, so that this one must not close it.

        No lock may be taken then either: a thread that does not exist here may hold it.
        """
        return self._opened_by != os.getpid()

    @abstractmethod
    def close(self) -> None:
        """Release what was opened; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class CloseWhenDropped:
    """Calls `close` once its owner is gone, at the end of the interpreter at the latest.

    Calling it does so earlier. If Ctrl-C interrupts that, it is done again when the owner is gone.
    In a child of `fork` it does nothing.
    """

    def __init__(self, owner: object, close: Callable[[], object], *, at_exit: bool = True) -> None:
        process = os.getpid()

        def close_here() -> None:
            if os.getpid() == process:
                close()

        self._close = close_here
        self._finalizer = weakref.finalize(owner, close_here)
        self._finalizer.atexit = at_exit

    def __call__(self) -> None:
        self._close()
        self._finalizer.detach()
