"""The standard input on Windows, where only sockets can be waited for: threads, and the console.

The console is put into a mode in which it speaks as terminals do: keys come as they are typed, the
special ones as the sequences of a terminal, and sequences in the output are obeyed.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuro_sync.errors import NotSupported
from neuro_sync.transport.answers import PIECE

from .keyboard import Keyboard, size_reporter

if TYPE_CHECKING:
    from .channels import StdStream

POLL_S = 0.02
"""How long a key or a new size of the window may go unnoticed."""
INTERRUPT_S = 0.1
"""How long Ctrl-C may go unnoticed: on Windows it does not end a wait for another thread."""
UTF_8 = 65001
"""The number of UTF-8 among the code pages of Windows."""

PROCESSED_INPUT, LINE_INPUT, ECHO_INPUT, TERMINAL_INPUT = 0x1, 0x2, 0x4, 0x200
PROCESSED_OUTPUT, TERMINAL_OUTPUT, NO_AUTO_RETURN = 0x1, 0x4, 0x8
"""Flags of ``SetConsoleMode``."""


class ConsoleKeyboard(Keyboard):
    """Reads in a thread of its own, and hands over what came."""

    def __init__(self, typing: int, screen: int) -> None:
        self._typing = typing
        self._screen = screen
        self._api = _console_api()
        # What the reading thread hands over; None wakes the other one only.
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._is_ignored = False

    @property
    def is_terminal(self) -> bool:
        # Not os.isatty, for which NUL is one, too.
        if self._api is None:
            return os.isatty(self._typing)
        return self._api.mode(self._typing) is not None

    @contextmanager
    def connected(self, stream: StdStream) -> Iterator[None]:
        with ExitStack() as stack:
            is_raw = stream.tty and self.is_terminal
            if is_raw and self._api is None:
                raise NotSupported(
                    "this terminal cannot hand keys on one by one; use run_command(), "
                    "or write_in() and read_out(), or a stream without a terminal"
                )
            if self._api is not None:
                stack.enter_context(self._api.utf_8_output())
                if stream.tty:
                    stack.enter_context(self._api.changed_mode(self._screen, _shows_sequences))
                if is_raw:
                    stack.enter_context(self._api.changed_mode(self._typing, _passes_keys))
            reads = self._read_keys if is_raw else self._read_pieces
            report_size = _size_reporter(stream, self._screen)
            report_size()
            # A daemon: a read of a pipe or of a line ends when something comes, and not before.
            thread = threading.Thread(
                target=reads, args=(report_size,), name="neuro-sync: input", daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                self._ended.set()
                if is_raw:
                    thread.join()

    def _read_pieces(self, _: Callable[[], None]) -> None:
        """Read a file, a pipe, or lines of a console, in UTF-8."""
        typed = None
        with suppress(OSError), open(self._typing, "rb", buffering=0, closefd=False) as source:
            while typed != b"" and not self._ended.is_set():
                typed = source.read(PIECE)
                self._typed.put(typed)
        if typed != b"":
            self._typed.put(b"")

    def _read_keys(self, report_size: Callable[[], None]) -> None:
        """Read keys until the end, and look for a new size of the window meanwhile."""
        assert self._api is not None  # noqa: S101  # there are no keys without it
        while not self._ended.wait(POLL_S):
            typed = self._api.keys()
            if typed:
                self._typed.put(typed)
            report_size()

    def read(self, timeout: float) -> bytes | None:
        try:
            typed = self._typed.get(timeout=min(timeout, INTERRUPT_S))
        except queue.Empty:
            return None
        return None if self._is_ignored else typed

    def ignore(self) -> None:
        self._is_ignored = True

    def stop(self) -> None:
        self.is_over = True
        self._typed.put(None)

    def close(self) -> None:
        self._ended.set()


def _size_reporter(stream: StdStream, screen: int) -> Callable[[], None]:
    """Return what tells a command the size of the window, if it has changed."""
    if not stream.tty or not os.isatty(screen):
        return lambda: None
    last: tuple[int, int] | None = None

    def report() -> None:
        nonlocal last
        with suppress(OSError):  # NUL has no size
            size = os.get_terminal_size(screen)
            if size != last:
                last = size
                size_reporter(stream, lambda: size)()

    return report


def _passes_keys(mode: int) -> int:
    return mode & ~(PROCESSED_INPUT | LINE_INPUT | ECHO_INPUT) | TERMINAL_INPUT


def _shows_sequences(mode: int) -> int:
    return mode | PROCESSED_OUTPUT | TERMINAL_OUTPUT | NO_AUTO_RETURN


def _console_api() -> _ConsoleApi | None:
    try:
        return _ConsoleApi(import_module("msvcrt"), ctypes.windll.kernel32)  # type: ignore[attr-defined,unused-ignore]
    except (ImportError, AttributeError):
        return None


class _ConsoleApi:
    """The functions of Windows that are about consoles."""

    def __init__(self, msvcrt: Any, kernel32: Any) -> None:
        self._msvcrt = msvcrt
        self._kernel32 = kernel32

    def mode(self, descriptor: int) -> int | None:
        """Return the mode of a console; None if it is none."""
        mode = ctypes.c_ulong()
        found = self._kernel32.GetConsoleMode(self._handle(descriptor), ctypes.byref(mode))
        return mode.value if found else None

    @contextmanager
    def changed_mode(self, descriptor: int, change: Callable[[int], int]) -> Iterator[None]:
        """Change the mode of a console, if it is one, and restore it.

        Raises:
            NotSupported: The console has no such mode.
        """
        before = self.mode(descriptor)
        if before is None:
            yield
            return
        if not self._set_mode(descriptor, change(before)):
            raise NotSupported(
                "this console is too old to be a terminal; use Windows Terminal, "
                "run_command(), or a stream without a terminal"
            )
        try:
            yield
        finally:
            self._set_mode(descriptor, before)

    def _set_mode(self, descriptor: int, mode: int) -> bool:
        return bool(self._kernel32.SetConsoleMode(self._handle(descriptor), mode))

    def _handle(self, descriptor: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._msvcrt.get_osfhandle(descriptor))

    @contextmanager
    def utf_8_output(self) -> Iterator[None]:
        """Take bytes for UTF-8 that are written to the console, if there is one."""
        before = self._kernel32.GetConsoleOutputCP()
        self._kernel32.SetConsoleOutputCP(UTF_8)
        try:
            yield
        finally:
            if before:
                self._kernel32.SetConsoleOutputCP(before)

    def keys(self) -> bytes:
        """Return what was typed since the last call, in UTF-8."""
        typed = ""
        while self._msvcrt.kbhit():
            typed += self._msvcrt.getwch()
        # A character beyond the first plane comes as two keys.
        return typed.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
