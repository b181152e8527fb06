"""A table: what happened, and the number that the command ends with."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Mapping

import pytest
from click.testing import Result

from neuro_sync import JobDescription, JobStatus, Session
from neuro_sync.cli import exit_codes
from neuro_sync.models.jobs import JobStatusHistory

from .conftest import NEURO, Neuro, Process


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        pytest.param("run any -- true", 0, "", id="job succeeded"),
        pytest.param("run any -- sh -c 'exit 3'", 3, "failed with exit code 3", id="job failed"),
        pytest.param("run any -- sh -c 'kill -9 $$'", 137, "exit code 137", id="job was killed"),
        pytest.param("run any -- /no/such", 127, "failed with exit code 127", id="no program"),
        pytest.param("run --preset no-such any true", 65, "no-such", id="bad value"),
        pytest.param("run -n A any true", 65, "'A'", id="bad name"),
        pytest.param("status no-such", 72, "no such job no-such; ", id="unknown job"),
        pytest.param("kill no-such", 72, "no such job no-such; ", id="unknown job to kill"),
        pytest.param("logs no-such", 72, "no such job no-such; ", id="unknown job's log"),
        pytest.param("wait no-such", 72, "no such job no-such; ", id="unknown job to wait for"),
        pytest.param("ps --frob", 64, "--frob", id="unknown option"),
        pytest.param("frob", 64, "frob", id="unknown command"),
        pytest.param("rnu", 64, "'rnu'; there is `neuro run`.", id="misspelled command"),
        pytest.param("tree", 64, "there is `neuro storage tree`.", id="command of a group"),
        pytest.param("help run", 64, "there is `neuro run --help`.", id="help"),
        pytest.param("run", 64, "IMAGE", id="lacking argument"),
        pytest.param("run --life-span soon any true", 64, "'soon' is no duration", id="bad option"),
        pytest.param("port-forward no-such 1:x", 64, "'1:x' are no ports", id="bad ports"),
        pytest.param("--color mauve ps", 64, "mauve", id="bad option before the command"),
    ],
)
def test_what_happened_is_the_exit_code(neuro: Neuro, line: str, code: int, told: str) -> None:
    ended = neuro(line)
    assert (ended.exit_code, told in ended.stderr) == (code, True), ended.output


def test_a_job_that_is_killed_meanwhile_ends_the_command_with_130(
    neuro: Neuro, session: Session
) -> None:
    ended: list[Result] = []

    def kill_it_when_it_runs(job: JobDescription) -> None:
        if job.status.is_running:
            session.jobs.kill(job)

    line = "run --name killed-soon any -- sleep 60"
    thread = threading.Thread(target=lambda: ended.append(neuro(line)))
    thread.start()
    while not list(session.jobs.list(name="killed-soon")):
        pass
    session.jobs.wait("killed-soon", until="running", on_update=kill_it_when_it_runs)
    thread.join(30)
    assert ended[0].exit_code == 130
    assert "killed-soon cancelled: UserRequested" in ended[0].stderr


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        pytest.param({"NEURO_SYNC_TOKEN": ""}, 77, "Log in with `neuro login`; or", id="no login"),
        pytest.param({"NEURO_SYNC_TOKEN": "a.eyJpZGVudGl0eSI6ICJhIn0.c"}, 77, "", id="bad token"),
        pytest.param({"NEURO_SYNC_URL": "http://127.0.0.1:9/api/v1"}, 74, "", id="no network"),
    ],
)
def test_a_platform_that_is_not_to_be_talked_to(
    neuro: Neuro,
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    code: int,
    told: str,
) -> None:
    monkeypatch.setenv("NEUROMATION_CONFIG", "/nowhere")
    monkeypatch.setenv("APOLO_CONFIG", "/nowhere")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = neuro("ps")
    assert ended.exit_code == code
    assert ended.stderr.startswith("Error: ")
    assert told in ended.stderr


def test_a_deadline_that_passes_is_124(
    neuro: Neuro, start: Callable[[str], JobDescription]
) -> None:
    job = start("sleep 60")
    ended = neuro(f"wait --timeout 0s {job.id}")
    assert ended.exit_code == 124
    neuro(f"kill {job.id}")


def test_wait_is_0_only_if_all_succeeded(
    neuro: Neuro, start: Callable[[str], JobDescription]
) -> None:
    good, bad = start("true"), start("sh -c 'exit 4'")
    assert neuro("wait", good.id).exit_code == 0
    ended = neuro("wait", good.id, bad.id)
    assert ended.exit_code == 4
    assert f"Job {bad.id} failed with exit code 4" in ended.stderr


def test_kill_ends_all_it_can_and_tells_of_the_others(
    neuro: Neuro, start: Callable[[str], JobDescription], session: Session
) -> None:
    job = start("sleep 60")
    ended = neuro("kill", "no-such", job.id)
    assert ended.exit_code == 72
    assert ended.stdout == f"{job.id}\n"
    assert session.jobs.status(job).status is JobStatus.CANCELLED


def test_exec_ends_with_the_commands_exit_code(
    neuro_process: Process, start: Callable[[str], JobDescription], session: Session
) -> None:
    job = start("sleep 60")
    session.jobs.wait(job, until="running")
    ended = neuro_process(f"exec {job.id} -- sh -c 'echo out; echo err >&2; exit 5'")
    assert (ended.returncode, ended.stdout, ended.stderr) == (5, "out\n", "err\n")
    session.jobs.kill(job)


def test_a_command_with_an_open_quote_is_a_bad_value_and_no_missing_job(
    neuro: Neuro, start: Callable[[str], JobDescription], session: Session
) -> None:
    job = session.jobs.wait(start("sleep 60"), until="running")
    ended = neuro("exec", "-T", job.id, "echo 'it")
    assert ended.exit_code == 65
    assert "cannot be split into words: No closing quotation" in ended.stderr
    assert "not running" not in ended.stderr
    session.jobs.kill(job)


def test_ctrl_c_where_nothing_is_detached_is_130_and_says_nothing(
    login: object, start: Callable[[str], JobDescription], session: Session
) -> None:
    job = start("sh -c 'echo on; exec sleep 60'")
    with subprocess.Popen(
        [*NEURO, "logs", job.id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == ""
    session.jobs.kill(job)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("succeeded", 0, 0),
        ("failed", 3, 3),
        ("failed", None, exit_codes.PLATFORM_FAILED),
        ("failed", 0, exit_codes.PLATFORM_FAILED),
        ("cancelled", None, exit_codes.INTERRUPTED),
    ],
)
def test_a_job_without_an_exit_code_of_its_own_gets_one(
    start: Callable[[str], JobDescription], status: str, code: int | None, expected: int
) -> None:
    history = JobStatusHistory(status=JobStatus(status), exit_code=code)
    job = start("true").model_copy(update={"status": JobStatus(status), "history": history})
    assert exit_codes.of_job(job) == expected


def test_a_life_that_never_ran_is_told_to_its_end(
    start: Callable[[str], JobDescription], session: Session, neuro: Neuro
) -> None:
    ended = neuro("run any -- /no/such")
    assert "Status: pending Creating\n" in ended.stderr
    assert "Status: failed ContainerCannotRun\n" in ended.stderr


def test_a_traceback_is_shown_to_who_asks_for_it(neuro: Neuro) -> None:
    assert "Traceback" not in neuro("status no-such").stderr
    assert "Traceback" in neuro("--show-traceback status no-such").stderr
