"""Many files at once, as a shell's ``cp`` and ``mv`` take them: what goes where, and how far."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Self

from neuro_sync.closing import Closing
from neuro_sync.errors import ConnectionFailed, IllegalArgumentError, ResourceNotFound
from neuro_sync.models.storage import (
    AbstractDeleteProgress,
    AbstractRecursiveFileProgress,
    StorageProgressComplete,
    StorageProgressDelete,
    StorageProgressFail,
    StorageProgressStart,
    StorageProgressStep,
)

from . import output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from neuro_sync.client.session import Session

SCHEME = "storage:"
IGNORE_FILES = (".neuroignore", ".apoloignore")
WILD = frozenset("*?[")


def copy(
    session: Session,
    paths: Sequence[str],
    *,
    recursive: bool,
    target_directory: str | None,
    no_target_directory: bool,
    update: bool,
    continue_: bool,
    exclude: Sequence[str],
    include: Sequence[str],
    exclude_from_files: str | None,
    glob: bool,
    progress: bool,
) -> None:
    """Copy each source to where it belongs."""
    sources, target = _split(paths, target_directory)
    is_upload = target.startswith(SCHEME)
    for source in sources:
        if source.startswith(SCHEME) is is_upload:
            raise IllegalArgumentError(
                f"{source} and {target} are on the same side; one of them begins with {SCHEME}"
            )
    settings = session.config.settings.storage
    keep = _filter([*settings.cp_exclude, *exclude], include)
    names = exclude_from_files.split() if exclude_from_files is not None else None
    ignore_files = names or settings.cp_exclude_from_files or IGNORE_FILES
    sources = [*expanded(session, sources, glob)]
    storage = session.storage
    folders = {
        source
        for source in sources
        if (Path(source).is_dir() if is_upload else storage.stat(source).is_dir())
    }
    if folders and not recursive:
        raise IllegalArgumentError(f"{min(folders)} is a folder; copy it with -r")
    place = _placer(session, sources, target, target_directory, no_target_directory)
    told = CopyProgress(drawn=progress and sys.stdout.isatty() and not output.is_quiet())
    with told, _told_how_to_go_on(told, continues=continue_):
        for source in sources:
            to, is_folder = place(source), source in folders
            if is_upload and is_folder:
                storage.upload_dir(
                    source,
                    to,
                    update=update,
                    continue_=continue_,
                    filter=keep,
                    ignore_file_names=ignore_files,
                    progress=told,
                )
            elif is_upload:
                storage.upload_file(source, to, update=update, continue_=continue_, progress=told)
            elif is_folder:
                storage.download_dir(
                    source, to, update=update, continue_=continue_, filter=keep, progress=told
                )
            else:
                storage.download_file(source, to, update=update, continue_=continue_, progress=told)


@contextmanager
def _told_how_to_go_on(told: CopyProgress, *, continues: bool) -> Iterator[None]:
    try:
        yield
    except (ConnectionFailed, KeyboardInterrupt):
        if told.has_begun and not continues:
            output.note("The same with --continue goes on where this has broken off.")
        raise


def move(
    session: Session,
    paths: Sequence[str],
    *,
    target_directory: str | None,
    no_target_directory: bool,
    glob: bool,
) -> None:
    """Move each source to where it belongs."""
    sources, target = _split(paths, target_directory)
    for path in (*sources, target):
        if not path.startswith(SCHEME):
            raise IllegalArgumentError(f"{path} is not on the storage; write {SCHEME}{path}")
    sources = [*expanded(session, sources, glob)]
    place = _placer(session, sources, target, target_directory, no_target_directory)
    for source in sources:
        session.storage.mv(source, place(source))


def expanded(session: Session, paths: Sequence[str], glob: bool) -> Iterator[str]:
    """Yield what patterns on the storage match; those of this machine the shell has expanded.

    Raises:
        ResourceNotFound: Nothing matches.
    """
    for path in paths:
        if not (glob and path.startswith(SCHEME) and WILD & set(path)):
            yield path
            continue
        with session.storage.glob(path) as found:
            matches = [str(uri) for uri in found]
        if not matches:
            raise ResourceNotFound(f"nothing matches {path}")
        yield from matches


def _split(paths: Sequence[str], target_directory: str | None) -> tuple[list[str], str]:
    if target_directory is not None:
        return [*paths], target_directory
    *sources, target = paths
    if not sources:
        raise IllegalArgumentError(f"where to? name a target after {target}")
    return sources, target


def _placer(
    session: Session,
    sources: Sequence[str],
    target: str,
    target_directory: str | None,
    no_target_directory: bool,
) -> Callable[[str], str]:
    """Return what says where a source goes: into the target, or in its place."""
    if no_target_directory and len(sources) > 1:
        raise IllegalArgumentError("with -T there is one source")
    is_into = not no_target_directory and (
        target_directory is not None
        or len(sources) > 1
        or target.endswith("/")
        or _is_folder(session, target)
    )
    if not is_into:
        return lambda _: target
    inside = target if target.endswith(("/", SCHEME)) else f"{target}/"
    return lambda source: inside + _name(source)


def _is_folder(session: Session, place: str) -> bool:
    if not place.startswith(SCHEME):
        return Path(place).is_dir()
    try:
        return session.storage.stat(place).is_dir()
    except ResourceNotFound:
        return False


def _name(source: str) -> str:
    if source.startswith(SCHEME):
        return source.removeprefix(SCHEME).rstrip("/").rpartition("/")[2]
    return os.path.basename(os.path.abspath(source))


def _filter(exclude: Sequence[str], include: Sequence[str]) -> Callable[[str], bool] | None:
    """Return what says of a path whether it is copied; the patterns are written as for git."""
    if not exclude:
        return None
    from pathspec import PathSpec

    spec = PathSpec.from_lines("gitignore", [*exclude, *(f"!{pattern}" for pattern in include)])
    return lambda path: not spec.match_file(path)


class Removals(AbstractDeleteProgress):
    """Tells what was removed."""

    def delete(self, data: StorageProgressDelete) -> None:
        output.result(f"Removed {data.uri}{'/' if data.is_dir else ''}")


class CopyProgress(AbstractRecursiveFileProgress, Closing):
    """Draws how far a copy is; off a terminal it only tells what could not be copied."""

    def __init__(self, *, drawn: bool) -> None:
        self._stack = ExitStack()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._drawn = drawn
        self._total = 0
        self._copied: dict[str, int] = {}
        """Bytes by file, of those that are under way; what is done is kept in one sum."""
        self._done = 0

    def __enter__(self) -> Self:
        if self._drawn:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
            from rich.progress import TransferSpeedColumn as Speed

            name = TextColumn("{task.description}", markup=False)
            self._stack.enter_context(output.cursor_restored())
            self._bars = self._stack.enter_context(
                Progress(name, BarColumn(), DownloadColumn(), Speed())
            )
            self._task = self._bars.add_task("", total=None)
        return self

    @property
    def has_begun(self) -> bool:
        """Tell whether anything was copied yet, or found to be copied in part."""
        return bool(self._copied or self._done)

    def close(self) -> None:
        """Leave the last state of the bar on the terminal."""
        self._stack.close()

    def start(self, data: StorageProgressStart) -> None:
        self._total += data.size
        self._draw(data.src.name)

    def step(self, data: StorageProgressStep) -> None:
        self._copied[str(data.src)] = data.current
        self._draw(data.src.name)

    def complete(self, data: StorageProgressComplete) -> None:
        self._copied.pop(str(data.src), None)
        self._done += data.size
        self._draw(data.src.name)

    def fail(self, data: StorageProgressFail) -> None:
        output.note(f"{data.src}: {data.message}")

    def _draw(self, name: str) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task,
                description=output.visible(name),
                total=self._total,
                completed=self._done + sum(self._copied.values()),
            )
