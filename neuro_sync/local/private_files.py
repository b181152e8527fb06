"""Open folders and files only if no other user of this machine has made them, or can exchange them.

A path is followed from the root, one part at a time. Each folder on the way belongs to root or to
this user, and nobody else may rename what is in it. So what was checked stays what it is. Files are
then opened relative to the folder's descriptor, and never through a link.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path, PurePath

from neuro_sync.errors import ConfigError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened that may be a link by now."""
FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""The same for a file; not blocking, since it may be a FIFO, which would wait for its other end."""
MAX_LINKS = 40
"""Symbolic links on the way to a folder; the kernel allows as many."""
FS_IOC_GETVERSION = 0x80087601
"""Linux: read a file's generation, a random number from when its inode was made."""


class Untrusted(ConfigError):
    """Somebody else may have made or changed a folder or file, so it is not used."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(
            f"{path} {reason}, so it is not used for a local platform; name a folder that only you "
            "may change, with --state or in the variable NEURO_LOCAL_STATE"
        )


def resolve(path: Path, *, may_be_missing: bool = False) -> Path:
    """Return an absolute path without links and dots, of which nobody else can exchange a part.

    With `may_be_missing` its last parts need not exist.

    Raises:
        Untrusted: Another user owns a part of it, or may rename one.
        OSError: It does not exist, or cannot be looked at.
    """
    trusted = _trusted_users()
    here, ahead = Path("/"), [*reversed(path.parts[1:])]
    links = 0
    _check_no_renames(here, trusted)
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            found = os.lstat(here / name)
        except FileNotFoundError:
            if may_be_missing:
                return here.joinpath(name, *reversed(ahead))
            raise
        if found.st_uid not in trusted:
            raise Untrusted(here / name, f"belongs to {user_name(found.st_uid)}")
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = PurePath(os.readlink(here / name))
            if target.is_absolute():
                here = Path("/")
            ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            continue
        here /= name
        if ahead:
            _check_no_renames(here, trusted)
    return here


def open_folder(path: Path) -> int:
    """Return a descriptor of a folder of this user that nobody else can exchange.

    Raises:
        Untrusted: It belongs to somebody else, or so does a folder on the way.
        OSError: There is no such folder, or it cannot be read.
    """
    folder = os.open(resolve(path), FOLDER)
    try:
        check_owner(path, os.fstat(folder))
    except BaseException:
        os.close(folder)
        raise
    return folder


def open_file(folder: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file of this user, which nobody else may write.

    With ``os.O_CREAT`` it is made if it is missing, for its owner alone.

    Raises:
        Untrusted: It is a link or no file, or somebody else may have written it.
        OSError: There is none, or it cannot be opened.
    """
    try:
        file = os.open(name, flags | FILE, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Untrusted(_path_of(folder, name), "is a link") from None
        raise
    try:
        found = os.fstat(file)
        check_file(folder, name, found)
        if flags & os.O_CREAT and stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(file, 0o600)  # an umask may take away its owner's rights
    except BaseException:
        os.close(file)
        raise
    return file


def read_file(folder: int, name: str) -> bytes:
    """Return the content of a file that `open_file` accepts."""
    with open(open_file(folder, name), "rb") as file:
        return file.read()


def check_file(folder: int, name: str, found: os.stat_result) -> None:
    """Raise unless a file is a regular one of this user, which nobody else may write."""
    path = _path_of(folder, name)
    if not stat.S_ISREG(found.st_mode):
        raise Untrusted(path, "is a link" if stat.S_ISLNK(found.st_mode) else "is no regular file")
    check_owner(path, found)
    if found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid)
    ):
        raise Untrusted(path, "may be written by other users")


def check_owner(path: object, found: os.stat_result) -> None:
    """Raise unless something belongs to this user; root, too, uses only what is root's."""
    if found.st_uid != os.geteuid():
        raise Untrusted(path, f"belongs to {user_name(found.st_uid)}")


def is_shared(folder: int | Path) -> bool:
    """Return whether somebody else than root and this user may change what is in a folder."""
    found = os.stat(folder)
    if found.st_mode & stat.S_IWOTH:
        return True
    # The group's bits also stand for all whom a list of the folder names.
    may_others = found.st_mode & stat.S_IWGRP
    return bool(may_others) and (_has_acl(folder) or not _is_private_group(found.st_gid))


def user_name(uid: int) -> str:
    """Return how an error names a user."""
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"


def identity(folder: int) -> str:
    """Return what tells a folder from all copies of it, also after it was renamed.

    That is the number of its inode, with the generation where the file system has one, else with
    the machine's id.
    """
    found = os.fstat(folder)
    return f"{os.geteuid()} {found.st_ino} {_generation(folder) or _machine_id()}"


def _generation(folder: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        answer = fcntl.ioctl(folder, FS_IOC_GETVERSION, bytes(8))
    except OSError:  # tmpfs, overlayfs and network file systems have none
        return None
    return int(struct.unpack("=I", answer[:4])[0])


def _machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text(errors="replace").strip()
    except OSError:
        return ""


def _check_no_renames(path: Path, trusted: frozenset[int]) -> None:
    """Raise if somebody else may put another folder in place of one that is in this folder."""
    found = os.lstat(path)
    if found.st_uid not in trusted:
        raise Untrusted(path, f"belongs to {user_name(found.st_uid)}, who may change what is in it")
    # In a sticky folder, such as the one for temporary files, all rename only what is theirs.
    if not found.st_mode & stat.S_ISVTX and is_shared(path):
        raise Untrusted(path, "may be changed by other users, with what is in it")


def _trusted_users() -> frozenset[int]:
    """Return the users who may own the folders above: this one, and root.

    In a user namespace without root, what belongs to the machine's root is the overflow user's.
    """
    users = {os.geteuid(), 0}
    with suppress(OSError, ValueError):
        lines = Path("/proc/self/uid_map").read_text().splitlines()
        if all(int(line.split()[0]) != 0 for line in lines):
            users.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    return frozenset(users)


def _is_private_group(gid: int) -> bool:
    """Return whether a group has no members but root and this user.

    Not every member of a group can be found out. A group is private if it is root's, or the one
    that many systems give to each user, which has the user's name.
    """
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = ""
    try:
        group = grp.getgrgid(gid)
    except KeyError:  # in a container, neither user nor group may have a name
        return gid == os.getegid() == os.geteuid()
    return (gid == 0 or group.gr_name == user) and set(group.gr_mem) <= {"root", user}


def _has_acl(folder: int | Path) -> bool:
    """Return whether a list names users and groups that may use a folder."""
    if sys.platform == "linux":
        with suppress(OSError):  # the file system has no such lists
            return "system.posix_acl_access" in os.listxattr(folder)
    return False


def _path_of(folder: int, name: str) -> str:
    """Return where a file is, for an error; only its name where the system does not tell."""
    with suppress(OSError):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
    return name
