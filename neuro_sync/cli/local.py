"""The commands that run the local platform."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from neuro_sync.errors import ConfigError

from . import output
from .accounts import project, user

DEFAULT_PORT = 7787


@click.group()
def local() -> None:
    """Run a platform on this machine.

    Example: neuro local up
    """


local.add_command(user)
local.add_command(project)


@local.command()
@click.option("--state", metavar="FOLDER", help="Where it keeps everything; .neuro-local here.")
@click.option("--ephemeral", is_flag=True, help="Keep nothing: use a temporary folder.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0 takes any free one.")
def up(state: str | None, ephemeral: bool, port: int) -> None:
    """Start the local platform, and run it until Ctrl-C.

    Its jobs end with it. If it is killed they go on, and the next `neuro local up` on the same
    folder takes them up.

    Example: neuro local up --port 0
    """
    if state and ephemeral:
        raise click.UsageError("--state and --ephemeral exclude each other")
    try:
        from neuro_sync.local.server import LocalPlatform
    except ImportError as error:
        raise ConfigError(
            f"the local platform needs {error.name}: pip install 'neuro-sync[local]'"
        ) from error
    with _stop_signal() as wait, LocalPlatform(state, ephemeral=ephemeral, port=port) as platform:
        output.banner(platform.url, str(platform.folder), kept=not ephemeral)
        wait()
        output.note("Stopping the platform and its jobs.")


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
