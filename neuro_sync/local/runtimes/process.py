"""Jobs as processes of this machine, each under a supervisor that outlives the platform.

The platform and a supervisor share nothing but the job's folder: see `supervisor`. The platform
learns of news through one FIFO for all jobs, and of a supervisor's end through its pidfd. What
somebody does inside a running job goes over a socket in that folder, made when it is first needed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import getpass
import logging
import os
import py_compile
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from neuro_sync.errors import IllegalArgumentError, NeuroError, NotSupported, ResourceNotFound
from neuro_sync.local import durable_files
from neuro_sync.local.clock import wall_time
from neuro_sync.local.executors import Work, submit
from neuro_sync.local.lifecycle import CouldNotRun, Event, Exited, Failed, Started, Vanished
from neuro_sync.local.telemetry import Meter
from neuro_sync.local.trees import remove_tree
from neuro_sync.models.frames import Resize
from neuro_sync.models.jobs import Container
from neuro_sync.models.words import split_words

from . import boxes, supervisor
from .base import USUAL_SIZE, Launch, Report, check_target, mount_points
from .channels import CommandChannel, Input, JobChannel, until_readable
from .ports import addresses
from .sandbox import Box, NoSandbox, Sandbox, spec_items

logger = logging.getLogger(__name__)

LOG_LIMIT = 10 * 2**30
"""Bytes of output after which a job is ended, so that it does not fill the disk."""
LAST_SUPERVISORS = 2.0
"""How many seconds supervisors may take to end after their jobs when a platform closes."""
OWN_FOLDERS = ("scratch", "tmp")
"""What a run of a job has for itself: its home, and its temporary files where it is in a box."""
TAIL_BYTES = 2000
"""How much of a failed job's output becomes its description."""


class ProcessRuntime:
    """Runs a job's command on this machine as the platform's own user. The image is not used."""

    name = "process"
    allows_privileged = False

    def __init__(
        self,
        *,
        grace: float = 3.0,
        log_limit: int | None = LOG_LIMIT,
        durable: bool = True,
        visible: Sequence[Path] = (),
        writable: Sequence[Path] = (),
    ) -> None:
        """Say how many seconds a killed job may take, and how many bytes of output it may write.

        With `durable` no run that has begun is forgotten by a power loss, and a job's log is on the
        disk before the job's end is reported. In their sandbox jobs see, of this machine, also
        what is `visible`, and what is `writable`.
        """
        self.grace = grace
        self._durable = durable
        self._log_limit = log_limit
        self._shown = (visible, writable)
        self._sandbox: Sandbox | None = None
        self._lacking = ""
        self._jobs: dict[str, _Supervised] = {}

    async def open(self, folder: Path, report: Report) -> None:
        self._folder = folder
        self._report = report
        # Compiled once: each job waits for the start of its supervisor.
        for program in (boxes, supervisor):
            name = program.__name__.rpartition(".")[2]
            self._supervisor = folder / f"{name}.pyc"
            py_compile.compile(str(program.__file__), cfile=str(self._supervisor), doraise=True)
        wake = folder / "wake"
        if not wake.is_fifo():
            durable_files.create_fifo(wake)
        self._wake = os.open(wake, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        for name in os.listdir(folder):
            if name.endswith(".pyc"):  # it has the mode of its source
                os.chmod(folder / name, 0o600)
        asyncio.get_running_loop().add_reader(self._wake, self._on_wake)
        # Whatever an earlier platform did not come to remove.
        self._trash = folder / "trash"
        durable_files.make_folder(self._trash)
        for old in self._trash.iterdir():
            submit(Work.CLEANING, remove_tree, old)
        try:
            self._sandbox = await asyncio.to_thread(self._make_sandbox)
        except NoSandbox as error:
            self._lacking = str(error)
            level = logging.WARNING if os.geteuid() == 0 else logging.INFO
            logger.log(level, "%s", self.warning)

    def _make_sandbox(self) -> Sandbox:
        sandbox = Sandbox(self._folder, *self._shown)
        place = self._trash / str(uuid.uuid4())
        _make_folders(place)
        try:
            sandbox.probe(self._supervisor, place)
        finally:
            remove_tree(place)
        return sandbox

    @property
    def warning(self) -> str:
        """What a user should know of how jobs run here; empty if there is nothing."""
        if not self._lacking:
            return ""
        return (
            "jobs are not kept apart from this machine: each can read and write all that the user "
            f"{getpass.getuser()} can, this platform's token and secrets too. That takes "
            f"bubblewrap, and {self._lacking}"
        )

    def check(self, container: Container) -> None:
        targets = mount_points(container)
        if targets and self._sandbox is None:
            raise NotSupported(
                "volumes, disks and files of secrets need bubblewrap where jobs run as processes, "
                f"and {self._lacking} and restart the platform, or start the job without them"
            )
        for target in targets:
            check_target(target)
        if not container.command and not container.entrypoint:
            raise IllegalArgumentError(
                "the process runtime runs no image, so a job needs a command or an entrypoint"
            )
        texts = (container.command, container.entrypoint, container.working_dir)
        names = (*chain(*container.env.items()), *container.secret_env, *targets)
        if any("\0" in text for text in (*texts, *names) if text):
            raise IllegalArgumentError("invalid command format: it has a NUL character")

    def launch(self, launch: Launch) -> None:
        earlier = self._jobs.get(launch.job_id)
        if earlier is not None:
            earlier.next = launch  # the supervisor of the run before has not quite gone
            return
        folder = self._folder / "jobs" / launch.job_id
        _make_folders(folder)
        job = _Supervised(folder, launch)
        if not (folder / "control").exists():
            durable_files.create_fifo(folder / "control")
        box = Box(str(folder / "scratch"))
        if self._sandbox is not None:
            gpus = bool(launch.container.resources.gpu)
            box = self._sandbox.box(launch.mounts, folder, gpus=gpus)
        with _spec(launch, box, self._log_limit, self._durable) as spec:
            job.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(self._supervisor), str(folder), str(launch.run)],
                stdin=spec,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
        self._jobs[launch.job_id] = job
        self._watch(launch.job_id, job, job.process.pid)

    def adopt(self, launch: Launch, *, is_ending: bool = False) -> None:
        folder = self._folder / "jobs" / launch.job_id
        if is_ending:
            _prevent(folder, launch.run)
        pid = _supervisor_of(folder)
        if not is_ending and not (folder / f"events.{launch.run}").exists():
            self.launch(launch)  # the earlier platform did not come to it, or only just
            return
        job = self._jobs[launch.job_id] = _Supervised(folder, launch)
        self._read_events(launch.job_id)
        if pid is None:
            self._on_supervisor_end(launch.job_id)
            return
        self._watch(launch.job_id, job, pid)
        if is_ending:
            self.kill(launch.job_id)

    def kill(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        if job.ended and job.next is not None:
            job.next = None
            loop = asyncio.get_running_loop()
            loop.call_soon(self._report, job_id, Vanished(wall_time()))
        if job.ended:
            return
        job.is_killed = True
        try:
            job.command(b"kill %f" % self.grace)
        except OSError as error:
            # Somebody has deleted its folder. The job ends with its supervisor.
            logger.error("job %s is ended by force: %s", job_id, error)
            if job.pidfd is not None:
                signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)

    async def exec(
        self, job_id: str, arguments: Sequence[str], *, tty: bool, size: Resize = USUAL_SIZE
    ) -> CommandChannel:
        connection = await self._connect(job_id, self._running(job_id))
        try:
            stdin, outputs, theirs = await self._open_terminal(job_id) if tty else _open_pipes()
        except BaseException:
            connection.close()
            raise
        channel = CommandChannel(connection, Input(stdin), outputs)
        if tty:
            channel.resize(height=size.height, width=size.width)
        try:
            fields = (b"exec", b"%f" % self.grace, b"%d" % tty, *map(os.fsencode, arguments))
            await _request(connection, fields, theirs)
            await channel.open()
        except BaseException as error:
            channel.close()
            if isinstance(error, ConnectionError):
                raise _not_running(job_id) from error
            raise
        finally:
            for fd in {*theirs}:
                os.close(fd)
        return channel

    async def _open_terminal(self, job_id: str) -> tuple[int, Files, Files]:
        """Return the same as `_open_pipes` for a terminal of the machine that the job sees."""
        with await self._connect(job_id, self._running(job_id)) as connection:
            await _request(connection, (b"terminal",), ())
            files = await _answered_files(connection)
        if len(files) != 2:  # both ends
            raise _not_running(job_id)
        master, slave = files
        try:
            return os.dup(master), (master,), (slave, slave, slave)
        except OSError:
            os.close(master)
            os.close(slave)
            raise

    async def attach(self, job_id: str, *, replay: bool = False) -> JobChannel:
        job = self._running(job_id)
        stdin = await self._input(job_id, job)

        async def end_input() -> None:
            await stdin.end()
            job.command(b"end-input")

        return JobChannel(
            job.log,
            stdin,
            replay=replay,
            is_over=lambda: job.ended,
            has_exited=lambda: job.has_exited and not job.is_killed,
            end_input=end_input,
        )

    def signal(self, job_id: str, number: int) -> None:
        job = self._running(job_id)
        if number == signal.SIGKILL:
            job.is_killed = True
        job.command(b"signal %d" % number)

    async def dial(
        self, job_id: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        job = self._running(job_id)
        pid = _supervisor_of(job.folder)
        # Other processes of this machine listen too, and a job's channels must not lead there.
        hosts = await asyncio.to_thread(addresses, pid, port) if pid is not None else []
        for host in hosts:
            with suppress(OSError):
                return await asyncio.open_connection(host, port)
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    def save(self, job_id: str, image: str, password: str) -> NoReturn:  # noqa: ARG002  # names of the protocol
        raise NotSupported(
            "the process runtime of this local platform runs no images, so it cannot save a job "
            "as one; start the platform with the docker runtime"
        )

    def meter(self, job_id: str) -> Meter | None:
        pid = _supervisor_of(self._folder / "jobs" / job_id)
        return None if pid is None else Meter(pid)

    def _running(self, job_id: str) -> _Supervised:
        job = self._jobs.get(job_id)
        if job is None or job.ended:
            raise _not_running(job_id)
        return job

    async def _connect(self, job_id: str, job: _Supervised) -> socket.socket:
        """Reach a job's supervisor; the first time it has to be asked to listen."""
        asked = False
        while True:
            # Whoever says that it listens now also wakes whoever follows the job's log.
            change = job.log.pulse.watch()
            try:
                if job.ended:
                    raise _not_running(job_id)
                return _dial(job.folder)
            except (FileNotFoundError, ConnectionRefusedError):
                if not asked:
                    job.command(b"listen")
                    asked = True
                await change
            except BlockingIOError:  # many others want it just now
                await asyncio.sleep(0.01)
            finally:
                change.cancel()

    async def _input(self, job_id: str, job: _Supervised) -> Input:
        """Return a job's input, which its supervisor hands out once to this platform."""
        async with job.input_lock:
            if job.input is None:
                with await self._connect(job_id, job) as connection:
                    await _request(connection, (b"input",), ())
                    files = await _answered_files(connection)
                if self._running(job_id) is not job:
                    raise _not_running(job_id)
                job.input = Input(files[0] if files else None)
                await job.input.open()
            return job.input

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        # One that has told its job's end is about to end itself. Left alone, it would be a zombie
        # for as long as this process lives.
        patience = loop.time() + LAST_SUPERVISORS
        while any(job.has_exited for job in self._jobs.values()) and loop.time() < patience:
            await asyncio.sleep(0.002)
        loop.remove_reader(self._wake)
        os.close(self._wake)
        for job in self._jobs.values():
            job.release(loop)
        self._jobs.clear()

    def _watch(self, job_id: str, job: _Supervised, pid: int) -> None:
        """Learn of the end of a supervisor, whether or not it is a child of this process."""
        loop = asyncio.get_running_loop()
        try:
            job.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            loop.call_soon(self._on_supervisor_end, job_id)
        except (AttributeError, OSError):  # not on Linux
            job.poll = loop.create_task(self._poll(job_id, job))
        else:
            loop.add_reader(job.pidfd, self._on_supervisor_end, job_id)

    async def _poll(self, job_id: str, job: _Supervised) -> None:
        child = job.process
        while child.poll() is None if child else _supervisor_of(job.folder) is not None:
            await asyncio.sleep(0.1)
        self._on_supervisor_end(job_id)

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            for job_id in set(os.read(self._wake, 2**16).decode().split("\n")):
                if job_id in self._jobs:
                    self._read_events(job_id)
                    self._jobs[job_id].log.pulse.beat()

    def _read_events(self, job_id: str) -> None:
        """Report the events that were recorded since the last time."""
        job = self._jobs[job_id]
        path = job.folder / f"events.{job.run}"
        with suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(job.events_read)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the supervisor is writing it
                job.events_read += len(line)
                event = _event(line, job.folder)
                if not isinstance(event, Started):
                    job.has_exited = True
                    job.end()
                    self._remove(job.folder)
                self._report(job_id, event)

    def _on_supervisor_end(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        self._read_events(job_id)
        job.release(asyncio.get_running_loop())
        self._remove(job.folder)
        del self._jobs[job_id]
        if job.next is not None:
            self._launch_or_report(job.next)
        elif not job.ended:
            job.end()
            self._report(job_id, Vanished(wall_time()))

    def _launch_or_report(self, launch: Launch) -> None:
        try:
            self.launch(launch)
        except (OSError, NeuroError) as error:
            self._report(launch.job_id, CouldNotRun(wall_time(), 125, str(error)))

    def _remove(self, job: Path) -> None:
        # Out of the way before the job's end is reported, and for its next run. They may hold a
        # million files, and others want their turn.
        for name in OWN_FOLDERS:
            old = self._trash / str(uuid.uuid4())
            with suppress(FileNotFoundError):
                (job / name).replace(old)
                submit(Work.CLEANING, remove_tree, old)


class _Supervised:
    """What the platform holds of a job while its supervisor lives."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        self.folder = folder
        self.log = launch.log
        self.run = launch.run
        self.next: Launch | None = None
        """The job's next run, which waits for this one's supervisor to be gone."""
        self.events_read = 0
        self.ended = False
        self.has_exited = False
        """Whether it was recorded how it ended."""
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd: int | None = None
        self.poll: asyncio.Task[None] | None = None
        self.control: int | None = None
        self.input: Input | None = None
        self.input_lock = asyncio.Lock()
        self.is_killed = False
        """Whether somebody had this platform end it."""

    def command(self, text: bytes) -> None:
        """Tell the supervisor what to do; it need not have started yet."""
        if self.control is None:
            # Opened for both, so that it works while the supervisor is still starting.
            self.control = os.open(
                self.folder / "control", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            )
        os.write(self.control, text + b"\n")

    def end(self) -> None:
        """Note that all output has come, and tell whoever reads it."""
        self.ended = True
        self.log.pulse.beat()

    def release(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.pidfd is not None:
            loop.remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None
        if self.poll is not None:
            self.poll.cancel()
        if self.control is not None:
            os.close(self.control)
            self.control = None
        if self.input is not None:
            self.input.close()
        if self.process is not None:
            self.process.poll()  # reaps it, if it has ended
            # A supervisor outlives a platform that is closed; that is no oversight to warn of.
            self.process.returncode = self.process.returncode or 0


def _spec(launch: Launch, box: Box, log_limit: int | None, durable: bool) -> BinaryIO:
    """Return what the supervisor reads, in a file without a name: no secret comes to lie on disk.

    The format is told there.
    """
    container = launch.container
    arguments = split_words(container.entrypoint or "") + split_words(container.command or "")
    # Nothing of the platform's own environment; `python` is the one that runs the platform.
    environment = {
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.defpath)),
        "HOME": box.home,
        "LANG": "C.UTF-8",
        **({"TERM": "xterm-256color"} if container.tty else {}),
        **launch.environment,
    }
    settings = [
        container.working_dir or box.home,
        "1" if container.tty else "0",
        "" if log_limit is None else str(log_limit),
        "1" if durable else "0",
    ]
    items = spec_items(settings, arguments, box)
    items += [f"{name}={value}" for name, value in environment.items()]
    if sys.platform == "linux":
        file: BinaryIO = os.fdopen(os.memfd_create("spec"), "w+b")
    else:
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  # the caller closes it
    file.write("\0".join(items).encode("utf-8", "surrogateescape"))
    file.flush()
    file.seek(0)
    return file


def _make_folders(job: Path) -> None:
    """Make the folders that a run of a job has for itself."""
    durable_files.make_one_folder(job)
    for name in OWN_FOLDERS:
        durable_files.make_one_folder(job / name)


def _prevent(folder: Path, run: int) -> None:
    """Keep a supervisor that may still be starting from a run that nobody wants any more."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(folder / "lock", flags, 0o600)
    try:
        with suppress(BlockingIOError, FileExistsError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(durable_files.create_file(folder / f"events.{run}"))
    finally:
        os.close(lock)


Files = tuple[int, ...]


def _open_pipes() -> tuple[int, Files, Files]:
    """Return where input is written, where outputs are read, and a command's three streams.

    All of them are opened or none.
    """
    pipes: list[tuple[int, int]] = []
    try:
        for _ in range(3):
            pipes.append(os.pipe())  # noqa: PERF401  # those before a failure have to be known
    except OSError:
        for fd in chain(*pipes):
            os.close(fd)
        raise
    (stdin, to_stdin), (of_stdout, stdout), (of_stderr, stderr) = pipes
    return to_stdin, (of_stdout, of_stderr), (stdin, stdout, stderr)


def _dial(folder: Path) -> socket.socket:
    """Connect to the socket in a job's folder."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A socket's address has at most 108 bytes, which a state folder's path may well exceed.
        short = Path(f"/proc/self/fd/{descriptor}")
        connection.connect(str((short if sys.platform == "linux" else folder) / "socket"))
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(descriptor)
    return connection


async def _request(
    connection: socket.socket, fields: Sequence[bytes], files: Sequence[int]
) -> None:
    """Send a request to a supervisor; the format is told there."""
    body = b"\0".join(fields)
    message = b"%d\0" % len(body) + body
    sent = socket.send_fds(connection, [message], files) if files else 0
    if sent < len(message):  # one that was sent whole may have been answered and closed by now
        await asyncio.get_running_loop().sock_sendall(connection, message[sent:])


async def _answered_files(connection: socket.socket) -> list[int]:
    await until_readable([connection.fileno()])
    try:
        _, files, _, _ = socket.recv_fds(connection, 1, 2)
    except ConnectionError:
        return []
    for fd in files:
        os.set_inheritable(fd, False)
    return files


def _not_running(job_id: str) -> ResourceNotFound:
    return ResourceNotFound(f"Job '{job_id}' is not running.")


def _supervisor_of(folder: Path) -> int | None:
    """Return the pid of a job's supervisor, while it lives: it holds a lock until its end."""
    try:
        with open(folder / "lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def _event(line: bytes, folder: Path) -> Event:
    kind, nanoseconds, rest = line.decode(errors="replace").rstrip("\n").split(" ", 2)
    at = datetime.fromtimestamp(int(nanoseconds) / 10**9, timezone.utc)
    if kind == "started":
        return Started(at)
    if kind == "exited":
        return Exited(at, int(rest), _tail(folder / "log") if int(rest) else "")
    if kind == "stopped":
        return Failed(at, "OutputLimit", f"The platform ended the job: {rest}.")
    code, _, why = rest.partition(" ")
    return CouldNotRun(at, int(code), why)


def _tail(path: Path) -> str:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_BYTES, 0))
        return file.read().decode(errors="replace").strip()
    return ""  # somebody has deleted it
