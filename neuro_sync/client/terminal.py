"""The user's own terminal, connected with a command inside a job."""

from __future__ import annotations

import math
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from neuro_sync.errors import NeuroError, NotSupported, StreamClosed
from neuro_sync.monotonic import monotonic

if TYPE_CHECKING:
    from .channels import StdStream
    from .keyboard import Keyboard
    from .logs import LogLines

CTRL_P, CTRL_Q = b"\x10", b"\x11"
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
    typing, screen, errors = (_descriptor(name) for name in ("stdin", "stdout", "stderr"))
    keyboard = _keyboard(typing, screen)
    before = _History(history, screen)

    unwritten: list[OSError] = []

    def show() -> None:
        try:
            with suppress(NeuroError):  # exit_code below raises it
                for message in stream:
                    before.make_way()
                    _write_all(screen if message.fileno == 1 else errors, message.data)
        except OSError as error:  # the reader has left, or the disk is full
            unwritten.append(error)
        keyboard.stop()

    shower = threading.Thread(target=show, name="neuro-sync: output", daemon=True)
    try:
        with stream, keyboard.connected(stream):
            before.start()
            shower.start()
            if not keyboard.is_terminal:
                # Else what the input brings about would be in the log, too, and be shown twice.
                before.finish()
            detached = _pass_on(keyboard, stream, eof_timeout)
            if unwritten:
                raise unwritten[0]
            if not detached:
                before.finish()
            return None if detached else stream.exit_code
    finally:
        before.close()
        if shower.ident is not None:
            shower.join()
        keyboard.close()


def _descriptor(name: str) -> int:
    """Return the descriptor of a standard stream.

    Raises:
        NotSupported: It has none, or is no file. What is written to the descriptor of a notebook's
            stream is not shown in the notebook.
    """
    stream = getattr(sys, name)
    try:
        stream.buffer  # noqa: B018  # only a file has one, and a notebook's stream has none
        descriptor: int = stream.fileno()
    except (OSError, ValueError, AttributeError) as error:
        raise NotSupported(
            f"interact() connects standard input and output, and sys.{name} is no open file, as in "
            "a notebook; call jobs.run_command(job, command), or read_out and write_in"
        ) from error
    return descriptor


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


def _pass_on(keyboard: Keyboard, stream: StdStream, eof_timeout: float) -> bool:
    """Send what is typed until the stream is over; return whether the user left before."""
    keys = DetachKeys()
    has_sent = False
    while True:
        typed = keyboard.read(stream.silence_left(eof_timeout))
        if keyboard.is_over:
            return False
        if typed is None:
            continue
        data, detached = keys.feed(typed)
        try:
            if data:
                stream.write_in(data)
                has_sent = True
            if detached:
                return True
            if not typed:
                keyboard.ignore()
                if stream.can_close_stdin:
                    stream.close_stdin()
                elif has_sent:  # that nothing came at all, as in a service, is no reason to fail
                    stream.leave_stdin_open()
        except StreamClosed:  # it ends just now, and the keyboard is stopped
            keyboard.ignore()


def _keyboard(typing: int, screen: int) -> Keyboard:
    if sys.platform != "win32":
        with suppress(ImportError):
            from .unix_keyboard import UnixKeyboard

            return UnixKeyboard(typing, screen)
    from .console import ConsoleKeyboard

    return ConsoleKeyboard(typing, screen)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
