"""The rules of one job's life: values in, values out, without clock, process or thread.

An event is what happened, with its time. A finished job never changes again, so an event that
comes too late (the exit code of a job that was cancelled) changes nothing. What becomes of many
jobs on one machine is told in `schedule`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from neuro_sync.models.jobs import JobRestartPolicy, JobStatus, JobStatusHistory, JobStatusItem

FIRST_DELAY = 10.0
LONGEST_DELAY = 300.0
"""Seconds before a job is started again: none the first time, then 10, 20, 40 and so on."""
STEADY_RUN = 600.0
"""Seconds after which a run is no failed start any more, and the delays begin anew."""


@dataclass(frozen=True)
class Rules:
    """What was asked for a job's life."""

    restart_policy: JobRestartPolicy = JobRestartPolicy.NEVER
    scheduler_enabled: bool = False
    """Whether it takes turns with other jobs, suspended in between."""
    preemptible_node: bool = False
    """Whether its machine may be taken away from it."""

    @property
    def gives_way(self) -> bool:
        return self.scheduler_enabled or self.preemptible_node

    def restart_after(self, event: Exited | Vanished) -> bool:
        """Tell whether a run that ended so is followed by another one."""
        if isinstance(event, Vanished):
            return self.gives_way or self.restart_policy is not JobRestartPolicy.NEVER
        if event.exit_code == 0:
            return self.restart_policy is JobRestartPolicy.ALWAYS
        return self.restart_policy in (JobRestartPolicy.ALWAYS, JobRestartPolicy.ON_FAILURE)


@dataclass(frozen=True)
class Queued:
    """There is no room for the job yet."""

    at: datetime
    wants: str


@dataclass(frozen=True)
class Unschedulable:
    """There is no room, and the job waits no longer."""

    at: datetime
    why: str


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
class Displaced:
    """The job gives way to another one."""

    at: datetime


@dataclass(frozen=True)
class Cancelled:
    """Somebody ended the job: its user, its life span, the platform."""

    at: datetime
    reason: str
    description: str | None = None


Ended = Exited | CouldNotRun | Failed | Vanished
"""What a run ends with."""
Event = Queued | Unschedulable | Waiting | Started | Ended | Displaced | Cancelled
Transitions = tuple[JobStatusItem, ...]

RESTARTING = "Restarting"


def created(at: datetime) -> Transitions:
    """Return the life of a job that was just accepted."""
    return (JobStatusItem(status=JobStatus.PENDING, transition_time=at, reason="Creating"),)


def advance(life: Transitions, event: Event, rules: Rules) -> Transitions:
    """Return the life after an event; the same one if the event changes nothing."""
    last = life[-1]
    if isinstance(event, Waiting):
        return _wait(life, event)
    step = None if last.status.is_finished else _step(last, event, rules)
    if step is None:
        return life
    # A clock that was set back must not turn the story around.
    at = max(event.at, last.transition_time)
    return (*life, step.model_copy(update={"transition_time": at}))


def _wait(life: Transitions, event: Waiting) -> Transitions:
    """Tell why a pending job does not run; each reason is a step, its progress is not."""
    last = life[-1]
    if last.status is not JobStatus.PENDING:
        return life
    if last.reason == event.reason:
        described = last.model_copy(update={"description": event.description})
        return life if described == last else (*life[:-1], described)
    at = max(event.at, last.transition_time)
    return (*life, _item(at, JobStatus.PENDING, event.reason, event.description))


def _step(last: JobStatusItem, event: Event, rules: Rules) -> JobStatusItem | None:
    at = event.at
    match event:
        case Queued(_, wants) if last.reason == "Creating":
            why = f"Waiting until this machine has {wants} to spare."
            return _item(at, JobStatus.PENDING, "Scheduling", why)
        case Unschedulable(_, why) if last.status.is_pending:
            why = f"Failed to scale up the cluster to get more resources: {why}"
            return _item(at, JobStatus.FAILED, "ClusterScaleUpFailed", why)
        case Started() if last.status is not JobStatus.RUNNING or last.reason == RESTARTING:
            return _item(at, JobStatus.RUNNING)
        case Exited(_, code) if rules.restart_after(event):
            return _item(at, JobStatus.RUNNING, RESTARTING, f"The last run ended with {code}.")
        case Exited(_, 0):
            return _item(at, JobStatus.SUCCEEDED, exit_code=0)
        case Exited(_, code, output_tail, reason):
            return _item(at, JobStatus.FAILED, reason, output_tail, code)
        case CouldNotRun(_, code, why):
            return _item(at, JobStatus.FAILED, "ContainerCannotRun", why, code)
        case Failed(_, reason, description):
            return _item(at, JobStatus.FAILED, reason, description)
        case Vanished() if last.status is not JobStatus.PENDING and rules.restart_after(event):
            return _item(at, JobStatus.RUNNING, RESTARTING, "The last run was lost.")
        case Vanished(_, why):
            return _item(at, JobStatus.FAILED, "NotFound", why)
        case Displaced() if last.status is JobStatus.RUNNING and rules.scheduler_enabled:
            return _item(at, JobStatus.SUSPENDED)
        case Displaced() if last.status is JobStatus.RUNNING:
            return _item(at, JobStatus.PENDING, RESTARTING, "Its room was needed.")
        case Cancelled(_, reason, description):
            return _item(at, JobStatus.CANCELLED, reason, description or "")
    return None


def _item(
    at: datetime,
    status: JobStatus,
    reason: str = "",
    description: str = "",
    exit_code: int | None = None,
) -> JobStatusItem:
    return JobStatusItem(
        transition_time=at,
        status=status,
        reason=reason,
        description=description,
        exit_code=exit_code,
    )


def restart_delay(life: Transitions) -> float:
    """Return how long a job whose run has just ended rests before the next one, in seconds."""
    short_runs = 0
    end: datetime | None = None
    for item in reversed(life):
        if item.status is not JobStatus.RUNNING:
            break
        if item.reason == RESTARTING:
            end = item.transition_time
            short_runs += 1
        elif end is None or (end - item.transition_time).total_seconds() > STEADY_RUN:
            break
    if short_runs <= 1:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(short_runs - 2, 10), LONGEST_DELAY)


def spells(life: Transitions) -> list[datetime]:
    """Return when a job began to wait, to run, to wait again, and so on.

    It goes on running while it is restarted.
    """
    begins = [life[0].transition_time]
    for before, item in pairwise(life):
        if (before.status is JobStatus.RUNNING) is not (item.status is JobStatus.RUNNING):
            begins.append(item.transition_time)
    return begins


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
    return item.reason == RESTARTING or item.status is JobStatus.SUSPENDED


def price(credits_per_hour: Decimal, seconds: float) -> Decimal:
    """Return what so many seconds of running cost."""
    return (credits_per_hour * Decimal(seconds) / 3600).quantize(Decimal("0.000001")).normalize()
