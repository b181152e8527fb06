"""The command on a real terminal: what is typed and shown, and how the terminal is left."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from neuro_sync import JobDescription, JobStatus, Session

from .conftest import Open

DETACH = b"\x10\x11"
SHELL = "sh -c 'echo before; stty -echo; PS1=on: exec sh'"


@pytest.fixture
def shell(session: Session) -> Iterator[JobDescription]:
    """A job with a terminal, and a shell that waits for somebody."""
    job = session.jobs.start(image="any", preset_name="cpu-small", command=SHELL, tty=True)
    session.jobs.wait(job, until="running")
    yield job
    session.jobs.kill(job)


@pytest.fixture
def sleeper(start: Callable[[str], JobDescription], session: Session) -> Iterator[JobDescription]:
    job = start("sh -c 'echo ready; exec sleep 60'")
    session.jobs.wait(job, until="running")
    yield job
    session.jobs.kill(job)


def test_run_with_a_terminal_shows_the_prompt_and_ends_with_the_jobs_exit_code(
    neuro_terminal: Open,
) -> None:
    terminal = neuro_terminal(f"run -t any {SHELL}")
    terminal.wait_for(b"Ctrl-P Ctrl-Q")
    terminal.wait_for(b"before")  # it was written before there was anybody to see it
    terminal.wait_for(b"on:")
    assert not terminal.is_restored  # each key goes through as it is typed
    terminal.type(b"stty size; exit 7\r")
    terminal.wait_for(b"31 99")
    assert terminal.wait() == 7
    assert terminal.is_restored
    assert b"failed with exit code 7" in terminal.rest()


def test_a_command_finds_the_size_of_the_terminal_when_it_starts(
    neuro_terminal: Open, sleeper: JobDescription
) -> None:
    for _ in range(3):
        terminal = neuro_terminal(f"exec -t {sleeper.id} -- stty size")
        assert terminal.wait() == 0
        assert b"31 99" in terminal.rest()


def test_attach_shows_what_was_before_and_leaves_with_ctrl_p_ctrl_q(
    neuro_terminal: Open, shell: JobDescription, session: Session
) -> None:
    terminal = neuro_terminal(f"attach {shell.id}")
    terminal.wait_for(b"before")
    terminal.wait_for(b"on:")
    terminal.type(b"echo one-$((40+2))\r")
    terminal.wait_for(b"one-42")
    terminal.type(DETACH)
    assert terminal.wait() == 0
    assert terminal.is_restored
    shown = terminal.rest()
    assert f"neuro attach {shell.id}".encode() in shown
    assert f"neuro kill {shell.id}".encode() in shown
    assert session.jobs.status(shell).status is JobStatus.RUNNING


def test_ctrl_c_in_a_job_with_a_terminal_is_for_the_job(
    neuro_terminal: Open, session: Session
) -> None:
    script = 'trap "echo got it; exit 9" INT; echo on; while :; do sleep .02; done'
    terminal = neuro_terminal(f"run -t any -- sh -c '{script}'")
    terminal.wait_for(b"on\r\n")
    terminal.type(b"\x03")
    terminal.wait_for(b"got it")
    assert terminal.wait() == 9
    assert terminal.is_restored


def test_ctrl_c_without_a_terminal_detaches_and_tells_how_to_come_back(
    neuro_terminal: Open, session: Session
) -> None:
    terminal = neuro_terminal("run --name left-alone any -- sh -c 'echo on; exec sleep 60'")
    terminal.wait_for(b"it will NOT terminate the job")  # the rule comes before the output
    terminal.wait_for(b"on\r\n")
    terminal.type(b"\x03")
    assert terminal.wait() == 0
    shown = terminal.rest()
    assert b"neuro attach left-alone" in shown
    assert b"neuro kill left-alone" in shown
    assert b"Traceback" not in shown
    assert terminal.is_restored
    assert session.jobs.status("left-alone").status is JobStatus.RUNNING
    session.jobs.kill("left-alone")


def test_exec_has_a_terminal_if_the_user_has_one(
    neuro_terminal: Open, sleeper: JobDescription
) -> None:
    terminal = neuro_terminal(f"exec {sleeper.id} env PS1=on: sh")
    terminal.wait_for(b"on:")
    terminal.type(b"test -t 0 && echo with-$((40+2)); exit 3\r")
    terminal.wait_for(b"with-42")
    assert terminal.wait() == 3
    assert terminal.is_restored


def test_a_new_size_is_passed_on_to_the_command(
    neuro_terminal: Open, sleeper: JobDescription
) -> None:
    command = "sh -c 'trap \"stty size\" WINCH; echo on; while :; do sleep .02; done'"
    terminal = neuro_terminal(f"exec -t {sleeper.id} {command}")
    terminal.wait_for(b"on\r\n")
    terminal.resize(44, 123)
    terminal.wait_for(b"44 123")
    terminal.type(DETACH)
    assert terminal.wait() == 0
    assert terminal.is_restored


@pytest.mark.parametrize("line", ["attach {}", "exec -t {} env PS1=on: sh", "top {}"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_command_that_is_killed_restores_the_terminal(
    neuro_terminal: Open, shell: JobDescription, line: str, number: signal.Signals
) -> None:
    terminal = neuro_terminal(line.format(shell.id))
    terminal.wait_for(b"MEMORY" if "top" in line else b"on:")
    terminal.program.send_signal(number)
    assert terminal.wait() in (-number, 128 + number)
    assert terminal.is_restored
    shown = terminal.rest()
    # A cursor that was hidden is shown again.
    assert shown.rfind(b"\x1b[?25h") >= shown.rfind(b"\x1b[?25l")


def test_top_is_a_table_that_ctrl_c_leaves(neuro_terminal: Open, sleeper: JobDescription) -> None:
    terminal = neuro_terminal(f"top {sleeper.id}")
    terminal.wait_for(sleeper.id.encode())
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    shown = terminal.rest()
    assert shown.rfind(b"\x1b[?25h") >= shown.rfind(b"\x1b[?25l")
    assert b"Traceback" not in shown
