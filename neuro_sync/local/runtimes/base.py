"""What a runtime is: the smallest protocol that carries the service's decisions out."""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.lifecycle import Event
from neuro_sync.local.logs import JobLog
from neuro_sync.models.frames import Exited, Resize
from neuro_sync.models.jobs import Container, JobTelemetry, Message

Report = Callable[[str, Event], None]
"""Called on the event loop with a job's id and what happened to it."""


@dataclass(frozen=True)
class Mount:
    """A folder or a file of this machine, seen inside a job."""

    source: Path
    target: str
    """Where the job sees it: an absolute path."""
    read_only: bool = False


def mount_points(container: Container) -> list[str]:
    """Return where a job sees what is mounted."""
    mounts = (container.volumes, container.disk_volumes, container.secret_files)
    return [mount.container_path for part in mounts for mount in part]


def check_target(path: str) -> None:
    """Refuse what nothing can be mounted at."""
    if path in ("/", "/proc") or path.startswith("/proc/"):
        raise IllegalArgumentError(
            f"nothing can be mounted at {path!r}; choose a path of its own, such as '/data'"
        )


@dataclass(frozen=True)
class Launch:
    """What a runtime needs to run a job; nothing in it has to be looked up any more."""

    job_id: str
    owner: str
    container: Container
    log: JobLog
    """Where its output goes. It is the job's, made and ended by whoever launches: a job that is
    started again goes on with the same one."""
    run: int = 1
    """Which run of the job this is; the first is 1."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The job's own variables, those with the values of secrets among them."""
    mounts: tuple[Mount, ...] = ()
    """Its volumes, disks and files of secrets."""
    privileged: bool = False
    """Whether it may do what the machine's administrator may."""


class Meter(Protocol):
    """Measures what a job uses."""

    def sample(self) -> JobTelemetry | None:
        """Return what it uses now, or None when it is gone. It may take a moment."""


class Channel(Protocol):
    """A conversation with a process: what goes into it, and what comes out of it.

    Nothing is kept for a reader who does not read: then the process waits, or the log keeps it.
    """

    can_end_input: bool
    """Whether `end_input` does what it says."""

    def output(self) -> AsyncGenerator[Message | Exited, None]:
        """Yield what comes out, in pieces below 64 KiB, and how it ended, if that is known."""

    async def write(self, data: bytes) -> None:
        """Send input, and wait while too much of it has not been read by the process.

        What comes after the end of the process or of its input is passed over.
        """

    async def end_input(self) -> None:
        """Close the input after what was written to it; a terminal is sent Ctrl-D."""

    def resize(self, *, height: int, width: int) -> None:
        """Set the size of the terminal, if it is one."""

    def close(self) -> None:
        """End the conversation; calling it again does nothing."""


USUAL_SIZE = Resize(height=24, width=80)
"""The size of a terminal whose user did not say it."""


class Runtime(Protocol):
    """Runs jobs, and reports what becomes of them. All methods are called on the event loop.

    A run is launched once. It is over when `Exited`, `CouldNotRun` or `Vanished` was reported,
    which comes after its last output; from then on the job may be launched again as its next run.
    """

    name: str
    """``process`` or ``docker``."""
    allows_privileged: bool
    """Whether it runs jobs that may do what the machine's administrator may."""
    grace: float
    """Seconds that a job that is killed may take to end by itself."""

    @property
    def warning(self) -> str:
        """What a user should know of how jobs run here, once it is open; mostly empty."""

    async def open(self, folder: Path, report: Report) -> None:
        """Begin to report."""

    def check(self, container: Container) -> None:
        """Refuse what this runtime cannot run, before it is accepted as a job.

        Raises:
            APIError: With what is in the way, and the remedy.
        """

    def launch(self, launch: Launch) -> None:
        """Start a run of a job; whether that went well is reported."""

    def adopt(self, launch: Launch, *, is_ending: bool = False) -> None:
        """Take up a run that an earlier platform launched: report all that happened to it.

        That platform may have been killed before it came to it; then the run is started now. One
        that is to end is killed instead, or never started: then it is reported as `Vanished`.
        """

    def kill(self, job_id: str) -> None:
        """End a run and all that it started; it is asked first and made to a little later."""

    def meter(self, job_id: str) -> Meter | None:
        """Return what measures a running job, or None if it does not run."""

    async def exec(
        self, job_id: str, arguments: Sequence[str], *, tty: bool, size: Resize = USUAL_SIZE
    ) -> Channel:
        """Run a command inside a job. It ends with the job, and when its channel is closed.

        With `tty` it has a terminal, of a size that it finds when it starts.

        Raises:
            ResourceNotFound: The job is not running.
        """

    async def attach(self, job_id: str, *, replay: bool = False) -> Channel:
        """Take part in a job's own conversation: what it writes from now on, or has ever written.

        Raises:
            ResourceNotFound: The job is not running.
        """

    def signal(self, job_id: str, number: int) -> None:
        """Send a signal to a job's first process.

        Raises:
            ResourceNotFound: The job is not running.
        """

    async def dial(self, job_id: str, port: int) -> tuple[StreamReader, StreamWriter]:
        """Connect to a TCP port that a job listens on.

        Raises:
            OSError: It listens there no more, or never did.
        """

    def save(
        self, job_id: str, image: str, password: str
    ) -> AsyncGenerator[Mapping[str, object], None]:
        """Make an image of a running job and bring it to its registry; yield the wire's events.

        Raises:
            NotSupported: This runtime has no images.
        """

    async def close(self) -> None:
        """Stop reporting. What still runs goes on."""
