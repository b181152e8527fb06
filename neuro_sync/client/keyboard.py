"""What a user types, while output passes by: bytes, changes of the screen's size, and an end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from neuro_sync.closing import Closing
from neuro_sync.errors import NeuroError

if TYPE_CHECKING:
    from .channels import StdStream


class Keyboard(Closing):
    """Reads the standard input, and stops to when another thread wants it to."""

    is_over: bool = False
    """Whether `stop` was called."""

    @property
    @abstractmethod
    def is_terminal(self) -> bool:
        """Whether somebody types; else it is a file, a pipe or nothing."""

    @abstractmethod
    def connected(self, stream: StdStream) -> AbstractContextManager[object]:
        """Let keys through as they are typed and report the size of the screen, for a while.

        That is only done for a stream with a terminal, and if there is a terminal here.

        Raises:
            NotSupported: The terminal here cannot do that.
        """

    @abstractmethod
    def read(self, timeout: float) -> bytes | None:
        """Wait for something to be typed, at most for `timeout` seconds.

        Returns:
            The bytes; none at all at their end; None if nothing came.
        """

    @abstractmethod
    def ignore(self) -> None:
        """Read nothing any more: `read` waits for `stop` only."""

    @abstractmethod
    def stop(self) -> None:
        """Wake a thread that waits in `read`, for good."""


def size_reporter(stream: StdStream, size: Callable[[], tuple[int, int]]) -> Callable[[], None]:
    """Return what tells a command the size of the screen."""

    def report() -> None:
        columns, lines = size()
        with suppress(NeuroError):  # it is over; its reader is told
            stream.resize(lines, columns)

    return report
