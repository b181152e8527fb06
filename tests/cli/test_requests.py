"""How many requests and connections things take; each is a round trip over a slow line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import neuro_sync
from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform
from tests.bench.counting import Counts, counting
from tests.bench.operations import OPERATIONS, SMALL_FILES


@pytest.fixture(scope="module")
def counts() -> Iterator[tuple[Counts, LocalPlatform]]:
    with counting() as counts, LocalPlatform(ephemeral=True, cores=64, memory=2**40) as platform:
        yield counts, platform


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / str(number)).write_bytes(b"x" * 4096)
    return folder


@pytest.fixture
def login(counts: tuple[Counts, LocalPlatform], home: Path) -> Iterator[tuple[str, Counts]]:
    """A saved login, a job that runs, and what came since."""
    count, platform = counts
    assert home
    neuro_sync.login_with_token(platform.token, url=platform.url)
    with Session() as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 600")
        session.jobs.wait(job, until="running")
        count.take()
        yield job.id, count
        session.jobs.kill(job)
        count.take()


def fewest(run: Callable[[], Counts], requests: int) -> Counts:
    """Return the counts of the run that took the fewest requests, of up to ten.

    A job that a busy machine is slow to start or to end is asked for again: no fault of the client.
    """
    best = run()
    for _ in range(9):
        if len(best.requests) <= requests:
            break
        best = min(best, run(), key=lambda counts: len(counts.requests))
    return best


@pytest.mark.parametrize(
    ("operation", "requests", "connections"),
    [
        ("first status", 1, 1),
        ("start to first line", 3, 2),
        ("first exec", 1, 1),
        ("two execs", 2, 2),
        (f"{SMALL_FILES} files up", SMALL_FILES + 3, 20),
        (f"{SMALL_FILES} files down", SMALL_FILES + 1, 20),
    ],
)
def test_a_new_session_asks_for_nothing_twice(
    login: tuple[str, Counts], folder: Path, operation: str, requests: int, connections: int
) -> None:
    job_id, count = login
    with Session() as session:
        if operation.endswith("down"):
            session.storage.upload_dir(folder, "storage:small")
            count.take()

    def run() -> Counts:
        with Session() as session:
            OPERATIONS[operation][0](session, job_id, folder)
        return count.take()

    taken = fewest(run, requests)
    assert len(taken.requests) == requests, taken.requests
    assert len(taken.connections) <= connections


@pytest.mark.parametrize(
    ("arguments", "requests"),
    [
        (["status", "JOB"], 1),
        (["ps"], 1),
        (["exec", "-T", "JOB", "true"], 1),
        (["run", "-T", "-s", "cpu-small", "any", "true"], 5),
    ],
)
def test_a_command_asks_for_nothing_twice(
    login: tuple[str, Counts], arguments: list[str], requests: int
) -> None:
    job_id, count = login
    line = [job_id if word == "JOB" else word for word in arguments]

    def run() -> Counts:
        ended = subprocess.run(
            [sys.executable, "-m", "neuro_sync", *line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return count.take()

    taken = fewest(run, requests)
    assert len(taken.requests) == requests, taken.requests
    assert len(taken.connections) == 1


def test_a_log_of_an_ended_job_is_one_connection(
    login: tuple[str, Counts],
) -> None:
    _, count = login
    with Session() as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command="echo line")
        session.jobs.wait(job)
    count.take()
    with Session() as session:
        assert list(session.jobs.logs(job)) == ["line"]
    assert len(count.take().connections) == 1
