"""Time as the local platform sees it, so that a test of a day takes a moment.

A platform's time goes on as steadily as the machine's monotonic clock, so that a life span is as
long as was asked for, although somebody sets the machine's wall clock. What users see is wall time:
what the wall clock showed when something happened (`shown`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Protocol

from neuro_sync.monotonic import monotonic

MAX_READING_TIME = timedelta(milliseconds=50)
"""A smaller change of the wall clock counts as the time that it takes to read two clocks."""


def wall_time() -> datetime:
    """Return what the machine's wall clock shows, also while a test has frozen `datetime`."""
    return datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), timezone.utc)


class Timer(Protocol):
    """What was asked for later, and can still be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Returns the platform's time and wakes up; used on the platform's event loop alone."""

    boot: str
    """Which boot of the machine `since_boot` counts from; nothing if that is unknown."""

    def now(self) -> datetime: ...

    def at(self, moment: datetime) -> datetime:
        """Return the platform's time at a moment that the wall clock showed just now."""

    def shown(self, moment: datetime) -> datetime:
        """Return what the wall clock showed at a time of this clock that is just over."""

    def since_boot(self, moment: datetime) -> float:
        """Return the seconds from the boot to a time of this clock."""

    def after_boot(self, seconds: float) -> datetime:
        """Return the time of this clock so many seconds after the boot."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer: ...


class SystemClock:
    """This machine's clock: wall time at first, from then on as the monotonic clock goes.

    A test hands in a wall clock that it can set.
    """

    def __init__(self, wall: Callable[[], datetime] = wall_time) -> None:
        self.boot = _boot_id()
        self._wall = wall
        self._epoch = wall() - timedelta(seconds=monotonic())
        self._ahead = timedelta()
        """How far the wall clock is ahead of this one."""

    def now(self) -> datetime:
        return self.after_boot(monotonic())

    def at(self, moment: datetime) -> datetime:
        return moment - self._wall_ahead()

    def shown(self, moment: datetime) -> datetime:
        return moment + self._wall_ahead()

    def _wall_ahead(self) -> timedelta:
        # The two clocks are read one after the other. What that costs must not put moments out of
        # order that are as close.
        ahead = self._wall() - self.now()
        if abs(ahead - self._ahead) > MAX_READING_TIME:
            self._ahead = ahead
        return self._ahead

    def since_boot(self, moment: datetime) -> float:
        return (moment - self._epoch).total_seconds()

    def after_boot(self, seconds: float) -> datetime:
        return self._epoch + timedelta(seconds=seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


class ManualClock:
    """A clock that a test sets forward: ``LocalPlatform(clock=ManualClock())``.

    In between it goes on by itself, since the jobs are real processes.
    """

    boot = ""  # the next clock of its kind will not be ahead

    def __init__(self) -> None:
        self._system = SystemClock()
        self._ahead = timedelta()
        self._timers: list[_ManualTimer] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def now(self) -> datetime:
        return self._system.now() + self._ahead

    def at(self, moment: datetime) -> datetime:
        return self._system.at(moment) + self._ahead

    def shown(self, moment: datetime) -> datetime:
        return self._system.shown(moment)

    def since_boot(self, moment: datetime) -> float:
        return self._system.since_boot(moment - self._ahead)

    def after_boot(self, seconds: float) -> datetime:
        return self._system.after_boot(seconds) + self._ahead

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


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""
