"""The user's own terminal, connected with a command inside a job."""

from __future__ import annotations

import math
import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from neuro_sync.errors import NeuroError, NotSupported, StreamClosed
from neuro_sync.monotonic import monotonic
from neuro_sync.transport.answers import PIECE

if TYPE_CHECKING:
    from .channels import StdStream
    from .logs import LogLines

CTRL_P, CTRL_Q = b"\x10", b"\x11"
SELECT_LIMIT = 1024
"""The first descriptor that ``select`` does not take."""
HISTORY_ENDS = 0.3
"""Seconds of silence after which a log has told all that there was."""


class DetachKeys:
    """Finds Ctrl-P Ctrl-Q in what is typed."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return what to pass on, and whether the keys were found at its end.

        A Ctrl-P is held back until the next key shows that it was meant for the command.
        """
        before, found, _ = (self._held + typed).partition(CTRL_P + CTRL_Q)
        self._held = CTRL_P if not found and before.endswith(CTRL_P) else b""
        return before.removesuffix(self._held), bool(found)


def interact(
    stream: StdStream, history: LogLines | None = None, eof_timeout: float = math.inf
) -> int | None:
    """Pass on between this process's input and output and `stream`, and close it at the end."""
    try:
        import termios  # noqa: F401
    except ImportError as error:
        raise NotSupported(
            "interact() needs a terminal of Unix; use write_in and read_out"
        ) from error
    typing, screen = sys.stdin.fileno(), sys.stdout.fileno()
    over, tell_over = os.pipe()

    before = _History(history, screen)

    unwritten: list[OSError] = []

    def show() -> None:
        try:
            with suppress(NeuroError):  # exit_code below raises it
                for message in stream:
                    before.make_way()
                    _write_all(screen if message.fileno == 1 else sys.stderr.fileno(), message.data)
        except OSError as error:  # the reader has left, or the disk is full
            unwritten.append(error)
        os.close(tell_over)

    shower = threading.Thread(target=show, name="neuro-sync: output", daemon=True)
    try:
        with (
            stream,
            _waking() as woken,
            _raw(typing, enabled=stream.tty),
            _resizing(stream, screen) as tell_size,
        ):
            before.start()
            shower.start()
            if not os.isatty(typing):
                # Else what the input brings about would be in the log, too, and be shown twice.
                before.finish()
            detached = _pass_on(typing, over, woken, stream, tell_size, eof_timeout)
            if unwritten:
                raise unwritten[0]
            if not detached:
                before.finish()
            return None if detached else stream.exit_code
    finally:
        before.close()
        if shower.ident is not None:
            shower.join()
        else:
            os.close(tell_over)
        os.close(over)


class _History:
    """Shows what was written before there was a stream, in a thread of its own.

    A log tells of the same output as the stream a little later, so it has to stop when the stream
    begins; but not before it has told what is older.
    """

    def __init__(self, log: LogLines | None, screen: int) -> None:
        self._log = log
        self._screen = screen
        self._told = 0.0
        self._is_over = log is None
        self._thread = threading.Thread(target=self._show, name="neuro-sync: log", daemon=True)

    def start(self) -> None:
        self._told = monotonic()
        if self._log is not None:
            self._thread.start()

    def _show(self) -> None:
        # A log that cannot be read is no reason to end the session.
        with suppress(NeuroError, OSError):
            for piece in self._log.pieces() if self._log else ():
                self._told = monotonic()
                _write_all(self._screen, piece.encode())

    def make_way(self) -> None:
        """End it as soon as it has told what there was."""
        while not self._is_over:
            left = self._told + HISTORY_ENDS - monotonic()
            if left <= 0 or not self._thread.is_alive():
                self.close()
            else:
                self._thread.join(left)

    def finish(self) -> None:
        """Wait until it has told all, since there is nothing that follows it."""
        if not self._is_over:
            self._thread.join()

    def close(self) -> None:
        self._is_over = True
        if self._log is not None:
            self._log.close()
            if self._thread.ident is not None:
                self._thread.join()


def _pass_on(
    typing: int,
    over: int,
    woken: int,
    stream: StdStream,
    tell_size: Callable[[], None],
    eof_timeout: float,
) -> bool:
    """Send what is typed until the stream is over; return whether the user left before."""
    # Neither kind takes everything: select no descriptor above 1023, poll of macOS no terminal.
    is_high = max(typing, over, woken) >= SELECT_LIMIT
    with selectors.PollSelector() if is_high else selectors.SelectSelector() as sources:
        for source in (typing, over, woken):
            sources.register(source, selectors.EVENT_READ)
        return _pass_on_from(sources, typing, over, woken, stream, tell_size, eof_timeout)


def _pass_on_from(
    sources: selectors.BaseSelector,
    typing: int,
    over: int,
    woken: int,
    stream: StdStream,
    tell_size: Callable[[], None],
    eof_timeout: float,
) -> bool:
    keys = DetachKeys()
    has_sent = False
    while True:
        left = stream.silence_left(eof_timeout)
        found = sources.select(None if left == math.inf else left)
        ready = {key.fd for key, _ in found}
        if over in ready:
            return False
        if woken in ready and signal.SIGWINCH in os.read(woken, PIECE):
            tell_size()
        if typing not in ready:
            continue
        typed = os.read(typing, PIECE)
        data, detached = keys.feed(typed)
        try:
            if data:
                stream.write_in(data)
                has_sent = True
            if detached:
                return True
            if not typed:
                sources.unregister(typing)
                if stream.can_close_stdin:
                    stream.close_stdin()
                elif has_sent:  # that nothing came at all, as in a service, is no reason to fail
                    stream.leave_stdin_open()
        except StreamClosed:  # it ends just now; `over` will tell
            if typing in sources.get_map():
                sources.unregister(typing)


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
    import termios
    import tty

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

    def tell_size() -> None:
        size = os.get_terminal_size(screen)
        with suppress(NeuroError):  # it is over; its reader is told
            stream.resize(size.lines, size.columns)

    if threading.current_thread() is not threading.main_thread():
        tell_size()
        yield tell_size
        return
    # It only wakes us up. To send something it might have to wait for what it has interrupted.
    before = signal.signal(signal.SIGWINCH, lambda *_: None)
    try:
        tell_size()
        yield tell_size
    finally:
        signal.signal(signal.SIGWINCH, before)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
