"""The deadline of a call, for everything that happens inside the call.

A call with a ``timeout=`` may look up a job, ask for the platform's addresses, wait for a lock,
connect, shake hands, read, and wait before it tries again. The deadline belongs to the context of
the calling thread, so that none of these steps can forget it. Threads that a call starts have a
context of their own, without the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from neuro_sync.errors import RequestTimeout
from neuro_sync.monotonic import monotonic


class DeadlinePassed(RequestTimeout):
    """The deadline of the call has passed; the call with the ``timeout=`` raises its own error."""


class _Deadline(NamedTuple):
    end: float
    now: Callable[[], float]
    """The clock by which `end` is told."""


_NEVER = _Deadline(math.inf, monotonic)
_current: ContextVar[_Deadline] = ContextVar("neuro_sync_deadline", default=_NEVER)


@contextmanager
def call_deadline(end: float, now: Callable[[], float] = monotonic) -> Iterator[None]:
    """Bound all that this thread does in the block; infinity lifts the bound."""
    token = _current.set(_Deadline(end, now))
    try:
        yield
    finally:
        _current.reset(token)


def seconds_left() -> float:
    """Return the seconds until the deadline, 0 after it, infinity without one."""
    deadline = _current.get()
    return math.inf if deadline.end == math.inf else max(deadline.end - deadline.now(), 0.0)


def bounded(timeout: float | None) -> float | None:
    """Return a timeout that ends no later than the deadline; None is no limit.

    Raises:
        DeadlinePassed: There is no time left.
    """
    left = seconds_left()
    if left <= 0:
        raise DeadlinePassed("the deadline of the call has passed")
    if timeout is None:
        return None if left == math.inf else left
    return min(timeout, left)
