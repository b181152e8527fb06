"""How the life of a job is recorded, so that the next platform knows how long everything took.

Each step is recorded with what the wall clock showed, and with the seconds since the machine's
boot. Where two steps are of one boot the latter give the time between them, whatever was done to
the wall clock meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from pydantic import TypeAdapter

from neuro_sync.models.jobs import JobStatusItem

from .clock import Clock


class Step(JobStatusItem):
    """A step of a life whose `transition_time` is the platform's."""

    shown_at: datetime
    """What the wall clock showed."""


class RecordedStep(JobStatusItem):
    """The same as it is recorded; `transition_time` is what the wall clock showed."""

    boot: str = ""
    """Which boot `since_boot` counts from; nothing if it is unknown."""
    since_boot: float = 0.0


_RECORD = TypeAdapter(tuple[RecordedStep, ...])


def note(life: Iterable[JobStatusItem], clock: Clock) -> tuple[Step, ...]:
    """Return a life with what the wall clock showed at each step; the new ones are of just now."""
    return tuple(
        item
        if isinstance(item, Step)
        else Step(**dict(item), shown_at=clock.shown(item.transition_time))
        for item in life
    )


def record(life: Iterable[Step], clock: Clock) -> str:
    """Return a life as it is recorded."""
    steps = []
    for step in life:
        fields = dict(step)
        fields["transition_time"] = fields.pop("shown_at")
        if clock.boot:
            at = clock.since_boot(step.transition_time)
            fields |= {"boot": clock.boot, "since_boot": at}
        steps.append(RecordedStep(**fields))
    return _RECORD.dump_json(tuple(steps), exclude_defaults=True).decode()


def read(text: str, clock: Clock) -> tuple[Step, ...]:
    """Return a recorded life in the time of this platform's clock.

    Raises:
        ValueError: It is no record of a life.
    """
    steps = _RECORD.validate_json(text)
    times = platform_times(steps, clock)
    return tuple(
        Step(
            **{**step.model_dump(exclude={"boot", "since_boot"}), "transition_time": at},
            shown_at=step.transition_time,
        )
        for step, at in zip(steps, times, strict=True)
    )


def platform_times(steps: Sequence[RecordedStep], clock: Clock) -> list[datetime]:
    """Return when each step was, by a platform's clock: in order, and none in the future."""
    if not steps:
        return []
    last, now = steps[-1], clock.now()
    is_of_this_boot = last.boot == clock.boot != ""
    at = clock.after_boot(last.since_boot) if is_of_this_boot else last.transition_time
    times = [min(at, now)]
    for later, earlier in pairwise(reversed(steps)):
        if earlier.boot == later.boot != "":
            took = timedelta(seconds=later.since_boot - earlier.since_boot)
        else:
            took = later.transition_time - earlier.transition_time
        times.append(times[-1] - max(took, timedelta()))
    return times[::-1]


def as_shown(life: Iterable[Step]) -> tuple[JobStatusItem, ...]:
    """Return a life as users see it: with what the wall clock showed."""
    return tuple(
        JobStatusItem(**{**step.model_dump(exclude={"shown_at"}), "transition_time": step.shown_at})
        for step in life
    )
