"""Many jobs and many readers at once: in order, in full, and nobody else has to wait.

``NEURO_TEST_LOAD=500`` is the load that is promised, on two cores; the usual runs take a part.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from neuro_sync import JobDescription, JobPriority, JobStatus, Session
from neuro_sync.local.state import running_platform
from tests.processes import platform_process

from .conftest import Run

JOBS = int(os.environ.get("NEURO_TEST_LOAD", "40"))
FOLLOWERS = 200
LOG = 2**18
"""Bytes that each of them reads."""
MIB = 2**20
IS_WHOLE = JOBS >= 500
ORDER = [JobPriority.HIGH, JobPriority.NORMAL, JobPriority.LOW]


def began_at(job: JobDescription) -> datetime:
    assert job.history.started_at is not None
    return job.history.started_at


def test_jobs_that_are_queued_at_once_run_by_priority_while_the_platform_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    gate = tmp_path / "gate"
    with platform_process(state, "--cpu", "2", "--memory", "64G") as platform:
        address = running_platform(state)
        assert address is not None
        process = psutil.Process(platform.pid)
        with Session(address.url, address.token) as session, ThreadPoolExecutor(8) as pool:

            def submit(number: int) -> str:
                wait = f"until [ -e {gate} ]; do sleep 0.02; done"
                return session.jobs.start(
                    image="any",
                    preset_name="cpu-small",
                    command=f"sh -c '{wait}'" if number < 2 else "true",
                    priority=ORDER[2 - number % 3],
                ).id

            first = [submit(number) for number in range(2)]  # they take both cores
            ids = [*first, *pool.map(submit, range(2, JOBS))]
            queued = process.memory_info().rss
            gate.touch()

            opened = time.perf_counter()
            delays: list[float] = []
            memory: list[int] = []
            watched = ids[-1]
            while session.jobs.get_capacity()["cpu-small"] < 2:
                for _ in range(20):
                    began = time.perf_counter()
                    session.jobs.status(watched)
                    delays.append(time.perf_counter() - began)
                    time.sleep(0.002)
                memory.append(process.memory_info().rss)

            took = time.perf_counter() - opened
            jobs = {job.id: job for job in session.jobs.list()}
            assert jobs.keys() == set(ids)
            assert {job.status for job in jobs.values()} == {JobStatus.SUCCEEDED}
            waited = [jobs[id] for id in ids[2:]]
            begun = sorted(waited, key=began_at)
            ranks = [ORDER.index(job.priority) for job in begun]
    # Two run at a time, so that neighbours may begin in either order.
    assert sum(one > other for one, other in pairwise(ranks)) <= 2, ranks
    p99 = statistics.quantiles(delays, n=100)[98]
    figures = (
        f"{JOBS} jobs: status p50 {statistics.median(delays) * 1000:.1f} ms,"
        f" p99 {p99 * 1000:.1f} ms, slowest {max(delays) * 1000:.1f} ms of {len(delays)};"
        f" memory {queued / MIB:.0f} MiB queued, {max(memory) / MIB:.0f} MiB at most;"
        f" {JOBS / took:.0f} jobs a second, load {os.getloadavg()[0]:.1f}"
    )
    if IS_WHOLE:
        with capsys.disabled():
            sys.stdout.write(f"\n{figures}\n")
    assert p99 < (0.05 if IS_WHOLE else 0.5), figures  # else other tests run beside
    assert max(memory) - queued < 16 * MIB, figures


def test_all_followers_of_a_log_get_every_byte(session: Session, run: Run, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    line = "x" * 63
    rest = f"yes {line} | head -c {LOG}"
    job = run(f"sh -c 'until [ -e {gate} ]; do sleep 0.02; done; {rest}'")
    expected = (line + "\n").encode() * (LOG // 64)
    followers = [session.jobs.monitor(job.id) for _ in range(FOLLOWERS)]
    gate.touch()
    with ThreadPoolExecutor(FOLLOWERS) as pool:
        logs = list(pool.map(b"".join, followers))
    assert len(logs) == FOLLOWERS
    assert set(logs) == {expected}
