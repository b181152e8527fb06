"""The process that watches over one job. It runs alone: ``python -I -S supervisor.py FOLDER``.

It imports nothing of the package and little of the library, since every job waits for its start.
It outlives the platform: whoever looks into the folder later finds how the job went.

In the folder:

``spec``      what to run: working folder, terminal or not, number of arguments, the arguments,
              the environment, separated by NUL; removed once it was read
``lock``      held for as long as the supervisor lives; its text is the supervisor's pid
``control``   a FIFO; ``kill SECONDS`` ends the job, by force after so many seconds
``events``    a line for each event: ``started NANOSECONDS PID``, ``exited NANOSECONDS CODE``,
              ``failed NANOSECONDS CODE TEXT``; the last two come after the last byte of the log
``log``       the output, byte for byte
``log.times`` 16 bytes for each piece of the log: its offset, and when it came (ns), big-endian

After each change it writes its folder's name to the FIFO ``wake`` two folders up, if anybody
reads there.
"""

import errno
import fcntl
import os
import select
import signal
import sys
import time

PIECE = 65536
SILENT_AFTER_DEATH = 2.0
"""Seconds to wait for output that is still held open by a process that cannot be killed."""


def main(folder):
    os.chdir(folder)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another supervisor has this job
    if os.path.exists("events"):
        return  # it ran already: no job runs twice
    os.write(lock, str(os.getpid()).encode())
    with open("spec", "rb") as file:
        working_dir, tty, count, *rest = file.read().split(b"\0")
    os.unlink("spec")
    arguments, variables = rest[: int(count)], rest[int(count) :]
    environment = dict(variable.split(b"=", 1) for variable in variables if variable)
    Supervisor(os.path.basename(folder)).run(working_dir, tty == b"1", arguments, environment)


class Supervisor:
    def __init__(self, name):
        self.wake_line = name.encode() + b"\n"
        self.wake_pipe = None
        self.owes_wake = False
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log = os.open("log", append, 0o600)
        self.times = os.open("log.times", append, 0o600)
        self.events = os.open("events", append, 0o600)
        self.offset = 0
        self.exit_status = None
        self.childless = False
        """Whether all are gone; orphans of the job become children of this process."""
        self.kill_at = None
        # Never end-of-file, whether or not the platform has it open.
        self.control = os.open("control", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.signals, wakeup = os.pipe()
        os.set_blocking(self.signals, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        adopt_orphans()

    def run(self, working_dir, tty, arguments, environment):
        outputs, slaves, keep_open = open_terminal() if tty else open_pipes()
        failure_read, failure_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            run_job(working_dir, tty, slaves, arguments, environment, failure_write)
        for fd in {*slaves, failure_write}:
            os.close(fd)
        failure = os.read(failure_read, 4096)  # ends when the job's program is in place
        os.close(failure_read)
        if failure:
            os.waitpid(self.pid, 0)
            self.record(b"failed %d " % time.time_ns() + failure)
        else:
            self.record(b"started %d %d" % (time.time_ns(), self.pid))
            self.watch(outputs)
            code = os.waitstatus_to_exitcode(self.exit_status)
            self.record(b"exited %d %d" % (time.time_ns(), code if code >= 0 else 128 - code))
        for fd in keep_open:
            os.close(fd)

    def watch(self, outputs):
        """Copy output and obey commands until the job and all that it started are gone."""
        poll = select.poll()
        for fd in (self.control, self.signals, *outputs):
            poll.register(fd, select.POLLIN)
        open_outputs = set(outputs)
        give_up_at = None
        while open_outputs or not self.childless:
            for fd, _ in poll.poll(self.patience()):
                if fd == self.control:
                    self.obey(read(self.control))
                elif fd == self.signals:
                    read(self.signals)
                elif not self.copy(fd):
                    poll.unregister(fd)
                    open_outputs.discard(fd)
            self.reap()
            if self.exit_status is not None and self.kill_at is None:
                self.kill_at = 0.0  # what the job left behind ends with it, as in a container
            if self.kill_at is not None and time.monotonic() >= self.kill_at and not self.childless:
                kill_all(descendants())
                self.kill_at = time.monotonic() + 0.02  # again, for what was forked meanwhile
            if self.childless and self.exit_status is not None:
                give_up_at = give_up_at or time.monotonic() + SILENT_AFTER_DEATH
                if time.monotonic() > give_up_at:
                    return
            if self.owes_wake:
                self.wake()

    def patience(self):
        """How long to wait for something to happen, in milliseconds; None is forever."""
        if self.owes_wake or self.childless:
            return 20
        if self.kill_at is None:
            return None
        return max(self.kill_at - time.monotonic(), 0) * 1000 + 1

    def copy(self, fd):
        """Append one piece of output to the log; False at its end."""
        try:
            data = os.read(fd, PIECE)
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that nobody holds any more
                return False
            raise
        if not data:
            return False
        # The time first: a reader that sees the bytes finds their time.
        now = time.time_ns()
        write(self.times, self.offset.to_bytes(8, "big") + now.to_bytes(8, "big"))
        write(self.log, data)
        self.offset += len(data)
        self.wake()
        return True

    def obey(self, commands):
        for command in commands.split(b"\n"):
            if command.startswith(b"kill "):
                self.kill_at = time.monotonic() + float(command[5:])
                for pid in descendants() or [self.pid]:
                    send_signal(pid, signal.SIGTERM)
                    send_signal(pid, signal.SIGCONT)

    def reap(self):
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

    def record(self, event):
        write(self.events, event + b"\n")
        self.wake()

    def wake(self):
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


def open_pipes():
    """Return what the supervisor reads, the job's three streams, and what stays open."""
    stdin_read, stdin_write = os.pipe()
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    return (
        (stdout_read, stderr_read),
        (stdin_read, stdout_write, stderr_write),
        (stdin_write,),
    )


def open_terminal():
    master, slave = os.openpty()
    return (master,), (slave, slave, slave), ()


def run_job(working_dir, tty, slaves, arguments, environment, failure):
    """Become the job. Never returns."""
    code = 126
    try:
        os.setsid()
        if tty:
            import termios

            fcntl.ioctl(slaves[0], termios.TIOCSCTTY, 0)
        for target, fd in enumerate(slaves):
            os.dup2(fd, target)
        signal.set_wakeup_fd(-1)
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGPIPE,
            signal.SIGCHLD,
            signal.SIGXFSZ,
        ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.chdir(working_dir)
        except OSError as error:
            raise OSError(0, "the working folder is unusable: " + os.strerror(error.errno))
        die_with_parent()
        os.execvpe(arguments[0], arguments, environment)
    except FileNotFoundError:
        code = 127
        why = b"there is no program " + repr(os.fsdecode(arguments[0])).encode()
    except OSError as error:
        why = repr(os.fsdecode(arguments[0])).encode() + b" cannot be run: "
        why += (error.strerror or str(error)).encode()
    except BaseException as error:
        why = repr(error).encode()
    os.write(failure, b"%d " % code + why)
    os._exit(code)


def descendants():
    """Return the pids of all processes below this one, also of those that left their session."""
    children = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid, "rb") as file:
                stat = file.read()
        except OSError:
            continue
        state, parent = stat.rpartition(b")")[2].split()[:2]
        if state != b"Z":
            children.setdefault(int(parent), []).append(pid)
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_all(pids):
    for pid in pids:
        send_signal(pid, signal.SIGKILL)


def send_signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def read(fd):
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return b""


def write(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def adopt_orphans():
    """Become the parent of whatever the job leaves without one (Linux)."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def die_with_parent():
    """Have the kernel end the job if its supervisor is killed (Linux)."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def prctl(option, value):
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1])
