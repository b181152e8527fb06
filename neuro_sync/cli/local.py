"""The commands that run the local platform."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from neuro_sync.errors import ConfigError

from . import output

DEFAULT_PORT = 7787


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


if TYPE_CHECKING:  # generic since click 8.2, and only for type checkers
    ParamType = click.ParamType[int]
else:
    ParamType = click.ParamType


class Size(ParamType):
    """Bytes, in units of 1024: ``512M``, ``16G``."""

    name = "size"

    def convert(self, value: str | int, param: object, context: click.Context | None) -> int:  # noqa: ARG002
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is no size; write 512M or 16G", ctx=context)
        return int(float(found[1]) * UNITS[found[2].upper()])


SIZE = Size()


@click.group()
def local() -> None:
    """Run a platform on this machine."""


@local.command()
@click.option("--state", metavar="FOLDER", help="Where it keeps everything; .neuro-local here.")
@click.option("--ephemeral", is_flag=True, help="Keep nothing: use a temporary folder.")
@click.option("--cpu", type=float, help="Cores that its jobs may use together; those there are.")
@click.option("--memory", type=SIZE, help="Memory that they may use, such as 16G; all there is.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0 takes any free one.")
@click.option(
    "--runtime",
    type=click.Choice(["process", "docker"]),
    default="process",
    show_default=True,
    help="What runs its jobs: commands on this machine, or containers.",
)
@click.option("--log-limit", type=SIZE, help="End a job that writes more output; 10G.")
def up(
    state: str | None,
    ephemeral: bool,
    cpu: float | None,
    memory: int | None,
    port: int,
    runtime: Literal["process", "docker"],
    log_limit: int | None,
) -> None:
    """Start the local platform, and run it until Ctrl-C.

    Its jobs end with it. If it is killed they go on, and the next `neuro local up` on the same
    folder takes them up. Jobs wait until there is room for them; give --cpu or --memory to say
    that this machine has more, or less, than it has.

    Example: neuro local up --port 0
    """
    if state and ephemeral:
        raise click.UsageError("--state and --ephemeral exclude each other")
    try:
        from neuro_sync.local.runtimes.process import LOG_LIMIT
        from neuro_sync.local.server import LocalPlatform
    except ImportError as error:
        raise ConfigError(
            f"the local platform needs {error.name}: pip install 'neuro-sync[local]'"
        ) from error
    platform = LocalPlatform(
        state,
        ephemeral=ephemeral,
        port=port,
        cores=cpu,
        memory=memory,
        log_limit=log_limit or LOG_LIMIT,
        runtime=runtime,
    )
    with _stop_signal() as wait, platform:
        output.banner(
            platform.url,
            str(platform.folder),
            kept=not ephemeral,
            runtime=runtime,
            engine=_engine(),
        )
        wait()
        output.note("Stopping the platform and its jobs.")


def _engine() -> str | None:
    """Return where this machine's container engine listens, if one does."""
    try:
        from neuro_sync.local.runtimes.engine import find_running
    except ImportError:
        return None
    return find_running()


@contextmanager
def _stop_signal() -> Iterator[Callable[[], object]]:
    """Hand out a function that returns when somebody wants this program to end.

    A signal may reach any thread, and then wakes no lock that the main thread waits for; but the
    C part of its handler always writes to the wake-up socket.
    """
    waiting, waking = socket.socketpair()
    with waiting, waking:
        waking.setblocking(False)
        signal.set_wakeup_fd(waking.fileno())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        yield lambda: waiting.recv(1)
        signal.set_wakeup_fd(-1)
