"""Which number a command ends with, where it is not that of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from neuro_sync.errors import (
    APIError,
    AuthError,
    ConfigError,
    ConnectionFailed,
    CopyIncomplete,
    EngineFailed,
    IllegalArgumentError,
    NeuroError,
    ResourceNotFound,
)

from . import output

if TYPE_CHECKING:
    from neuro_sync.models.jobs import JobDescription

Item = TypeVar("Item")

USAGE, UNWELL, NOT_FOUND, INPUT_OUTPUT, PLATFORM_FAILED, INTERRUPTED = 64, 69, 72, 74, 125, 130

BY_KIND: tuple[tuple[type[Exception], int], ...] = (
    (TimeoutError, 124),
    (ConfigError, 77),
    (AuthError, 77),
    (ResourceNotFound, NOT_FOUND),
    (IllegalArgumentError, 65),
    (ConnectionFailed, INPUT_OUTPUT),
    (CopyIncomplete, INPUT_OUTPUT),
    (EngineFailed, 76),
    (NeuroError, 70),
)
"""The first kind that fits counts."""


def of_error(error: NeuroError | OSError) -> int:
    """Return the exit code for an error."""
    if not isinstance(error, NeuroError):
        return INPUT_OUTPUT
    if is_unknown_job(error):
        return NOT_FOUND  # the platform answers with 400, as for any bad value
    return next(code for kind, code in BY_KIND if isinstance(error, kind))


def story(error: NeuroError | OSError) -> str:
    """Return an error as a user is told it, without the request that it came from."""
    if isinstance(error, CopyIncomplete):  # each was reported when it failed
        count = len(error.failures)
        return f"{count} of its files or folders {'was' if count == 1 else 'were'} not copied"
    if not isinstance(error, NeuroError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, ConfigError):
        from neuro_sync.client.lookup import NoPlatformFound

        if isinstance(error, NoPlatformFound):
            return _no_login(error.places)
    # Whatever the platform says, it does not look like lines of ours.
    text = error.text.replace("\n", "\n  ") if isinstance(error, APIError) else str(error)
    return text + ("; `neuro ps --all` lists them" if is_unknown_job(error) else "")


def _no_login(places: Iterable[str]) -> str:
    """Say what to type; that of the library says what to write in Python."""
    looked = "".join(f"\n  {place}" for place in places if not place.startswith("the argument"))
    return (
        f"no platform to talk to. Looked at:{looked}\n"
        "Log in with `neuro login`; or run jobs on this machine: start `neuro local up`, "
        "and write `neuro --local ps` in the same folder."
    )


def is_unknown_job(error: Exception) -> bool:
    """Tell whether the platform said that there is no such job."""
    return isinstance(error, APIError) and error.text.startswith("no such job")


def of_job(job: JobDescription) -> int:
    """Return the exit code for a job that is over: its own, where it has one."""
    from neuro_sync.models.jobs import JobStatus

    if job.status is JobStatus.SUCCEEDED:
        return 0
    otherwise = INTERRUPTED if job.status is JobStatus.CANCELLED else PLATFORM_FAILED
    return job.history.exit_code or otherwise


def for_each(
    items: Iterable[Item],
    act: Callable[[Item], object],
    *,
    ends: Callable[[Exception], bool] = lambda _: False,
) -> None:
    """Do the same with each; print which failed, and exit with the code of the first of them.

    An error of which `ends` says so is raised at once.
    """
    failed: list[int] = []
    for item in items:
        try:
            act(item)
        except BrokenPipeError:  # whoever reads our output has seen enough
            raise
        except (NeuroError, OSError) as error:
            if ends(error):
                raise
            told = story(error)
            output.error(told if str(item) in told else f"{item}: {told}")
            failed.append(of_error(error))
    if failed:
        raise click.exceptions.Exit(failed[0])
