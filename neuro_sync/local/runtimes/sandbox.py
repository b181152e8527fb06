"""What a job sees of this machine when bubblewrap runs it: a list, and nothing beside it.

It is what a program needs to run: the system's programs, libraries and settings and the Python that
runs the platform, all read-only, devices without any power, and a place for temporary files. Home
folders, sockets, other disks and the platform's state folder are not there. Its volumes, disks and
files of secrets are mounted where it wants them by `boxes`, whatever is at that path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .base import Mount
from .boxes import STAGE, is_public

# A user namespace also where it is not needed: a root's job could undo its mounts otherwise.
NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent")
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"),
    *("/nix", "/gnu", "/run/current-system", "/run/opengl-driver"),
    *("/var/lib/ca-certificates", "/var/lib/texmf"),
)
"""Where systems keep programs, libraries and settings; what a machine lacks is left out."""
PYTHON_PARTS = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
"""What is shown of an environment of Python in which other things are too, as in a home folder."""
SETTINGS = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/localtime")
"""What may be a link to a file that the system writes elsewhere."""
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
PROC_FILES_HIDDEN = ("kcore", "keys", "latency_stats", "timer_list", "sched_debug")
PROC_FOLDERS_HIDDEN = ("acpi", "asound", "scsi")
"""The same parts of ``/proc`` as container engines hide, and above which they make read-only."""
SYS_HIDDEN = ("/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security")
PRIVATE_SETTINGS = ("/etc", "/usr/local/etc")
"""Where passwords and keys are kept beside what everybody may read."""
GPU_DEVICES = ("nvidia*", "dri", "kfd", "dxg")
"""In ``/dev``; for jobs that ask for GPUs."""
ELSEWHERE = "/scratch"
"""Where a job has its own folder when its usual place is covered by a mount."""
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # a job's own
PROBE_TIMEOUT = 10.0


class NoSandbox(Exception):
    """Bubblewrap cannot be used on this machine; the text says what to do for it."""


@dataclass(frozen=True)
class Box:
    """What a supervisor is told to make, see `boxes.Box`, and where the job's folder is in it."""

    home: str
    command: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    public: list[str] = field(default_factory=list)


class Sandbox:
    """Makes the boxes of one platform's jobs."""

    def __init__(
        self, folder: Path, visible: Iterable[Path] = (), writable: Iterable[Path] = ()
    ) -> None:
        """Find out what there is on this machine.

        Of the state folder jobs see nothing but what is mounted. Besides the system they see what
        is `visible`, read-only, and what is `writable`.

        Raises:
            NoSandbox: There is no bubblewrap.
        """
        program = shutil.which("bwrap")
        if program is None:
            raise NoSandbox("it is not installed; install it (apt-get install bubblewrap)")
        self._program = program
        self._folder = folder
        self._frozen = ["/", "/dev", "/run"]
        self._public = [*folders_with_secrets()] if os.geteuid() == 0 else []
        self._arguments = [*self._show([*map(str, visible)], [*map(str, writable)])]

    def _show(self, visible: list[str], writable: list[str]) -> Iterator[str]:
        """Yield bubblewrap's arguments for what every job sees."""
        state = os.path.realpath(self._folder)
        shown: list[str] = []
        settings = (os.path.realpath(path) for path in SETTINGS)
        for path in (*SYSTEM, *python_folders(state), *settings, *visible):
            if os.path.exists(path) and not is_below(path, shown):
                shown.append(path)
        yield from ("--tmpfs", "/run")
        for path in sorted({*shown, *writable}):
            if path in SYSTEM and os.path.islink(path):
                yield from ("--symlink", os.readlink(path), path)
            else:
                yield from ("--bind" if path in writable else "--ro-bind", path, path)
        yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm")  # noqa: S108
        for name in PROC_READ_ONLY:
            yield from ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")
        for name in PROC_FILES_HIDDEN:
            if os.path.exists(f"/proc/{name}"):
                yield from ("--ro-bind", "/dev/null", f"/proc/{name}")
        yield from ("--ro-bind-try", "/sys", "/sys")
        folders = [f"/proc/{name}" for name in PROC_FOLDERS_HIDDEN] + [*SYS_HIDDEN]
        if is_below(state, [*shown, *writable]):
            folders.append(state)
        for path in folders:
            if os.path.isdir(path):
                yield from ("--tmpfs", path)
                self._frozen.append(path)
        yield from ("--bind", state, STAGE)

    def box(self, mounts: Iterable[Mount], job: Path, *, gpus: bool = False) -> Box:
        """Return the box of a job with these mounts, whose own folders are in the folder `job`."""
        wanted = [*mounts]
        home = os.path.realpath(job / "scratch")
        if _is_covered(home, wanted):
            home = ELSEWHERE
        temporary = [path for path in TEMPORARY if not _is_covered(path, wanted)]
        wanted.append(Mount(job / "scratch", home))
        items: list[str] = []
        for mount in wanted:
            source = mount.source.relative_to(self._folder)
            items += ["ro" if mount.read_only else "rw", str(source), mount.target]
        command = [self._program, *NAMESPACES]
        for path in temporary:  # before what is shown, which may lie in it
            command += ["--bind", os.path.realpath(job / "tmp"), path]
        command += self._arguments
        if gpus:
            command += gpu_devices()
        return Box(home, command, items, self._frozen, self._public)

    def probe(self, supervisor: Path, job: Path) -> None:
        """Make a box as one for a job whose folders are in `job`, to see whether that works.

        It is tried with the supervisor's program, which has to enter what bubblewrap makes; some
        systems and most containers do not let it.

        Raises:
            NoSandbox: It does not.
        """
        try:
            tried = subprocess.run(
                [sys.executable, "-I", "-S", str(supervisor)],
                input="\0".join(spec_items(["/", "0", "", "0"], [], self.box((), job))),
                capture_output=True,
                text=True,
                check=False,
                timeout=PROBE_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise NoSandbox(
                f"{self._program} did not answer in {PROBE_TIMEOUT:g} seconds; try it by hand"
            ) from None
        trouble = tried.stdout.strip() or tried.stderr.strip()
        if trouble:
            raise NoSandbox(f"it does not work here ({trouble}); let users make user namespaces")


def python_folders(state: str) -> Iterator[str]:
    """Yield where the Python is that runs this program, and what is installed with it."""
    home = os.path.expanduser("~")
    for prefix in {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)}:
        if is_below(home, [prefix]) or is_below(state, [prefix]):
            yield from (os.path.join(prefix, part) for part in PYTHON_PARTS)
        else:
            yield prefix


def folders_with_secrets() -> Iterator[str]:
    """Yield folders of the system's settings with something that not everybody may read.

    The outer ones come first. Who is not root is kept from it by the kernel.
    """
    for top in PRIVATE_SETTINGS:
        for path, folders, files in os.walk(top):
            names = [*folders, *files]
            private = [name for name in names if not is_public(os.path.join(path, name))]
            folders[:] = sorted({*folders}.difference(private))
            if private:
                yield path


def gpu_devices() -> Iterator[str]:
    """Yield bubblewrap's arguments for the devices of GPUs."""
    for pattern in GPU_DEVICES:
        for device in Path("/dev").glob(pattern):
            yield from ("--dev-bind-try", str(device), str(device))


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Return whether a path is that of one of some folders, or of something in one."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _is_covered(path: str, mounts: Iterable[Mount]) -> bool:
    return any(is_below(path, [os.path.normpath(mount.target)]) for mount in mounts)


def spec_items(settings: list[str], arguments: list[str], box: Box) -> list[str]:
    """Return the lists that a supervisor reads first; their format is told there."""
    parts = (settings, arguments, box.command, box.mounts, box.frozen, box.public)
    return [item for part in parts for item in (str(len(part)), *part)]
