"""What jobs use, as it changes: a table on a terminal, lines anywhere else."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from neuro_sync.errors import NeuroError
from neuro_sync.monotonic import monotonic
from neuro_sync.transport.deadlines import DeadlinePassed, call_deadline

from . import output

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.jobs import JobDescription, JobTelemetry
    from neuro_sync.transport.stream import Records

HEADINGS = ("ID", "NAME", "CPU", "MEMORY", "GPU %", "GPU MEMORY")
Sample = tuple["JobDescription", "JobTelemetry | NeuroError | None"]
"""A job, and what it uses now; none at its end."""


def watch(session: Session, jobs: Sequence[JobDescription], *, end: float, as_json: bool) -> None:
    """Show what jobs use until all of them are over, or the time is."""
    if as_json:
        for job, sample in _samples(session, jobs, end):
            output.json({"id": job.id, "name": job.name, **sample.model_dump(mode="json")})
    elif sys.stdout.isatty():
        _draw(_samples(session, jobs, end))
    else:
        output.row(HEADINGS)
        for job, sample in _samples(session, jobs, end):
            output.row(_cells(job, sample))


def _samples(
    session: Session, jobs: Sequence[JobDescription], end: float
) -> Iterator[tuple[JobDescription, JobTelemetry]]:
    """Yield the samples of all jobs as they come, each read in a thread of its own."""
    samples: queue.SimpleQueue[Sample] = queue.SimpleQueue()
    running = len(jobs)
    with ExitStack() as stack:
        for job in jobs:
            try:
                with call_deadline(end):
                    stream = stack.enter_context(session.jobs.top(job))
            except DeadlinePassed:
                return
            reader = threading.Thread(
                target=_read, args=(job, stream, samples), name="neuro-top", daemon=True
            )
            reader.start()
        while running:
            left = end - monotonic()
            if left <= 0:
                return
            try:
                job, sample = samples.get(timeout=min(left, threading.TIMEOUT_MAX))
            except queue.Empty:
                return
            if sample is None:
                running -= 1
            elif isinstance(sample, NeuroError):
                raise sample
            else:
                yield job, sample


def _read(
    job: JobDescription, stream: Records[JobTelemetry], samples: queue.SimpleQueue[Sample]
) -> None:
    try:
        for sample in stream:
            samples.put((job, sample))
        samples.put((job, None))
    except NeuroError as error:
        samples.put((job, error))


def _draw(samples: Iterator[tuple[JobDescription, JobTelemetry]]) -> None:
    """Keep a table on the terminal up to date."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    rows: dict[str, tuple[str, ...]] = {}
    with output.cursor_restored(), Live(auto_refresh=False) as live:
        for job, sample in samples:
            rows[job.id] = _cells(job, sample)
            table = Table(*HEADINGS, box=None, pad_edge=False)
            for cells in rows.values():
                # Text, so that no name is taken for markup.
                table.add_row(*(Text(output.visible(cell)) for cell in cells))
            live.update(table, refresh=True)


def _cells(job: JobDescription, sample: JobTelemetry) -> tuple[str, ...]:
    gpu, gpu_memory = sample.gpu_duty_cycle, sample.gpu_memory
    return (
        job.id,
        job.name or "",
        f"{sample.cpu:.2f}",
        f"{sample.memory:.1f}M",
        "" if gpu is None else str(gpu),
        "" if gpu_memory is None else f"{gpu_memory:.1f}M",
    )
