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
from typing import Any

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


def close_when_dropped(owner: object, close: Callable[[], object]) -> weakref.finalize[[], Any]:
    """Call `close` once the owner is gone, at the end of the interpreter at the latest.

    Returns what calls it earlier. In a child of `fork` it does nothing.
    """
    process = os.getpid()

    def close_here() -> None:
        if os.getpid() == process:
            close()

    return weakref.finalize(owner, close_here)
