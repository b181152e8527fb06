"""Text that is not UTF-8, as an argument of a command may be, is refused by its name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from neuro_sync import IllegalArgumentError, JobDescription, Session
from neuro_sync.local.server import LocalPlatform

ODD = os.fsdecode(b"caf\xe9")
START: dict[str, Any] = {"image": "any", "preset_name": "cpu-small"}
Call = Callable[[Session, JobDescription], object]

CALLS: dict[str, Call] = {
    "exec": lambda session, job: session.jobs.exec(job, ["echo", ODD]),
    "run_command": lambda session, job: session.jobs.run_command(job, ["echo", ODD]),
    "status": lambda session, job: session.jobs.status(ODD),
    "kill": lambda session, job: session.jobs.kill(ODD),
    "list": lambda session, job: list(session.jobs.list(name=ODD)),
    "tags": lambda session, job: list(session.jobs.list(tags=["a", ODD])),
    "command": lambda session, job: session.jobs.start(command=["echo", ODD], **START),
    "env": lambda session, job: session.jobs.start(env={"A": ODD}, **START),
    "description": lambda session, job: session.jobs.start(description=ODD, **START),
    "secret": lambda session, job: session.secrets.get(ODD),
    "disk": lambda session, job: session.disks.get(ODD),
    "user": lambda session, job: session.users.get_acl(ODD),
}


@pytest.fixture
def job(session: Session) -> JobDescription:
    started = session.jobs.start(command="sleep 60", **START)
    return session.jobs.wait(started, until="running")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_text_that_is_not_utf_8_is_refused_by_its_name(
    session: Session, job: JobDescription, call: Call
) -> None:
    with pytest.raises(IllegalArgumentError, match=r"caf\\udce9"):
        call(session, job)


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
    assert b"caf\\udce9" in ended.stderr
    assert b"Traceback" not in ended.stderr
