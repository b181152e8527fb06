"""The state folder: everything a local platform keeps. Deleting it is the uninstall."""

from __future__ import annotations

import base64
import errno
import fcntl
import getpass
import hmac
import json
import os
import re
import secrets
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from neuro_sync.errors import ConfigError
from neuro_sync.monotonic import monotonic
from neuro_sync.version import __version__

from .disk_space import is_full, why_not_written
from .durable_files import make_folder, replace_file
from .trees import remove_tree

VARIABLE = "NEURO_LOCAL_STATE"
DEFAULT_FOLDER = ".neuro-local"
STOP_TIMEOUT = 30.0
"""Seconds; jobs are asked to end first, and made to a little later."""
VERSION = "2"
"""Of the folder's layout; a folder of another one is refused, not guessed at."""


@dataclass(frozen=True)
class Address:
    """How to reach a running local platform."""

    url: str
    """Of its API."""
    token: str = field(repr=False)
    pid: int = 0
    """Of the process that it is, or is within."""
    begun: float = 0.0
    """When that process started (`start_of`), which tells it from a later one of the number."""
    is_program: bool = False
    """Whether that process is there for the platform alone, and ends when it is asked to."""
    runtime: str = "process"
    """What runs its jobs."""
    version: str = __version__

    def check_version(self) -> None:
        """Refuse a platform that an upgrade has left behind, which would only cause riddles.

        Raises:
            ConfigError: It is of another version than this program.
        """
        if self.version != __version__:
            raise ConfigError(
                f"the local platform at {self.url} is of version {self.version}, and this program "
                f"of {__version__}; restart it: neuro local down, then neuro local up"
            )


class FolderInUse(ConfigError):
    """Another platform runs on the state folder, or is starting or ending there."""


class StateFolder:
    """One folder for one platform: a lock, a version, a token, the address while it runs.

    Two files are locked. ``lock`` is for platforms alone, so that only a platform can keep another
    one from starting. ``running`` is for whoever looks whether one runs: it is locked before it
    gets its name, so that nobody who looks is ever in the way.

    Raises:
        ConfigError: When the folder cannot be used, or a platform runs on it already.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = folder_of(folder)
        self._lock: int | None = None
        self._running: int | None = None

    @property
    def database(self) -> Path:
        return self.path / "platform.db"

    def open(self) -> None:
        """Make the folder if it is new, and take its lock."""
        self._make()
        try:
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self.unusable(error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            running = running_platform(self.path)
            where = f" at {running.url}" if running else ""
            raise FolderInUse(
                f"a local platform is running on {self.path} already{where}; "
                "use that one, or name another folder with --state"
            ) from None
        try:
            # That of a platform which was killed.
            self._announcement.unlink(missing_ok=True)
            self._check_version()
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Make the folder if it is new, and leave the lock to a platform."""
        self._make()
        self._check_version()

    def _make(self) -> None:
        try:
            make_folder(self.path)
        except OSError as error:
            raise self.unusable(error) from error

    def unusable(self, error: OSError) -> ConfigError:
        """Return the error for a folder in which something cannot be read or written."""
        advice = "free some space, or " if is_full(self.path, error) else ""
        return ConfigError(
            f"the state folder {self.path} cannot be used "
            f"({why_not_written(self.path, error)}); {advice}"
            f"name another one with --state, or in the variable {VARIABLE}"
        )

    def _check_version(self) -> None:
        """Check the layout's version, and write it if the folder is new.

        A first start that was cut short, by a power loss or a full disk, may have left a folder
        without a version. It is completed, unless its database is of another version.
        """
        try:
            file = self.path / "version"
            found = _read(file)
            if not found and is_of_this_version(self.database):
                # Logs and tokens do not belong into anybody's repository.
                replace_file(self.path / ".gitignore", b"*\n")
                replace_file(file, f"{VERSION}\n".encode())
                found = VERSION
        except OSError as error:
            raise self.unusable(error) from error
        if found != VERSION:
            self._refuse_version(repr(found) if found else "unknown")

    def _refuse_version(self, found: str) -> None:
        raise ConfigError(
            f"the state folder {self.path} is of version {found}, and this program knows "
            f"version {VERSION!r}; name another folder with --state, or delete it to start afresh"
        )

    def token(self, user: str) -> str:
        """Return the folder's token; it is made once, at random, and readable by its owner only."""
        file = self.path / "token"
        found = _read(file)
        if not found:  # the folder is new, or power was lost when it was
            found = make_token(user)
            replace_file(file, found.encode())
        return found

    def announce(self, url: str, token: str, *, runtime: str, is_program: bool) -> None:
        """Tell other processes where the platform is."""
        pid = os.getpid()
        address = Address(url, token, pid, start_of(pid) or 0.0, is_program, runtime)
        told = {name: value for name, value in asdict(address).items() if name != "token"}
        replace_file(self._announcement, json.dumps(told).encode())
        new = self.path / "running.new"
        self._running = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._running, fcntl.LOCK_EX)
        new.replace(self.path / "running")

    @property
    def _announcement(self) -> Path:
        return self.path / "address.json"

    def delete(self) -> None:
        """Delete the folder with all that is in it; its lock has to be held."""
        remove_tree(self.path)
        if self.path.exists():
            raise OSError(errno.ENOTEMPTY, "it cannot be removed as a whole", str(self.path))
        self.close()

    def close(self) -> None:
        """Release the folder; in a child of `fork` its platform goes on to hold it."""
        # In this order: where no platform is seen to run, the next one can start.
        for descriptor in (self._lock, self._running):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._running = None


def is_of_this_version(database: Path) -> bool:
    """Return whether a database has the tables of this program's version, or none yet."""
    # Programs that only look for a running platform need none of it.
    from .store import has_current_tables

    return not database.exists() or has_current_tables(database)


def folder_of(folder: str | Path | None) -> Path:
    """Return the state folder that is meant: the argument's, the variable's, the usual one."""
    return Path(folder or os.environ.get(VARIABLE) or DEFAULT_FOLDER).absolute()


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock of a file.

    Raises:
        OSError: There is no such file, or it is somebody else's.
    """
    with open(file, "rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def running_platform(folder: str | Path | None = None) -> Address | None:
    """Return the address of the platform that runs on a state folder, if one does."""
    path = folder_of(folder)
    try:
        if is_locked(path / "running"):
            announced = json.loads((path / "address.json").read_text())
            return Address(token=_read(path / "token"), **announced)
    except (OSError, ValueError, TypeError):
        pass
    return None


def last_runtime(folder: str | Path | None = None) -> str:
    """Return what runs the jobs of the platform that runs on a folder, or was killed there."""
    try:
        announced = json.loads((folder_of(folder) / "address.json").read_text())
        return str(announced["runtime"])
    except (OSError, ValueError, TypeError, KeyError):
        return "process"


def stop_platform(folder: str | Path | None = None, timeout: float = STOP_TIMEOUT) -> Address:
    """Ask the platform of a state folder to end, wait until it has, and return where it was.

    Raises:
        ConfigError: There is none, it is part of another program, or it does not end.
    """
    address = running_platform(folder)
    if address is None:
        path = folder_of(folder)
        raise ConfigError(f"no local platform runs on {path}; start one: neuro local up")
    if not address.is_program:
        raise ConfigError(
            f"the local platform at {address.url} is part of the program with the process number "
            f"{address.pid}, and ends with it"
        )
    _terminate(address)
    deadline = monotonic() + timeout
    while running_platform(folder) is not None:
        if monotonic() > deadline:
            raise ConfigError(
                f"the local platform, process {address.pid}, has not ended after {timeout:g} s; "
                "it may be waiting for a job that does not end"
            )
        time.sleep(0.02)
    return address


def _read(file: Path) -> str:
    """Return what a small file says, or nothing if it is missing or a power loss emptied it."""
    try:
        return file.read_bytes().decode(errors="replace").strip("\0 \n")
    except FileNotFoundError:
        return ""


def start_of(pid: int) -> float | None:
    """Return when a process started, in a unit of the machine; None if there is no such process.

    On Linux it does not change with the wall clock, as what psutil tells there would.
    """
    if sys.platform != "linux":
        with suppress(psutil.NoSuchProcess):
            return float(psutil.Process(pid).create_time())
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return float(stat.rpartition(b")")[2].split()[19])


def _terminate(address: Address) -> None:
    """Send SIGTERM to the process of a platform, never to a later one of the same number."""
    try:
        pidfd = os.pidfd_open(address.pid) if sys.platform == "linux" else None
    except ProcessLookupError:
        return
    try:
        if start_of(address.pid) != address.begun:
            return
        if pidfd is None:
            os.kill(address.pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        pass
    finally:
        if pidfd is not None:
            os.close(pidfd)


def make_token(user: str) -> str:
    """Return a new token in the form that clients of the platform read the user's name from.

    Nobody verifies its signature: the platform compares the whole token, which is random enough.
    """
    parts = [{"alg": "HS256", "typ": "JWT"}, {"identity": user, "iss": "neuro-local"}]
    text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_base64(hmac.digest(secrets.token_bytes(32), text.encode(), 'sha256'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def local_user() -> str:
    """Return this machine's user as a name that the platform's rules allow."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        name = ""
    allowed = "-".join(re.findall(r"[a-z0-9]+", name.lower()))[:21].strip("-")
    return allowed if re.fullmatch(r"[a-z].{2,}", allowed) else "user"
