"""Find out whether a write failed because the disk is full, and describe the failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from neuro_sync.errors import InsufficientStorage, ServerError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SQLITE_FULL = 13
"""SQLite's code for it; the module names it since Python 3.11."""
NEARLY_FULL = 2**16
"""Bytes; a database that cannot be written while so few are free lacks space."""


def is_full(path: Path, error: Exception) -> bool:
    """Return whether a write at a path failed because its disk is full.

    The error is an `OSError` or one of SQLite.
    """
    if isinstance(error, OSError):
        return error.errno in FULL
    # A file that cannot grow is an "I/O error" to SQLite, and before Python 3.11 there is no code.
    code = getattr(error, "sqlite_errorcode", None)
    return code == SQLITE_FULL or _free_bytes(path) < NEARLY_FULL


def why_not_written(path: Path, error: Exception) -> str:
    """Return why a write at a path failed; a full disk is named."""
    if is_full(path, error):
        lacks = "has no room for more files" if _has_room(path) else "is full"
        return f"the disk mounted at {mount_point(path)} {lacks}"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def write_error(path: Path, error: Exception) -> ServerError:
    """Return the error for a client whose request needed a write that failed."""
    failed = f"{path} cannot be written ({why_not_written(path, error)})"
    if is_full(path, error):
        return InsufficientStorage(f"{failed}; free some space, then try again")
    return ServerError(f"{failed}; look after its disk, then try again")


def mount_point(path: Path) -> Path:
    """Return the folder at which the disk of a path is mounted; the path need not exist."""
    resolved = path.resolve()
    return next(folder for folder in (resolved, *resolved.parents) if folder.is_mount())


def _has_room(path: Path) -> bool:
    return _free_bytes(path) >= NEARLY_FULL and _statistics(path).f_favail == 0


def _free_bytes(path: Path) -> int:
    statistics = _statistics(path)
    return statistics.f_bavail * statistics.f_frsize


def _statistics(path: Path) -> os.statvfs_result:
    return os.statvfs(mount_point(path))
