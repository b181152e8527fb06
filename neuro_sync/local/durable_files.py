"""Small files and folders that survive a crash and a power loss."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

UNFINISHED = "~"
"""Ends the name of a file that is being written; nothing else of the platform has such a name."""


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file for its owner alone, with its old content or all of the new.

    That holds whatever happens meanwhile. When this returns, the new content is on the disk.
    """
    unfinished = path.with_name(uuid.uuid4().hex + UNFINISHED)
    try:
        with open(create_file(unfinished), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_file(path: Path) -> int:
    """Make a file that only its owner may read and write, whatever the umask, and open it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(file, 0o600)  # an umask may take away its owner's rights
    return file


def create_fifo(path: Path) -> None:
    """Make a named pipe that only its owner may open, whatever the umask."""
    os.mkfifo(path, 0o600)
    path.chmod(0o600)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder for its owner alone, whatever the umask; it is still there after a power loss.

    Folders above it that are missing are made so that others may look into them, if the umask
    allows that, and never write to them.
    """
    if not path.is_dir():
        make_folder(path.parent, 0o755)
        make_one_folder(path, mode)
        sync_folder(path.parent)


def make_one_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, unless it is there, for its owner alone, whatever the umask."""
    try:
        path.mkdir(mode=mode)
        if path.stat().st_mode & 0o700 != 0o700:  # the umask took rights away from its owner
            path.chmod(mode)
    except FileExistsError:
        if not path.is_dir():
            raise


def sync_folder(path: Path) -> None:
    """Write the names in a folder to the disk."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # one may make files in a folder that one may not read
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(folder)
