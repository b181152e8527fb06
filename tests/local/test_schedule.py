"""The rules by which jobs share a machine, driven by events at random."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import count, pairwise
from weakref import WeakSet

import pytest
from hypothesis import Phase as HypothesisPhase
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuro_sync import JobRestartPolicy, JobStatus
from neuro_sync.local import lifecycle
from neuro_sync.local.lifecycle import (
    Cancelled,
    CouldNotRun,
    Exited,
    Rules,
    Started,
    Vanished,
)
from neuro_sync.local.machine import Room
from neuro_sync.local.schedule import LONGEST_PAUSE, QUANTUM, Decisions, Job, Phase, Schedule

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
MACHINE = Room(4000, 100, 2)
SMALL = Room(1000, 10)
NEVER, ON_FAILURE, ALWAYS = (
    JobRestartPolicy.NEVER,
    JobRestartPolicy.ON_FAILURE,
    JobRestartPolicy.ALWAYS,
)


@dataclass
class World:
    """A schedule, and a runtime that does as it is told; time passes only when a test says so."""

    schedule: Schedule = field(default_factory=lambda: Schedule(MACHINE))
    now: datetime = START
    jobs: dict[str, Job] = field(default_factory=dict)
    processes: dict[str, bool] = field(default_factory=dict)
    """Whether a run that was launched has started to run."""
    launched: list[str] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    def add(self, room: Room = SMALL, **options: object) -> Job:
        number = next(self.numbers)
        options.setdefault("owner", "alice")
        job = Job(
            id=f"job-{number}",
            number=number,
            room=room,
            life=lifecycle.created(self.now),
            **options,  # type: ignore[arg-type]
        )
        self.jobs[job.id] = job
        self.take(self.schedule.add(job, self.now))
        return job

    def take(self, decisions: Decisions) -> None:
        """Carry decisions out, as far as this world goes."""
        for job in decisions.kill:
            assert job.phase is Phase.ENDING
        for job in decisions.launch:
            assert job.id not in self.processes, "a run is launched while another one is there"
            self.processes[job.id] = False
            self.launched.append(job.id)

    def report(self, job: Job, event: lifecycle.Event) -> None:
        if isinstance(event, lifecycle.Ended):
            del self.processes[job.id]
        elif isinstance(event, Started):
            self.processes[job.id] = True
        self.take(self.schedule.report(job.id, event, self.now))

    def begin(self, *jobs: Job) -> None:
        for job in jobs:
            self.report(job, Started(self.now))

    def end(self, job: Job, code: int = 0) -> None:
        self.report(job, Exited(self.now, code))

    def cancel(self, job: Job) -> None:
        self.take(self.schedule.report(job.id, Cancelled(self.now, "UserRequested"), self.now))

    def wait(self, seconds: float | timedelta) -> None:
        """Let time pass, with a tick whenever one is due."""
        end = self.now + (seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds))
        while (wake := self.schedule.next_wake) is not None and wake <= end:
            self.now = max(wake, self.now)
            self.take(self.schedule.tick(self.now))
        self.now = end


@pytest.fixture
def world() -> World:
    return World()


ROOMS = st.builds(Room, st.sampled_from([500, 1000, 4000]), st.integers(1, 100), st.integers(0, 2))
RULES = st.builds(
    Rules,
    st.sampled_from([NEVER, ON_FAILURE, ALWAYS]),
    scheduler_enabled=st.booleans(),
    preemptible_node=st.booleans(),
)


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order, the books are right."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Schedule(MACHINE, quota=3))
        self.lives: dict[str, lifecycle.Transitions] = {}

    @rule(
        room=ROOMS,
        rules=RULES,
        priority=st.integers(1, 3),
        owner=st.sampled_from(["alice", "bob"]),
        schedule_timeout=st.none() | st.integers(1, 10**5),
        life_span=st.none() | st.integers(60, 10**5),
    )
    def add(
        self,
        room: Room,
        rules: Rules,
        priority: int,
        owner: str,
        schedule_timeout: int | None,
        life_span: int | None,
    ) -> None:
        self.before_launches()
        self.world.add(
            room,
            rules=rules,
            priority=priority,
            owner=owner,
            waits_for_seat=self.world.schedule.unfinished[owner] >= 3,
            schedule_timeout=schedule_timeout,
            life_span=life_span,
        )
        self.after_launches()

    def processes(self, *, started: bool) -> list[str]:
        return [id for id, has_started in self.world.processes.items() if has_started is started]

    @precondition(lambda self: self.processes(started=False))
    @rule(data=st.data(), fails=st.integers(0, 9))
    def begin(self, data: st.DataObject, fails: int) -> None:
        self.before_launches()
        job = self.world.jobs[data.draw(st.sampled_from(self.processes(started=False)))]
        event = Started(self.world.now) if fails else CouldNotRun(self.world.now, 127, "why")
        self.world.report(job, event)
        self.after_launches()

    @precondition(lambda self: self.processes(started=True))
    @rule(data=st.data(), code=st.integers(0, 2))
    def end(self, data: st.DataObject, code: int) -> None:
        self.before_launches()
        job = self.world.jobs[data.draw(st.sampled_from(self.processes(started=True)))]
        now = self.world.now
        self.world.report(job, Exited(now, code) if code < 2 else Vanished(now))
        self.after_launches()

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.before_launches()
        self.world.cancel(self.world.jobs[data.draw(st.sampled_from([*self.world.jobs]))])
        self.after_launches()

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), seconds=st.integers(60, 10**5))
    def bump(self, data: st.DataObject, seconds: int) -> None:
        id = data.draw(st.sampled_from([*self.world.jobs]))
        self.before_launches()
        self.world.take(self.world.schedule.set_life_span(id, seconds, self.world.now))
        self.after_launches()

    @rule(seconds=st.sampled_from([0.1, 30, 1000, 4000, 8000]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule()
    def restart_the_platform(self) -> None:
        """A new schedule, made of what was recorded alone, goes on where the last one was."""
        old = self.world.schedule
        new = self.world.schedule = Schedule(MACHINE, quota=3)
        unfinished, free = +old.unfinished, old.free
        for job in old:
            again = replace(job, life_span=job.life_span, has_seat=False, lane=None, due=None)
            self.world.jobs[job.id] = again
            new.restore(again, self.world.now)
        assert new.free == free
        assert +new.unfinished == unfinished
        self.world.take(new.resume(self.world.now))

    def before_launches(self) -> None:
        self.world.launched.clear()

    def after_launches(self) -> None:
        """A job that was launched just now would not have helped one that goes before it."""
        now = self.world.now
        for job in self.world.schedule:
            if job.phase is not Phase.WAITING or not job.has_seat:
                continue
            for id in self.world.launched:
                other = self.world.jobs[id]
                is_behind = other.status.is_pending and other.run == 1
                if is_behind and job.rank(now) < other.rank(now):
                    assert not other.room.holds(job.room), (job, other)

    @invariant()
    def nobody_has_what_is_not_there(self) -> None:
        schedule = self.world.schedule
        assert schedule.free.holds(Room(0, 0, 0))
        held = Room(0, 0, 0)
        for job in schedule:
            assert job.phase is not Phase.OVER
            if job.phase is not Phase.WAITING:
                held += job.room
        assert held + schedule.free == MACHINE

    @invariant()
    def every_process_has_its_room(self) -> None:
        for id in self.world.processes:
            assert self.world.jobs[id].phase in (Phase.LIVE, Phase.ENDING)

    @invariant()
    def no_room_is_left_to_who_could_use_it(self) -> None:
        schedule = self.world.schedule
        ending = any(job.phase is Phase.ENDING for job in schedule)
        for job in schedule:
            if job.phase is Phase.WAITING and job.has_seat and not ending:
                assert not schedule.free.holds(job.room), job

    @invariant()
    def quotas_hold(self) -> None:
        seats: Counter[str] = Counter()
        for job in self.world.schedule:
            if not job.status.is_finished:
                seats[job.owner] += job.has_seat
            if job.run:
                assert job.has_seat or job.status.is_finished
        assert all(taken <= 3 for taken in seats.values())

    @invariant()
    def histories_only_grow_and_end_once(self) -> None:
        for id, job in self.world.jobs.items():
            before = self.lives.get(id, ())
            assert job.life[: len(before)] == before
            if before and before[-1].status.is_finished:
                assert job.life == before
            self.lives[id] = job.life
            times = [item.transition_time for item in job.life]
            assert times == sorted(times)
            assert sum(item.status.is_finished for item in job.life) <= 1
            summary = lifecycle.history(job.life, self.world.now)
            if job.phase in (Phase.WAITING, Phase.RESTING):
                assert interruptions(job.life) <= job.run <= summary.restarts
            elif job.phase is Phase.LIVE:
                assert interruptions(job.life) <= job.run - 1 <= summary.restarts
            if job.life_span is not None and not job.status.is_finished:
                assert summary.run_time_seconds <= job.life_span
            for earlier, later in pairwise(job.life):
                assert later.status is not JobStatus.SUSPENDED or earlier.status.is_running
            if job.status is JobStatus.SUSPENDED:
                assert job.rules.scheduler_enabled


def interruptions(life: lifecycle.Transitions) -> int:
    """Count how often a job was to be started again; one that rests may be displaced as well."""
    interrupted = [
        item.reason == "Restarting" or item.status is JobStatus.SUSPENDED for item in life
    ]
    return sum(now and not before for before, now in pairwise(interrupted))


Machine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    # Not the one that explains: it traces each line, and takes ten times as long.
    phases=(HypothesisPhase.reuse, HypothesisPhase.generate, HypothesisPhase.shrink),
)
TestMachine = Machine.TestCase


FULL = Room(4000, 100, 0)
SCHEDULED = Rules(scheduler_enabled=True)


def test_the_higher_priority_goes_first_and_within_one_the_older(world: World) -> None:
    first = world.add(FULL)
    waiting = [world.add(FULL, priority=priority) for priority in (2, 1, 3, 2, 3)]
    world.begin(first)
    for _ in range(5):
        world.end(world.jobs[world.launched[-1]])
    assert world.launched == [first.id, *(waiting[place].id for place in (2, 4, 0, 3, 1))]


def test_a_job_that_fits_passes_one_that_does_not(world: World) -> None:
    running = world.add(Room(3000, 10))
    large, small = world.add(FULL, priority=3), world.add(Room(1000, 10), priority=1)
    assert world.launched == [running.id, small.id]
    assert large.life[-1].reason == "Scheduling"
    assert "4 cores and 0 MiB of memory" in large.life[-1].description


def test_each_gpu_is_given_to_one_job(world: World) -> None:
    jobs = [world.add(Room(100, 1, gpus=1)) for _ in range(3)]
    assert world.launched == [jobs[0].id, jobs[1].id]
    world.end(jobs[1])
    assert world.launched[2:] == [jobs[2].id]


def test_room_that_is_being_made_is_kept_for_whom_it_is_made(world: World) -> None:
    running = world.add(Room(2000, 10))
    world.begin(running)
    large = world.add(FULL)
    world.cancel(running)
    small = world.add(Room(2000, 10), priority=-1)
    assert world.launched == [running.id]  # it would fit, but then the other one would not
    world.end(running)
    assert world.launched == [running.id, large.id]
    world.end(large)
    assert world.launched[2:] == [small.id]


def test_an_ordinary_job_displaces_as_few_as_are_in_its_way(world: World) -> None:
    large = world.add(Room(3000, 10), rules=SCHEDULED)
    world.begin(large)
    world.wait(1)
    small = world.add(Room(1000, 10), rules=SCHEDULED)  # the last to start is the first to go
    world.begin(small)
    urgent = world.add(Room(3000, 10))
    assert (small.status, large.status) == (JobStatus.RUNNING, JobStatus.SUSPENDED)
    assert urgent.phase is Phase.WAITING
    world.end(large, 143)
    assert world.launched[-1] == urgent.id
    world.end(urgent)
    assert world.launched[-1] == large.id
    world.begin(large)
    assert [item.status.value for item in large.life[1:]] == ["running", "suspended", "running"]
    assert lifecycle.history(large.life, world.now).restarts == 1


def test_nobody_is_displaced_in_vain(world: World) -> None:
    world.begin(world.add(Room(3000, 10)))
    scheduled = world.add(Room(1000, 10), rules=SCHEDULED)
    world.begin(scheduled)
    world.add(FULL, priority=3)
    assert scheduled.status.is_running


def test_a_job_gives_way_to_none_of_lower_priority(world: World) -> None:
    scheduled = world.add(FULL, rules=SCHEDULED, priority=2)
    world.begin(scheduled)
    world.add(FULL, priority=1)
    assert scheduled.status.is_running
    world.add(FULL, rules=SCHEDULED, priority=3)
    assert scheduled.status is JobStatus.SUSPENDED


def test_a_job_without_turns_loses_its_machine_and_waits_for_it_again(world: World) -> None:
    job = world.add(FULL, rules=Rules(preemptible_node=True))
    world.begin(job)
    world.add(FULL)
    assert (job.status, job.life[-1].reason) == (JobStatus.PENDING, "Restarting")


def test_a_job_that_waits_ends_when_it_has_run_longer_than_it_now_may(world: World) -> None:
    job = world.add(FULL, rules=Rules(preemptible_node=True))
    world.begin(job)
    world.wait(1000)
    world.add(FULL)
    world.end(job)
    assert job.status is JobStatus.PENDING
    world.take(world.schedule.set_life_span(job.id, 2000, world.now))
    assert job.status is JobStatus.PENDING
    world.take(world.schedule.set_life_span(job.id, 60, world.now))
    assert (job.status, job.life[-1].reason) == (JobStatus.CANCELLED, "LifeSpanEnded")
    assert job.phase is Phase.OVER


def test_jobs_with_turns_take_them(world: World) -> None:
    jobs = [world.add(FULL, rules=SCHEDULED) for _ in range(3)]
    for turn in range(7):
        now = jobs[turn % 3]
        world.begin(now)
        world.wait(QUANTUM - timedelta(seconds=1))
        assert now.status.is_running
        world.wait(1)
        assert now.status is JobStatus.SUSPENDED
        world.end(now, 143)
    assert world.launched == [jobs[turn % 3].id for turn in range(8)]


def test_a_job_that_waited_long_enough_has_its_turn_before_ordinary_ones(world: World) -> None:
    first = world.add(FULL)
    world.begin(first)
    scheduled = world.add(FULL, rules=SCHEDULED)
    world.wait(LONGEST_PAUSE)
    later = world.add(FULL)
    world.end(first)
    assert world.launched[-1] == scheduled.id
    world.begin(scheduled)
    world.wait(QUANTUM - timedelta(seconds=1))
    assert scheduled.status.is_running
    world.wait(1)
    assert scheduled.status is JobStatus.SUSPENDED
    world.end(scheduled, 143)
    assert world.launched[-1] == later.id


def test_a_job_is_started_again_at_growing_distances(world: World) -> None:
    job = world.add(FULL, rules=Rules(ALWAYS))
    delays = []
    for _ in range(8):
        world.begin(job)
        world.end(job)
        at = world.now
        while job.id not in world.processes:
            assert world.schedule.next_wake is not None
            world.wait(world.schedule.next_wake - world.now)
        delays.append((world.now - at).total_seconds())
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]
    world.begin(job)
    world.wait(700)  # it ran well for a while
    world.end(job)
    assert job.id in world.processes
    assert lifecycle.history(job.life, world.now).restarts == 9


def test_a_job_that_rests_keeps_its_room_and_loses_it_at_once(world: World) -> None:
    job = world.add(FULL, rules=Rules(ALWAYS, scheduler_enabled=True))
    for _ in range(2):
        world.begin(job)
        world.end(job)
    assert job.phase is Phase.RESTING
    other = world.add(FULL)
    assert world.launched[-1] == other.id
    world.cancel(job)
    assert (job.status, job.phase) == (JobStatus.CANCELLED, Phase.OVER)


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        (NEVER, 0, False),
        (NEVER, 1, False),
        (ON_FAILURE, 0, False),
        (ON_FAILURE, 1, True),
        (ALWAYS, 0, True),
        (ALWAYS, 137, True),
    ],
)
def test_the_restart_policy_tells_what_is_started_again(
    world: World, policy: JobRestartPolicy, code: int, again: bool
) -> None:
    job = world.add(FULL, rules=Rules(policy))
    world.begin(job)
    world.end(job, code)
    assert (job.id in world.processes) is again
    assert job.status.is_running is again


def test_the_wait_for_a_seat_is_no_wait_for_room() -> None:
    world = World(Schedule(MACHINE, quota=1))
    first = world.add()
    second = world.add(waits_for_seat=True, schedule_timeout=60)
    world.begin(first)
    world.wait(3600)
    assert second.life[-1].reason == "Creating"
    world.add(FULL, owner="bob", priority=3)
    world.end(first)
    assert second.life[-1].reason == "Scheduling"
    world.wait(60)
    assert second.life[-1].reason == "ClusterScaleUpFailed"


def test_deadlines_of_jobs_that_are_over_are_forgotten(world: World) -> None:
    alive: WeakSet[Job] = WeakSet()
    for _ in range(2000):
        job = world.add(life_span=10**6)
        world.begin(job)
        world.end(job)
        alive.add(world.jobs.pop(job.id))
    del job
    assert len(alive) < 250
