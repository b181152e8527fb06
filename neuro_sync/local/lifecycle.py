"""The rules of a job's life: values in, values out, without clock, process or thread.

An event is what happened, with its time. A finished job never changes again, so an event that
comes too late (the exit code of a job that was cancelled) changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from neuro_sync.models.jobs import JobStatus, JobStatusHistory, JobStatusItem


@dataclass(frozen=True)
class Waiting:
    """The job cannot run yet: its image is being pulled, or something is in the way."""

    at: datetime
    reason: str
    description: str = ""


@dataclass(frozen=True)
class Started:
    """The job's process runs."""

    at: datetime


@dataclass(frozen=True)
class Exited:
    """The job's process ended by itself, or was ended by a signal."""

    at: datetime
    exit_code: int
    output_tail: str = ""
    reason: str = "Error"
    """Why it failed, if it did."""


@dataclass(frozen=True)
class CouldNotRun:
    """The job's process never came to be."""

    at: datetime
    exit_code: int
    why: str


@dataclass(frozen=True)
class Failed:
    """The platform could not start the job, or had to end it."""

    at: datetime
    reason: str
    description: str


@dataclass(frozen=True)
class Vanished:
    """Whoever watched the job's process is gone, and left no word of how it ended."""

    at: datetime
    why: str = "The process that watched over the job is gone."


@dataclass(frozen=True)
class Cancelled:
    """Somebody ended the job: its user, its life span, the platform."""

    at: datetime
    reason: str
    description: str | None = None


Event = Waiting | Started | Exited | CouldNotRun | Failed | Vanished | Cancelled
Transitions = tuple[JobStatusItem, ...]


def created(at: datetime) -> Transitions:
    """Return the life of a job that was just accepted."""
    return (JobStatusItem(status=JobStatus.PENDING, transition_time=at, reason="Creating"),)


def advance(life: Transitions, event: Event) -> Transitions:
    """Return the life after an event; the same one if the event changes nothing."""
    if life[-1].status.is_finished:
        return life
    if isinstance(event, Waiting):
        return _wait(life, event)
    step = _step(event)
    if step.status is life[-1].status:
        return life
    # A clock that was set back must not turn the story around.
    at = max(step.transition_time, life[-1].transition_time)
    return (*life, step.model_copy(update={"transition_time": at}))


def _wait(life: Transitions, event: Waiting) -> Transitions:
    """Tell why a pending job does not run; each reason is a step, its progress is not."""
    last = life[-1]
    if last.status is not JobStatus.PENDING:
        return life
    described = last.model_copy(update={"reason": event.reason, "description": event.description})
    if last.reason == event.reason:
        return life if described == last else (*life[:-1], described)
    at = max(event.at, last.transition_time)
    return (*life, described.model_copy(update={"transition_time": at}))


def _step(event: Started | Exited | CouldNotRun | Failed | Vanished | Cancelled) -> JobStatusItem:
    match event:
        case Started(at):
            return JobStatusItem(status=JobStatus.RUNNING, transition_time=at)
        case Exited(at, 0):
            return JobStatusItem(status=JobStatus.SUCCEEDED, transition_time=at, exit_code=0)
        case Exited(at, exit_code, output_tail, reason):
            return JobStatusItem(
                status=JobStatus.FAILED,
                transition_time=at,
                reason=reason,
                description=output_tail,
                exit_code=exit_code,
            )
        case CouldNotRun(at, exit_code, why):
            return JobStatusItem(
                status=JobStatus.FAILED,
                transition_time=at,
                reason="ContainerCannotRun",
                description=why,
                exit_code=exit_code,
            )
        case Failed(at, reason, description):
            return JobStatusItem(
                status=JobStatus.FAILED,
                transition_time=at,
                reason=reason,
                description=description,
            )
        case Vanished(at, why):
            return JobStatusItem(
                status=JobStatus.FAILED,
                transition_time=at,
                reason="NotFound",
                description=why,
            )
        case Cancelled(at, reason, description):
            return JobStatusItem(
                status=JobStatus.CANCELLED,
                transition_time=at,
                reason=reason,
                description=description or "",
            )


def history(life: Transitions, now: datetime) -> JobStatusHistory:
    """Sum a life up, as it is at one moment."""
    last = life[-1]
    finished_at = last.transition_time if last.status.is_finished else None
    started_at = next(
        (item.transition_time for item in life if item.status is JobStatus.RUNNING), finished_at
    )
    return JobStatusHistory(
        status=last.status,
        reason=last.reason,
        description=last.description,
        exit_code=last.exit_code,
        restarts=sum(_is_restart(item) for item in life),
        created_at=life[0].transition_time,
        started_at=started_at,
        finished_at=finished_at,
        run_time_seconds=run_time(life, now),
        transitions=life,
    )


def run_time(life: Transitions, now: datetime) -> float:
    """Return the seconds it was running, over all restarts."""
    ends: Iterable[datetime] = [*(item.transition_time for item in life[1:]), now]
    return sum(
        max((end - item.transition_time).total_seconds(), 0.0)
        for item, end in zip(life, ends, strict=True)
        if item.status is JobStatus.RUNNING
    )


def _is_restart(item: JobStatusItem) -> bool:
    return item.reason == "Restarting" or item.status is JobStatus.SUSPENDED
