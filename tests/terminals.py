"""A real terminal around a program: what it shows, what is typed, how it is left."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from fcntl import ioctl
from struct import pack

PATIENCE = 30


def _take_terminal() -> None:
    ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A pseudo terminal with a program at its other end."""

    def __init__(self, command: list[str]) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(31, 99)
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""
        self.program = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            # The terminal is the program's own, so that Ctrl-C reaches it as a signal.
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  # one system call takes no lock
        )

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.slave, termios.TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, self.shown
            self.shown += os.read(self._master, 65536)

    def wait(self) -> int:
        return self.program.wait(PATIENCE)

    def rest(self) -> bytes:
        """Return all that was shown, when the program is over."""
        while select.select([self._master], [], [], 0)[0]:
            self.shown += os.read(self._master, 65536)
        return self.shown

    @property
    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self._master)
        os.close(self.slave)
