"""The rules by which jobs share one machine: pure, like `lifecycle`, but with a memory.

The schedule is told what happens and says what is to be done about it; it never looks at a clock
or a process, nor into the database. Whoever uses it records a decision before it is carried out.

Jobs go by priority, within one by age. One that does not fit yet lets others past that do, unless
it only waits for processes that are ending: then its room is kept. Jobs that give way (those with
`scheduler_enabled` or `preemptible_node`) take what the ordinary ones of their priority leave, and
are displaced by one that waits. Among each other those with `scheduler_enabled` take turns.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TypeVar

from neuro_sync.models.jobs import JobStatus

from . import lifecycle
from .lifecycle import (
    Cancelled,
    Displaced,
    Ended,
    Event,
    Queued,
    Rules,
    Transitions,
    Unschedulable,
    restart_delay,
)
from .machine import Room

QUANTUM = timedelta(hours=1)
"""How long a job runs before its turn is over, if others wait for theirs."""
LONGEST_PAUSE = timedelta(hours=2)
"""How long a job waits before it counts as an ordinary one, until it had its turn."""

Rank = tuple[int, bool]
"""Which jobs go first: by priority, highest first, and within one the ordinary ones."""
Lane = tuple[Rank, Room]
"""Jobs that are alike: when the first of them does not fit, none does."""

Key = TypeVar("Key")
Entry = TypeVar("Entry")


class Phase(str, Enum):
    """What a job has of the machine."""

    WAITING = "waiting"
    """Nothing yet."""
    LIVE = "live"
    """Its room; it was launched, and its end has not been reported."""
    RESTING = "resting"
    """Its room, but no process: it is between two runs."""
    ENDING = "ending"
    """Its room; it was told to end, and what it still reports but its end is no news."""
    OVER = "over"
    """Nothing any more."""


@dataclass(eq=False)
class Job:
    """An unfinished job, or one whose processes are still ending."""

    id: str
    number: int
    """Jobs of one moment go by it."""
    owner: str
    """The user whose quota it counts against."""
    room: Room
    life: Transitions
    rules: Rules = field(default_factory=Rules)
    priority: int = 0
    waits_for_seat: bool = False
    """Whether it waits for the quota of its owner, and was not refused."""
    schedule_timeout: float | None = None
    """Seconds."""
    life_span: float | None = None
    """Seconds of running."""
    phase: Phase = Phase.WAITING
    run: int = 0
    """How often it was launched."""
    has_seat: bool = False
    """Whether it is within the quota of its owner."""
    lane: Lane | None = None
    due: datetime | None = None
    """When to look at it next, though nothing may have happened."""
    since: datetime = field(init=False)
    """When it began to run, or to wait for that."""
    waited: timedelta = field(init=False)
    """How long the wait before was."""

    def __post_init__(self) -> None:
        self.tell(self.life)

    def tell(self, life: Transitions) -> None:
        self.life = life
        begins = lifecycle.spells(life)
        self.since = begins[-1]
        self.waited = begins[-1] - begins[-2] if len(begins) > 1 else timedelta()

    @property
    def status(self) -> JobStatus:
        return self.life[-1].status

    @property
    def end_of_life_span(self) -> datetime | None:
        """When a job has run for long enough; one that waits may have done so before."""
        if self.life_span is None or self.status.is_finished:
            return None
        at = self.life[-1].transition_time
        left = self.life_span - lifecycle.run_time(self.life, at)
        if self.status.is_running:
            return at + timedelta(seconds=left)
        return at if left < 0 else None

    @property
    def restart_time(self) -> datetime | None:
        """When a job that rests has rested for long enough."""
        if self.phase is not Phase.RESTING:
            return None
        return self.life[-1].transition_time + timedelta(seconds=restart_delay(self.life))

    @property
    def end_of_patience(self) -> datetime | None:
        """When a job has waited for its first run for long enough."""
        if self.schedule_timeout is None or self.life[-1].reason != "Scheduling":
            return None
        if self.phase is not Phase.WAITING:
            return None
        return self.life[-1].transition_time + timedelta(seconds=self.schedule_timeout)

    @property
    def turn_change(self) -> datetime | None:
        """When its `rank` changes, or who may displace it."""
        if not self.rules.gives_way or self.phase in (Phase.ENDING, Phase.OVER):
            return None
        return self.since + (QUANTUM if self.status.is_running else LONGEST_PAUSE)

    def rank(self, now: datetime) -> Rank:
        if not self.rules.gives_way:
            return -self.priority, False
        if self.status.is_running:
            has_precedence = self.waited >= LONGEST_PAUSE and now < self.since + QUANTUM
        else:
            has_precedence = now >= self.since + LONGEST_PAUSE
        return -self.priority, not has_precedence

    def gives_way_to(self, other: Job, now: datetime) -> bool:
        if not (self.rules.gives_way and self.status.is_running):
            return False
        mine, others = self.rank(now), other.rank(now)
        take_turns = self.rules.scheduler_enabled and other.rules.scheduler_enabled
        return others < mine or (others == mine and take_turns and now >= self.since + QUANTUM)


@dataclass
class Decisions:
    """What is to be done, in this order."""

    changed: dict[str, Job] = field(default_factory=dict)
    """Jobs whose life, phase or run is to be recorded."""
    kill: list[Job] = field(default_factory=list)
    launch: list[Job] = field(default_factory=list)

    def then(self, later: Decisions) -> Decisions:
        """Return both, where nothing of these was done before the later ones were made."""
        return Decisions(
            {**self.changed, **later.changed}, self.kill + later.kill, self.launch + later.launch
        )


class Schedule:
    """The jobs of one machine. Each method that changes anything returns what follows from it."""

    def __init__(self, room: Room, *, quota: int | None = None) -> None:
        """Share a machine; `quota` is how many unfinished jobs each owner may have."""
        self.room = room
        self.free = room
        """What nobody has; below nothing only if the machine has shrunk since its jobs began."""
        self.quota = quota
        self.unfinished: Counter[str] = Counter()
        """How many unfinished jobs an owner has, those that wait for a seat among them."""
        self._jobs: dict[str, Job] = {}
        self._lanes: dict[Lane, list[tuple[datetime, int, Job]]] = {}
        self._displaceable: dict[str, Job] = {}
        self._ending = Room(0, 0)
        """What will be free as soon as processes have ended."""
        self._seats: Counter[str] = Counter()
        self._seatless: dict[str, list[tuple[int, int, Job]]] = {}
        self._newly_waiting: list[Job] = []
        self._deadlines: list[tuple[datetime, int, Job]] = []
        self._decisions = Decisions()
        self._is_open = True

    def __iter__(self) -> Iterator[Job]:
        return iter([*self._jobs.values()])

    @property
    def next_wake(self) -> datetime | None:
        """When `tick` is to be called next."""
        while self._deadlines and self._deadlines[0][0] != self._deadlines[0][2].due:
            heappop(self._deadlines)  # it was put off, or is no more
        return self._deadlines[0][0] if self._deadlines else None

    def restore(self, job: Job, now: datetime) -> None:
        """Take in a job of an earlier platform, as it was recorded; `resume` follows the last."""
        job.has_seat = not job.waits_for_seat or job.run > 0 or len(job.life) > 1
        self._take_in(job, now)

    def resume(self, now: datetime) -> Decisions:
        """Go on with the jobs that were restored."""
        for job in self:
            if job.phase is Phase.WAITING and not self.room.holds(job.room):
                self._give_up(job, f"this machine has only {self.room}.", now)
        for owner in [*self._seatless]:
            self._give_seats(owner, now)
        return self.tick(now)

    def add(self, job: Job, now: datetime) -> Decisions:
        """Take in a job that was just accepted."""
        job.has_seat = not job.waits_for_seat or self._has_free_seat(job.owner)
        self._take_in(job, now)
        return self._decide(now)

    def report(self, job_id: str, event: Event, now: datetime) -> Decisions:
        """Take in what happened to a job; one that is over may be unknown here."""
        job = self._jobs.get(job_id)
        is_end = isinstance(event, Ended)
        if job is None:
            pass
        elif isinstance(event, Cancelled):
            self._cancel(job, event, now)
        elif job.phase is Phase.LIVE:
            self._advance(job, event, now)
            phase = Phase.RESTING if is_end else Phase.LIVE
            self._move(job, Phase.OVER if job.status.is_finished else phase, now)
            self._look_at(job, now)
        elif job.phase is Phase.ENDING and is_end:
            self._move(job, Phase.OVER if job.status.is_finished else Phase.WAITING, now)
        return self._decide(now)

    def set_life_span(self, job_id: str, seconds: float, now: datetime) -> Decisions:
        """Let a job run for so long, what it has run by now included."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.life_span = seconds
            self._look_at(job, now)
        return self._decide(now)

    def tick(self, now: datetime) -> Decisions:
        """Look at the jobs that are due by now."""
        while (wake := self.next_wake) is not None and wake <= now:
            self._look_at(heappop(self._deadlines)[2], now)
        return self._decide(now)

    def close(self, event: Cancelled) -> Decisions:
        """Cancel all jobs, and start none any more."""
        self._is_open = False
        for job in self:
            self._cancel(job, event, event.at)
        return self._decide(event.at)

    def _decide(self, now: datetime) -> Decisions:
        if self._is_open:
            self._place(now)
        for job in self._newly_waiting:
            if job.phase is Phase.WAITING:
                self._advance(job, Queued(now, str(job.room)), now)
                self._arm(job, now)
        self._newly_waiting.clear()
        decisions, self._decisions = self._decisions, Decisions()
        return decisions

    def _place(self, now: datetime) -> None:
        """Launch what there is room for, in the order of rank and age."""
        soon = self.free + self._ending
        heads = [(lane[0], *jobs[0], 0) for lane, jobs in self._lanes.items()]
        heapify(heads)
        while heads:
            rank, _, _, job, place = heappop(heads)
            jobs = self._lanes[rank, job.room]
            if not soon.holds(job.room):
                made = self._make_room(job, soon, now)
                if made is None:
                    continue  # nor does any other job of the lane fit
                soon = made
            soon -= job.room
            if self.free.holds(job.room):
                self._launch(job, now)
            else:
                place += 1  # its room is kept until those who have it now are gone
            if place < len(jobs):
                heappush(heads, (rank, *jobs[place], place))

    def _make_room(self, job: Job, soon: Room, now: datetime) -> Room | None:
        """Displace who is in the way of a job, if that helps, and return what is then to be free.

        The last to start are the first to go, but nobody goes in vain.
        """
        candidates = [one for one in self._displaceable.values() if one.gives_way_to(job, now)]
        candidates.sort(key=lambda other: (other.rank(now), other.since), reverse=True)
        chosen: list[Job] = []
        for other in candidates:
            if soon.holds(job.room):
                break
            chosen.append(other)
            soon += other.room
        if not soon.holds(job.room):
            return None
        for other in [*chosen]:
            if (soon - other.room).holds(job.room):
                chosen.remove(other)
                soon -= other.room
        for other in chosen:
            self._advance(other, Displaced(now), now)
            self._stop(other, Phase.WAITING, now)
        return soon

    def _launch(self, job: Job, now: datetime) -> None:
        job.run += 1
        self._move(job, Phase.LIVE, now)
        self._decisions.launch.append(job)

    def _cancel(self, job: Job, event: Cancelled, now: datetime) -> None:
        self._advance(job, event, now)
        self._stop(job, Phase.OVER, now)

    def _give_up(self, job: Job, why: str, now: datetime) -> None:
        self._advance(job, Unschedulable(now, why), now)
        self._move(job, Phase.OVER, now)

    def _stop(self, job: Job, phase: Phase, now: datetime) -> None:
        """Bring a job to a phase without processes; it may have to be killed first."""
        if job.phase is Phase.LIVE:
            self._move(job, Phase.ENDING, now)
            self._decisions.kill.append(job)
        elif job.phase is not Phase.ENDING:
            self._move(job, phase, now)

    def _look_at(self, job: Job, now: datetime) -> None:
        """Do what is due with a job by now."""
        if _is_past(job.end_of_life_span, now):
            self._cancel(job, Cancelled(now, "LifeSpanEnded"), now)
        elif _is_past(job.restart_time, now):
            self._launch(job, now)
        elif _is_past(job.end_of_patience, now):
            why = f"there was no room on this machine for {job.schedule_timeout:g} seconds."
            self._give_up(job, why, now)
        elif job.lane is not None and job.lane[0] != job.rank(now):
            self._move(job, Phase.WAITING, now)
        else:
            self._arm(job, now)

    def _arm(self, job: Job, now: datetime) -> None:
        """Note when to look at a job next."""
        times = [job.end_of_life_span, job.restart_time, job.end_of_patience]
        if job.turn_change is not None and job.turn_change > now:
            times.append(job.turn_change)
        job.due = min((time for time in times if time is not None), default=None)
        if job.due is not None:
            if len(self._deadlines) > 2 * len(self._jobs) + 100:
                self._deadlines = [entry for entry in self._deadlines if entry[0] == entry[2].due]
                heapify(self._deadlines)
            heappush(self._deadlines, (job.due, job.number, job))

    def _advance(self, job: Job, event: Event, now: datetime) -> None:
        life = lifecycle.advance(job.life, event, job.rules)
        if life is job.life:
            return
        job.tell(life)
        self._decisions.changed[job.id] = job
        if job.status.is_finished:
            self.unfinished[job.owner] -= 1
            if job.has_seat:
                job.has_seat = False
                self._seats[job.owner] -= 1
                self._give_seats(job.owner, now)

    def _take_in(self, job: Job, now: datetime) -> None:
        self._jobs[job.id] = job
        if not job.status.is_finished:
            self.unfinished[job.owner] += 1
            self._seats[job.owner] += job.has_seat
        self._enter(job, now)
        self._arm(job, now)

    def _move(self, job: Job, phase: Phase, now: datetime) -> None:
        """Change what a job has, and keep the books."""
        self._decisions.changed[job.id] = job
        self._leave(job)
        job.phase = phase
        self._enter(job, now)
        self._arm(job, now)

    def _leave(self, job: Job) -> None:
        if job.lane is not None:
            _remove(self._lanes, job.lane, (job.since, job.number))
            job.lane = None
        elif job.phase is Phase.WAITING:
            _remove(self._seatless, job.owner, (-job.priority, job.number))
        else:
            self._displaceable.pop(job.id, None)
            self.free += job.room
        if job.phase is Phase.ENDING:
            self._ending -= job.room

    def _enter(self, job: Job, now: datetime) -> None:
        if job.phase is Phase.OVER:
            del self._jobs[job.id]
        elif job.phase is not Phase.WAITING:
            self.free -= job.room
            if job.phase is Phase.ENDING:
                self._ending += job.room
            elif job.rules.gives_way:
                self._displaceable[job.id] = job
        elif job.has_seat:
            self._queue_up(job, now)
        else:
            insort(self._seatless.setdefault(job.owner, []), (-job.priority, job.number, job))

    def _queue_up(self, job: Job, now: datetime) -> None:
        job.lane = (job.rank(now), job.room)
        insort(self._lanes.setdefault(job.lane, []), (job.since, job.number, job))
        self._newly_waiting.append(job)

    def _has_free_seat(self, owner: str) -> bool:
        return self.quota is None or self._seats[owner] < self.quota

    def _give_seats(self, owner: str, now: datetime) -> None:
        while owner in self._seatless and self._has_free_seat(owner):
            *key, job = self._seatless[owner][0]
            _remove(self._seatless, owner, (key[0], key[1]))
            job.has_seat = True
            self._seats[owner] += 1
            self._queue_up(job, now)


def _is_past(time: datetime | None, now: datetime) -> bool:
    return time is not None and time <= now


def _remove(lines: dict[Key, list[Entry]], key: Key, place: tuple[object, int]) -> None:
    """Take out of a sorted line who stands at a place, and the line itself when it is empty."""
    line = lines[key]
    del line[bisect_left(line, place)]  # type: ignore[type-var]  # the place begins the entry
    if not line:
        del lines[key]
