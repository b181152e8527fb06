"""Standard streams that are pipes, full, closed, or of another encoding."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform
from tests.relays import DoorWithoutEndOfInput

from .conftest import NEURO, Process


@pytest.fixture
def hosted(
    neuro_process: Process, platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Process]:
    """Run the command against a platform that is as the hosted one in this."""
    with DoorWithoutEndOfInput(platform.port) as door:
        monkeypatch.setenv("NEURO_SYNC_URL", door.url)
        yield neuro_process


@pytest.fixture
def job(session: Session, start: Callable[[str], JobDescription]) -> Iterator[JobDescription]:
    running = session.jobs.wait(start("sleep 60"), until="running")
    yield running
    session.jobs.kill(running)


def test_a_command_that_ends_by_itself_gets_its_input(hosted: Process, job: JobDescription) -> None:
    ended = hosted(f"exec -T {job.id} -- head -n 1", input="hi\nmore\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "hi\n", "")
    ended = hosted(
        f"exec -T {job.id} -- sh -c 'read x; sleep .3; echo got $x; exit 4'", input="a\n"
    )
    assert (ended.returncode, ended.stdout) == (4, "got a\n")


def test_a_command_that_needs_an_end_is_given_up_with_its_output_so_far(
    hosted: Process, job: JobDescription
) -> None:
    ended = hosted(f"exec -T --eof-timeout 1s {job.id} cat", input="so far\n")
    assert (ended.returncode, ended.stdout) == (124, "so far\n")
    assert "nothing happened for 1 s" in ended.stderr
    assert "--eof-timeout" in ended.stderr


def test_no_input_is_an_end_that_any_platform_can_send(
    hosted: Process, job: JobDescription, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_text("two\nlines\n")
    for words, name, expected in (("cat", "empty", ""), ("head -n 2", "full", "two\nlines\n")):
        with open(tmp_path / name) as file:
            ended = subprocess.run(
                [*NEURO, "exec", "-T", job.id, "--", *words.split()],
                stdin=file,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
        assert ended.stdout == expected
    assert hosted(f"exec -T {job.id} cat", input="").returncode == 0


def test_a_job_that_is_attached_gets_what_is_piped_in(
    hosted: Process, session: Session, start: Callable[[str], JobDescription]
) -> None:
    asking = session.jobs.wait(start("sh -c 'read x; echo got $x; exit 4'"), until="running")
    ended = hosted(f"attach {asking.id}", input="this\n")
    assert (ended.returncode, ended.stdout) == (4, "got this\n")
    endless = session.jobs.wait(start("sh -c 'read x; echo got $x; sleep 60'"), until="running")
    ended = hosted(f"attach --eof-timeout 1s {endless.id}", input="that\n")
    assert (ended.returncode, ended.stdout) == (124, "got that\n")
    assert session.jobs.status(endless).status.is_running
    session.jobs.kill(endless)


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell in which ``neuro`` is this command."""
    program = f'neuro() {{ {shlex.join(NEURO)} "$@"; }}; {line}'
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["bash", "-c", program], env=environment, capture_output=True, timeout=60, check=False
    )


def test_a_reader_that_leaves_ends_the_command(login: object, job: JobDescription) -> None:
    ended = shell(f"neuro exec -T {job.id} -- yes | head -n 1")
    assert (ended.stdout, ended.stderr) == (b"y\n", b"")


def test_output_that_cannot_be_written_is_told(login: object, job: JobDescription) -> None:
    ended = shell(f"neuro exec -T {job.id} -- echo lost > /dev/full")
    assert ended.returncode == 74
    assert b"No space left on device" in ended.stderr


def test_an_error_that_cannot_be_written_keeps_its_exit_code(login: object) -> None:
    assert shell("neuro status no-such-job 2> /dev/full").returncode == 72
    assert shell("neuro cp /no/such storage: 2> /dev/full").returncode == 74


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_an_empty_one(
    login: object, job: JobDescription, closed: str
) -> None:
    for words in ("ps", f"exec -T {job.id} -- echo a"):
        ended = shell(f"neuro {words} {closed}")
        assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize(
    "encoding",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
)
def test_characters_that_the_encoding_lacks_are_written_out(
    login: object, session: Session, encoding: dict[str, str]
) -> None:
    started = session.jobs.start(
        image="x", preset_name="cpu-small", description="\N{GRINNING FACE}", command="printf ☃"
    )
    session.jobs.wait(started)
    for words in (f"logs {started.id}", f"status {started.id}"):
        ended = shell(f"neuro {words}", **encoding)
        assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\u2603" in shell(f"neuro logs {started.id}", **encoding).stdout
