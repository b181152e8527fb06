"""Text that is not UTF-8, as an argument of a command may be, is refused by its name."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform

ODD = os.fsdecode(b"caf\xe9")
START: dict[str, Any] = {"image": "any", "preset_name": "cpu-small"}


@pytest.fixture
def job(session: Session) -> JobDescription:
    started = session.jobs.start(command="sleep 60", **START)
    return session.jobs.wait(started, until="running")


def test_other_text_is_sent(session: Session, job: JobDescription) -> None:
    text = "caf\u00e9 \U0001f600"
    assert session.jobs.run_command(job, ["echo", text]).stdout.decode() == f"{text}\n"
    started = session.jobs.start(description=text, command=["echo", text], **START)
    assert started.description == text
    assert list(session.jobs.logs(started)) == [text]


@pytest.mark.parametrize(
    "words",
    [["exec", "-T", "JOB", "--", "echo"], ["run", "any", "--", "echo"], ["status"], ["kill"]],
    ids=lambda words: words[0],
)
def test_the_command_tells_which_argument_it_is(
    platform: LocalPlatform, job: JobDescription, words: list[str]
) -> None:
    line = [job.id if word == "JOB" else word for word in words]
    ended = subprocess.run(
        [sys.executable, "-m", "neuro_sync", *map(os.fsencode, line), os.fsencode(ODD)],
        env={**os.environ, "NEURO_SYNC_URL": platform.url, "NEURO_SYNC_TOKEN": platform.token},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 65
    assert b"caf\\xe9" in ended.stderr
    assert b"Traceback" not in ended.stderr
