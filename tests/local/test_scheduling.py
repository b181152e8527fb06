"""Jobs that wait, are started again, give way: seen by who started them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from neuro_sync import (
    Container,
    IllegalArgumentError,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    JobStatus,
    Resources,
    Session,
)
from neuro_sync.local.clock import ManualClock
from neuro_sync.local.lifecycle import Exited
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.store import JobRow
from neuro_sync.models.jobs import JobStart

DAY = 86400.0
HOUR = 3600.0
PENDING, RUNNING, SUSPENDED = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUSPENDED


class Machine:
    """A platform with room for one small job at a time, and a clock that a test sets forward."""

    def __init__(self, platform: LocalPlatform, session: Session, clock: ManualClock) -> None:
        self.platform = platform
        self.session = session
        self.clock = clock

    def start(self, command: str = "sleep 60", **options: Any) -> JobDescription:
        options.setdefault("preset_name", "cpu-small")
        return self.session.jobs.start(image="any", command=command, **options)

    def start_running(self, command: str = "sleep 60", **options: Any) -> JobDescription:
        job = self.start(command, **options)
        return self.until(job, lambda job: job.status.is_running and not job.reason)

    def until(
        self, job: JobDescription, condition: Callable[[JobDescription], bool]
    ) -> JobDescription:
        deadline = time.monotonic() + 20
        while not condition(job := self.status(job)):
            assert time.monotonic() < deadline, (job, job.history)
            time.sleep(0.005)
        return job

    def status(self, job: JobDescription) -> JobDescription:
        return self.session.jobs.status(job.id)

    def wait(self, job: JobDescription) -> JobDescription:
        return self.session.jobs.wait(job, timeout=20)

    def kill(self, *jobs: JobDescription) -> None:
        for job in jobs:
            self.session.jobs.kill(job)


@contextmanager
def machine_with(**options: Any) -> Iterator[Machine]:
    clock = ManualClock()
    options = {"cores": 1, "memory": 2**33, "grace": 0.5, **options}
    with (
        LocalPlatform(ephemeral=True, clock=clock, **options) as platform,
        Session(platform.url, platform.token) as session,
    ):
        yield Machine(platform, session, clock)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_with(writable=[tmp_path]) as opened:
        yield opened


def story(job: JobDescription) -> list[tuple[str, str]]:
    return [(item.status.value, item.reason) for item in job.history.transitions]


def test_a_job_waits_until_there_is_room(machine: Machine) -> None:
    first = machine.start_running()
    second = machine.start("echo ran")
    assert (second.status, second.reason) == (PENDING, "Scheduling")
    assert second.history.description == (
        "Waiting until this machine has 1 core and 2048 MiB of memory to spare."
    )
    with machine.session.jobs.logs(second) as lines:  # it can be followed by now
        machine.kill(first)
        assert list(lines) == ["ran"]
    assert story(machine.wait(second)) == [
        ("pending", "Creating"),
        ("pending", "Scheduling"),
        ("running", ""),
        ("succeeded", ""),
    ]
    assert story(machine.wait(first))[1:] == [("running", ""), ("cancelled", "UserRequested")]


def test_a_job_that_is_killed_has_its_room_until_it_has_gone(machine: Machine) -> None:
    first = machine.start(
        "sh -c 'trap \"sleep 0.2; echo gone; exit\" TERM; echo on; sleep 9 & wait'"
    )
    with machine.session.jobs.logs(first) as lines:
        assert next(lines) == "on"
        second = machine.start("true")
        machine.kill(first)
        assert machine.status(first).status is JobStatus.CANCELLED
        assert machine.status(second).status is PENDING
        assert "gone" in list(lines)
    assert machine.wait(second).status is JobStatus.SUCCEEDED


def test_jobs_that_come_while_others_end_are_all_started(machine: Machine) -> None:
    """Room may be free the moment after a job was accepted, before anything was done for it."""

    def submit(_: int) -> JobStatus:
        return machine.wait(machine.start("true")).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(submit, range(80))) == {JobStatus.SUCCEEDED}
    killed = machine.start("true")
    machine.kill(killed)
    assert list(machine.session.jobs.logs(killed)) == []


def test_a_job_may_be_launched_the_moment_it_is_accepted(machine: Machine) -> None:
    running = machine.start_running()
    service, loop = machine.platform._service, machine.platform._loop
    caller = machine.platform._users.of_token(machine.platform.token)
    assert caller is not None
    accepted: Future[JobRow] = Future()

    def accept_while_another_ends() -> None:
        spec = JobStart(image="any", preset_name="cpu-small", command="echo ran")
        accepted.set_result(service.start(spec, caller))
        service._on_event(running.id, Exited(machine.clock.now(), 0))

    loop.call_soon_threadsafe(accept_while_another_ends)
    job = accepted.result(20)
    assert list(machine.session.jobs.logs(job.id)) == ["ran"]
    assert machine.session.jobs.wait(job.id, timeout=20).status is JobStatus.SUCCEEDED


def test_the_higher_priority_is_started_first(machine: Machine) -> None:
    first = machine.start_running()
    low, normal, high = (
        machine.start("true", priority=priority)
        for priority in (JobPriority.LOW, JobPriority.NORMAL, JobPriority.HIGH)
    )
    machine.kill(first)
    ended = [machine.wait(job) for job in (high, normal, low)]
    times = [job.history.started_at for job in ended]
    assert times == sorted(times, key=str)
    assert [job.priority for job in ended] == [
        JobPriority.HIGH,
        JobPriority.NORMAL,
        JobPriority.LOW,
    ]


def test_a_job_that_finds_no_room_in_time_fails(machine: Machine) -> None:
    first = machine.start_running()
    second = machine.start(schedule_timeout=300)
    machine.clock.advance(299)
    assert machine.status(second).status is PENDING
    machine.clock.advance(1)
    failed = machine.status(second)
    assert (failed.status, failed.reason) == (JobStatus.FAILED, "ClusterScaleUpFailed")
    assert failed.history.description == (
        "Failed to scale up the cluster to get more resources: "
        "there was no room on this machine for 300 seconds."
    )
    assert list(machine.session.jobs.logs(second)) == []
    machine.kill(first)


def test_the_schedule_timeout_is_nothing_to_a_job_that_runs(machine: Machine) -> None:
    job = machine.start_running(schedule_timeout=60)
    machine.clock.advance(DAY)
    assert machine.status(job).status is RUNNING
    machine.kill(job)


def test_a_life_span_of_a_day_ends_after_a_day_of_running(machine: Machine) -> None:
    first = machine.start_running()
    job = machine.start(life_span=DAY)
    machine.clock.advance(DAY)  # of waiting, which does not count
    machine.kill(first)
    machine.until(job, lambda job: job.status.is_running)
    machine.clock.advance(DAY - 60)
    assert machine.status(job).status is RUNNING
    machine.clock.advance(60)
    ended = machine.status(job)
    assert (ended.status, ended.reason) == (JobStatus.CANCELLED, "LifeSpanEnded")
    assert ended.history.run_time_seconds == pytest.approx(DAY, abs=5)


def test_a_life_span_that_is_bumped_ends_later(machine: Machine) -> None:
    job = machine.start_running(life_span=DAY)
    machine.clock.advance(DAY - 60)
    machine.session.jobs.bump_life_span(job, DAY)
    machine.clock.advance(DAY)
    assert machine.status(job).status is RUNNING
    machine.clock.advance(60)
    assert machine.status(job).reason == "LifeSpanEnded"


def fails_until_the(attempt: int, folder: Path) -> str:
    count = folder / "count"
    return f"sh -c 'echo run; echo x >> {count}; [ $(wc -l < {count}) -ge {attempt} ]'"


def test_a_job_that_fails_is_started_again_and_its_log_goes_on(
    machine: Machine, tmp_path: Path
) -> None:
    job = machine.start(fails_until_the(3, tmp_path), restart_policy=JobRestartPolicy.ON_FAILURE)
    with machine.session.jobs.logs(job) as lines:
        assert [next(lines), next(lines)] == ["run", "run"]  # the first time at once
        resting = machine.until(job, lambda job: job.history.restarts == 2)
        assert (resting.status, resting.reason) == (RUNNING, "Restarting")
        assert resting.history.description == "The last run ended with 1."
        machine.clock.advance(9)
        assert machine.status(job).reason == "Restarting"
        machine.clock.advance(1)
        assert list(lines) == ["run"]
    ended = machine.wait(job)
    assert (ended.status, ended.history.exit_code) == (JobStatus.SUCCEEDED, 0)
    assert ended.history.restarts == 2
    assert story(ended)[1:] == [
        ("running", ""),
        *[("running", "Restarting"), ("running", "")] * 2,
        ("succeeded", ""),
    ]
    stamped = list(machine.session.jobs.logs(job, timestamps=True))
    assert stamped == sorted(stamped)
    assert len(stamped) == 3


def test_a_job_that_is_always_restarted_ends_when_it_is_killed(machine: Machine) -> None:
    job = machine.start("echo run", restart_policy=JobRestartPolicy.ALWAYS)
    for delay in (10, 20, 40):
        restarts = {10: 2, 20: 3, 40: 4}[delay]
        machine.until(job, lambda job, wanted=restarts: job.history.restarts == wanted)  # type: ignore[misc]
        machine.clock.advance(delay)
    machine.until(job, lambda job: job.history.restarts == 5)
    assert machine.session.jobs.get_capacity()["cpu-small"] == 0  # it keeps its room
    machine.kill(job)
    assert machine.session.jobs.get_capacity()["cpu-small"] == 1
    assert list(machine.session.jobs.logs(job)) == ["run"] * 5


def test_a_command_runs_in_the_run_that_is_there(machine: Machine, tmp_path: Path) -> None:
    command = (
        f"sh -c 'echo up; while [ ! -e {tmp_path}/stop ]; do sleep 0.01; done; rm {tmp_path}/stop'"
    )
    job = machine.start(command, restart_policy=JobRestartPolicy.ALWAYS)
    with machine.session.jobs.logs(job) as lines:
        for _ in range(2):
            assert next(lines) == "up"
            result = machine.session.jobs.run_command(job, "echo inside", text=True)
            assert result.stdout == "inside\n"
            with machine.session.jobs.attach(job) as stream:
                (tmp_path / "stop").touch()
                assert stream.communicate().exit_code is not None  # it ends with the run
        machine.kill(job)


def test_a_program_that_is_not_there_is_not_tried_again(machine: Machine) -> None:
    job = machine.start("no-such-program", restart_policy=JobRestartPolicy.ALWAYS)
    ended = machine.wait(job)
    assert (ended.reason, ended.history.restarts) == ("ContainerCannotRun", 0)


def test_who_has_as_many_jobs_as_he_may_is_refused() -> None:
    with machine_with(cores=8, total_running_jobs=2) as machine:
        jobs = [machine.start_running() for _ in range(2)]
        with pytest.raises(IllegalArgumentError) as refused:
            machine.start()
        user = machine.session.username
        assert refused.value.text == f"Jobs limit quota exceeded for user '{user}'"
        assert machine.session.users.get_quota().total_running_jobs == 2
        waiting = [machine.start("true", wait_for_jobs_quota=True) for _ in range(2)]
        assert [(job.status, job.reason) for job in waiting] == [(PENDING, "Creating")] * 2
        machine.kill(jobs[0])
        for job in waiting:
            assert machine.wait(job).status is JobStatus.SUCCEEDED
        machine.start("true")
        machine.kill(jobs[1])


def test_the_jobs_of_a_users_roles_count_as_those_of_the_user() -> None:
    with machine_with(cores=8, total_running_jobs=2) as machine:
        platform = machine.platform
        user = f"u{uuid4().hex[:12]}"
        tokens = {user: platform.add_user(user)}

        def ask(who: str, path: str, body: object) -> requests.Response:
            headers = {"Authorization": f"Bearer {tokens[who]}"}
            return requests.post(platform.url + path, json=body, headers=headers, timeout=10)

        for name in ("one", "two"):
            role = f"{user}/roles/{name}"
            assert ask(user, "/users", {"name": role}).status_code == 201
            grant = {"uri": f"job://local/local/{user}", "action": "write"}
            role_path = f"/users/{role.replace('/', ':')}"
            assert ask(user, f"{role_path}/permissions", [grant]).status_code == 201
            tokens[role] = ask(user, f"{role_path}/token", {}).json()["access_token"]

        def start(who: str, **options: object) -> requests.Response:
            spec = {"image": "any", "command": "sleep 60", "preset_name": "cpu-small", **options}
            return ask(who, "/jobs?from_preset", spec)

        role, other = [name for name in tokens if name != user]
        assert start(role).status_code == 202
        assert start(other).status_code == 202
        for who in tokens:
            refused = start(who)
            assert refused.status_code == 400
            assert refused.json()["error"] == f"Jobs limit quota exceeded for user {user!r}"
        waiting = start(role, wait_for_jobs_quota=True)
        assert waiting.json()["history"]["reason"] == "Creating"  # it has no seat yet
        assert machine.start("true").status is PENDING  # another user's quota is another one


SNAPSHOTS = "sh -c 'trap \"echo snapshot; exit 1\" TERM; echo work; sleep 60 & wait'"


def test_a_job_gives_way_and_comes_back(machine: Machine) -> None:
    job = machine.start(SNAPSHOTS, preset_name="cpu-small-p")
    with machine.session.jobs.logs(job) as lines:
        assert next(lines) == "work"
        urgent = machine.start("sleep 60")
        assert next(lines) == "snapshot"  # it is asked, and has its grace
        suspended = machine.status(job)
        assert (suspended.status, suspended.reason) == (SUSPENDED, "")
        assert suspended.status.is_pending
        assert suspended.history.changed_at == suspended.history.started_at
        machine.until(urgent, lambda job: job.status.is_running)
        machine.kill(urgent)
        assert next(lines) == "work"
        back = machine.until(job, lambda job: job.status.is_running)
    assert story(back)[1:] == [("running", ""), ("suspended", ""), ("running", "")]
    assert back.history.restarts == 1
    assert (back.scheduler_enabled, back.preemptible_node) == (True, True)
    raw = requests.get(
        f"{machine.platform.url}/jobs/{job.id}",
        headers={"Authorization": f"Bearer {machine.platform.token}"},
        timeout=10,
    ).json()
    assert (raw["materialized"], raw["being_dropped"], raw["logs_removed"]) == (True, False, False)
    assert [item["status"] for item in raw["statuses"]][1:] == ["running", "suspended", "running"]
    assert {item["reason"] for item in raw["statuses"][1:]} == {None}
    machine.kill(job)


def test_a_suspended_job_can_be_killed(machine: Machine) -> None:
    job = machine.start_running(preset_name="cpu-small-p")
    urgent = machine.start_running("sleep 60")
    assert machine.status(job).status is SUSPENDED
    machine.kill(job)
    assert machine.wait(job).reason == "UserRequested"
    machine.kill(urgent)
    assert list(machine.session.jobs.logs(job)) == []


def test_scheduled_jobs_take_turns_of_an_hour(machine: Machine) -> None:
    first = machine.start_running(preset_name="cpu-small-p")
    second = machine.start(preset_name="cpu-small-p")
    assert second.status is PENDING
    machine.clock.advance(HOUR)
    assert machine.status(first).status is SUSPENDED
    machine.until(second, lambda job: job.status.is_running)
    machine.clock.advance(HOUR)
    assert machine.status(second).status is SUSPENDED
    machine.until(first, lambda job: job.status.is_running)
    assert machine.status(first).history.run_time_seconds == pytest.approx(HOUR, abs=5)
    machine.kill(first, second)


def test_the_price_grows_with_the_time_of_running(machine: Machine) -> None:
    job = machine.start_running()
    presets = machine.session.presets
    assert job.price_credits_per_hour == presets["cpu-small"].credits_per_hour == Decimal("0.1")
    assert presets["cpu-small-p"].credits_per_hour == Decimal("0.05")
    machine.clock.advance(2 * HOUR)
    assert float(machine.status(job).total_price_credits) == pytest.approx(0.2, abs=0.001)
    machine.kill(job)
    total = machine.wait(job).total_price_credits
    machine.clock.advance(HOUR)
    assert machine.status(job).total_price_credits == total


def test_a_job_without_a_preset_costs_what_the_cheapest_does_that_holds_it(
    machine: Machine,
) -> None:
    container = Container(image="any", command="true", resources=Resources(cpu=0.5, memory_mb=64))
    job = machine.session.jobs.run(container)
    assert job.price_credits_per_hour == Decimal("0.05")


def test_capacity_is_what_would_start_at_once() -> None:
    with machine_with(cores=3, memory=2**40) as machine:
        capacity = machine.session.jobs.get_capacity
        assert (capacity()["cpu-small"], capacity()["cpu-large"]) == (3, 1)
        jobs = []
        for left in (2, 1, 0):
            jobs.append(machine.start())
            assert capacity()["cpu-small"] == left
        jobs.append(machine.start())  # one that waits takes nothing
        assert capacity()["cpu-small"] == 0
        machine.kill(*jobs)
        for job in jobs:
            machine.wait(job)
        machine.until(jobs[0], lambda _: capacity()["cpu-small"] == 3)


@pytest.mark.parametrize(
    ("resources", "wants"),
    [
        (
            Resources(cpu=64, memory_mb=64),
            "64 cores and 64 MiB of memory",
        ),
        (
            Resources(cpu=0.5, memory_mb=2**20),
            "0.5 cores and 1048576 MiB of memory",
        ),
        (
            Resources(cpu=1, memory_mb=64, gpu=1),
            "1 core and 64 MiB of memory and 1 GPU",
        ),
    ],
)
def test_what_this_machine_can_never_hold_is_refused_with_what_it_has(
    machine: Machine, resources: Resources, wants: str
) -> None:
    with pytest.raises(IllegalArgumentError) as refused:
        machine.session.jobs.run(Container(image="any", command="true", resources=resources))
    assert refused.value.text == (
        f"the job wants {wants}, "
        "and this machine has only 1 core and 8192 MiB of memory for all jobs together"
    )
    assert list(machine.session.jobs.list()) == []


@pytest.mark.parametrize(
    ("accelerators", "missing"),
    [
        ({"amd_gpu": 1}, "AMD GPUs"),
        ({"intel_gpu": 1}, "Intel GPUs"),
        ({"nvidia_migs": {"1g.5gb": {"count": 1}}}, "slices of GPUs"),
        ({"tpu_type": "v2-8", "tpu_software_version": "1.14"}, "TPUs"),
    ],
)
def test_an_accelerator_that_is_not_here_is_refused(
    machine: Machine, accelerators: dict[str, Any], missing: str
) -> None:
    resources = Resources(cpu=1, memory_mb=64, **accelerators)
    with pytest.raises(IllegalArgumentError, match=f"^this machine has no {missing}"):
        machine.session.jobs.run(Container(image="any", command="true", resources=resources))


def test_no_schedule_timeout_for_scheduled_jobs(machine: Machine) -> None:
    with pytest.raises(IllegalArgumentError, match="not allowed for scheduled jobs"):
        machine.start(preset_name="cpu-small-p", schedule_timeout=60)


def test_the_end_of_a_platform_ends_those_who_wait_too(tmp_path: Path) -> None:
    with (
        LocalPlatform(tmp_path, cores=1, memory=2**33, grace=0.2) as platform,
        Session(platform.url, platform.token) as session,
    ):
        jobs = [
            session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
            for _ in range(5)
        ]
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        for job in jobs:
            ended = session.jobs.status(job.id)
            assert (ended.status, ended.reason) == (JobStatus.CANCELLED, "PlatformStopped")
            assert list(session.jobs.logs(job)) == []
    assert sum((tmp_path / "jobs" / job.id / "events.1").exists() for job in jobs) <= 1
