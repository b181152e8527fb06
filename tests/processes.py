"""Processes of this machine, as a test looks at them: whether they live, and which one is meant."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Look until something holds, for at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def supervisor_of(state: Path, job_id: str) -> int:
    return int((state / "jobs" / job_id / "lock").read_text())


def outside(state: Path, job_id: str, pid: int) -> int:
    """Return the pid on the machine of a process that knows itself by another one in its job."""
    for process in psutil.Process(supervisor_of(state, job_id)).children(recursive=True):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        names = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid"))
        if int(names[-1]) == pid:
            return process.pid
    raise AssertionError(f"job {job_id} has no process {pid}")


@contextmanager
def platform_process(
    state: Path, *options: str, port: int = 0, stderr: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run ``neuro local up`` until the block ends, and wait for its banner.

    Its jobs may write what is beside the state folder.
    """
    command = [sys.executable, "-m", "neuro_sync", "local", "up", "--state", str(state)]
    command += ["--writable", str(state.parent)]
    with subprocess.Popen(
        [*command, "--port", str(port), *options],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
