"""The commands about files of the platform's storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.models.uris import path_of

from . import exit_codes, output
from .invocation import pass_session
from .output import Column
from .parameters import PLACE, as_json

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.storage import DiskUsageInfo, FileStatus

SORT_KEYS: dict[str, Callable[[FileStatus], Any]] = {
    "name": lambda file: file.name,
    "size": lambda file: (file.size, file.name),
    "time": lambda file: (file.modification_time, file.name),
}

PATTERN_ORDER = f"{__name__}.pattern_order"
"""Where the context keeps which of --exclude and --include came when."""
PROJECT_DEPTH = 2
"""Parts of a project's address: its organisation and its name."""

glob_option = click.option(
    "--glob/--no-glob",
    default=None,
    help="Whether * and ? are patterns.  [default: unless a file has that very name]",
)


@click.group()
def storage() -> None:
    """Copy, list, move and remove files of the storage.

    Example: neuro storage ls storage:data
    """


class _CopyCommand(click.Command):
    """Keeps the order of --exclude and --include, which click sorts by option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=[*args])
        ctx.meta[PATTERN_ORDER] = [
            option.name for option in order if option.name in ("exclude", "include")
        ]
        return super().parse_args(ctx, args)


@storage.command(cls=_CopyCommand)
@click.option("-r", "--recursive", is_flag=True, help="Copy folders, with all that is in them.")
@click.option("-t", "--target-directory", metavar="FOLDER", type=PLACE, help="Copy all into it.")
@click.option(
    "-T", "--no-target-directory", is_flag=True, help="The target is the new name itself."
)
@click.option("-u", "--update", is_flag=True, help="Leave out what is not newer than its copy.")
@click.option("--continue", "continue_", is_flag=True, help="Go on where a copy has broken off.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave it out; repeatable.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Copy it all the same.")
@click.option(
    "--exclude-from-files",
    metavar="NAMES",
    help="Files in the folders that say what to leave out.  [default: .neuroignore .apoloignore]",
)
@glob_option
@click.option("-P/ ", "--progress/--no-progress", "progress", default=True, help="Draw a bar.")
@click.argument("paths", nargs=-1, required=True, type=PLACE, metavar="SOURCE... TARGET")
@click.pass_context
@pass_session
def cp(
    session: Session,
    context: click.Context,
    /,
    paths: tuple[str, ...],
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    **wish: Any,
) -> None:
    """Copy files and folders to the storage, or from it.

    What begins with `storage:` is on the platform, anything else on this machine. Patterns are
    written as for git, and the last one that matches decides. What cannot be copied is reported,
    and the rest is copied.

    \b
    Examples:
      neuro cp -r data storage:data
      neuro cp storage:results/model.bin .
      neuro cp -r --exclude '*.tmp' --update . storage:project
    """
    from neuro_sync.client.ignore import Pattern

    from .copying import copy

    given = {"exclude": iter(exclude), "include": iter(include)}
    patterns = [
        Pattern(next(given[option]), excludes=option == "exclude")
        for option in context.meta[PATTERN_ORDER]
    ]
    copy(session, paths, patterns=patterns, **wish)


@storage.command()
@click.option("-l", "long", is_flag=True, help="With permission, size and time.")
@click.option("-h", "--human-readable", "human", is_flag=True, help="Sizes such as 1.5M.")
@click.option(
    "-a", "--all", "hidden", is_flag=True, help="Those whose names begin with a dot, too."
)
@click.option("-d", "--directory", "itself", is_flag=True, help="A folder, not what is in it.")
@click.option("--sort", type=click.Choice([*SORT_KEYS]), default="name", show_default=True)
@click.argument("paths", nargs=-1, type=PLACE)
@as_json
@pass_session
def ls(
    session: Session,
    paths: tuple[str, ...],
    long: bool,
    human: bool,
    hidden: bool,
    itself: bool,
    sort: str,
    as_json: bool,
) -> None:
    """List what is in folders, by default in that of the project.

    Example: neuro ls -l storage:data
    """

    def files_of(path: str) -> list[FileStatus]:
        files = (file for file in _listed(session, path, itself) if hidden or not _is_hidden(file))
        return sorted(files, key=SORT_KEYS[sort])

    def show(path: str) -> None:
        files = files_of(path)
        if len(paths) > 1:
            output.result(f"{path}:")
        if long:
            output.table(files, _columns(human), titled=False)
        else:
            for file in files:
                output.result(_shown_name(file))

    places = paths or ("storage:",)
    if as_json or output.is_quiet():
        files = (file for path in places for file in files_of(path))
        output.listing(files, (), id=lambda file: str(file.uri), as_json=as_json)
    else:
        exit_codes.for_each(places, show)


def _listed(session: Session, path: str, itself: bool) -> Iterator[FileStatus]:
    status = session.storage.stat(path)
    if itself or not status.is_dir():
        yield status
        return
    with session.storage.list(path) as files:
        yield from files


def _is_hidden(file: FileStatus) -> bool:
    return file.name.startswith(".")


def _shown_name(file: FileStatus) -> str:
    return f"{file.name}/" if file.is_dir() else file.name


def _columns(human: bool) -> tuple[Column[FileStatus], ...]:
    return (
        Column("TYPE", lambda file: str(file.type)[0].lower()),
        Column("PERMISSION", lambda file: file.permission),
        Column("SIZE", lambda file: output.size(file.size) if human else file.size),
        Column("CHANGED", lambda file: output.moment(_changed(file))),
        Column("NAME", _shown_name),
    )


def _changed(file: FileStatus) -> datetime:
    return datetime.fromtimestamp(file.modification_time, timezone.utc)


@storage.command()
@click.option("-p", "--parents", is_flag=True, help="Make those above it too; one may be there.")
@click.argument("paths", nargs=-1, required=True, type=PLACE)
@pass_session
def mkdir(session: Session, paths: tuple[str, ...], parents: bool) -> None:
    """Make folders.

    Example: neuro mkdir -p storage:data/raw
    """
    exit_codes.for_each(
        paths, lambda path: session.storage.mkdir(path, parents=parents, exist_ok=parents)
    )


@storage.command()
@click.option("-t", "--target-directory", metavar="FOLDER", type=PLACE, help="Move all into it.")
@click.option(
    "-T", "--no-target-directory", is_flag=True, help="The target is the new name itself."
)
@glob_option
@click.argument("paths", nargs=-1, required=True, type=PLACE, metavar="SOURCE... TARGET")
@pass_session
def mv(session: Session, /, paths: tuple[str, ...], **wish: Any) -> None:
    """Move or rename files and folders within the storage.

    Example: neuro mv storage:model.bin storage:models/
    """
    from .copying import move

    move(session, paths, **wish)


@storage.command()
@click.option("-r", "--recursive", is_flag=True, help="Remove folders, with all that is in them.")
@glob_option
@click.option("--progress/--no-progress", "-P", default=False, help="Tell what was removed.")
@click.option("--no-preserve-root", is_flag=True, help="Remove all of a project's files, if asked.")
@click.argument("paths", nargs=-1, required=True, type=PLACE)
@pass_session
def rm(
    session: Session,
    paths: tuple[str, ...],
    recursive: bool,
    glob: bool | None,
    progress: bool,
    no_preserve_root: bool,
) -> None:
    """Remove files and folders, for good.

    Example: neuro rm -r 'storage:runs/2023-*'
    """
    from .copying import Removals
    from .places import expanded

    if not no_preserve_root:
        for path in paths:
            _preserve_root(session, path)
    if glob:
        for path in paths:
            _refuse_name(session, path)
    told = Removals() if progress else None
    exit_codes.for_each(
        expanded(session, paths, glob),
        lambda place: session.storage.rm(str(place.where), recursive=recursive, progress=told),
    )


def _refuse_name(session: Session, path: str) -> None:
    """Raise for a pattern that is also the name of a file: which is meant is not clear."""
    from .places import is_pattern, named

    if not is_pattern(path):
        return
    with suppress(ResourceNotFound):
        session.storage.stat(str(named(session, path).where))
        raise IllegalArgumentError(
            f"{path} is a pattern, and the name of a file as well. Leave out --glob to remove "
            "that file, or write the pattern in another way"
        )


def _preserve_root(session: Session, path: str) -> None:
    """Refuse to remove all files of a project, as by a space in the wrong place."""
    from .places import named

    where = named(session, path).where
    if isinstance(where, Path):
        raise IllegalArgumentError(f"{path} is not on the storage; write storage:{path}")
    if len([name for name in path_of(where).split("/") if name not in ("", ".")]) <= PROJECT_DEPTH:
        raise IllegalArgumentError(
            f"{path} is all of a project's files; name what is in it, or give --no-preserve-root"
        )


@storage.command("glob")
@click.argument("patterns", nargs=-1, required=True)
@as_json
@pass_session
def glob_(session: Session, patterns: tuple[str, ...], as_json: bool) -> None:
    """List what matches patterns; `**` is any depth.

    Example: neuro storage glob 'storage:**/*.ckpt'
    """

    def found() -> Iterator[str]:
        for pattern in patterns:
            with session.storage.glob(pattern) as matching:
                yield from map(str, matching)

    output.lines(found(), as_json=as_json)


@storage.command()
@click.argument("path", default="storage:", type=PLACE)
@as_json
@pass_session
def df(session: Session, path: str, as_json: bool) -> None:
    """Show how full the file system is.

    Example: neuro storage df
    """
    usage = session.storage.disk_usage(path)
    columns: tuple[Column[DiskUsageInfo], ...] = (
        Column("TOTAL", lambda usage: output.size(usage.total)),
        Column("USED", lambda usage: output.size(usage.used)),
        Column("FREE", lambda usage: output.size(usage.free)),
        Column("USE%", lambda usage: f"{usage.used / (usage.total or 1):.0%}"),
        Column("PATH", lambda usage: usage.uri),
    )
    output.listing([usage], columns, id=lambda usage: str(usage.uri), as_json=as_json)


@storage.command()
@click.option("-h", "--human-readable", "human", is_flag=True, help="Sizes such as 1.5M.")
@click.option(
    "-a", "--all", "hidden", is_flag=True, help="Those whose names begin with a dot, too."
)
@click.option("-s", "--size", "sized", is_flag=True, help="With sizes.")
@click.option("--sort", type=click.Choice([*SORT_KEYS]), default="name", show_default=True)
@click.argument("path", default="storage:", type=PLACE)
@pass_session
def tree(session: Session, path: str, human: bool, hidden: bool, sized: bool, sort: str) -> None:
    """Show all that is below a folder, as a tree.

    Example: neuro storage tree storage:data
    """

    def size_of(file: FileStatus) -> str:
        if not (sized or human) or file.is_dir():
            return ""
        return f"[{output.size(file.size) if human else file.size}]  "

    def show(folder: object, lead: str) -> None:
        with session.storage.list(str(folder)) as listed:
            files = sorted(
                (file for file in listed if hidden or not _is_hidden(file)), key=SORT_KEYS[sort]
            )
        for number, file in enumerate(files, 1):
            branch, below = ("└── ", "    ") if number == len(files) else ("├── ", "│   ")
            output.result(f"{lead}{branch}{size_of(file)}{file.name}")
            if file.is_dir():
                show(file.uri, lead + below)

    if not session.storage.stat(path).is_dir():
        raise IllegalArgumentError(f"{path} is no folder")
    output.result(path)
    show(path, "")
