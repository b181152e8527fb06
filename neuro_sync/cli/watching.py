"""A job before the user's eyes: it starts, its output passes, it ends, or the user leaves."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from neuro_sync.errors import ResourceNotFound, StreamInterrupted

from . import exit_codes, job_views, output

if TYPE_CHECKING:
    from neuro_sync.client.channels import StdStream
    from neuro_sync.client.session import Session
    from neuro_sync.models.jobs import JobDescription


def until_it_runs(session: Session, job: JobDescription) -> JobDescription:
    """Wait until a job runs, or is over, and tell each step on the way."""
    told = 0
    has_run = False

    def tell(now: JobDescription) -> None:
        nonlocal told, has_run
        for item in now.history.transitions[told:]:
            told += 1
            if not has_run:  # what comes after is told at the end
                output.note(job_views.step(item))
            has_run |= item.status.is_running

    return session.jobs.wait(job, until="running", on_update=tell)


class _Ended(Exception):  # no error, but the way out of a wait
    """One of the jobs that are waited for is over."""

    def __init__(self, job: JobDescription) -> None:
        self.job = job


def first_to_end(session: Session, jobs: Iterable[str], timeout: float | None) -> JobDescription:
    """Wait until one of several jobs is over, and return it."""

    def leave_at_end(now: JobDescription) -> None:
        if now.status.is_finished:
            raise _Ended(now)

    try:
        return session.jobs.wait(tuple(jobs), timeout=timeout, on_update=leave_at_end)[0]
    except _Ended as ended:
        return ended.job


def show_log(session: Session, job: JobDescription) -> JobDescription:
    """Pass on a job's output from its beginning until the job is over; return how it ended."""
    with session.jobs.logs(job) as log:
        for piece in log.pieces():
            output.raw(piece)
        return log.job or session.jobs.wait(job)


def attach(session: Session, job: JobDescription, eof_timeout: float | None) -> bool:
    """Connect the terminal with a job; return whether the user left it by the keys for that.

    What it wrote before is shown first. `eof_timeout` is as for `StdStream.interact`.
    """
    try:
        stream = session.jobs.attach(job, stdin=has_input())
    except ResourceNotFound:  # it has just ended
        show_log(session, job)
        return False
    log = session.jobs.logs(job, follow=False)
    return stream.interact(history=log, eof_timeout=eof_timeout) is None


def has_input() -> bool:
    """Return whether somebody may type or sends something.

    Nobody does by ``/dev/null``, an empty file, or a pipe that is empty and has no writer. Then
    a command is started without input, since not every platform can send where it ends.
    """
    try:
        descriptor = sys.stdin.fileno()
        status = os.fstat(descriptor)
    except (OSError, ValueError, AttributeError):  # closed, or none
        return False
    if stat.S_ISREG(status.st_mode):
        # A file of /proc has content, and says that it is empty.
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        found = os.read(descriptor, 1)
        os.lseek(descriptor, position, os.SEEK_SET)
        return bool(found)
    if sys.platform != "win32" and stat.S_ISFIFO(status.st_mode) and hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return all(event & select.POLLIN for _, event in poll.poll(0))
    return sys.stdin.isatty() or not stat.S_ISCHR(status.st_mode)


@contextmanager
def detachable(job: JobDescription) -> Iterator[None]:
    """Take Ctrl-C as leaving, which never ends a job, and tell how to come back."""
    try:
        yield
    except KeyboardInterrupt:
        leave(job)


def leave(job: JobDescription) -> NoReturn:
    """End the command while the job goes on."""
    output.note(job_views.detached(job))
    raise click.exceptions.Exit(0)


def finish(job: JobDescription) -> NoReturn:
    """End with a job's exit code, and say why unless it succeeded."""
    tell_end(job)
    raise click.exceptions.Exit(exit_codes.of_job(job))


def tell_end(job: JobDescription) -> None:
    """Say how a job ended, unless it succeeded."""
    if exit_codes.of_job(job):
        output.note(job_views.end(job))


@contextmanager
def forwarded(
    session: Session, job: JobDescription, ports: Iterable[tuple[int, int]]
) -> Iterator[None]:
    """Make ports of a job ports of this machine, and tell which."""
    with ExitStack() as stack:
        for local, remote in ports:
            forward = stack.enter_context(session.jobs.port_forward(job, local, remote))
            output.note(f"Port {remote} of the job is http://127.0.0.1:{forward.local_port}")
        yield


def command_ended(
    session: Session, job: str, stream: StdStream, eof_timeout: float | None
) -> int | None:
    """Connect the terminal with a command; return its exit code, none if the user left it."""
    try:
        code = stream.interact(eof_timeout=eof_timeout)
    except StreamInterrupted:
        ended = session.jobs.status(job)
        if ended.status.is_finished:
            output.note(job_views.end(ended))
        raise
    if stream.exit_message:
        output.note(stream.exit_message)
    return code
