"""The commands that run the local platform."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import click

from neuro_sync.client.lookup import TOKEN_VARIABLE, URL_VARIABLE
from neuro_sync.errors import ConfigError

from . import output
from .accounts import project, user
from .parameters import BYTES, DURATION, as_json
from .programs import RunProgram, forwarding_signals

if TYPE_CHECKING:
    from neuro_sync.local.retention import Retention
    from neuro_sync.local.server import LocalPlatform
    from neuro_sync.local.state import Address

DEFAULT_PORT = 7787


@click.group()
def local() -> None:
    """Run a platform on this machine.

    Example: neuro local up
    """


local.add_command(user)
local.add_command(project)


state_option = click.option(
    "--state", metavar="FOLDER", help="Where it keeps everything; .neuro-local here."
)


@local.command()
@state_option
@click.option("--ephemeral", is_flag=True, help="Keep nothing: use a temporary folder.")
@click.option("--cpu", type=float, help="Cores that its jobs may use together; those there are.")
@click.option("--memory", type=BYTES, help="Memory that they may use, such as 16G; all there is.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0 takes any free one.")
@click.option(
    "--runtime",
    type=click.Choice(["process", "docker"]),
    default="process",
    show_default=True,
    help="What runs its jobs: commands on this machine, or containers.",
)
@click.option(
    "--visible",
    multiple=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="Show jobs in their sandbox this file or folder too, read-only; may be repeated.",
)
@click.option(
    "--writable",
    multiple=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="Let jobs in their sandbox write to this file or folder too; may be repeated.",
)
@click.option("--log-limit", type=BYTES, help="End a job that writes more output; 10G.")
@click.option(
    "--prune-older-than",
    type=DURATION,
    help="Remove jobs with their logs, every hour, when they ended longer ago, such as 30d.",
)
@click.option(
    "--prune-keep", type=click.IntRange(0), help="Keep so many of the newest finished jobs."
)
@click.option(
    "--no-sync",
    is_flag=True,
    help="Do not wait for the disk; a power loss may then undo what was reported.",
)
def up(
    state: str | None,
    ephemeral: bool,
    cpu: float | None,
    memory: int | None,
    port: int,
    runtime: Literal["process", "docker"],
    visible: tuple[str, ...],
    writable: tuple[str, ...],
    log_limit: int | None,
    prune_older_than: float | None,
    prune_keep: int | None,
    no_sync: bool,
) -> None:
    """Start the local platform, and run it until Ctrl-C.

    Its jobs end with it. If it is killed they go on, and the next `neuro local up` on the same
    folder takes them up. Jobs wait until there is room for them; give --cpu or --memory to say
    that this machine has more, or less, than it has.

    Example: neuro local up --port 0
    """
    _check_exclusive(state, ephemeral)
    server = _server()
    with _stop_signal() as wait:
        platform = server.LocalPlatform(
            state,
            ephemeral=ephemeral,
            port=port,
            cores=cpu,
            memory=memory,
            log_limit=server.LOG_LIMIT if log_limit is None else log_limit,
            durable=False if no_sync else None,
            retention=_retention(prune_older_than, prune_keep),
            runtime=runtime,
            visible=visible,
            writable=writable,
            is_program=True,
        )
        with platform:
            output.banner(
                platform.url,
                str(platform.folder),
                kept=not ephemeral,
                runtime=runtime,
                engine=_engine(),
            )
            if platform.warning:
                output.note(f"Warning: {platform.warning}.")
            wait()
            output.note("Stopping the platform and its jobs.")


@local.command()
@state_option
def down(state: str | None) -> None:
    """Stop the local platform and its jobs; what it remembers stays.

    Example: neuro local down
    """
    address = _server().stop_platform(state)
    output.note(f"The local platform at {address.url} has ended.")


@local.command()
@state_option
@as_json
def status(state: str | None, as_json: bool) -> None:
    """Tell whether a local platform runs, and where.

    The exit code is 1 if none does.

    Example: neuro local status
    """
    folder, address = _server().folder_of(state), _server().running_platform(state)
    told: dict[str, object] = {"folder": str(folder), "running": address is not None}
    if address is not None:
        told |= {
            "url": address.url,
            "version": address.version,
            "pid": address.pid,
            "runtime": address.runtime,
        }
    if as_json:
        output.json(told)
    elif address is None:
        output.note(f"No local platform runs on {folder}.")
    else:
        output.result(
            f"{address.url}  version {address.version}, process {address.pid}, on {folder}"
        )
    if address is None:
        raise click.exceptions.Exit(1)


@local.command()
@state_option
def env(state: str | None) -> None:
    """Print the environment with which programs use the local platform.

    Example: eval "$(neuro local env)"
    """
    for name, value in _environment(_running(state)).items():
        output.result(f"export {name}={shlex.quote(value)}")


@local.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@state_option
@click.option("--ephemeral", is_flag=True, help="Start one for the program, and keep nothing.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(state: str | None, ephemeral: bool, command: tuple[str, ...]) -> None:
    """Run a program that uses the local platform, and exit as it does.

    If no platform runs, one is started that ends with the program. Signals that are sent to this
    command, such as SIGTERM, reach the program.

    Example: neuro local exec --ephemeral -- python train.py
    """
    _check_exclusive(state, ephemeral)
    server = _server()
    address = None if ephemeral else server.running_platform(state)
    with forwarding_signals() as run_program:
        if address is not None:
            address.check_version()
            exit_code = _run(run_program, command, address)
        else:
            with server.LocalPlatform(state, ephemeral=ephemeral) as platform:
                exit_code = _run(run_program, command, platform)
    raise click.exceptions.Exit(exit_code)


@local.command()
@state_option
@click.option("--older-than", type=DURATION, help="Only jobs that ended longer ago, such as 30d.")
@click.option("--keep", type=click.IntRange(0), help="Keep so many of the newest finished jobs.")
def prune(state: str | None, older_than: float | None, keep: int | None) -> None:
    """Remove finished jobs, with their logs.

    With both options, a job is removed if neither of them keeps it. The platform may run
    meanwhile. Jobs that are not finished stay.

    Example: neuro local prune --older-than 30d --keep 100
    """
    retention = _retention(older_than, keep)
    if retention is None:
        raise click.UsageError("say which jobs to remove, with --older-than or --keep")
    folder = _server().folder_of(state)
    _check_is_state_folder(state)
    from neuro_sync.local.retention import prune as prune_jobs

    count = prune_jobs(folder, retention)
    output.note(f"{count} finished job{'s are' if count != 1 else ' is'} removed from {folder}.")


@local.command()
@state_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def reset(state: str | None, yes: bool) -> None:
    """Delete the state folder, with all that is in it.

    That is all jobs, logs, files and users of the local platform.

    Jobs that a killed platform has left behind are ended first.

    Example: neuro local reset --yes
    """
    server = _server()
    folder = server.folder_of(state)
    _check_is_state_folder(state)
    if not yes:
        output.confirm(f"Delete {folder} and all that is in it?")
    server.end_leftovers(state)
    output.note(f"{folder} is deleted.")


@local.command()
@state_option
def adopt(state: str | None) -> None:
    """Use a state folder that was copied or moved here.

    A copy of a state folder is refused until then: its unfinished jobs start with the next
    `neuro local up`, and the users in it may call the platform. Adopt only what you trust.

    Example: neuro local adopt --state backup/.neuro-local
    """
    folder = _server().StateFolder(state)
    folder.adopt()
    output.note(f"{folder.path} is adopted: the next platform on it goes on with its jobs.")


def _server() -> ModuleType:
    """Load what only the commands of this group need."""
    try:
        from neuro_sync.local import server
    except ImportError as error:
        raise ConfigError(
            f"the local platform needs {error.name}: pip install 'neuro-sync[local]'"
        ) from error
    return server


def _check_is_state_folder(state: str | None) -> None:
    server = _server()
    if not server.is_state_folder(state):
        folder = server.folder_of(state)
        raise ConfigError(f"{folder} is no state folder of a local platform; nothing was deleted")


def _retention(older_than: float | None, keep: int | None) -> Retention | None:
    if older_than is None and keep is None:
        return None
    _server()  # tells what is not installed
    from neuro_sync.local.retention import Retention

    return Retention(older_than, keep)


def _running(state: str | None) -> Address:
    server = _server()
    address: Address | None = server.running_platform(state)
    if address is None:
        raise ConfigError(
            f"no local platform runs on {server.folder_of(state)}; start one: neuro local up"
        )
    return address


def _environment(platform: Address | LocalPlatform) -> dict[str, str]:
    return {URL_VARIABLE: platform.url, TOKEN_VARIABLE: platform.token}


def _run(run_program: RunProgram, command: Sequence[str], platform: Address | LocalPlatform) -> int:
    try:
        return run_program(command, {**os.environ, **_environment(platform)})
    except OSError as error:
        output.note(f"Error: {command[0]} could not be started: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126


def _check_exclusive(state: str | None, ephemeral: bool) -> None:
    if state and ephemeral:
        raise click.UsageError("--state and --ephemeral exclude each other")


def _engine() -> str | None:
    """Return where this machine's container engine listens, if one does."""
    try:
        from neuro_sync.engine import find_running
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
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = signal.Signals[name]
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, lambda *_: None)
        yield lambda: waiting.recv(1)
        signal.set_wakeup_fd(-1)
