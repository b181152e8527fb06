"""How a platform ends with its program: without `close`, by a signal, or by force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuro_sync.local.cleanup import MARK, PREFIX
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import StateFolder
from tests.processes import eventually, is_alive

PROGRAM = """
import os, sys, time
from neuro_sync import Session
session = Session.local(ephemeral=True)
job = session.jobs.start(image="any", preset_name="cpu-small", command=sys.argv[1])
print(next(session.jobs.logs(job)), flush=True)
"""
JOB = "sh -c '{first} echo $$; while :; do sleep 0.1; done'"


def program(job: str, then: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + then, job],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


@pytest.mark.parametrize("first", ["", "trap : TERM;"])
def test_a_program_that_forgets_to_close_ends_soon_and_in_silence(
    first: str, tmp_path: Path
) -> None:
    then = "print(time.time(), flush=True)"
    with program(JOB.format(first=first), then, tmp_path) as process:
        out, errors = process.communicate(timeout=60)
        ended = time.time()
    _, last = out.split()
    assert errors == ""
    assert process.returncode == 0
    assert ended - float(last) < 2.5  # not the 3 s that a job may take elsewhere
    assert not [*tmp_path.glob(PREFIX + "*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_ephemeral_platform_that_is_killed_leaves_neither_jobs_nor_folder(
    number: signal.Signals, tmp_path: Path
) -> None:
    with program(JOB.format(first=""), "time.sleep(60)", tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        (folder,) = tmp_path.glob(PREFIX + "*")
        (lock,) = folder.glob("jobs/*/lock")
        supervisor = int(lock.read_text())
        process.send_signal(number)
    eventually(lambda: not folder.exists(), "the folder was left")
    assert not is_alive(supervisor)


def test_an_ephemeral_platform_cleans_up_after_those_that_nobody_cleaned_up_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, kept, used = (tmp_path / (PREFIX + name) for name in ("left", "kept", "used"))
    for folder in (left, kept, used):
        state = StateFolder(folder)
        state.open()
        if folder is not kept:
            (folder / MARK).touch()
        if folder is not used:
            state.close()
    with LocalPlatform(ephemeral=True):
        eventually(lambda: not left.exists(), "the folder was left")
        assert kept.exists()
        assert used.exists()
    state.close()
