"""The state folder: everything a local platform keeps. Deleting it is the uninstall."""

from __future__ import annotations

import base64
import errno
import fcntl
import getpass
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from neuro_sync.errors import ConfigError
from neuro_sync.monotonic import monotonic
from neuro_sync.version import __version__

from .disk_space import is_full, why_not_written
from .durable_files import UNFINISHED, make_folder, replace_file
from .private_files import (
    Untrusted,
    check_file,
    check_owner,
    identity,
    is_shared,
    open_file,
    open_folder,
    read_file,
    resolve,
)
from .trees import remove_tree

VARIABLE = "NEURO_LOCAL_STATE"
DEFAULT_FOLDER = ".neuro-local"
STOP_TIMEOUT = 30.0
"""Seconds; jobs are asked to end first, and made to a little later."""
VERSION = "2"
"""Of the folder's layout; a folder of another one is refused, not guessed at."""
BELONGS = "belongs"
"""The file with the identities of the folder: a copy of it, or a folder without, is not used."""
MAX_IDENTITIES = 8
"""A shared home has one for each machine. More are not read, so that nobody can list all."""
DATABASE = "platform.db"
FILES = frozenset(
    {DATABASE, f"{DATABASE}-journal", f"{DATABASE}-shm", f"{DATABASE}-wal", "address.json"}
    | {BELONGS, "containers", "ephemeral", ".gitignore", "lock", "running", "running.new"}
    | {"token", "version"}
)
FILE_ENDINGS = (".pyc", UNFINISHED)
"""Of programs that each start compiles anew, and of what a crash left half written."""
PIPES = frozenset({"wake"})
FOLDERS = frozenset({"disks", "jobs", "registry", "secrets", "storage", "trash", "uploads"})
HARMLESS = frozenset({BELONGS, "ephemeral", ".gitignore", "lock", "version"})
"""What a first start that was cut short may leave, and no platform takes any orders from."""
ADDRESS = re.compile(r"http://127\.0\.0\.1:[1-9][0-9]{0,4}/api/v1")


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

    def __post_init__(self) -> None:
        is_right = (
            isinstance(self.url, str)
            and ADDRESS.fullmatch(self.url)
            and type(self.pid) is int
            and isinstance(self.begun, int | float)
            and type(self.is_program) is bool
            and isinstance(self.runtime, str)
            and isinstance(self.version, str)
        )
        if not is_right:
            raise ValueError(f"{self.url!r} is no address of a local platform")

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
        self._folder: int | None = None
        self._lock: int | None = None
        self._running: int | None = None

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    def open(self) -> None:
        """Make the folder if it is new, and take its lock."""
        try:
            folder = self._enter()
            self._check_version(folder)
            self._check_belongs(folder)
            self._take_lock(folder)
            # That of a platform which was killed.
            self._remove(folder, "address.json")
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Make the folder if it is new, and leave the lock to a platform."""
        try:
            folder = self._enter()
            self._check_version(folder)
            self._check_belongs(folder)
        finally:
            self.close()

    def adopt(self) -> None:
        """Mark the folder as belonging to this machine and user, wherever it came from.

        Raises:
            ConfigError: It is no state folder, is not this user's, has links in place of its
                folders, or a platform runs on it.
        """
        if not is_state_folder(self.path):
            raise ConfigError(f"{self.path} is no state folder of a local platform")
        try:
            folder = self._enter(may_have_links=False)
            self._take_lock(folder)
            lines = [_identity_line(folder), *_identities(folder)][:MAX_IDENTITIES]
            replace_file(self.path / BELONGS, b"".join(line + b"\n" for line in lines))
        finally:
            self.close()

    def discard(self) -> bool:
        """Delete the folder if it does not belong here, and return whether it did not.

        Nothing that it says is obeyed, and no jobs are ended.
        """
        try:
            folder = self._enter()
            if belongs_here(folder):
                return False
            self._take_lock(folder)
            self.delete()
        finally:
            self.close()
        return True

    def _enter(self, *, may_have_links: bool = True) -> int:
        """Open the folder, which is made if it is missing, and check who made what is in it."""
        try:
            resolve(self.path, may_be_missing=True)
            make_folder(self.path)
            self._folder = folder = open_folder(self.path)
            if is_shared(folder):
                self._close_to_others(folder)
            for name, found in _entries(folder):
                self._check_entry(folder, name, found, may_be_link=may_have_links)
            self._make_private(folder)
        except OSError as error:
            raise self.unusable(error) from error
        return folder

    def _close_to_others(self, folder: int) -> None:
        """Remove the right to write from others; what may be theirs is never used."""
        if not os.listdir(folder):
            os.fchmod(folder, 0o700)
        if os.listdir(folder):
            raise Untrusted(self.path, "may be changed by other users")

    def _check_entry(
        self, folder: int, name: str, found: os.stat_result, *, may_be_link: bool
    ) -> None:
        path = self.path / name
        check_owner(path, found)
        if _is_file(name):
            check_file(folder, name, found)
        elif name in PIPES and not stat.S_ISFIFO(found.st_mode):
            raise Untrusted(path, "is no named pipe")
        elif name in FOLDERS and not (
            stat.S_ISDIR(found.st_mode) or (may_be_link and stat.S_ISLNK(found.st_mode))
        ):
            raise Untrusted(path, "is no folder")

    @staticmethod
    def _make_private(folder: int) -> None:
        """Remove all rights of others, but for a folder that holds more than a platform's state."""
        for name, found in _entries(folder):
            if found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
                with suppress(FileNotFoundError):
                    os.chmod(name, found.st_mode & 0o700, dir_fd=folder)
        if all(map(_is_ours, os.listdir(folder))) and os.fstat(folder).st_mode & 0o077:
            os.fchmod(folder, 0o700)

    def _check_belongs(self, folder: int) -> None:
        """Check that the folder was made here, and by this user; mark it if it is new.

        Its jobs start by themselves and its users may call, so those of a copy are somebody else's
        until its owner says otherwise.
        """
        try:
            # In this order: the mark of a new folder is written before what makes it an old one.
            is_new = _is_new(folder)
            if belongs_here(folder):
                return
            if is_new:
                replace_file(self.path / BELONGS, _identity_line(folder) + b"\n")
                return
        except OSError as error:
            raise self.unusable(error) from error
        option = "" if self.path == folder_of(None) else f" --state {shlex.quote(str(self.path))}"
        raise ConfigError(
            f"the state folder {self.path} was not made here by this user: it was copied, or moved "
            "to another disk, and its jobs and users are not trusted; if they are yours, and you "
            f"want its jobs to go on: neuro local adopt{option}; to delete it: "
            f"neuro local reset{option}; or name another folder with --state"
        )

    def _take_lock(self, folder: int) -> None:
        try:
            self._lock = open_file(folder, "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self.unusable(error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = _running_in(folder)
            where = f" at {running.url}" if running else ""
            raise FolderInUse(
                f"a local platform is running on {self.path} already{where}; "
                "use that one, or name another folder with --state"
            ) from None

    @staticmethod
    def _remove(folder: int, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def unusable(self, error: OSError) -> ConfigError:
        """Return the error for a folder in which something cannot be read or written."""
        advice = "free some space, or " if is_full(self.path, error) else ""
        return ConfigError(
            f"the state folder {self.path} cannot be used "
            f"({why_not_written(self.path, error)}); {advice}"
            f"name another one with --state, or in the variable {VARIABLE}"
        )

    def _check_version(self, folder: int) -> None:
        """Check the layout's version, and write it if the folder is new.

        A first start that was cut short, by a power loss or a full disk, may have left a folder
        without a version. It is completed, unless its database is of another version.
        """
        try:
            found = _read(folder, "version")
            if not found and is_of_this_version(self.database):
                # Logs and tokens do not belong into anybody's repository.
                replace_file(self.path / ".gitignore", b"*\n")
                replace_file(self.path / "version", f"{VERSION}\n".encode())
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
        found = _read(self._opened, "token")
        if not found:  # the folder is new, or power was lost when it was
            found = make_token(user)
            replace_file(self.path / "token", found.encode())
        return found

    def announce(self, url: str, token: str, *, runtime: str, is_program: bool) -> None:
        """Tell other processes where the platform is."""
        pid = os.getpid()
        address = Address(url, token, pid, start_of(pid) or 0.0, is_program, runtime)
        told = {name: value for name, value in asdict(address).items() if name != "token"}
        replace_file(self.path / "address.json", json.dumps(told).encode())
        folder = self._opened
        self._remove(folder, "running.new")
        self._running = open_file(folder, "running.new", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.flock(self._running, fcntl.LOCK_EX)
        os.replace("running.new", "running", src_dir_fd=folder, dst_dir_fd=folder)

    @property
    def _opened(self) -> int:
        assert self._folder is not None, "it is not open"  # noqa: S101  # a defect of ours
        return self._folder

    def delete(self) -> None:
        """Delete the folder with all that is in it; its lock has to be held."""
        remove_tree(self.path)
        if self.path.exists():
            raise OSError(errno.ENOTEMPTY, "it cannot be removed as a whole", str(self.path))
        self.close()

    def close(self) -> None:
        """Release the folder; in a child of `fork` its platform goes on to hold it."""
        # In this order: where no platform is seen to run, the next one can start.
        for descriptor in (self._lock, self._running, self._folder):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._running = self._folder = None


def is_of_this_version(database: Path) -> bool:
    """Return whether a database has the tables of this program's version, or none yet."""
    # Programs that only look for a running platform need none of it.
    from .store import has_current_tables

    return not database.exists() or has_current_tables(database)


def folder_of(folder: str | Path | None) -> Path:
    """Return the state folder that is meant: the argument's, the variable's, the usual one."""
    return Path(folder or os.environ.get(VARIABLE) or DEFAULT_FOLDER).absolute()


def is_locked(folder: int, name: str) -> bool:
    """Return whether a process holds the lock of a file in an open folder.

    Raises:
        Untrusted: The file is somebody else's.
        OSError: There is no such file.
    """
    file = open_file(folder, name)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a state folder to look into it, if nobody else can have made or changed it.

    Raises:
        Untrusted: Somebody else can.
        OSError: There is none.
    """
    folder = open_folder(path)
    try:
        if is_shared(folder):
            raise Untrusted(path, "may be changed by other users")
        yield folder
    finally:
        os.close(folder)


def is_state_folder(folder: str | Path | None) -> bool:
    """Return whether a folder is one in which a local platform keeps its state.

    Raises:
        Untrusted: It is somebody else's.
    """
    try:
        with opened(folder_of(folder)) as found:
            return "version" in os.listdir(found)
    except OSError:
        return False


def belongs_here(folder: int) -> bool:
    """Return whether an open state folder was made on this machine by this user."""
    return _identity_line(folder) in _identities(folder)


def running_platform(folder: str | Path | None = None) -> Address | None:
    """Return the address of the platform that runs on a state folder, if one does.

    Raises:
        ConfigError: The folder or a file in it is somebody else's, or the address is none of a
            local platform.
    """
    try:
        with opened(folder_of(folder)) as found:
            return _running_in(found)
    except OSError:
        return None


def _running_in(folder: int) -> Address | None:
    try:
        if not is_locked(folder, "running"):
            return None
        announced = json.loads(read_file(folder, "address.json"))
    except (OSError, ValueError):  # it is just ending
        return None
    try:
        return Address(token=_read(folder, "token"), **announced)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"address.json of the state folder is no local platform's ({error}); end the program "
            "that holds the folder, then delete that file"
        ) from None


def last_runtime(folder: str | Path | None = None) -> str:
    """Return what runs the jobs of the platform that runs on a folder, or was killed there.

    Raises:
        ConfigError: The folder, or what it says, is somebody else's.
    """
    try:
        with opened(folder_of(folder)) as found:
            return str(json.loads(read_file(found, "address.json"))["runtime"])
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


def _read(folder: int, name: str) -> str:
    """Return what a small file says, or nothing if it is missing or a power loss emptied it."""
    try:
        return read_file(folder, name).decode(errors="replace").strip("\0 \n")
    except FileNotFoundError:
        return ""


def _entries(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what a platform may have made in an open folder."""
    for name in filter(_is_ours, sorted(os.listdir(folder))):
        with suppress(FileNotFoundError):  # another process has just renamed or removed it
            yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)


def _is_file(name: str) -> bool:
    return name in FILES or name.endswith(FILE_ENDINGS)


def _is_ours(name: str) -> bool:
    return name in FOLDERS or name in PIPES or _is_file(name)


def _is_new(folder: int) -> bool:
    """Return whether a folder has nothing that a platform would go on with."""
    return all(
        name in HARMLESS
        or name.endswith(FILE_ENDINGS)
        or (name == "storage" and stat.S_ISDIR(found.st_mode))  # files are no orders
        or (name == DATABASE and not found.st_size)
        or (name == "token" and not _read(folder, name))
        for name, found in _entries(folder)
    )


def _identity_line(folder: int) -> bytes:
    return hashlib.sha256(identity(folder).encode()).hexdigest().encode()


def _identities(folder: int) -> list[bytes]:
    """Return how the folder was identified when it was made or adopted, on each machine."""
    with suppress(FileNotFoundError):
        return read_file(folder, BELONGS).split()[:MAX_IDENTITIES]
    return []


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
