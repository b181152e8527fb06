"""A platform that is killed at any moment goes on, and every job is run as often as it should."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from neuro_sync import (
    ConnectionFailed,
    JobDescription,
    JobRestartPolicy,
    JobStatus,
    Session,
    Volume,
)
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import local_user
from neuro_sync.local.store import JobChange, Store
from tests.docker_engine import IMAGE
from tests.processes import eventually, is_alive, outside, platform_process, supervisor_of

ROUNDS = int(os.environ.get("NEURO_TEST_CRASHES", "3"))
"""How often the platform is killed; somebody who changes how jobs are started gives 20."""
JOBS = 50


@dataclass(frozen=True)
class Load:
    """Many jobs, each of which notes its runs in a file of this machine."""

    folder: Path
    """Where those files are."""
    image: str = "any"
    options: tuple[str, ...] = ("--cpu", "3", "--memory", "64G")
    jobs: int = JOBS
    seen_in_jobs: str = ""
    """Where a job finds the folder, if it is mounted."""
    longest_life: float = 0.4
    """Seconds after which a platform is killed at the latest."""

    def submit(self, session: Session, number: int) -> JobDescription:
        """Start a job; every third one fails, every fifth only once."""
        runs = f"{self.seen_in_jobs or self.folder}/runs-{number}"
        fails = f"[ $(wc -l < {runs}) -ge 2 ]" if number % 5 == 0 else f"exit {number % 3}"
        policy = JobRestartPolicy.ON_FAILURE if number % 5 == 0 else JobRestartPolicy.NEVER
        storage = Volume(storage_uri=URL("storage:runs"), container_path=self.seen_in_jobs or "/x")
        return session.jobs.start(
            image=self.image,
            preset_name="cpu-small",
            command=f"sh -c 'echo {number}; echo x >> {runs}; sleep 0.0{number % 10}; {fails}'",
            restart_policy=policy,
            tags=[f"number:{number}"],
            volumes=[storage] if self.seen_in_jobs else [],
        )

    def runs(self, number: int) -> int:
        return (self.folder / f"runs-{number}").read_text().count("x")


def test_whenever_the_platform_is_killed_no_job_is_lost_and_no_run_done_twice(
    tmp_path: Path,
) -> None:
    survive(tmp_path / "state", Load(tmp_path))


def test_the_same_goes_for_jobs_that_are_containers(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    state = tmp_path / "state"
    load = Load(
        state / "storage" / "local" / local_user() / "runs",
        IMAGE,
        ("--runtime", "docker", "--cpu", "3", "--memory", "64G"),
        jobs=JOBS if ROUNDS >= 20 else 8,
        seen_in_jobs="/runs",
        longest_life=1.5,
    )
    load.folder.mkdir(parents=True)
    survive(state, load)


def survive(state: Path, load: Load) -> None:
    """Kill the platform again and again while jobs are started and run, and look at each after."""
    jobs: dict[int, str] = {}
    chance = random.Random(os.environ.get("PYTEST_RANDOMLY_SEED"))
    numbers = iter(range(load.jobs))
    for _ in range(ROUNDS):
        with (
            platform_process(state, *load.options) as process,
            Session.local(state=state) as session,
        ):
            timer = threading.Timer(chance.uniform(0, load.longest_life), process.kill)
            timer.start()
            with suppress(ConnectionFailed):
                for number in islice(numbers, -(-load.jobs // ROUNDS)):
                    jobs[number] = load.submit(session, number).id
            timer.join()
            process.wait()
    with platform_process(state, *load.options), Session.local(state=state) as session:
        known = {
            int(tag.removeprefix("number:")): job.id
            for job in session.jobs.list()
            for tag in job.tags
        }
        assert known.items() >= jobs.items()  # one whose answer was lost may be there as well
        for number, id in known.items():
            ended = session.jobs.wait(id, timeout=90)
            runs = load.runs(number)
            restarts = int(number % 5 == 0)
            assert runs == restarts + 1, (number, ended.history)
            assert ended.history.restarts == restarts
            code = 0 if number % 5 == 0 else number % 3
            assert ended.history.exit_code == code
            assert ended.status is (JobStatus.FAILED if code else JobStatus.SUCCEEDED)
            assert list(session.jobs.logs(id)) == [str(number)] * runs
            steps = Counter(item.status for item in ended.history.transitions)
            assert steps[JobStatus.RUNNING] == 1 + 2 * restarts
            times = [item.transition_time for item in ended.history.transitions]
            assert times == sorted(times)


def test_what_waits_rests_and_runs_does_so_after_a_crash(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with platform_process(state, "--cpu", "2", "--memory", "64G") as process:
        with Session.local(state=state) as session:
            resting = start(session, "echo run", restart_policy=JobRestartPolicy.ALWAYS)
            until(session, resting, lambda job: job.history.restarts == 2)
            running = start(session, f"sh -c 'until [ -e {tmp_path}/stop ]; do sleep 0.01; done'")
            session.jobs.wait(running, until="running")
            waiting = start(session, "true")
            before = [session.jobs.status(job.id) for job in (resting, running, waiting)]
        process.kill()
        process.wait()
    with (
        platform_process(state, "--cpu", "2", "--memory", "64G"),
        Session.local(state=state) as session,
    ):
        after = [session.jobs.status(job.id) for job in (resting, running, waiting)]
        assert [job.statuses for job in after] == [job.statuses for job in before]
        assert [job.reason for job in after] == ["Restarting", "", "Scheduling"]
        assert session.jobs.get_capacity()["cpu-small"] == 0
        (tmp_path / "stop").touch()
        assert session.jobs.wait(waiting, timeout=20).status is JobStatus.SUCCEEDED
        session.jobs.kill(resting)
        assert list(session.jobs.logs(resting)) == ["run", "run"]


def start(session: Session, command: str, **options: Any) -> JobDescription:
    options.setdefault("preset_name", "cpu-small")
    return session.jobs.start(image="any", command=command, **options)


def until(session: Session, job: JobDescription, reached: Callable[[JobDescription], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached(session.jobs.status(job.id)):
        assert time.monotonic() < deadline, job
        time.sleep(0.005)


@contextmanager
def after_a_crash(state: Path, job: JobDescription, **recorded: Any) -> Iterator[Session]:
    """Run a new platform after one that recorded something more, and was killed just then."""
    store = Store(state / "platform.db")
    row = store.get(job.id, "")
    assert row is not None
    life = [*json.loads(row.transitions), *recorded.pop("items", ())]
    answer = recorded.pop("answer", None)
    status = life[-1]["status"]
    store.change([JobChange(row.id, status, json.dumps(life), answer, **recorded)])
    store.close()
    options = {"cores": 1, "memory": 2**33, "grace": 0.2, "writable": [state.parent]}
    with (
        LocalPlatform(state, **options) as platform,  # type: ignore[arg-type]
        Session(platform.url, platform.token) as session,
    ):
        yield session


@contextmanager
def until_killed(state: Path) -> Iterator[Session]:
    with platform_process(state, "--cpu", "1", "--memory", "8G") as process:
        with Session.local(state=state) as session:
            yield session
        process.kill()
        process.wait()


def test_a_launch_that_was_recorded_and_not_carried_out_is_made_good(tmp_path: Path) -> None:
    with until_killed(tmp_path / "state") as session:
        running = start(session, "sleep 60")
        waiting = start(session, "echo ran")
    with after_a_crash(tmp_path / "state", waiting, phase="live", run=1) as session:
        assert list(session.jobs.logs(waiting)) == ["ran"]
        assert session.jobs.wait(waiting).status is JobStatus.SUCCEEDED
        session.jobs.kill(running)


def test_a_run_that_was_called_off_before_it_began_never_does(tmp_path: Path) -> None:
    with until_killed(tmp_path / "state") as session:
        running = start(session, "sleep 60")
        waiting = start(session, f"touch {tmp_path}/ran")
    now = datetime.now(timezone.utc).isoformat()
    cancelled = {"status": "cancelled", "transition_time": now, "reason": "UserRequested"}
    with after_a_crash(
        tmp_path / "state", waiting, items=[cancelled], answer="{}", phase="ending", run=1
    ) as session:
        assert list(session.jobs.logs(waiting.id)) == []  # it is over
        session.jobs.kill(running)
        session.jobs.wait(start(session, "true"))
    assert not (tmp_path / "ran").exists()


def test_a_kill_that_was_recorded_and_not_carried_out_is_made_good(tmp_path: Path) -> None:
    with until_killed(tmp_path / "state") as session:
        job = start(session, "sh -c 'echo $$; exec sleep 60'", preset_name="cpu-small-p")
        with session.jobs.logs(job) as lines:
            first = next(lines)
        pid = outside(tmp_path / "state", job.id, int(first))
    now = datetime.now(timezone.utc).isoformat()
    suspended = {"status": "suspended", "transition_time": now}
    with after_a_crash(
        tmp_path / "state", job, items=[suspended], phase="ending", run=1
    ) as session:
        with session.jobs.logs(job) as lines:
            assert next(lines) == first
            second = next(lines)  # it was suspended, and there is room for it again
        assert not is_alive(pid)
        assert is_alive(outside(tmp_path / "state", job.id, int(second)))
        assert session.jobs.wait(job, until="running").history.restarts == 1


def test_a_supervisor_that_is_started_twice_for_a_run_runs_it_once(tmp_path: Path) -> None:
    """The platform may be killed when it has made a supervisor that has done nothing yet."""
    with until_killed(tmp_path / "state") as session:
        running = start(session, "sleep 60")
        waiting = start(session, f"sh -c 'echo ran; echo x >> {tmp_path}/runs'")
    folder = tmp_path / "state" / "jobs" / waiting.id
    folder.mkdir(exist_ok=True)  # it may not have come to that
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the first supervisor would
        with after_a_crash(tmp_path / "state", waiting, phase="live", run=1) as session:
            (folder / "events.1").write_bytes(b"started 1 1\n")
            lock.close()
            ended = session.jobs.wait(waiting, timeout=20)
            assert (ended.status, ended.reason) == (JobStatus.FAILED, "NotFound")
            session.jobs.kill(running)
    assert not (tmp_path / "runs").exists()


def test_a_job_that_a_smaller_machine_cannot_hold_fails_with_words(tmp_path: Path) -> None:
    with until_killed(tmp_path) as session:
        running = start(session, "sleep 60")
        waiting = start(session, "true")
    with (
        LocalPlatform(tmp_path, cores=0.5, memory=2**33, grace=0.2) as platform,
        Session(platform.url, platform.token) as session,
    ):
        ended = session.jobs.wait(waiting, timeout=20)
        assert (ended.status, ended.reason) == (JobStatus.FAILED, "ClusterScaleUpFailed")
        assert "this machine has only 0.5 cores and 8192 MiB" in ended.history.description
        assert session.jobs.status(running.id).status is JobStatus.RUNNING
        assert session.jobs.get_capacity()["cpu-small"] == 0


def test_a_log_that_a_power_loss_has_shortened_goes_on_with_times_that_fit(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with until_killed(state) as session:
        job = start(
            session,
            "sh -c 'for i in 1 2 3; do echo line $i; sleep 0.05; done; sleep 60'",
            restart_policy=JobRestartPolicy.ALWAYS,
        )
        with session.jobs.logs(job) as lines:
            assert list(islice(lines, 3)) == ["line 1", "line 2", "line 3"]
        supervisor = supervisor_of(state, job.id)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(supervisor), "the supervisor ends")
    folder = state / "jobs" / job.id
    os.truncate(folder / "log", len("line 1\n"))
    with open(folder / "log.times", "ab") as times:
        times.write(b"\x01half")
    with platform_process(state, "--cpu", "1", "--memory", "8G"), Session.local(state=state) as new:
        with new.jobs.logs(job.id, timestamps=True) as stamped:
            found = [line.partition(" ") for line in islice(stamped, 4)]
        assert [text for _, _, text in found] == ["line 1", "line 1", "line 2", "line 3"]
        moments = [datetime.fromisoformat(moment[:26] + "+00:00") for moment, _, _ in found]
        assert moments == sorted(moments)
        assert moments[1] - moments[0] > timedelta(seconds=0.1)  # each run has its own times
        size = (folder / "log.times").stat().st_size
        assert size % 16 == 0
        new.jobs.kill(job.id)
