"""Conversations with processes, over the files that connect them with this one."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress

from neuro_sync.local.logs import JobLog
from neuro_sync.models.frames import Exited
from neuro_sync.models.jobs import Message

PIECE = 2**16 - 1
"""Bytes; with the number of its channel a piece makes a message of 64 KiB."""
UNREAD_INPUT = 2**20
"""Bytes that are kept for a process that does not read, before the writer has to wait."""
SILENCE = 0.5
"""Seconds to wait for the last output of a command that has ended, if others hold it open."""
LAST_OUTPUT = 2**20
"""Bytes that a command can have left behind in a pipe; what comes after them is by others."""
END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes for the end of input: Ctrl-D."""


class Input(asyncio.BaseProtocol):
    """What goes into a process, in order; any number of channels may share it."""

    def __init__(self, fd: int | None) -> None:
        """Take a file over, or none if the process has no input any more."""
        self._is_terminal = fd is not None and os.isatty(fd)
        self._fd = fd
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._transport: asyncio.WriteTransport | None = None

    async def open(self) -> None:
        if self._fd is None:
            return
        # A terminal's size is set here, too. Of a pipe there is one file, known to the event loop:
        # a child of a fork must have none, or the input would never end.
        pipe = os.fdopen(os.dup(self._fd) if self._is_terminal else self._fd, "wb", 0)
        self._fd = self._fd if self._is_terminal else None
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_write_pipe(lambda: self, pipe)
        self._transport.set_write_buffer_limits(high=UNREAD_INPUT)

    def pause_writing(self) -> None:
        self._flowing.clear()

    def resume_writing(self) -> None:
        self._flowing.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        self._transport = None
        self._flowing.set()

    async def write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            await self._flowing.wait()

    async def end(self) -> None:
        if self._is_terminal:
            await self.write(END_OF_TRANSMISSION)
        elif self._transport is not None:
            self._transport.close()  # once all is written

    def resize(self, *, height: int, width: int) -> None:
        if self._is_terminal and self._fd is not None:
            size = struct.pack("HHHH", height % 2**16, width % 2**16, 0, 0)
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        transport = self._transport
        # One that is closing and has nothing left to write must not be closed a second time.
        if transport and (not transport.is_closing() or transport.get_write_buffer_size()):
            transport.abort()
        self._close_file()

    def _close_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class CommandChannel:
    """A command inside a job, run by the job's supervisor.

    The connection to the supervisor brings how the command ended; closing it ends the command.
    """

    can_end_input = True

    def __init__(self, connection: socket.socket, input: Input, outputs: Iterable[int]) -> None:
        self._connection = connection
        self._input = input
        self._outputs = dict(enumerate(outputs, 1))
        self._news = b""
        for fd in self._outputs.values():
            os.set_blocking(fd, False)

    async def open(self) -> None:
        await self._input.open()

    async def output(self) -> AsyncGenerator[Message | Exited, None]:
        loop = asyncio.get_running_loop()
        running = True
        left = LAST_OUTPUT
        give_up_at: float | None = None
        while running or self._outputs:
            silent = True
            for fileno, fd in [*self._outputs.items()]:
                data = _read(fd)
                if data:
                    silent = False
                    left -= 0 if running else len(data)
                    yield Message(fileno=1 if fileno == 1 else 2, data=data)
                elif data is not None:
                    os.close(self._outputs.pop(fileno))
            if running and not self._take_news():
                running = False
                give_up_at = loop.time() + SILENCE
                continue  # what it wrote before it ended is there by now
            if not silent:
                # A command that writes much must not keep everybody else waiting.
                await asyncio.sleep(0)
            if give_up_at is not None and loop.time() >= give_up_at and (silent or left < 0):
                break
            if silent:
                watched = [*self._outputs.values()]
                if running:
                    watched.append(self._connection.fileno())
                await until_readable(watched, give_up_at)
        why, end, code = self._news.decode(errors="replace").partition("\0")
        if end:
            yield Exited(int(code), why.partition(" ")[2])

    def _take_news(self) -> bool:
        """Read what the supervisor says of the command; False when it has said all."""
        try:
            data = self._connection.recv(PIECE)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self._news += data
        return bool(data)

    async def write(self, data: bytes) -> None:
        await self._input.write(data)

    async def end_input(self) -> None:
        await self._input.end()

    def resize(self, *, height: int, width: int) -> None:
        self._input.resize(height=height, width=width)

    def close(self) -> None:
        with suppress(OSError):  # the supervisor has gone
            # A child of a fork may have it open, too.
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        self._input.close()
        while self._outputs:
            os.close(self._outputs.popitem()[1])


class JobChannel:
    """A job's own conversation. Its output comes from the log, so that any number can follow."""

    can_end_input = True

    def __init__(
        self,
        log: JobLog,
        input: Input,
        *,
        replay: bool,
        is_over: Callable[[], bool],
        has_exited: Callable[[], bool],
        end_input: Callable[[], Awaitable[None]],
    ) -> None:
        """Begin at the end of the log, or with `replay` at its beginning.

        `is_over` tells when no more output is to come; the log itself may go on with the job's
        next run. `has_exited` tells, at the end, whether the job ended by itself.
        """
        self._log = log
        self._input = input
        self._begin = 0 if replay else log.size
        self._is_over = is_over
        self._has_exited = has_exited
        self._end_input = end_input

    async def output(self) -> AsyncGenerator[Message | Exited, None]:
        async with aclosing(self._log.streams(self._begin, PIECE, self._is_over)) as pieces:
            async for stream, data in pieces:
                yield Message(fileno=2 if stream == 2 else 1, data=data)
        if self._has_exited():
            # The job's own code is told by its status; here the protocol has a zero.
            yield Exited(0)

    async def write(self, data: bytes) -> None:
        await self._input.write(data)

    async def end_input(self) -> None:
        await self._end_input()

    def resize(self, *, height: int, width: int) -> None:
        self._input.resize(height=height, width=width)

    def close(self) -> None:
        """Leave; the job, its input and its other users go on."""


def _read(fd: int) -> bytes | None:
    """Read what is there: None if nothing, no bytes at the end."""
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:  # a terminal that nobody holds any more
            return b""
        raise


async def until_readable(fds: Iterable[int], deadline: float | None = None) -> None:
    """Wait until one of the files can be read, or until the loop's clock reaches a deadline."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    watched = [*fds]
    for fd in watched:
        loop.add_reader(fd, wake)
    try:
        timeout = None if deadline is None else max(deadline - loop.time(), 0)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ready, timeout)
    finally:
        for fd in watched:
            loop.remove_reader(fd)
