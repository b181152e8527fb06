"""Small files and folders that survive a crash and a power loss."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

UNFINISHED = "~"
"""Ends the name of a file that is being written; nothing else of the platform has such a name."""


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a small file; whatever happens meanwhile, it has its old content or all of the new.

    When this returns, the new content is on the disk.
    """
    unfinished = path.with_name(uuid.uuid4().hex + UNFINISHED)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with open(os.open(unfinished, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, and those above it, that are still there after a power loss."""
    if not path.is_dir():
        make_folder(path.parent, 0o777)
        path.mkdir(mode=mode, exist_ok=True)
        sync_folder(path.parent)


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
