"""The process that watches over one run of a job: ``python -I -S supervisor.py FOLDER RUN``.

It imports nothing of the package and little of the library, since every job waits for its start.
It outlives the platform: whoever looks into the folder later finds how the job went.

In the folder:

``spec``      what to run: working folder, terminal or not, number of arguments, the arguments,
              the environment, separated by NUL; removed once it was read
``lock``      held for as long as the supervisor lives; its text is the supervisor's pid
``control``   a FIFO, a command a line: ``kill SECONDS`` ends the job, by force after so many
              seconds; ``signal NUMBER`` goes to the job's first process; ``end-input`` closes its
              standard input for good; ``listen`` opens ``socket``
``socket``    made on the first ``listen``: takes requests, see `Request`
``events.N``  made when run N begins, a line for each event: ``started NANOSECONDS PID``, ``exited
              NANOSECONDS CODE``, ``failed NANOSECONDS CODE TEXT``; the last two come after the
              run's last byte of the log
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
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module is only imported when somebody asks for the socket
    import socket

PIECE = 65536
SILENT_AFTER_DEATH = 2.0
"""Seconds to wait for output that is still held open when all processes are gone."""

JOB_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGCHLD,
)
"""What Python or this program handles in a way of its own, and the job must not inherit."""


def main(folder: str, run: str) -> None:
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
    with open("spec", "rb") as file:
        working_dir, tty, count, *rest = file.read().split(b"\0")
    os.unlink("spec")
    arguments, variables = rest[: int(count)], rest[int(count) :]
    environment = dict(_pair(variable) for variable in variables)
    Supervisor(os.path.basename(folder), events).run(
        working_dir, tty == b"1", arguments, environment
    )


class Supervisor:
    def __init__(self, name: str, events: str) -> None:
        self.wake_line = name.encode() + b"\n"
        self.wake_pipe: int | None = None
        self.owes_wake = False
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log = os.open("log", append, 0o600)
        self.times = os.open("log.times", append, 0o600)
        self.events = os.open(events, append, 0o600)
        self.offset = os.fstat(self.log).st_size
        self.pid = 0
        self.working_dir = b""
        self.environment: dict[bytes, bytes] = {}
        self.sources: dict[int, int] = {}
        """Which stream of the job an output is."""
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

    def run(
        self,
        working_dir: bytes,
        tty: bool,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
    ) -> None:
        self.working_dir, self.environment = working_dir, environment
        outputs, slaves, self.input = open_terminal() if tty else open_pipes()
        self.sources = {fd: number for number, fd in enumerate(outputs, 1)}
        failure_read, failure_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            become_job(working_dir, tty, slaves, arguments, environment, failure_write)
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
        self.record(b"exited %d %d" % (time.time_ns(), code))

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
                elif not self.copy(fd):
                    self.poll.unregister(fd)
                    open_outputs.discard(fd)
            self.reap()
            if self.exit_status is not None and not self.over:
                self.over = True
                self.kill_at = 0.0  # what the job left behind ends with it, as in a container
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at and not self.childless:
                for pid in descendants() or [self.pid]:
                    send_signal(pid, signal.SIGKILL)
                self.kill_at = now + 0.02  # once more, for what was forked meanwhile
            for request in [*self.abandoned]:
                if now >= request.kill_at:
                    for pid in descendants(request.pid):
                        send_signal(pid, signal.SIGKILL)
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
        if self.kill_at is not None:
            times.append(self.kill_at)
        return max(min(times) - time.monotonic(), 0) * 1000 + 1 if times else None

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
            return False
        # The time first: a reader that sees the bytes finds their time.
        place = self.sources[fd] << 56 | self.offset
        write(self.times, place.to_bytes(8, "big") + time.time_ns().to_bytes(8, "big"))
        write(self.log, data)
        self.offset += len(data)
        self.wake()
        return True

    def obey(self, commands: bytes) -> None:
        for command in commands.split(b"\n"):
            if command.startswith(b"kill "):
                self.kill_at = time.monotonic() + float(command[5:])
                for pid in descendants() or [self.pid]:
                    send_signal(pid, signal.SIGTERM)
                    send_signal(pid, signal.SIGCONT)
            elif command.startswith(b"signal ") and self.exit_status is None:
                send_signal(self.pid, int(command[7:]))
            elif command == b"end-input" and self.input is not None:
                if self.input not in self.sources:  # a terminal is also what the job writes to
                    os.close(self.input)
                    self.input = None
            elif command == b"listen":
                self.listen()

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
                request.pid = os.fork()
            except OSError as error:
                request.finish(126, f"126 no process can be made: {error.strerror}")
                self.leave(request)
                return
            if request.pid == 0:
                terminal = {b"TERM": b"xterm-256color"} if tty == b"1" else {}
                become_job(
                    self.working_dir,
                    tty == b"1",
                    tuple(request.files),
                    command,
                    {**terminal, **self.environment},
                    request.connection.fileno(),
                )
            request.close_files()
            return
        if verb == b"input" and self.input is not None:
            import socket

            socket.send_fds(request.connection, [b"."], [self.input])
        self.leave(request)

    def leave(self, request: Request) -> None:
        """Close a connection; a command that runs has lost its user, so it is ended."""
        self.poll.unregister(request.connection)
        del self.requests[request.connection.fileno()]
        request.connection.close()
        request.close_files()
        if request.pid and request.is_running:
            for pid in descendants(request.pid) or [request.pid]:
                send_signal(pid, signal.SIGHUP)
                send_signal(pid, signal.SIGCONT)
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


def open_terminal() -> tuple[Files, Files, int]:
    """Return the same for a terminal, which is one file in both directions."""
    master, slave = os.openpty()
    return (master,), (slave, slave, slave), master


def become_job(
    working_dir: bytes,
    tty: bool,
    streams: Files,
    arguments: list[bytes],
    environment: dict[bytes, bytes],
    failure: int,
) -> None:
    """Replace this process by the job's program, or tell why not. Never returns."""
    code = 126
    program = os.fsdecode(arguments[0])
    try:
        os.setsid()
        if tty:
            import termios

            fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        signal.set_wakeup_fd(-1)
        for number in JOB_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        die_with_parent()
        os.chdir(working_dir)
        os.execvpe(arguments[0], arguments, environment)
    except OSError as error:
        why = f"{program!r} cannot be run: {error.strerror}"
        if error.filename == working_dir:
            why = f"the working folder {os.fsdecode(working_dir)!r}: {error.strerror}"
        elif error.errno == errno.ENOENT:
            code, why = 127, f"there is no program {program!r}"
        os.write(failure, f"{code} {why}".encode())
    finally:
        os._exit(code)


def descendants(group: int | None = None) -> list[int]:
    """Return the pids of all processes below this one, also of those that left their session.

    With `group` only those of a process group. Where there is no ``/proc`` the list is empty.
    """
    children: dict[int, list[int]] = {}
    groups: dict[int, int] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue  # it ended meanwhile
        state, parent, group_of_pid = stat.rpartition(b")")[2].split()[:3]
        if state != b"Z":
            children.setdefault(int(parent), []).append(pid)
            groups[pid] = int(group_of_pid)
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return [pid for pid in found if group is None or groups[pid] == group]


def exit_code(status: int) -> int:
    """Return the code of a status as shells do: 128 and the number of the signal, if one it was."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # it is gone, or has become another user's
        pass


def read(fd: int) -> bytes:
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return b""


def write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def adopt_orphans() -> None:
    """Become the parent of whatever the job leaves without one."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def die_with_parent() -> None:
    """Have the kernel end the job if its supervisor is killed."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process that only Linux has."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _pair(variable: bytes) -> tuple[bytes, bytes]:
    name, _, value = variable.partition(b"=")
    return name, value


if __name__ == "__main__":
    main(*sys.argv[1:])
