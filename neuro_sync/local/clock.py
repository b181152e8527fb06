"""Time as the local platform sees it, so that a test of a day takes a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Timer(Protocol):
    """What was asked for later, and can still be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Tells the time and wakes up; used on the platform's event loop alone."""

    def now(self) -> datetime: ...

    def at(self, moment: datetime) -> datetime:
        """Return what this clock showed at a moment of this machine's own clock."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer: ...


class SystemClock:
    """This machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def at(self, moment: datetime) -> datetime:
        return moment

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


class ManualClock:
    """A clock that a test sets forward: ``LocalPlatform(clock=ManualClock())``.

    In between it goes on by itself, since the jobs are real processes.
    """

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._timers: list[_ManualTimer] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def now(self) -> datetime:
        return self.at(datetime.now(timezone.utc))

    def at(self, moment: datetime) -> datetime:
        return moment + self._ahead

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        self._loop = asyncio.get_running_loop()
        timer = _ManualTimer(self, self.now() + timedelta(seconds=seconds), callback)
        timer.real = self._loop.call_later(seconds, timer.fire)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, from any thread but the platform's own.

        Each timer that comes due is called at its own time, those that it sets as well.
        """
        if self._loop is None:  # nobody waits for anything
            self._ahead += timedelta(seconds=seconds)
            return
        done: Future[None] = Future()

        def advance() -> None:
            self._advance_to(self.now() + timedelta(seconds=seconds))
            done.set_result(None)

        self._loop.call_soon_threadsafe(advance)
        done.result()

    def _advance_to(self, end: datetime) -> None:
        while due := [timer for timer in self._timers if timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self._ahead += max(timer.due - self.now(), timedelta())
            timer.fire()
        self._ahead += max(end - self.now(), timedelta())

    def forget(self, timer: _ManualTimer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)


class _ManualTimer:
    def __init__(self, clock: ManualClock, due: datetime, callback: Callable[[], object]) -> None:
        self.due = due
        self.real: asyncio.TimerHandle
        self._clock = clock
        self._callback = callback

    def fire(self) -> None:
        self.cancel()
        self._callback()

    def cancel(self) -> None:
        self.real.cancel()
        self._clock.forget(self)
