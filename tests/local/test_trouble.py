"""What goes wrong on a machine: it is told in words, and what was promised is kept."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuro_sync import (
    ConfigError,
    HTTPPort,
    InsufficientStorage,
    JobDescription,
    JobStatus,
    ResourceNotFound,
    ServerError,
    Session,
    StorageError,
)
from neuro_sync.local.retention import Retention, prune
from neuro_sync.local.server import LocalPlatform
from tests.programs import require_programs, skip_or_fail

MIB = 2**20


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB; skip a test, or fail it, where none can be mounted."""
    require_programs("mount", "umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * MIB},mode=700", "none", str(disk)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode:
        skip_or_fail(f"no small disk: {' '.join(result.stderr.split())}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def platform_on(state: Path, *writable: Path) -> LocalPlatform:
    return LocalPlatform(
        state, grace=0.2, cores=2, memory=2**34, writable=[state.parent, *writable]
    )


def start(session: Session, command: str, **options: object) -> JobDescription:
    return session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command=command,
        **options,  # type: ignore[arg-type]  # a test's options are its own business
    )


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_gated(gate: Path, then: str = "true") -> str:
    return f"sh -c 'echo begun; until [ -e {gate} ]; do sleep 0.02; done; {then}'"


def test_on_a_full_disk_nothing_that_was_acknowledged_is_lost(
    tiny_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, gate = tiny_disk / "state", tmp_path / "gate"
    with platform_on(state, tmp_path) as platform, Session(platform.url, platform.token) as session:
        before = session.jobs.wait(start(session, "echo before"))
        going = [start(session, is_gated(gate, f"exit {code}")) for code in (0, 3)]
        waiting = [start(session, f"echo {number}") for number in range(3)]
        for job in going:
            session.jobs.wait(job, until="running")
        fill(tiny_disk)

        full = rf"platform\.db cannot be written \(the disk mounted at {tiny_disk} is full\)"
        with pytest.raises(InsufficientStorage, match=full):  # noqa: PT012  # some room may be left in it
            for _ in range(100):
                waiting.append(start(session, "echo 3", description="x" * 4000))  # noqa: PERF401
        assert session.jobs.status(before.id) == before
        assert list(session.jobs.logs(before.id)) == ["before"]
        known = {job.id for job in session.jobs.list()}
        assert known == {job.id for job in (before, *going, *waiting)}
        gate.touch()  # both end, and that cannot be written down
        until(lambda: "jobs wait" in caplog.text, "the platform says nothing")
        assert f"the disk mounted at {tiny_disk} is full" in caplog.text

        (tiny_disk / "filler").unlink()
        ended = [session.jobs.wait(job, timeout=20) for job in (*going, *waiting)]
        assert [job.history.exit_code for job in ended] == [0, 3, *(0 for _ in waiting)]
        assert [list(session.jobs.logs(job)) for job in waiting[:3]] == [["0"], ["1"], ["2"]]
    with platform_on(state, tmp_path) as platform, Session(platform.url, platform.token) as session:
        assert {job.id for job in session.jobs.list()} == known
    caplog.clear()  # errors were what it was about


def test_a_job_that_fills_the_disk_is_ended_and_told_why(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        platform_on(tiny_disk / "state") as platform,
        Session(platform.url, platform.token) as session,
    ):
        other = start(session, "sleep 600")
        job = start(session, "sh -c 'while true; do head -c 100000 /dev/zero; done'")
        until((tiny_disk / "state/jobs" / job.id / "log").exists, "no log")
        events = tiny_disk / "state/jobs" / job.id / "events.1"
        # Room that is made before that would be filled as well.
        until(lambda: events.exists() and b"stopped" in events.read_bytes(), "it is not stopped")
        with open(tiny_disk / "state/jobs" / job.id / "log", "r+b") as log:
            log.truncate(0)  # as somebody would who needs room for anything else
        ended = session.jobs.wait(job, timeout=20)
        assert ended.status is JobStatus.FAILED
        assert "could not be kept: No space left on device" in ended.history.description
        assert session.jobs.status(other.id).status is JobStatus.RUNNING
        session.jobs.kill(other)
    caplog.clear()


def test_a_log_folder_that_vanishes_costs_its_job_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        platform_on(tmp_path / "state") as platform,
        Session(platform.url, platform.token) as session,
    ):
        gate = tmp_path / "gate"
        other = start(session, is_gated(gate, "echo ended"))
        job = start(session, "sh -c 'echo begun; sleep 600'")
        session.jobs.wait(job, until="running")
        folder = tmp_path / "state" / "jobs" / job.id
        shutil.rmtree(folder)
        with pytest.raises(ResourceNotFound, match=f"somebody has deleted .*{job.id}"):
            list(session.jobs.logs(job))
        assert session.jobs.status(job.id).status is JobStatus.RUNNING
        session.jobs.kill(job)
        assert session.jobs.wait(job, timeout=20).status is JobStatus.CANCELLED
        gate.touch()
        assert session.jobs.wait(other, timeout=20).status is JobStatus.SUCCEEDED
        assert list(session.jobs.logs(other)) == ["begun", "ended"]
        again = start(session, "echo again")
        assert list(session.jobs.logs(again)) == ["again"]
    assert "is ended by force" in caplog.text
    caplog.clear()


def test_a_log_that_vanishes_does_not_hide_how_its_job_ended(tmp_path: Path) -> None:
    with (
        platform_on(tmp_path / "state") as platform,
        Session(platform.url, platform.token) as session,
    ):
        gate = tmp_path / "gate"
        job = start(session, is_gated(gate, "exit 7"))
        session.jobs.wait(job, until="running")
        (tmp_path / "state" / "jobs" / job.id / "log").unlink()
        gate.touch()
        assert session.jobs.wait(job, timeout=20).history.exit_code == 7


@pytest.mark.parametrize(
    ("damage", "is_unfinished"),
    [
        ('answer = \'{"id": "j\'', False),
        ("answer = x'00ff00'", False),
        ("transitions = '[{'", True),
        ("transitions = '[]'", True),
        ("description = ''", True),
        ("description = '{}'", True),
        ("phase = 'nonsense'", True),
    ],
)
def test_a_damaged_row_is_told_and_costs_no_other_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, is_unfinished: bool
) -> None:
    state = tmp_path / "state"
    with platform_on(state) as platform, Session(platform.url, platform.token) as session:
        jobs = [session.jobs.wait(start(session, f"echo {number}")) for number in range(3)]
    database = sqlite3.connect(state / "platform.db", isolation_level=None)
    life = "status = 'running', phase = 'live', answer = NULL, " if is_unfinished else ""
    database.execute(f"UPDATE jobs SET {life}{damage} WHERE id = ?", (jobs[1].id,))
    database.close()
    with platform_on(state) as platform, Session(platform.url, platform.token) as session:
        assert [job.id for job in session.jobs.list()] == [jobs[0].id, jobs[2].id]
        assert [session.jobs.status(job.id) for job in jobs[::2]] == jobs[::2]
        with pytest.raises(ServerError, match=f"{jobs[1].id}.* damaged"):
            session.jobs.status(jobs[1].id)
        again = session.jobs.wait(start(session, "echo again"), timeout=20)
        assert again.status is JobStatus.SUCCEEDED
    assert any(jobs[1].id in line and "damaged" in line for line in caplog.messages)
    caplog.clear()


@pytest.mark.parametrize("at", [0, 50, 4096])
def test_a_database_that_is_damaged_is_refused_with_words(tmp_path: Path, at: int) -> None:
    with platform_on(tmp_path) as platform, Session(platform.url, platform.token) as session:
        for number in range(5):
            start(session, f"echo {number}")
    with open(tmp_path / "platform.db", "r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * 20000)
    with pytest.raises(ConfigError, match=r"platform\.db .*--state"):
        platform_on(tmp_path).start()


def test_a_job_that_is_refused_leaves_no_web_page_behind(tiny_disk: Path) -> None:
    with (
        platform_on(tiny_disk / "state") as platform,
        Session(platform.url, platform.token) as session,
    ):
        fill(tiny_disk)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with pytest.raises(ServerError):
                start(session, "true", http=HTTPPort(port=80), description="x" * 100_000)
        assert len(os.listdir("/proc/self/fd")) < before + 10
        (tiny_disk / "filler").unlink()


def test_what_cannot_be_stored_is_answered_with_the_name_of_the_full_disk(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        platform_on(tiny_disk / "state") as platform,
        Session(platform.url, platform.token) as session,
    ):
        session.secrets.add("before", b"value")
        fill(tiny_disk)
        full = f"the disk mounted at {tiny_disk} is full"

        def start_and_kill_many() -> None:
            for _ in range(1000):
                session.jobs.kill(start(session, "sleep 60"))

        attempts: list[Callable[[], object]] = [
            lambda: session.secrets.add("new", b"v" * 5000),
            lambda: session.secrets.add("before", b"v" * 5000),
            lambda: [session.disks.create(MIB, name=f"disk-{n}") for n in range(1000)],
            lambda: [platform.add_user(f"user-{n}") for n in range(1000)],
            start_and_kill_many,
        ]
        for attempt in attempts:
            with pytest.raises(InsufficientStorage, match=full) as refusal:
                attempt()
            assert refusal.value.status == 507
        with pytest.raises(StorageError, match=full) as refused:
            session.storage.create("storage:file", b"x" * 100_000)
        assert refused.value.errno == errno.ENOSPC
        assert session.secrets.get("before") == b"value"
        assert not any(disk.name == "disk-999" for disk in session.disks.list())
        assert all(disk.status == "Ready" for disk in session.disks.list())
        (tiny_disk / "filler").unlink()
        session.secrets.add("new", b"v" * 5000)
        assert session.secrets.get("new") == b"v" * 5000
        assert session.disks.create(MIB, name="at-last").status == "Ready"
    caplog.clear()


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 5, 10, 20, 40])
def test_a_first_start_on_a_full_disk_leaves_a_folder_that_can_be_used(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture, pages: int
) -> None:
    fill(tiny_disk)
    with open(tiny_disk / "filler", "r+b") as filler:
        filler.truncate((tiny_disk / "filler").stat().st_size // 4096 * 4096 - pages * 4096)
    try:
        platform_on(tiny_disk / "state").start().close()
    except ConfigError as error:
        assert f"the disk mounted at {tiny_disk} is full" in str(error)  # noqa: PT017
        assert "free some space" in str(error)  # noqa: PT017
    (tiny_disk / "filler").unlink()
    caplog.clear()
    with (
        platform_on(tiny_disk / "state") as platform,
        Session(platform.url, platform.token) as session,
    ):
        assert list(session.jobs.logs(start(session, "echo works"))) == ["works"]


def test_old_jobs_can_be_removed_from_a_full_disk(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tiny_disk / "state"
    with platform_on(state) as platform, Session(platform.url, platform.token) as session:
        noisy = "head -c 100000 /dev/zero"
        ids = [session.jobs.wait(start(session, noisy)).id for _ in range(3)]
        fill(tiny_disk)
        assert prune(state, Retention(keep=1)) == 2
        assert [job.id for job in session.jobs.list()] == ids[2:]
        assert os.listdir(state / "jobs") == ids[2:]
    caplog.clear()
