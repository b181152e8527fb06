"""Locks on open files between processes: of `fcntl`, or on Windows of `msvcrt`."""

from __future__ import annotations

import os
import time
from importlib import import_module
from types import ModuleType
from typing import Any

RETRY_S = 0.05
"""Between two attempts to lock, where the system cannot wait for a lock."""


def has_flock() -> bool:
    """Return whether a file that is locked, and so open, can be renamed."""
    return _module("fcntl") is not None


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False if it is locked already, or the system has no locks."""
    fcntl, msvcrt = _module("fcntl"), _module("msvcrt")
    if fcntl is not None:
        return _has_flocked(fcntl, descriptor)
    return msvcrt is not None and _has_locked(msvcrt, descriptor)


def lock(descriptor: int) -> None:
    """Wait until a file is locked; do nothing where there are no locks."""
    fcntl, msvcrt = _module("fcntl"), _module("msvcrt")
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    elif msvcrt is not None:
        while not _has_locked(msvcrt, descriptor):  # its own waiting ends after ten seconds
            time.sleep(RETRY_S)


def unlock(descriptor: int) -> None:
    """Give a lock back.

    To close the file is not enough: a child of `fork` may hold the same descriptor.
    """
    fcntl, msvcrt = _module("fcntl"), _module("msvcrt")
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    elif msvcrt is not None:
        _lock_first_byte(msvcrt, descriptor, msvcrt.LK_UNLCK)


def _has_flocked(fcntl: ModuleType, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_locked(msvcrt: Any, descriptor: int) -> bool:
    try:
        _lock_first_byte(msvcrt, descriptor, msvcrt.LK_NBLCK)
    except PermissionError:
        return False
    return True


def _lock_first_byte(msvcrt: Any, descriptor: int, how: int) -> None:
    # It locks bytes from the position on, whether the file has them or not.
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, how, 1)
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None
