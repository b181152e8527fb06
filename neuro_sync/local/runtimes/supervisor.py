"""The process that watches over one run of a job: ``python -I -S supervisor.py FOLDER RUN``.

It imports nothing of the package but `boxes`, which lies beside it, and little of the library,
since every job waits for its start. It outlives the platform: whoever looks into the folder later
finds how the job went.

What to run comes on its standard input and is never in a file, since it holds the values of
secrets: see `Spec`. In the folder:

``lock``      held for as long as the supervisor lives; its text is the supervisor's pid
``control``   a FIFO, a command a line: ``kill SECONDS`` ends the job, by force after so many
              seconds; ``signal NUMBER`` goes to the job's first process; ``end-input`` closes its
              standard input for good; ``listen`` opens ``socket``
``socket``    made on the first ``listen``: takes requests, see `Request`
``events.N``  made before run N begins, a line for each event: ``started NANOSECONDS PID``, ``exited
              NANOSECONDS CODE``, ``failed NANOSECONDS CODE TEXT`` if it could not be run, ``stopped
              NANOSECONDS TEXT`` if its output was too much; the last three come after the run's
              last byte of the log
``log``       the output, byte for byte, of all runs
``log.times`` 16 bytes for each piece of the log, big-endian: one for its stream (1 is standard
              output, 2 standard error; with a terminal all is 1), seven for its offset, eight for
              when it came (ns)

After each change it writes its folder's name to the FIFO ``wake`` two folders up, if anybody
reads there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # each is only imported by who needs it
    import ctypes
    import socket
    from types import ModuleType

    from . import boxes

PIECE = 65536
USUAL_SIZE = b"".join(size.to_bytes(2, sys.byteorder) for size in (24, 80, 0, 0))
"""Lines and columns of a job's terminal, until somebody attaches."""
RECORD = 16
"""Bytes of a record in ``log.times``."""
BOX_PAUSES = (0.01, 0.05, 0.2)
"""Seconds between two tries to make a box."""
BOX_END = 0.1
"""Seconds that the kernel gets to end what is in a box, before it is looked for one by one."""
LINE_TIME = 0.05
"""Seconds that an output may take to end a line before the other one breaks into it."""
IMPATIENCE = 2.0
"""Seconds for which nothing waits for a line any more, once one has taken too long."""
SILENT_AFTER_DEATH = 2.0
"""Seconds to wait for output that is still held open when all processes are gone."""

Process = tuple[int, bytes]
"""A pid, and when the process started (clock ticks), which tells it from a later one of the pid."""


def main(folder: str, run: str) -> None:
    reset_signals()
    # What it makes is for this user alone; the job has the platform's umask again.
    umask = os.umask(0o077)
    os.chdir(folder)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # If a platform was killed just when it had started a supervisor, the next one starts another:
    # the second waits here for the end of the first, and finds that there is nothing left to do.
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.ftruncate(lock, 0)
    os.write(lock, b"%d" % os.getpid())
    events = f"events.{run}"
    if os.path.exists(events):
        return  # it ran already: no run is run twice
    with open(0, "rb") as file:
        spec = Spec(file.read())
    os.open(os.devnull, os.O_RDONLY)  # becomes 0 again
    spec.umask = umask
    Supervisor(os.path.basename(folder), events, spec).run()


def probe() -> None:
    """Make the box that standard input tells of, enter it, and say what went wrong if it did."""
    reset_signals()
    adopt_orphans()
    with open(0, "rb") as file:
        spec = Spec(file.read())
    os.open(os.devnull, os.O_RDONLY)
    try:
        pid = make_box(spec.box or []).fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    except OSError as error:
        os.write(1, str(error).encode())


class Spec:
    """What to run, as the platform tells it.

    Six lists, of which each is its length and its items: the settings (working folder, terminal
    or not, most bytes of output or nothing, durable or not), the job's arguments, and the four of
    which its box is made, see `boxes.Box`, empty without one. The rest is the environment. All
    are separated by NUL.
    """

    def __init__(self, text: bytes) -> None:
        items = iter(text.split(b"\0"))
        settings, self.arguments, *box = (
            [next(items) for _ in range(int(next(items)))] for _ in range(6)
        )
        self.box = box if box[0] else None
        """What a box is made of, if the job has one."""
        self.working_dir, tty, limit, durable = settings
        self.tty = tty == b"1"
        self.durable = durable == b"1"
        """Whether a power loss must not undo that a run has begun, nor shorten a log that ended."""
        self.limit = int(limit) if limit else None
        self.environment = dict(_pair(variable) for variable in items)
        self.umask = 0o022


class Supervisor:
    def __init__(self, name: str, events: str, spec: Spec) -> None:
        self.spec = spec
        self.wake_line = name.encode() + b"\n"
        self.wake_pipe: int | None = None
        self.owes_wake = False
        append = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log = os.open("log", append, 0o600)
        self.times = os.open("log.times", append, 0o600)
        self.events = os.open(events, append, 0o600)
        self.offset = os.fstat(self.log).st_size
        self.drop_stray_times()
        self.pid = 0
        self.box: boxes.Box | None = None
        self.box_process: Process = (0, b"")
        """The first process of the box, with which all in it ends."""
        self.stopped = b""
        """Why the platform ended the job: its output was too much."""
        self.sources: dict[int, int] = {}
        """Which stream of the job an output is."""
        self.in_line: int | None = None
        """The output that has begun a line and not ended it."""
        self.waiting: int | None = None
        """The other one, which has something too, and is not read before the line is whole."""
        self.wait_until = 0.0
        self.impatient_until = 0.0
        """Until when no output waits for the other one, of which a line has just taken too long."""
        self.input: int | None = None
        """Where what is written becomes the job's input."""
        self.poll = select.poll()
        self.listener: socket.socket | None = None
        self.requests: dict[int, Request] = {}
        """By their connection, which is open."""
        self.abandoned: list[Request] = []
        """Commands that were told to end, since nobody waits for them any more."""
        self.exit_status: int | None = None
        self.over = False
        self.childless = False
        """Whether all are gone; orphans of the job become children of this process."""
        self.kill_at: float | None = None
        """When to end by force whatever is left."""
        # Opened for both, so that it has no end, whether or not the platform has it open.
        self.control = os.open("control", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.signals, wakeup = os.pipe()
        os.set_blocking(self.signals, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        adopt_orphans()

    def drop_stray_times(self) -> None:
        """Remove what a crash may leave at the end of ``log.times``.

        That is half a record, and records of output that did not come to the log.
        """
        size = os.fstat(self.times).st_size // RECORD * RECORD
        while size:
            place = os.pread(self.times, RECORD // 2, size - RECORD)
            if int.from_bytes(place[1:], "big") < self.offset:
                break
            size -= RECORD
        os.ftruncate(self.times, size)

    def run(self) -> None:
        spec = self.spec
        if spec.durable:
            for folder in (".", ".."):
                sync_folder(folder)
        failure_read, failure_write = os.pipe()
        try:
            if spec.box:
                self.box = make_box(spec.box)
                self.box_process = (self.box.first, start_of(self.box.first))
            outputs, slaves, self.input = self.open_terminal() if spec.tty else open_pipes()
            self.sources = {fd: number for number, fd in enumerate(outputs, 1)}
            self.pid = self.fork()
        except OSError as error:
            self.record(b"failed %d 125 %s" % (time.time_ns(), str(error).encode()))
            return
        if self.pid == 0:
            become_job(spec, spec.tty, slaves, spec.arguments, failure_write)
        for fd in {*slaves, failure_write}:
            os.close(fd)
        failure = os.read(failure_read, PIECE)  # ends when the job's program is in place
        os.close(failure_read)
        if failure:
            os.waitpid(self.pid, 0)
            self.record(b"failed %d %s" % (time.time_ns(), failure))
            return
        self.record(b"started %d %d" % (time.time_ns(), self.pid))
        code = exit_code(self.watch())
        self.sync_log()
        if self.stopped:
            self.record(b"stopped %d %s" % (time.time_ns(), self.stopped))
        else:
            self.record(b"exited %d %d" % (time.time_ns(), code))

    def fork(self) -> int:
        """Fork, and return 0 in a process that sees what the job sees and ends with this one."""
        if self.box is not None:
            return self.box.fork()
        pid = os.fork()
        if pid == 0:
            die_with_parent()
        return pid

    def open_terminal(self) -> tuple[Files, Files, int]:
        """Return the same as `open_pipes` for a terminal, one file in both directions."""
        master, slave = os.openpty() if self.box is None else self.box.open_terminal()
        fcntl.ioctl(master, termios.TIOCSWINSZ, USUAL_SIZE)
        return (master,), (slave, slave, slave), master

    def watch(self) -> int:
        """Copy output and obey commands until the job and all that it started are gone.

        Returns the status of the job's first process, as ``wait`` gives it.
        """
        for fd in (self.control, self.signals, *self.sources):
            self.poll.register(fd, select.POLLIN)
        open_outputs = set(self.sources)
        give_up_at: float | None = None
        while self.exit_status is None or open_outputs or not self.childless:
            for fd, _ in self.poll.poll(self.patience()):
                if fd == self.control:
                    self.obey(read(self.control))
                elif fd == self.signals:
                    read(self.signals)
                elif fd in self.requests:
                    self.hear(self.requests[fd])
                elif fd not in open_outputs:
                    self.accept()
                elif self.in_line in (None, fd) or time.monotonic() < self.impatient_until:
                    self.copy_or_close(fd, open_outputs)
                else:
                    self.hold_back(fd)
            self.let_go(open_outputs)
            self.reap()
            if self.exit_status is not None and not self.over:
                self.over = True
                # What the job left behind ends with it, as in a container.
                self.kill_at = 0.0
                if self.box is not None:
                    send_signal(self.box_process, signal.SIGKILL)  # the kernel ends all the others
                    self.kill_at = time.monotonic() + BOX_END
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at and not self.childless:
                for process in self.family():
                    send_signal(process, signal.SIGKILL)
                self.kill_at = now + 0.02  # once more, for what was forked meanwhile
            for request in [*self.abandoned]:
                if now >= request.kill_at:
                    for process in descendants(request.pid):
                        send_signal(process, signal.SIGKILL)
                    self.abandoned.remove(request)
            if self.childless:
                give_up_at = give_up_at or now + SILENT_AFTER_DEATH
                if now > give_up_at:
                    break
            if self.owes_wake:
                self.wake()
        return self.exit_status or 0

    def patience(self) -> float | None:
        """Return how many milliseconds to wait for something to happen; None is forever."""
        if self.owes_wake or self.childless:
            return 20
        times = [request.kill_at for request in self.abandoned]
        if self.waiting is not None:
            times.append(self.wait_until)
        if self.kill_at is not None:
            times.append(self.kill_at)
        return max(min(times) - time.monotonic(), 0) * 1000 + 1 if times else None

    def hold_back(self, fd: int) -> None:
        """Leave an output alone for a moment, so that it does not break into a line of the other.

        What the job writes meanwhile stays in the pipe.
        """
        self.poll.unregister(fd)
        self.waiting = fd
        self.wait_until = time.monotonic() + LINE_TIME

    def let_go(self, open_outputs: set[int]) -> None:
        """Go on with an output that was held back, if the line is whole or takes too long."""
        fd = self.waiting
        if fd is None:
            return
        if self.in_line is not None:
            now = time.monotonic()
            if now < self.wait_until:
                return
            # Who writes no lines is not to be slowed down piece by piece.
            self.impatient_until = now + IMPATIENCE
        self.waiting = None
        self.poll.register(fd, select.POLLIN)
        # Now, or else the other one may be in the middle of a line again.
        self.copy_or_close(fd, open_outputs)

    def copy_or_close(self, fd: int, open_outputs: set[int]) -> None:
        if not self.copy(fd):
            self.poll.unregister(fd)
            open_outputs.discard(fd)

    def copy(self, fd: int) -> bool:
        """Append one piece of output to the log; False at its end."""
        try:
            data = os.read(fd, PIECE)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that nobody holds any more
                return False
            raise
        if not data:
            self.in_line = None
            return False
        self.in_line = None if data.endswith(b"\n") else fd
        if self.stopped:
            return True  # read all the same, so that nobody waits
        limit = self.spec.limit
        if limit is not None and self.offset + len(data) > limit:
            data = data[: limit - self.offset]
            self.stop(b"it wrote more than %d bytes of output" % limit)
        try:
            # The time first: a reader that sees the bytes finds their time.
            place = self.sources[fd] << 56 | self.offset
            write(self.times, place.to_bytes(8, "big") + time.time_ns().to_bytes(8, "big"))
            write(self.log, data)
        except OSError as error:
            self.stop(b"its output could not be kept: %s" % str(error.strerror).encode())
        self.offset += len(data)
        self.wake()
        return True

    def sync_log(self) -> None:
        """Bring all output to the disk, before the job's end is recorded."""
        if not self.spec.durable:
            return
        try:
            os.fsync(self.log)
            os.fsync(self.times)
        except OSError as error:
            self.stop(b"its output could not be kept: %s" % str(error.strerror).encode())

    def stop(self, why: bytes) -> None:
        """End the job at once, for a reason of the platform's own."""
        self.stopped = why
        self.kill_at = 0.0

    def obey(self, commands: bytes) -> None:
        for command in commands.split(b"\n"):
            if command.startswith(b"kill "):
                self.kill_at = time.monotonic() + float(command[5:])
                for process in self.family():
                    send_signal(process, signal.SIGTERM)
                    send_signal(process, signal.SIGCONT)
            elif command.startswith(b"signal ") and self.exit_status is None:
                send_signal((self.pid, b""), int(command[7:]))
            elif command == b"end-input" and self.input is not None:
                if self.input not in self.sources:  # a terminal is also what the job writes to
                    os.close(self.input)
                    self.input = None
            elif command == b"listen":
                self.listen()

    def family(self) -> list[Process]:
        """Return all processes of the job; the first one alone where there is no ``/proc``."""
        return descendants() or ([(self.pid, b"")] if self.exit_status is None else [])

    def listen(self) -> None:
        if self.listener is None:
            import socket

            if os.path.exists("socket"):
                os.unlink("socket")  # of the job's run before
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind("socket")  # a longer name might not fit
            self.listener.listen(128)
            self.listener.setblocking(False)
            self.poll.register(self.listener, select.POLLIN)
        self.wake()

    def accept(self) -> None:
        assert self.listener is not None  # noqa: S101  # nothing else is watched
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return  # whoever called has gone
        connection.setblocking(False)
        self.requests[connection.fileno()] = Request(connection)
        self.poll.register(connection, select.POLLIN)

    def hear(self, request: Request) -> None:
        """Take in a part of a request, or learn that nobody waits for its outcome any more."""
        if not request.receive():
            self.leave(request)
        elif request.is_whole and not request.pid:
            self.answer(request)

    def answer(self, request: Request) -> None:
        verb, *arguments = request.fields()
        if verb == b"exec" and self.exit_status is None and len(request.files) == 3:
            grace, tty, *command = arguments
            request.grace = float(grace)
            try:
                request.pid = self.fork()
            except OSError as error:
                request.finish(126, f"126 no process can be made: {error.strerror}")
                self.leave(request)
                return
            if request.pid == 0:
                streams = tuple(request.files)
                become_job(self.spec, tty == b"1", streams, command, request.connection.fileno())
            request.close_files()
            return
        if verb == b"input" and self.input is not None:
            request.send_files([self.input])
        if verb == b"terminal":
            try:
                _, (slave, *_), master = self.open_terminal()
            except OSError:
                self.leave(request)
                return
            request.send_files([master, slave])
            os.close(master)
            os.close(slave)
        self.leave(request)

    def leave(self, request: Request) -> None:
        """Close a connection; a command that runs has lost its user, so it is ended."""
        self.poll.unregister(request.connection)
        del self.requests[request.connection.fileno()]
        request.connection.close()
        request.close_files()
        if request.pid and request.is_running:
            for process in descendants(request.pid) or [(request.pid, b"")]:
                send_signal(process, signal.SIGHUP)
                send_signal(process, signal.SIGCONT)
            request.kill_at = time.monotonic() + request.grace
            self.abandoned.append(request)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.exit_status = status
            for request in [*self.requests.values()]:
                if request.pid == pid:
                    request.finish(exit_code(status))
                    self.leave(request)

    def record(self, event: bytes) -> None:
        write(self.events, event.replace(b"\n", b" ") + b"\n")
        self.wake()

    def wake(self) -> None:
        """Tell the platform, if there is one; whoever comes later reads the files anyway."""
        self.owes_wake = False
        try:
            if self.wake_pipe is None:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self.wake_pipe = os.open("../../wake", flags)
            os.write(self.wake_pipe, self.wake_line)
        except BlockingIOError:
            self.owes_wake = True
        except OSError:
            if self.wake_pipe is not None:
                os.close(self.wake_pipe)
                self.wake_pipe = None


class Request:
    """What is asked of a job over a connection of its own: a verb and its arguments.

    It comes as its length in bytes, NUL, and its fields, separated by NUL.

    ``exec GRACE TERMINAL ARGUMENT...`` runs a command beside the job's own. Its three streams come
    along as files. The answer is NUL and the exit code, before it code and text if the command
    could not be run. If the connection is closed earlier, the command's process group gets SIGHUP
    and, so many seconds later, SIGKILL. Without an answer the job was over.

    ``input`` is answered by a file: what is written to it becomes the job's input. Without an
    answer the input was closed.

    ``terminal`` is answered by both ends of a new terminal, which has its name where the job is.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""
        self.files: list[int] = []
        self.grace = 0.0
        self.pid = 0
        self.is_running = True
        self.kill_at = 0.0

    def receive(self) -> bool:
        """Take in what came; False when the other side is gone."""
        import socket

        try:
            data, files, _, _ = socket.recv_fds(self.connection, PIECE, 3)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for fd in files:
            os.set_inheritable(fd, False)
        self.files += files
        self.data += data
        return bool(data)

    @property
    def is_whole(self) -> bool:
        length, _, body = self.data.partition(b"\0")
        return length.isdigit() and len(body) == int(length)

    def fields(self) -> list[bytes]:
        return self.data.split(b"\0")[1:]

    def finish(self, code: int, why: str = "") -> None:
        self.is_running = False
        try:
            self.connection.send(b"%s\0%d" % (why.encode(), code))
        except OSError:
            pass  # the other side has gone just now

    def send_files(self, files: list[int]) -> None:
        import socket

        try:
            socket.send_fds(self.connection, [b"."], files)
        except OSError:
            pass  # the other side has gone just now

    def close_files(self) -> None:
        for fd in self.files:
            os.close(fd)
        self.files.clear()


Files = tuple[int, ...]


def open_pipes() -> tuple[Files, Files, int]:
    """Return what the supervisor reads, the job's three streams, and where its input comes from."""
    stdin_read, stdin_write = os.pipe()
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    return (
        (stdout_read, stderr_read),
        (stdin_read, stdout_write, stderr_write),
        stdin_write,
    )


def become_job(spec: Spec, tty: bool, streams: Files, arguments: list[bytes], failure: int) -> None:
    """Replace this process by the job's program or one beside it, or tell why not.

    Never returns.
    """
    code = 126
    program = os.fsdecode(arguments[0])
    terminal = {b"TERM": b"xterm-256color"} if tty else {}
    try:
        os.setsid()
        if tty:
            import termios

            fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        signal.set_wakeup_fd(-1)
        reset_signals()
        os.umask(spec.umask)
        os.chdir(spec.working_dir)
        os.execvpe(arguments[0], arguments, {**terminal, **spec.environment})
    except OSError as error:
        why = f"{program!r} cannot be run: {error.strerror}"
        if error.filename == spec.working_dir:
            why = f"the working folder {os.fsdecode(spec.working_dir)!r}: {error.strerror}"
        elif error.errno == errno.ENOENT:
            code, why = 127, f"there is no program {program!r}"
        os.write(failure, f"{code} {why}".encode())
    finally:
        os._exit(code)


def load_boxes() -> ModuleType:
    """Return the module `boxes`, which lies beside this program."""
    sys.path.append(os.path.dirname(__file__))
    return __import__("boxes")


def make_box(parts: list[list[bytes]]) -> boxes.Box:
    """Make a box; what fails once is tried again.

    Bubblewrap goes through the mounts of the machine one by one, and fails when one of them goes
    away at that moment, as those of containers do.
    """
    module = load_boxes()
    box: boxes.Box
    for pause in (*BOX_PAUSES, None):
        try:
            box = module.Box(*parts)
            break
        except OSError as error:
            if pause is None or isinstance(error, module.MountRefused):
                raise
            time.sleep(pause)
    return box


def descendants(group: int | None = None) -> list[Process]:
    """Return all processes below this one, also those that left their session.

    With `group` only those of a process group. Where there is no ``/proc`` the list is empty.
    """
    children: dict[int, list[int]] = {}
    groups: dict[int, int] = {}
    starts: dict[int, bytes] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for pid in pids:
        fields = stat_of(pid)
        if fields and fields[0] != b"Z":
            children.setdefault(int(fields[1]), []).append(pid)
            groups[pid] = int(fields[2])
            starts[pid] = fields[19]
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return [(pid, starts[pid]) for pid in found if group is None or groups[pid] == group]


def stat_of(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/PID/stat`` from the state on; none if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def start_of(pid: int) -> bytes:
    """Return when a process started; nothing if it has ended."""
    return b"".join(stat_of(pid)[19:20])


def exit_code(status: int) -> int:
    """Return the code of a status as shells do: 128 and the number of the signal, if one it was."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def send_signal(process: Process, number: int) -> None:
    """Send a signal to a process, never to a later one of the same pid.

    Without a start it is a child of this process that was not reaped, whose pid is its own.
    """
    pid, start = process
    pidfd: int | None = None
    if start:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it is gone, or an old kernel or a container has no such call
            pass
        if start_of(pid) != start:
            number = 0
    try:
        if pidfd is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):  # it is gone, or has become another user's
        pass
    finally:
        if pidfd is not None:
            os.close(pidfd)


def reset_signals() -> None:
    """Handle all signals as a new program does, and block none.

    A program inherits what its starter blocks and ignores: here first the one that embeds the
    platform, then Python, which ignores some, then this one.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def read(fd: int) -> bytes:
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return b""


def write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def sync_folder(path: str) -> None:
    """Write the names in a folder to the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(folder)


def adopt_orphans() -> None:
    """Become the parent of whatever the job leaves without one."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def die_with_parent() -> None:
    """Have the kernel end the job if its supervisor is killed."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process that only Linux has."""
    if sys.platform == "linux":
        libc().prctl(option, value, 0, 0, 0)


def libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None)


def _pair(variable: bytes) -> tuple[bytes, bytes]:
    name, _, value = variable.partition(b"=")
    return name, value


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[1:] else probe()
