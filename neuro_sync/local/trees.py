"""Trees of folders, removed and measured: of any depth, and while jobs change them.

A job may make a tree that is deeper than any path can say, take away the right to read it, move
folders, or put links in their place. So no path is handed to the kernel, and no function calls
itself. One folder is open at a time; the way up is checked, since a folder that was moved has
another folder above it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from neuro_sync.closing import Closing

from .private_files import FOLDER

logger = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE = 1000
"""Entries of a folder that is being emptied, of which the names are held in memory."""
LONGEST_PATH = 4096
"""Characters of a path that is reported; no program can use a longer one."""
CHANGED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR})
"""Errors of an entry that was removed or replaced since its folder was read."""


class Removed(NamedTuple):
    """What was removed, by its path within the tree; the tree itself has an empty one."""

    path: str
    is_dir: bool


def remove(above: int, name: str) -> Iterator[Removed]:
    """Remove a tree, and yield what was removed, the inmost first.

    Nothing happens before the first item is asked for. Entries with a path longer than
    `LONGEST_PATH` are removed and not yielded.

    Raises:
        OSError: An entry cannot be removed.
    """
    return _remove(above, name, _raise)


def remove_tree(folder: Path) -> None:
    """Remove a tree, and log what cannot be removed of it."""
    failures: list[OSError] = []
    try:
        with _opened(folder.parent) as above:
            for _ in _remove(above, folder.name, failures.append):
                pass
    except FileNotFoundError:
        return
    except OSError as error:
        failures.append(error)
    if failures:
        logger.warning("%s is not removed as a whole: %s", folder, failures[0])


def used_bytes(folder: Path) -> int:
    """Return the size of all files in a tree that can be read; it may take a moment."""
    total = 0
    with suppress(OSError), _opened(folder.parent) as above, _Walk(above, folder.name) as walk:
        while True:
            level = walk.levels[-1]
            if not level.is_read:
                level.is_read = True
                total += walk.measure()
            elif level.folders:
                walk.enter(level.folders.pop(), lambda _: None)
            elif len(walk.levels) > 1:
                walk.leave()
            else:
                break
    return total


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error


def _remove(above: int, name: str, on_error: Callable[[OSError], object]) -> Iterator[Removed]:
    with _Walk(above, name, permits=True) as walk:
        while True:
            level = walk.levels[-1]
            if level.folders:
                walk.enter(level.folders.pop(), on_error)
            elif items := walk.items():
                for item in items:
                    if item.is_dir(follow_symlinks=False):
                        level.folders.append(item.name)
                    elif walk.take_out(os.unlink, item.name, on_error):
                        yield from walk.removed(item.name, is_dir=False)
            elif len(walk.levels) == 1:
                break
            elif walk.leave():
                if level.kept:
                    walk.levels[-1].kept.add(level.name)
                elif walk.take_out(os.rmdir, level.name, on_error):
                    yield from walk.removed(level.name, is_dir=True)
        if not level.kept:
            os.rmdir(name, dir_fd=above)
            yield Removed("", is_dir=True)


@dataclass
class _Level:
    """A folder on the way from the top of a tree to the one that is open."""

    name: str
    identity: tuple[int, int]
    folders: list[str] = field(default_factory=list)
    """The names of folders in it that are to be entered."""
    kept: set[str] = field(default_factory=set)
    """The names of what cannot be removed."""
    is_read: bool = False


class _Walk(Closing):
    """The one folder of a tree that is open, and the names on the way to it."""

    def __init__(self, above: int, name: str, *, permits: bool = False) -> None:
        """Open the top; a walk that `permits` gives itself the rights that it lacks."""
        self._permits = permits
        self._top = self._open(name, dir_fd=above)
        self._folder = os.dup(self._top)
        self._length = 0
        self.levels = [_Level("", _identity(self._top))]

    def close(self) -> None:
        if self._top >= 0:
            os.close(self._top)
            os.close(self._folder)
            self._top = -1

    def items(self) -> list[os.DirEntry[str]]:
        """Return some entries of the folder that are not known to stay."""
        kept = self.levels[-1].kept
        with os.scandir(self._folder) as found:
            return list(islice((item for item in found if item.name not in kept), AT_ONCE))

    def measure(self) -> int:
        """Return the size of the folder's files, and note its folders."""
        total = 0
        with os.scandir(self._folder) as found:
            for item in found:
                try:
                    if item.is_dir(follow_symlinks=False):
                        self.levels[-1].folders.append(item.name)
                    else:
                        total += item.stat(follow_symlinks=False).st_size
                except OSError:
                    continue  # it has gone, or may not be looked at
        return total

    def enter(self, name: str, on_error: Callable[[OSError], object]) -> None:
        """Open a folder in the one that is open, unless it is no folder any more."""
        try:
            below = self._permitted(self._open, name)
        except OSError as error:
            if error.errno not in CHANGED:
                self.levels[-1].kept.add(name)
                on_error(error)
            return
        self._go_to(below, _Level(name, _identity(below)))

    def leave(self) -> bool:
        """Open the folder above; return False if the one that was open is no longer in it."""
        left = self.levels.pop()
        self._length -= len(left.name) + 1
        depth = len(self.levels)
        try:
            above = os.open("..", FOLDER, dir_fd=self._folder)
        except OSError:  # it was removed, or may not be searched
            self._enter_again()
            return len(self.levels) == depth
        if _identity(above) == self.levels[-1].identity:
            os.close(self._folder)
            self._folder = above
            return True
        os.close(above)
        self._enter_again()
        return False

    def take_out(
        self, call: Callable[..., None], name: str, on_error: Callable[[OSError], object]
    ) -> bool:
        """Remove an entry of the folder, and return whether it was there to be removed."""
        try:
            self._permitted(call, name)
        except OSError as error:
            if error.errno not in CHANGED:
                self.levels[-1].kept.add(name)
                on_error(error)
            return False
        return True

    def removed(self, name: str, *, is_dir: bool) -> Iterator[Removed]:
        """Yield what to report of an entry of the folder, if its path is not too long."""
        if self._length + len(name) <= LONGEST_PATH:
            path = "/".join([*(level.name for level in self.levels[1:]), name])
            yield Removed(path, is_dir)

    def _go_to(self, folder: int, level: _Level) -> None:
        os.close(self._folder)
        self._folder = folder
        self.levels.append(level)
        self._length += len(level.name) + 1

    def _enter_again(self) -> None:
        """Go down from the top, as far as each folder still is where it was."""
        known = self.levels[1:]
        del self.levels[1:]
        self._length = 0
        os.close(self._folder)
        self._folder = os.dup(self._top)
        for level in known:
            try:
                below = self._open(level.name, dir_fd=self._folder)
            except OSError:
                return
            if _identity(below) != level.identity:
                os.close(below)
                return
            self._go_to(below, level)

    def _permitted(self, call: Callable[..., T], name: str) -> T:
        """Do something in the folder, after a change of the folder's mode if that takes it."""
        try:
            return call(name, dir_fd=self._folder)
        except PermissionError:
            if not self._permits:
                raise
            os.fchmod(self._folder, 0o700)
            return call(name, dir_fd=self._folder)

    def _open(self, name: str, *, dir_fd: int) -> int:
        try:
            return os.open(name, FOLDER, dir_fd=dir_fd)
        except PermissionError:
            if not self._permits:
                raise
            _make_readable(name, dir_fd)
            return os.open(name, FOLDER, dir_fd=dir_fd)


def _make_readable(name: str, above: int) -> None:
    """Give the owner all rights on a folder; never on what a link points to."""
    if not hasattr(os, "O_PATH"):  # macOS
        os.chmod(name, 0o700, dir_fd=above, follow_symlinks=False)
        return
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(name, flags, dir_fd=above)
    try:
        # Linux changes no mode by such a descriptor, but by the name that it has here.
        os.chmod(f"/proc/self/fd/{folder}", 0o700)
    finally:
        os.close(folder)


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino
