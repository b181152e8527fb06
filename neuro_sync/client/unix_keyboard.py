"""The standard input on Linux and macOS: descriptors to wait for, a terminal, its signals."""

from __future__ import annotations

import math
import os
import selectors
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from neuro_sync.transport.answers import PIECE

from .keyboard import Keyboard, size_reporter

if TYPE_CHECKING:
    from .channels import StdStream

assert sys.platform != "win32"  # noqa: S101  # there type checkers skip the rest

SELECT_LIMIT = 1024
"""The first descriptor that ``select`` does not take."""


class UnixKeyboard(Keyboard):
    """Waits for the input, the end, and signals at once."""

    def __init__(self, typing: int, screen: int) -> None:
        self._typing = typing
        self._screen = screen
        self._over, self._tell_over = os.pipe()
        self._woken: int | None = None
        self._report_size: Callable[[], None] = lambda: None
        self._sources: selectors.BaseSelector

    @property
    def is_terminal(self) -> bool:
        return os.isatty(self._typing)

    @contextmanager
    def connected(self, stream: StdStream) -> Iterator[None]:
        with (
            _waking() as woken,
            _raw(self._typing, enabled=stream.tty),
            _resizing(stream, self._screen) as report_size,
            self._selecting(woken),
        ):
            self._report_size = report_size
            yield

    @contextmanager
    def _selecting(self, woken: int) -> Iterator[None]:
        sources = (self._typing, self._over, woken)
        # Neither kind takes everything: select no descriptor above 1023, poll of macOS no terminal.
        is_high = max(sources) >= SELECT_LIMIT
        with selectors.PollSelector() if is_high else selectors.SelectSelector() as selector:
            for source in sources:
                selector.register(source, selectors.EVENT_READ)
            self._woken, self._sources = woken, selector
            yield

    def read(self, timeout: float) -> bytes | None:
        found = self._sources.select(None if timeout == math.inf else timeout)
        ready = {key.fd for key, _ in found}
        if self._woken in ready and signal.SIGWINCH in os.read(self._woken, PIECE):
            self._report_size()
        if self._typing in ready and self._over not in ready:
            return os.read(self._typing, PIECE)
        return None

    def ignore(self) -> None:
        if self._typing in self._sources.get_map():
            self._sources.unregister(self._typing)

    def stop(self) -> None:
        self.is_over = True
        descriptor, self._tell_over = self._tell_over, -1
        if descriptor >= 0:
            os.close(descriptor)

    def close(self) -> None:
        self.stop()
        os.close(self._over)


@contextmanager
def _waking() -> Iterator[int]:
    """Yield what becomes readable when a signal came, of which it has the number.

    One that comes just before `select` begins to wait would else be noticed at the next key.
    """
    woken, waker = os.pipe()
    is_main = threading.current_thread() is threading.main_thread()
    try:
        if is_main:
            os.set_blocking(waker, False)
            before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        yield woken
    finally:
        if is_main:
            signal.set_wakeup_fd(before)
        os.close(waker)
        os.close(woken)


@contextmanager
def _raw(terminal: int, *, enabled: bool) -> Iterator[None]:
    """Let each key through as it is typed, and restore the terminal however this ends."""
    if not enabled or not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)

    def restore() -> None:
        with suppress(termios.error):  # the terminal itself is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def restore_and_die(number: int, _: FrameType | None) -> None:
        # No `finally` runs when a process dies of a signal.
        restore()
        signal.signal(number, handlers[number])
        os.kill(os.getpid(), number)

    handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    handlers[number] = signal.signal(number, restore_and_die)
        # Not its default, which throws away what was typed before.
        tty.setraw(terminal, termios.TCSADRAIN)
        yield
    finally:
        restore()
        for caught, handler in handlers.items():
            signal.signal(caught, handler)


@contextmanager
def _resizing(stream: StdStream, screen: int) -> Iterator[Callable[[], None]]:
    """Tell the command the size of the screen, and yield what does so again after a SIGWINCH."""
    if not stream.tty or not os.isatty(screen):
        yield lambda: None
        return

    report_size = size_reporter(stream, lambda: os.get_terminal_size(screen))
    if threading.current_thread() is not threading.main_thread():
        report_size()
        yield report_size
        return
    # It only wakes us up. To send something it might have to wait for what it has interrupted.
    before = signal.signal(signal.SIGWINCH, lambda *_: None)
    try:
        report_size()
        yield report_size
    finally:
        signal.signal(signal.SIGWINCH, before)
