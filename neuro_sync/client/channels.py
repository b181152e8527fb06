"""What exec and attach return: a command's input, output and end, over one connection."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from typing_extensions import Self

from neuro_sync.closing import CloseWhenDropped, Closing
from neuro_sync.errors import (
    CommandTimeout,
    InputNotEnded,
    NeuroError,
    NotSupported,
    ProtocolError,
    ResourceNotFound,
    StreamClosed,
    StreamInterrupted,
)
from neuro_sync.models import frames
from neuro_sync.models.durations import Duration, deadline, in_seconds
from neuro_sync.models.jobs import ExecInspect, Message
from neuro_sync.monotonic import monotonic

from .arguments import characters

if TYPE_CHECKING:
    from neuro_sync.transport.websocket import WebSocket

    from .logs import LogLines

INPUT_PIECE = 2**16
"""How many bytes of input a message has at most."""
KEPT = 2**24
"""How many bytes of output wait for their reader before the command is slowed down."""
CLOSING_PATIENCE_S = 1.0
"""Seconds in which the platform may confirm that it was told of the end."""
CTRL_D = b"\x04"

Output = TypeVar("Output", bytes, str)


@dataclass(frozen=True)
class CommandResult(Generic[Output]):
    """How a command inside a job ended, and what it wrote."""

    exit_code: int
    stdout: Output
    stderr: Output

    def decoded(self) -> CommandResult[str]:
        """Return the same with text for bytes; what is no UTF-8 is replaced."""
        stdout, stderr = (
            written.decode(errors="replace") if isinstance(written, bytes) else written
            for written in (self.stdout, self.stderr)
        )
        return CommandResult(self.exit_code, stdout, stderr)


class StdStream(Closing, Iterator[Message]):
    """The input and output of a command inside a job, or of the job itself.

    Iterate over it, or call `read_out`, for the output; any number of threads may read, write
    and close. It is closed when it is dropped, too. Output is received in a thread of its own,
    which lasts until the stream is over, so that the connection lives while nobody reads. At most
    16 MiB wait for their reader; then the command is slowed down. Who writes more than that to a
    command that answers must read in another thread, as with ``subprocess``; `Jobs.run_command`
    does.
    """

    def __init__(
        self,
        websocket: WebSocket,
        what: str,
        *,
        tty: bool = False,
        stdin: bool = True,
    ) -> None:
        """Take over a websocket that is open."""
        self.tty = tty
        """Whether there is a terminal: then all output is on channel 1."""
        self._websocket = websocket
        self._what = what
        self._stdin = stdin
        # Guards everything below; told of each change, be it output, room for it, or the end.
        self._changed = threading.Condition()
        self._output: deque[Message] = deque()
        self._kept = 0
        self._waiting = 0
        self._exited: frames.Exited | None = None
        self._failure: NeuroError | None = None
        self._over = False
        self._closed = False
        # Whether all input was delivered to a platform that cannot be told of its end, and when
        # something was delivered or came last.
        self._is_end_owed = False
        self._active = 0.0
        self._feeder: threading.Thread | None = None
        # The thread does not keep the stream alive, so that one that is dropped ends, also when
        # Ctrl-C comes just before the caller gets it or while it is closed.
        self._stop = CloseWhenDropped(self, websocket.close)
        self._thread = threading.Thread(
            target=_receive,
            args=(websocket, weakref.ref(self)),
            name=f"neuro-sync: {what}",
            daemon=True,
        )
        self._thread.start()

    def read_out(self, *, timeout: Duration | None = None) -> Message | None:
        """Wait for the next piece of output; ``None`` is the end.

        Raises:
            StreamInterrupted: The connection broke. All that came before has been returned.
            ProtocolError: The platform sent something unreadable.
            CommandTimeout: Nothing came within `timeout`; the stream goes on.
        """
        return self._read(deadline(timeout, monotonic()))

    def _read(self, end: float, eof_timeout: float = math.inf) -> Message | None:
        with self._changed:
            while not self._output and not self._over:
                self._wait_for_change(end, eof_timeout)
            if self._output:
                message = self._output.popleft()
                self._kept -= len(message.data)
                self._changed.notify_all()
                return message
            if self._failure is not None and not self._closed:
                raise self._failure
            return None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        message = self.read_out()
        if message is None:
            raise StopIteration
        return message

    def write_in(self, data: bytes) -> None:
        """Write to the standard input; wait while the command takes in nothing.

        Raises:
            StreamClosed: The command is over, its input was ended, or the stream was opened
                without `stdin`. Output that came before can still be read.
            StreamInterrupted: The connection broke.
        """
        self._check_open()
        if not self._stdin:
            raise StreamClosed(f"the input of {self._what} is not open; open it with stdin=True")
        view = memoryview(data)
        for start in range(0, len(view), INPUT_PIECE):
            self._send(frames.stdin(view[start : start + INPUT_PIECE].tobytes()))

    def leave_stdin_open(self) -> None:
        """Note that all input was written, where `close_stdin` cannot send that."""
        with self._changed:
            self._is_end_owed = True
            self._active = monotonic()
            self._changed.notify_all()

    def silence_left(self, eof_timeout: float) -> float:
        """Return for how many more seconds nothing may happen.

        Without limit, unless all input was written and its end cannot be sent.

        Raises:
            InputNotEnded: None are left.
        """
        if not self._is_end_owed or self._over:
            return math.inf
        left = self._active + eof_timeout - monotonic()
        if left <= 0:
            raise InputNotEnded(
                f"{self._what} has been sent its input, and then nothing happened for "
                f"{eof_timeout:g} s. It may wait for the end of its input, which this platform "
                "cannot send; it goes on in the job. Tell it how much to read, as in "
                "sh -c 'head -c 1000 | COMMAND', use a terminal (tty=True, -t), or wait longer "
                "(eof_timeout=, --eof-timeout)"
            )
        return left

    def close_stdin(self) -> None:
        """Tell the command that its input is over; with a terminal this types Ctrl-D.

        Raises:
            NotSupported: The platform cannot tell it; nothing was done.
        """
        if self._over or not self._stdin:
            return
        if self.tty:
            self.write_in(CTRL_D)
            return
        if not self.can_close_stdin:
            raise NotSupported(
                "this platform cannot tell a command that its input is over. Tell the command how "
                "much to read, as in sh -c 'head -c 1000 | COMMAND', or open it with tty=True"
            )
        self._send(frames.end_of_input())
        self._stdin = False

    @property
    def can_close_stdin(self) -> bool:
        """Whether `close_stdin` works here; the hosted platform can do it with a terminal only."""
        return self.tty or self._websocket.subprotocol == frames.CHANNELS_WITH_EOF

    def resize(self, h: int, w: int) -> None:
        """Tell the command the size of its terminal: `h` rows of `w` characters.

        Raises:
            StreamClosed: The command is over.
        """
        size = frames.resize(height=characters("h", h), width=characters("w", w))
        self._check_open()
        self._send(size)

    def wait(self, timeout: Duration | None = None) -> int:
        """Wait until the command is over, and return its exit code.

        Output is kept meanwhile, however much it is, and can be read afterwards. Of an attached
        job the code is always 0; `Jobs.status` knows the real one.

        Raises:
            StreamInterrupted: The connection ended before there was an exit code.
            ProtocolError: The platform sent something unreadable instead.
            StreamClosed: The stream was closed here before the command was over.
            CommandTimeout: It was not over within `timeout`; the stream goes on.
        """
        end = deadline(timeout, monotonic())
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                while not self._over:
                    self._wait_for_change(end)
            finally:
                self._waiting -= 1
        if self._exited is not None:
            return self._exited.exit_code
        if self._closed:
            raise StreamClosed(f"{self._what} was closed before it was over")
        if isinstance(self._failure, ProtocolError):
            raise self._failure
        raise StreamInterrupted(
            f"the connection of {self._what} ended before there was an exit code; jobs.status() "
            "tells whether the job itself is over"
        ) from self._failure

    @property
    def exit_code(self) -> int:
        """The exit code, never ``None``: it is waited for, and raises, as `wait` does."""
        return self.wait()

    @property
    def has_exited(self) -> bool:
        """Whether the exit code is there already."""
        return self._exited is not None

    @property
    def is_running(self) -> bool:
        """Whether the command still may write and read, as far as is known here."""
        return not self._over and self._exited is None

    @property
    def exit_message(self) -> str:
        """Why the command could not be run, if it was not, in the platform's words."""
        return self._exited.message if self._exited else ""

    def communicate(
        self,
        input: bytes | None = None,
        *,
        timeout: Duration | None = None,
        eof_timeout: Duration | None = frames.EOF_TIMEOUT_S,
    ) -> CommandResult[bytes]:
        """Write all the input and read all the output, at the same time, until the end.

        Where `close_stdin` does not work, a command that got all its input has to end by itself.
        It is given up when nothing happens for `eof_timeout` seconds; ``None`` sets no limit.

        Raises:
            InputNotEnded: Nothing happened for `eof_timeout` seconds after the input. The error
                has the output so far; the stream goes on.
            CommandTimeout: It was not over within `timeout`; the stream goes on.
            StreamInterrupted: The connection ended before there was an exit code.
        """
        end = deadline(timeout, monotonic())
        silence = math.inf if eof_timeout is None else in_seconds(eof_timeout, "eof_timeout")
        if input is not None:
            memoryview(input)  # a text is refused here, not in the thread
            name = f"neuro-sync: input of {self._what}"
            self._feeder = threading.Thread(
                target=self._feed, args=(input,), name=name, daemon=True
            )
            self._feeder.start()
        written: dict[int, list[bytes]] = {1: [], 2: []}
        try:
            while message := self._read(end, silence):
                written[message.fileno].append(message.data)
            exit_code = self.wait(end - monotonic())
        except CommandTimeout as error:
            error.stdout, error.stderr = b"".join(written[1]), b"".join(written[2])
            raise
        return CommandResult(exit_code, b"".join(written[1]), b"".join(written[2]))

    def close(self, *, patience_s: float = CLOSING_PATIENCE_S) -> None:
        """End the connection; what runs inside the job may go on.

        Whoever reads or waits in another thread is released at once. Output that was not read
        stays readable. The platform has `patience_s` to confirm that it was told of the end. In a
        child of `fork` only the child's own use of it ends.
        """
        if self.is_inherited:
            self._closed = self._over = True
            return
        with self._changed:
            self._closed = True
            self._over = True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            return
        if self._thread.is_alive():
            # Not outright: that could undo what was written last.
            give_up_at = monotonic() + patience_s
            self._end(patience_s)
            self._thread.join(max(give_up_at - monotonic(), 0.0))
        self._stop()
        self._thread.join()
        if self._feeder is not None:
            self._feeder.join()

    def interact(
        self,
        *,
        history: LogLines | None = None,
        eof_timeout: float | None = frames.EOF_TIMEOUT_S,
    ) -> int | None:
        """Connect the user's terminal with the stream until one of them is over, then close it.

        The terminal is in raw mode meanwhile and is restored in any case. Its size is passed on.
        Ctrl-P Ctrl-Q detaches: the command goes on and ``None`` is returned, else its exit code.
        `history` is what was written before, ``jobs.logs(id, follow=False)``; it is shown until
        the stream has something to show, and closed. `eof_timeout` is as for `communicate`.

        Raises:
            NotSupported: A standard stream is no open file, as in a notebook. Or the console is
                one of an old Windows, which cannot be such a terminal.
            InputNotEnded: All input was sent, and nothing happened for `eof_timeout` seconds.
            StreamInterrupted: The connection ended before there was an exit code.
        """
        from .terminal import interact

        return interact(self, history, math.inf if eof_timeout is None else eof_timeout)

    def __repr__(self) -> str:
        state = f", exited {self._exited.exit_code}" if self._exited else ""
        return f"<StdStream of {self._what}{state}{', closed' if self._closed else ''}>"

    def _feed(self, data: bytes) -> None:
        # A command need not read all its input; how it ended is told to whoever waits for it.
        with suppress(NeuroError):
            self.write_in(data)
            if self.can_close_stdin:
                self.close_stdin()
            else:
                self.leave_stdin_open()

    def _wait_for_change(self, end: float, eof_timeout: float = math.inf) -> None:
        left = end - monotonic()
        if left <= 0:
            raise CommandTimeout(f"{self._what} was not over in time")
        left = min(left, self.silence_left(eof_timeout))
        self._changed.wait(None if left > threading.TIMEOUT_MAX else left)

    def _check_open(self) -> None:
        if self._over or self._exited is not None:
            raise StreamClosed(f"{self._what} is over; nothing more can be sent")

    def _send(self, message: bytes) -> None:
        try:
            self._websocket.send(message)
        except StreamInterrupted:
            if self._exited is not None:  # it had ended meanwhile, and so did the connection
                raise StreamClosed(f"{self._what} is over; nothing more can be sent") from None
            raise

    def _end(self, patience_s: float) -> None:
        # A writer that waits for a command that reads nothing is not waited for.
        if not self._websocket.end(patience_s):
            self._websocket.close()

    def _accept(self, message: bytes) -> bool:
        """Keep what was received; return whether more is wanted."""
        received = frames.from_server(message)
        if isinstance(received, frames.Exited):
            self._exited = received
            return False
        if not received.data:  # that there is a connection, or nothing
            return True
        with self._changed:
            if not self._closed:  # else only the platform's farewell is waited for
                self._active = monotonic()
                self._output.append(received)
                self._kept += len(received.data)
                self._changed.notify_all()
        return True

    def _has_room(self) -> bool:
        """Return whether more output may be kept; wait for that for a heartbeat at most."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._kept < KEPT or self._waiting > 0 or self._closed,
                self._websocket.heartbeat,
            )

    def _end_with(self, failure: NeuroError | None) -> None:
        with self._changed:
            self._failure = failure
            self._over = True
            self._changed.notify_all()

    def _unreadable(self, error: frames.BadFrame) -> ProtocolError:
        failure = ProtocolError(f"{self._what} sent something unreadable: {error}")
        failure.__cause__ = error
        return failure


def _receive(websocket: WebSocket, reference: weakref.ref[StdStream]) -> None:
    """Receive for a stream until its end, in a thread of its own, or until it is dropped."""
    failure: NeuroError | None = None
    try:
        while (message := websocket.receive()) is not None:
            stream = reference()
            if stream is None or not stream._accept(message):  # noqa: SLF001  # of this module
                break
            while stream is not None and not stream._has_room():  # noqa: SLF001
                websocket.ping()
                del stream
                stream = reference()
            del stream
    except NeuroError as error:
        failure = error
    except frames.BadFrame as error:
        stream = reference()
        failure = None if stream is None else stream._unreadable(error)  # noqa: SLF001
    finally:
        stream = reference()
        if stream is not None:
            stream._end_with(failure)  # noqa: SLF001
        websocket.close()


class PreparedCommand:
    """A command that `Jobs.exec_create` prepared, and its stream once it was started."""

    def __init__(self, id: str, job_id: str, command: str, *, tty: bool) -> None:
        self.command = command
        self.tty = tty
        self._id = id
        self._job_id = job_id
        self._stream: StdStream | None = None

    def start(self, open_stream: Callable[[], StdStream]) -> StdStream:
        self._stream = open_stream()
        return self._stream

    def inspect(self) -> ExecInspect:
        stream = self._stream
        is_running = stream is not None and stream.is_running
        exit_code = stream.exit_code if stream is not None and stream.has_exited else None
        return ExecInspect(
            id=self._id, job_id=self._job_id, running=is_running, exit_code=exit_code
        )

    def resize(self, h: int, w: int) -> None:
        if self._stream is None:
            raise StreamClosed(f"{self.command!r} was not started yet")
        self._stream.resize(h, w)


class PreparedCommands:
    """What `Jobs.exec_create` prepared; platforms of today do not remember it."""

    def __init__(self) -> None:
        self._commands: dict[str, PreparedCommand] = {}

    def add(self, job_id: str, command: str, *, tty: bool) -> str:
        exec_id = f"exec-{os.urandom(16).hex()}"
        self._commands[exec_id] = PreparedCommand(exec_id, job_id, command, tty=tty)
        return exec_id

    def get(self, job_id: str, exec_id: str) -> PreparedCommand:
        command = self._commands.get(exec_id)
        if command is None:
            raise ResourceNotFound(f"no command {exec_id} of {job_id} was prepared here")
        return command
