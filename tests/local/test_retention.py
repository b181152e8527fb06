"""Finished jobs can be removed, rows, logs and folders; jobs that are not finished never are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro_sync import ConfigError, IllegalArgumentError, JobDescription, JobStatus, Session
from neuro_sync.local.clock import ManualClock
from neuro_sync.local.retention import Pruner, Retention, prune
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import StateFolder
from neuro_sync.local.store import JobFilter, JobRow, Store
from tests.processes import eventually

NEURO = [sys.executable, "-m", "neuro_sync"]


def start(session: Session, command: str, **options: object) -> JobDescription:
    return session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command=command,
        **options,  # type: ignore[arg-type]  # a test's options are its own business
    )


def run(session: Session, command: str, **options: object) -> JobDescription:
    return session.jobs.wait(start(session, command, **options))


def neuro(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NEURO, *arguments], capture_output=True, text=True, check=False)


def folders(state: Path) -> set[str]:
    return set(os.listdir(state / "jobs"))


def test_pruning_a_platform_that_runs_spares_what_is_not_finished(tmp_path: Path) -> None:
    with (
        LocalPlatform(tmp_path, cores=2, memory=2**34, grace=0.2) as platform,
        Session(platform.url, platform.token) as session,
    ):
        old = [run(session, f"echo {number}", name="old", tags=["old"]) for number in range(3)]
        running = start(session, "sh -c 'trap \"\" TERM; echo up; sleep 600'")
        with session.jobs.logs(running) as lines:
            assert next(lines) == "up"
        unfinished = [running, start(session, "sleep 600"), start(session, "echo waits")]
        ended = neuro("local", "prune", "--state", str(tmp_path), "--keep", "1")
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == f"2 finished jobs are removed from {tmp_path}.\n"
        kept = [old[2].id, *(job.id for job in unfinished)]
        assert [job.id for job in session.jobs.list()] == kept
        assert folders(tmp_path) == set(kept)
        assert session.jobs.status("old").id == old[2].id
        assert list(session.jobs.logs(old[2])) == ["2"]
        with pytest.raises(IllegalArgumentError, match="no such job"):
            session.jobs.status(old[0].id)
        assert prune(tmp_path, Retention(keep=0)) == 1
        assert session.jobs.tags() == ()
        for job in unfinished[:2]:
            session.jobs.kill(job)
        prune(tmp_path, Retention(keep=0))  # some of them are still ending
        assert list(session.jobs.logs(unfinished[2])) == ["waits"]
        assert session.jobs.wait(unfinished[2]).status is JobStatus.SUCCEEDED


def test_pruning_a_platform_that_does_not_run_gives_the_space_back(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        kept = run(session, "echo kept")
    with closing(Store(tmp_path / "platform.db")) as store:
        for number in range(300):
            store.add(finished(f"job-{number}", padding="x" * 5000), (f"tag-{number}",), sync=False)
            (tmp_path / "jobs" / f"job-{number}").mkdir()
    before = (tmp_path / "platform.db").stat().st_size
    assert prune(tmp_path, Retention(older_than_s=86400)) == 300
    assert folders(tmp_path) == {kept.id}
    assert (tmp_path / "platform.db").stat().st_size < before / 4
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        assert [job.id for job in session.jobs.list()] == [kept.id]
        assert list(session.jobs.logs(kept)) == ["kept"]


def test_a_platform_with_a_retention_removes_jobs_when_they_are_old_enough(tmp_path: Path) -> None:
    clock = ManualClock()
    retention = Retention(older_than_s=3 * 3600, keep=1)
    with (
        LocalPlatform(tmp_path, retention=retention, clock=clock) as platform,
        Session(platform.url, platform.token) as session,
    ):
        jobs = [run(session, "true") for _ in range(3)]
        clock.advance(3600)
        assert len(list(session.jobs.list())) == 3
        clock.advance(2 * 3600 + 60)
        clock.advance(3600)
        eventually(lambda: len(list(session.jobs.list())) == 1, "old jobs are removed")
        assert [job.id for job in session.jobs.list()] == [jobs[2].id]
        eventually(lambda: folders(tmp_path) == {jobs[2].id}, "their folders are removed")


def test_a_prune_that_is_killed_is_completed_by_the_next_one(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        run(session, "true")
    with closing(Store(tmp_path / "platform.db", durable=False)) as store:
        for number in range(2000):
            store.add(finished(f"job-{number}"), (f"tag-{number}",))
            folder = tmp_path / "jobs" / f"job-{number}"
            folder.mkdir()
            (folder / "log").touch()
    command = [*NEURO, "local", "prune", "--state", str(tmp_path), "--keep", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: len(folders(tmp_path)) < 1900, "it has begun")
        process.send_signal(signal.SIGKILL)
    left = folders(tmp_path)
    with closing(Store(tmp_path / "platform.db")) as store:
        rows = {row.id for row in store.list(JobFilter())}
    assert left <= rows  # a folder never outlives its row
    assert prune(tmp_path, Retention(keep=0)) == len(rows)
    assert folders(tmp_path) == set()
    with closing(Store(tmp_path / "platform.db")) as store:
        assert store.database.execute("SELECT count(*) FROM job_tags").fetchone()[0] == 0


def finished(id: str, age_s: float = 10 * 86400, phase: str = "over", padding: str = "") -> JobRow:
    ended = datetime.now(timezone.utc) - timedelta(seconds=age_s)
    answer = {"id": id, "history": {"finished_at": ended.isoformat()}, "padding": padding}
    return JobRow(
        id=id,
        name=None,
        owner="alice",
        cluster_name="local",
        org_name="local",
        project_name="alice",
        status="succeeded" if phase == "over" else "running",
        created_at=ended - timedelta(hours=1),
        description={},
        transitions="[]",
        answer=json.dumps(answer) if phase == "over" else None,
        phase=phase,
    )


ages = st.sampled_from((0.0, 3600.0, 7200.0, 86400.0))
phases = st.sampled_from(("over", "over", "over", "live", "ending", "waiting"))


@settings(max_examples=40)
@given(
    jobs=st.lists(st.tuples(ages, phases), max_size=12),
    older_than_s=st.none() | st.sampled_from((0.0, 1800.0, 5400.0, 10.0**30)),
    keep=st.none() | st.integers(0, 12) | st.just(10**30),
)
def test_what_a_retention_keeps_stays_and_nothing_else(
    jobs: list[tuple[float, str]], older_than_s: float | None, keep: int | None
) -> None:
    if older_than_s is None and keep is None:
        keep = 0
    with TemporaryDirectory() as folder:
        StateFolder(folder).prepare()
        with closing(Store(Path(folder) / "platform.db", durable=False)) as store:
            for number, (age_s, phase) in enumerate(jobs):
                store.add(finished(f"job-{number}", age_s, phase), (f"tag-{number}",))
                (Path(folder) / "jobs" / f"job-{number}").mkdir(parents=True)
        over = [number for number, (_, phase) in enumerate(jobs) if phase == "over"]
        beyond = over[: len(over) - (keep or 0)] if (keep or 0) < len(over) else []
        gone = {f"job-{number}" for number in beyond if jobs[number][0] >= (older_than_s or 0)}
        expected = [f"job-{number}" for number in range(len(jobs)) if f"job-{number}" not in gone]
        assert prune(folder, Retention(older_than_s, keep)) == len(gone)
        with closing(Store(Path(folder) / "platform.db", durable=False)) as store:
            rows = store.database.execute("SELECT id FROM jobs ORDER BY number").fetchall()
            tags = store.database.execute("SELECT tag FROM job_tags").fetchall()
        assert [row["id"] for row in rows] == expected
        assert {row["tag"].replace("tag", "job") for row in tags} == set(expected)
        if jobs:
            assert folders(Path(folder)) == set(expected)


def test_a_folder_that_cannot_be_removed_keeps_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(tmp_path / "platform.db", durable=False)) as store:
        store.add(finished("job-1"), ())
        (tmp_path / "jobs" / "job-1").mkdir(parents=True)
        monkeypatch.setattr("neuro_sync.local.retention.remove_tree", lambda _: None)
        pruner = Pruner(store, tmp_path, Retention(keep=0))
        (batch,) = pruner.batches(datetime.now(timezone.utc))
        assert pruner.remove_folders(batch) == []


@pytest.mark.parametrize("limits", [{}, {"keep": -1}, {"older_than_s": float("nan")}])
def test_a_retention_without_a_sensible_limit_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Retention(**limits)


def test_the_command_asks_what_to_remove_and_where(tmp_path: Path) -> None:
    ended = neuro("local", "prune", "--state", str(tmp_path))
    assert (ended.returncode, "--older-than or --keep" in ended.stderr) == (64, True)
    ended = neuro("local", "prune", "--state", str(tmp_path), "--keep", "3")
    assert (ended.returncode, "no state folder" in ended.stderr) == (77, True)
    assert list(tmp_path.iterdir()) == []


def test_many_finished_jobs_do_not_slow_the_start_of_a_platform(tmp_path: Path) -> None:
    def seconds_to_start() -> float:
        begun = time.perf_counter()
        with LocalPlatform(tmp_path, durable=False):
            return time.perf_counter() - begun

    seconds_to_start()
    few = min(seconds_to_start() for _ in range(3))
    with closing(Store(tmp_path / "platform.db", durable=False)) as store:
        store.database.execute("BEGIN")
        store.database.executemany(
            "INSERT INTO jobs SELECT NULL, ?, NULL, 'alice', 'alice', 'local', 'local', 'alice',"
            " 'succeeded', 'over', 1, 0, 0, '{}', '[]', '{}'",
            [(f"job-{number}",) for number in range(20_000)],
        )
        store.database.execute("COMMIT")
    for number in range(2000):
        (tmp_path / "jobs" / f"job-{number}").mkdir()
    many = min(seconds_to_start() for _ in range(3))
    assert many < 2 * few + 0.1
