"""What was acknowledged or reported is on the disk: a copy of it is a platform that goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuro_sync import JobDescription, JobStatus, Session
from neuro_sync.local.server import LocalPlatform

MIB = 2**20
CORES = 4


@dataclass
class Disk:
    """A file system in a file: a copy of the file is what the disk holds at that moment."""

    image: Path
    folder: Path

    def copy(self, image: Path, folder: Path) -> Disk:
        subprocess.run(["cp", "--sparse=always", str(self.image), str(image)], check=True)
        return Disk(image, folder)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        self.folder.mkdir()
        mount = ["mount", "-o", "loop", str(self.image), str(self.folder)]
        result = subprocess.run(mount, capture_output=True, text=True, check=False)
        if result.returncode:
            _cannot(f"no disk can be mounted: {result.stderr}")
        try:
            yield self.folder / "state"
        finally:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


def _cannot(why: str) -> None:
    if os.environ.get("NEURO_REQUIRE_ENGINE"):
        pytest.fail(f"{why}, and NEURO_REQUIRE_ENGINE is set")
    pytest.skip(why)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """An empty disk; with NEURO_REQUIRE_ENGINE it is a failure that there can be none."""
    make = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    if make is None:
        _cannot("there is no mkfs.ext4")
    disk = Disk(tmp_path / "image", tmp_path / "disk")
    with open(disk.image, "wb") as image:
        image.truncate(64 * MIB)
    subprocess.run([str(make), "-q", "-F", str(disk.image)], check=True)
    return disk


@contextmanager
def session_on(state: Path, writable: Path) -> Iterator[Session]:
    with (
        LocalPlatform(state, cores=CORES, memory=2**34, grace=0.2, writable=[writable]) as platform,
        Session(platform.url, platform.token) as session,
    ):
        yield session


def start(session: Session, command: str) -> JobDescription:
    return session.jobs.start(image="any", preset_name="cpu-small", command=command)


def test_what_was_reported_survives_a_power_loss(disk: Disk, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    lost = []
    with disk.mounted() as state, session_on(state, tmp_path) as session:
        session.secrets.add("key", b"value")
        session.disks.create(MIB, name="data")
        lost.append(disk.copy(tmp_path / "image-0", tmp_path / "disk-0"))
        done = [
            start(session, f"sh -c 'echo {n}; echo x >> {runs}/{n}; exit {n % 2}'")
            for n in range(8)
        ]
        ended = session.jobs.wait(done)
        going = [start(session, f"sh -c 'echo x >> {runs}/{n}; sleep 60'") for n in (8, 9)]
        session.jobs.wait(going, until="running")
        killed = start(session, "sleep 60")
        session.jobs.kill(killed)
        users = session.users.get_acl(session.username)
        lost.append(disk.copy(tmp_path / "image-1", tmp_path / "disk-1"))
    with lost[0].mounted() as state, session_on(state, tmp_path) as session:
        assert session.secrets.get("key") == b"value"
        assert session.disks.get("data").storage == MIB
        assert list(session.jobs.list()) == []
    with lost[1].mounted() as state, session_on(state, tmp_path) as session:
        assert session.secrets.get("key") == b"value"
        assert session.users.get_acl(session.username) == users
        known = {job.id: job for job in session.jobs.list()}
        assert known.keys() == {job.id for job in (*done, *going, killed)}
        assert tuple(known[job.id] for job in ended) == ended
        assert [list(session.jobs.logs(job)) for job in ended] == [[str(n)] for n in range(8)]
        assert known[killed.id].status is JobStatus.CANCELLED
        assert list(session.jobs.logs(killed)) == []
        for job in going:  # nobody knows how far they came
            assert session.jobs.wait(job, timeout=20).reason == "NotFound"
        assert session.jobs.wait(start(session, "true")).status is JobStatus.SUCCEEDED
    assert {file.name: file.read_text() for file in runs.iterdir()} == {
        str(n): "x\n" for n in range(10)
    }


def test_an_acknowledged_job_that_waits_runs_after_a_power_loss(disk: Disk, tmp_path: Path) -> None:
    with disk.mounted() as state, session_on(state, tmp_path) as session:
        blockers = [start(session, "sleep 600") for _ in range(CORES)]
        session.jobs.wait(blockers, until="running")
        waiting = [start(session, f"echo {n}") for n in range(5)]
        lost = disk.copy(tmp_path / "image-0", tmp_path / "disk-0")
    with lost.mounted() as state, session_on(state, tmp_path) as session:
        for number, job in enumerate(waiting):
            assert list(session.jobs.logs(job)) == [str(number)]
            assert session.jobs.wait(job).status is JobStatus.SUCCEEDED
