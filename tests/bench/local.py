"""The local platform by itself, in a new process: ``bench.local [durable|volatile]``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.store import Store

from .children import tell
from .servers import finished_job

LISTED = 1_000
IDLE = 5.0
GIB = 2**30
WRITE_A_GIB = f"sh -c 'yes 0123456789abcdef0123456789abcdef | head -c {GIB}'"


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the median of the seconds that something takes."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def measure() -> dict[str, float]:
    platform = LocalPlatform(ephemeral=True)
    figures = {"ready": seconds(platform.start)}
    with Session(platform.url, platform.token) as session:

        def start(command: str) -> JobDescription:
            return session.jobs.start(image="any", preset_name="cpu-small", command=command)

        def first_line() -> None:
            with session.jobs.logs(start("echo ready")) as lines:
                assert next(lines) == "ready"

        first_line()
        figures["first_line"] = seconds(first_line, 30)
        bare = [sys.executable, "-c", "pass"]
        figures["bare"] = seconds(lambda: subprocess.run(bare, check=True), 30)

        store = Store(platform.folder / "platform.db")
        for number in range(LISTED):
            store.add(finished_job(number), tags=())
        store.close()
        figures["list"] = seconds(lambda: list(session.jobs.list(limit=LISTED)), 5)

        session.jobs.wait(start("true"))
        process = psutil.Process()
        before = sum(process.cpu_times()[:2])
        time.sleep(IDLE)
        figures["idle"] = sum(process.cpu_times()[:2]) - before

        large = start(WRITE_A_GIB)
        started = time.perf_counter()
        assert sum(map(len, session.jobs.monitor(large))) == GIB
        figures["follow"] = GIB / (time.perf_counter() - started)
    platform.close()
    return figures


STARTED = 400
THREADS = 8
DISK = "/var/tmp"
"""A folder on a disk, where waiting for it takes time; the benchmark's own may be in memory."""


def measure_starts(durable: bool) -> dict[str, float]:
    """Return how many jobs a second are acknowledged, and how many are over."""
    with (
        TemporaryDirectory(dir=DISK, prefix="neuro-bench-") as state,
        LocalPlatform(state, durable=durable, cores=64, memory=2**40) as platform,
        Session(platform.url, platform.token) as session,
        ThreadPoolExecutor(THREADS) as threads,
    ):

        def start(_: int) -> JobDescription:
            return session.jobs.start(image="any", preset_name="cpu-small", command="true")

        session.jobs.wait(list(threads.map(start, range(THREADS))))
        began = time.perf_counter()
        jobs = list(threads.map(start, range(STARTED)))
        acknowledged = time.perf_counter()
        session.jobs.wait(jobs)
        over = time.perf_counter()
    return {"acknowledged": STARTED / (acknowledged - began), "over": STARTED / (over - began)}


if __name__ == "__main__":
    if sys.argv[1:]:
        tell(measure_starts(sys.argv[1] == "durable"))
    else:
        tell(measure())
