"""What arguments and options take: how each is read, and how it is completed."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from neuro_sync.errors import NeuroError
from neuro_sync.models.durations import parse_duration

from .invocation import OTHER_NAMES, Invocation

if TYPE_CHECKING:
    from neuro_sync.client.session import Session

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # generic since click 8.5 only
    ParamType = click.ParamType

Command = TypeVar("Command", bound=Callable[..., Any])

COMPLETION_PATIENCE = 1.0
"""Seconds that a user waits for the Tab key."""
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTPkmgtp])?(b|iB|i|B)?")


def complete(context: click.Context, read: Callable[[Session], Iterable[str]]) -> Iterator[str]:
    """Return what a platform knows, or nothing: Tab never waits long and never fails."""
    found: list[str] = []
    try:
        session = Invocation.of(context).open_session(patience=COMPLETION_PATIENCE)
    except NeuroError:
        return iter(())  # there is no place to say it

    def ask() -> None:
        with suppress(NeuroError), session:
            found.extend(read(session))

    # In a thread, since a platform that is not to be reached would be asked again and again.
    thread = threading.Thread(target=ask, name="neuro-completion", daemon=True)
    thread.start()
    thread.join(COMPLETION_PATIENCE)
    return iter([] if thread.is_alive() else found)


class JobType(ParamType):
    """A job: its id, its name, or its address ``job:NAME``, which `Jobs` resolves."""

    name = "job"

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        def read(session: Session) -> Iterator[str]:
            from neuro_sync.models.jobs import JobStatus

            for job in session.jobs.list(
                owners=[session.username], statuses=JobStatus.active_items(), reverse=True
            ):
                yield from filter(None, (job.name, job.id))

        return [CompletionItem(job) for job in complete(ctx, read) if job.startswith(incomplete)]


class PlaceType(ParamType):
    """A file or folder: an address of the storage, or a path of this machine."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if not incomplete.startswith("storage:"):
            schemes = [CompletionItem("storage:")] if "storage:".startswith(incomplete) else []
            return [*schemes, CompletionItem(incomplete, type="file")]
        folder, slash, _last = incomplete.rpartition("/")
        folder = folder + slash if slash else "storage:"

        def read(session: Session) -> Iterator[str]:
            from neuro_sync.models.uris import quoted_name

            with session.storage.list(folder) as files:
                for file in files:
                    name = quoted_name(file.name)
                    yield f"{folder}{name}{'/' if file.is_dir() else ''}"

        return [CompletionItem(path) for path in complete(ctx, read) if path.startswith(incomplete)]


class SizeType(ParamType):
    """Bytes: ``10G`` by powers of 1024, ``10Gb`` by powers of 1000."""

    name = "size"

    def convert(self, value: Any, param: Any, context: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = SIZE.fullmatch(value)
        if not found:
            self.fail(f"{value!r} is no size; write 10G", param, context)
        power = "KMGTP".index(found[2].upper()) + 1 if found[2] else 0
        size = float(found[1]) * (1000 if found[3] == "b" else 1024) ** power
        if size > sys.maxsize:
            self.fail(f"{value!r} is more than any machine has", param, context)
        return int(size)


class PresetType(ParamType):
    """The name of a preset."""

    name = "preset"

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = complete(ctx, lambda session: session.presets)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class DurationType(ParamType):
    """Seconds, written as ``1d2h3m4s`` or ``2d3h20min``; ``0`` is none."""

    name = "duration"

    def convert(self, value: Any, param: Any, context: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, context)


class MomentType(ParamType):
    """A time: ISO 8601, local unless it names its zone; or how long ago, as ``2h30m``."""

    name = "time"

    def convert(self, value: Any, param: Any, context: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        with suppress(ValueError):
            seconds = parse_duration(value)
            try:
                return datetime.now(timezone.utc) - timedelta(seconds=seconds)
            except OverflowError:
                self.fail(f"{value!r} is before all time", param, context)
        try:
            # Python 3.10 does not know the letter.
            return datetime.fromisoformat(re.sub("Z$", "+00:00", value)).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 2026-03-01T12:30 or 2h", param, context)


class PortsType(ParamType):
    """A port of this machine and one of a job, ``LOCAL:REMOTE``; one number is both."""

    name = "ports"

    def convert(self, value: Any, param: Any, context: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        local, colon, remote = value.partition(":")
        try:
            ports = int(local), int(remote if colon else local)
        except ValueError:
            self.fail(f"{value!r} are no ports; write LOCAL:REMOTE", param, context)
        if not (0 <= ports[0] <= 65535 and 0 < ports[1] <= 65535):
            self.fail(f"{value!r}: ports go from 1 to 65535", param, context)
        return ports


JOB, PRESET, PLACE = JobType(), PresetType(), PlaceType()
DURATION, MOMENT, PORTS, BYTES = DurationType(), MomentType(), PortsType(), SizeType()


def as_json(command: Command) -> Command:
    """Add the option `--json`, on everything that lists or describes."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def where(command: Command) -> Command:
    """Add the options that say where on the platform something is done; the session heeds them."""
    for name, of in (("project", "project"), ("org", "organisation"), ("cluster", "cluster")):
        option = click.option(
            f"--{name}",
            *(("-p",) if name == "project" else ()),
            f"{name}_name",
            metavar="NAME",
            expose_value=False,
            callback=_remember,
            help=f"Another {of} than the current one.",
        )
        command = option(command)
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value and parameter.name:
        context.meta.setdefault(OTHER_NAMES, {})[parameter.name] = value
