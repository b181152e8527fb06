"""What a runtime is: the smallest protocol that carries the service's decisions out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neuro_sync.local.lifecycle import Event
from neuro_sync.local.logs import JobLog
from neuro_sync.models.jobs import Container, JobTelemetry

Report = Callable[[str, Event], None]
"""Called on the event loop with a job's id and what happened to it."""


@dataclass(frozen=True)
class Launch:
    """What a runtime needs to run a job."""

    job_id: str
    container: Container


class Meter(Protocol):
    """Measures what a job uses."""

    def sample(self) -> JobTelemetry | None:
        """Return what it uses now, or None when it is gone. It may take a moment."""


class Runtime(Protocol):
    """Runs jobs, and reports what becomes of them. All methods are called on the event loop."""

    name: str
    """``process`` or ``docker``."""

    async def open(self, folder: Path, report: Report) -> None:
        """Begin to report."""

    def check(self, container: Container) -> None:
        """Refuse what this runtime cannot run, before it is accepted as a job.

        Raises:
            APIError: With what is in the way, and the remedy.
        """

    def launch(self, launch: Launch) -> None:
        """Start a job; whether that went well is reported."""

    def adopt(self, launch: Launch) -> None:
        """Take up a job of an earlier platform: report what happened since.

        One that nobody has started yet is started.
        """

    def kill(self, job_id: str) -> None:
        """End a job and all that it started; it is asked first and made to a little later."""

    def log(self, job_id: str) -> JobLog:
        """Return the job's log."""

    def meter(self, job_id: str) -> Meter | None:
        """Return what measures a running job, or None if it does not run."""

    async def close(self) -> None:
        """Stop reporting. What still runs goes on."""
