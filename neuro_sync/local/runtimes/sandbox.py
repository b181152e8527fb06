"""What a job sees of this machine when bubblewrap runs it: all but the platform's state folder,
with its volumes, disks and files of secrets where it wants them.

The machine's own folders are bound, not copied, and nothing is made in them: where the machine
lacks a mount point, the folder above it becomes a temporary one that shows the same entries.
Within a volume that may be written to, the mount point is made in the volume, as Docker does.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from neuro_sync.errors import IllegalArgumentError

from .base import Mount, check_target

# A user namespace also where it is not needed: a root's job could undo its mounts otherwise.
BASE = ("--unshare-user", "--unshare-pid", "--die-with-parent")
ELSEWHERE = "/scratch"
"""Where a job has its own folder when its usual place is covered by a mount."""
MOST_LINKS = 40
"""Symbolic links in a path before it is taken for a circle; the kernel's own number."""
MOST_ENTRIES = 2000
"""Entries of a folder that a temporary one can show; bubblewrap takes 9,000 arguments at most."""
PROBE_TIMEOUT = 10.0


def find_bubblewrap(supervisor: Path) -> tuple[str, str]:
    """Return the path of a bubblewrap that works on this machine, or what is to be done for one.

    One of the two is empty. It is tried with the supervisor's program, which has to enter what
    bubblewrap makes; some systems and most containers do not let it.
    """
    program = shutil.which("bwrap")
    if program is None:
        return "", "it is not installed; install it (apt-get install bubblewrap)"
    command = [program, *BASE, "--dev-bind", "/", "/", "--proc", "/proc"]
    try:
        tried = subprocess.run(
            [sys.executable, "-I", "-S", str(supervisor)],
            input="\0".join(command),
            capture_output=True,
            text=True,
            check=False,
            timeout=PROBE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "", f"{program} did not answer in {PROBE_TIMEOUT:g} seconds; try it by hand"
    trouble = tried.stdout.strip() or tried.stderr.strip()
    if trouble:
        return "", f"it does not work here ({trouble}); let users make user namespaces"
    return program, ""


def view_arguments(mounts: Iterable[Mount], *, hidden: Path, shown: Path) -> tuple[list[str], str]:
    """Return bubblewrap's arguments for a job with these mounts, and where it sees `shown`.

    Of the folder `hidden` the job sees nothing but `shown`, which lies in it.

    Raises:
        IllegalArgumentError: A mount point is impossible, or wanted twice.
        OSError: A folder on the way to a mount point cannot be read.
    """
    view = _View(os.path.realpath(hidden))
    # What is mounted inside another mount comes after it.
    for mount in sorted(mounts, key=lambda mount: mount.target.count("/")):
        _check_source(mount, hidden)
        view.mount(mount)
    # A mount over it all must not get a folder of ours.
    place = os.path.realpath(shown) if view.hides else ELSEWHERE
    view.mount(Mount(shown, place))
    return [*BASE, *view.arguments()], place


def _check_source(mount: Mount, hidden: Path) -> None:
    """Refuse what another job has replaced by a link since it was looked up."""
    if mount.source.is_relative_to(hidden):
        place = Path(os.path.realpath(hidden), mount.source.relative_to(hidden))
        if os.path.realpath(mount.source) != str(place):
            raise IllegalArgumentError(f"{mount.target!r}: a link has no place in the storage")


class _Kind(Enum):
    BOUND = auto()
    """What is elsewhere on the machine."""
    TEMPORARY = auto()
    """A folder of its own that shows the entries of one elsewhere, so that more can be added."""
    EMPTY = auto()
    """A folder of its own."""
    ADDED = auto()
    """A folder within one of the last two."""


@dataclass
class _Place:
    """What is at one path of the view, where that is not what the machine has there."""

    kind: _Kind
    source: str = ""
    """The machine's path of what is shown."""
    read_only: bool = False


class _View:
    def __init__(self, hidden: str) -> None:
        self._hidden = hidden
        self._places = {
            "/": _Place(_Kind.BOUND, "/"),
            "/proc": _Place(_Kind.EMPTY),
            hidden: _Place(_Kind.EMPTY),
        }

    @property
    def hides(self) -> bool:
        """Whether something has to be hidden; a mount may have covered it."""
        return self._hidden in self._places

    def mount(self, mount: Mount) -> None:
        path = self._find(mount.target)
        if path in self._places:
            raise IllegalArgumentError(f"{mount.target!r}: something else is there already")
        source = os.path.realpath(mount.source)
        if self._type(path) != _type(source):
            self._make_room(os.path.dirname(path))
        self._places[path] = _Place(_Kind.BOUND, source, mount.read_only)
        if self._hidden.startswith(path + "/"):
            self._places.pop(self._hidden, None)

    def _find(self, target: str) -> str:
        """Return where a mount point is, without links; folders missing on the way are added."""
        path, todo, links = "/", _parts(target), 0
        while todo:
            name = todo.pop(0)
            if name == "..":
                path = os.path.dirname(path)
                continue
            parent, path = path, os.path.join(path, name)
            check_target(path)
            found = self._type(path)
            if found == stat.S_IFLNK:
                links += 1
                if links > MOST_LINKS:
                    raise IllegalArgumentError(f"{target!r} leads through a circle of links")
                link = os.readlink(self._source(path))
                path = "/" if link.startswith("/") else parent
                todo[:0] = _parts(link)
            elif todo and found != stat.S_IFDIR:
                self._make_room(parent)
                if self._cover(parent)[1].kind is not _Kind.BOUND:
                    self._places[path] = _Place(_Kind.ADDED)
        check_target(path)
        return path

    def _make_room(self, folder: str) -> None:
        """See to it that something can be added to a folder without changing the machine."""
        at, place = self._cover(folder)
        is_bound = place.kind is _Kind.BOUND
        if is_bound and at != "/" and not place.read_only:
            return  # a volume that may be written to
        if is_bound or (place.kind is _Kind.TEMPORARY and at != folder):
            source = self._source(folder)
            self._places[folder] = _Place(_Kind.TEMPORARY, source, place.read_only)

    def _cover(self, path: str) -> tuple[str, _Place]:
        """Return the place that a path belongs to, and where that begins."""
        while path not in self._places:
            path = os.path.dirname(path)
        return path, self._places[path]

    def _source(self, path: str) -> str:
        """Return what the machine calls a path of the view; empty if it has nothing there."""
        at, place = self._cover(path)
        if not place.source:
            return ""
        return os.path.normpath(os.path.join(place.source, os.path.relpath(path, at)))

    def _type(self, path: str) -> int | None:
        if path in self._places and not self._places[path].source:
            return stat.S_IFDIR
        source = self._source(path)
        return _type(source) if source else None

    def arguments(self) -> Iterator[str]:
        frozen: list[str] = []
        for path in sorted(self._places, key=lambda path: len(_parts(path))):
            place = self._places[path]
            yield from self._show(path, place)
            if place.kind is _Kind.TEMPORARY and place.read_only:
                frozen += ["--remount-ro", path]
        yield from frozen  # when all mount points in them are made

    def _show(self, path: str, place: _Place) -> Iterator[str]:
        bind = "--ro-bind" if place.read_only else "--dev-bind"
        if path == "/proc":
            yield from ("--proc", path)
        elif place.kind is _Kind.BOUND:
            yield from (bind, place.source, path)
        elif place.kind is not _Kind.ADDED and path != "/":  # "/" is one from the beginning
            yield from ("--tmpfs", path)
        if place.kind is _Kind.TEMPORARY:
            yield from self._show_entries(path, place.source, bind + "-try")

    def _show_entries(self, path: str, source: str, bind: str) -> Iterator[str]:
        with os.scandir(source) as entries:
            for number, entry in enumerate(entries):
                if number == MOST_ENTRIES:
                    raise IllegalArgumentError(
                        f"{path!r} has too many entries to add a mount point to them; "
                        "choose one below a folder that is there"
                    )
                shown = os.path.join(path, entry.name)
                if shown in self._places:
                    continue
                if entry.is_symlink():
                    yield from ("--symlink", os.readlink(entry.path), shown)
                else:
                    yield from (bind, entry.path, shown)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _type(path: str) -> int | None:
    """Return what is at a path of the machine: a folder, a link, anything else (0), or nothing."""
    try:
        found = stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if found in (stat.S_IFDIR, stat.S_IFLNK) else 0
