"""Many files at once, as a shell's ``cp`` and ``mv`` take them: what goes where, and how far."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from typing_extensions import Self
from yarl import URL

from neuro_sync.client.ignore import Pattern, verdict
from neuro_sync.client.transfers import ends_copy
from neuro_sync.closing import Closing
from neuro_sync.errors import ConnectionFailed, IllegalArgumentError
from neuro_sync.models.storage import (
    AbstractDeleteProgress,
    AbstractRecursiveFileProgress,
    StorageProgressComplete,
    StorageProgressDelete,
    StorageProgressFail,
    StorageProgressStart,
    StorageProgressStep,
)

from . import exit_codes, output
from .places import SCHEME, Place, expanded, place

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from neuro_sync.client.session import Session

IGNORE_FILES = (".neuroignore", ".apoloignore")


def copy(
    session: Session,
    paths: Sequence[str],
    *,
    recursive: bool,
    target_directory: str | None,
    no_target_directory: bool,
    update: bool,
    continue_: bool,
    patterns: Sequence[Pattern],
    exclude_from_files: str | None,
    glob: bool | None,
    progress: bool,
) -> None:
    """Copy each source to where it belongs; one that cannot be copied costs itself alone."""
    texts, target = _split(session, paths, target_directory)
    for text in texts:
        if text.startswith(SCHEME) is target.is_remote:
            raise IllegalArgumentError(
                f"{text} and {target} are on the same side; one of them begins with {SCHEME}"
            )
    settings = session.config.settings.storage
    keep = _filter([*map(Pattern.parse, settings.cp_exclude), *patterns])
    names = exclude_from_files.split() if exclude_from_files is not None else None
    ignore_files = names or settings.cp_exclude_from_files or IGNORE_FILES
    sources = [*expanded(session, texts, glob)]
    destination = _destinations(session, sources, target, target_directory, no_target_directory)
    storage = session.storage
    told = CopyProgress(drawn=progress and sys.stdout.isatty() and not output.is_quiet())

    def copy_one(source: Place) -> None:
        here_or_there, to = source.where, destination(source)
        is_folder = (
            here_or_there.is_dir()
            if isinstance(here_or_there, Path)
            else storage.stat(here_or_there).is_dir()
        )
        if is_folder and not recursive:
            raise IllegalArgumentError(f"{source} is a folder; copy it with -r")
        mode: Any = {"update": update, "continue_": continue_, "progress": told}
        if isinstance(here_or_there, Path):
            if is_folder:
                storage.upload_dir(
                    here_or_there, str(to), filter=keep, ignore_file_names=ignore_files, **mode
                )
            else:
                storage.upload_file(here_or_there, str(to), **mode)
        elif is_folder:
            storage.download_dir(here_or_there, to, filter=keep, **mode)
        else:
            storage.download_file(here_or_there, to, **mode)

    with told, _told_how_to_go_on(told, continues=continue_):
        exit_codes.for_each(sources, copy_one, ends=ends_copy)
    if told.has_left_out:
        raise click.exceptions.Exit(exit_codes.INPUT_OUTPUT)


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
    glob: bool | None,
) -> None:
    """Move each source to where it belongs."""
    texts, target = _split(session, paths, target_directory)
    for text in (*texts, target.text):
        if not text.startswith(SCHEME):
            raise IllegalArgumentError(f"{text} is not on the storage; write {SCHEME}{text}")
    sources = [*expanded(session, texts, glob)]
    destination = _destinations(session, sources, target, target_directory, no_target_directory)
    for source in sources:
        session.storage.mv(str(source.where), str(destination(source)))


def _split(
    session: Session, paths: Sequence[str], target_directory: str | None
) -> tuple[list[str], Place]:
    if target_directory is not None:
        return [*paths], place(session, target_directory)
    *sources, target = paths
    if not sources:
        raise IllegalArgumentError(f"where to? name a target after {target}")
    return sources, place(session, target)


def _destinations(
    session: Session,
    sources: Sequence[Place],
    target: Place,
    target_directory: str | None,
    no_target_directory: bool,
) -> Callable[[Place], Path | URL]:
    """Return what says where a source goes: into the target, or in its place."""
    if no_target_directory and len(sources) > 1:
        raise IllegalArgumentError("with -T there is one source")
    is_into = not no_target_directory and (
        target_directory is not None
        or len(sources) > 1
        or target.text.endswith("/" if target.is_remote else ("/", os.sep))
        or target.is_folder(session)
    )
    if not is_into:
        return lambda _: target.where
    return lambda source: target.child(source.name)


def _filter(patterns: Sequence[Pattern]) -> Callable[[str], bool] | None:
    """Return what says of a path whether it is copied."""
    return (lambda path: not verdict(patterns, path)) if patterns else None


class Removals(AbstractDeleteProgress):
    """Tells what was removed."""

    def delete(self, data: StorageProgressDelete) -> None:
        output.result(f"Removed {data.uri}{'/' if data.is_dir else ''}")


class CopyProgress(AbstractRecursiveFileProgress, Closing):
    """Draws how far a copy is; off a terminal it only reports what is not copied."""

    def __init__(self, *, drawn: bool) -> None:
        self._stack = ExitStack()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._drawn = drawn
        self.has_left_out = False
        """Whether something was not copied."""
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
        self.has_left_out = True
        output.error(data.message)

    def _draw(self, name: str) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task,
                description=output.visible(name),
                total=self._total,
                completed=self._done + sum(self._copied.values()),
            )
