"""What holds for a job whatever runs it: the same tests, for processes and for containers."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from websocket import WebSocketTimeoutException

from neuro_sync import (
    IllegalArgumentError,
    JobDescription,
    JobStatus,
    ResourceNotFound,
    Session,
    Volume,
)
from neuro_sync.local.server import LocalPlatform
from neuro_sync.models import frames
from tests.docker_engine import IMAGE
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from tests.local.conftest import Channel, Dial, Run

FOREVER = "sh -c 'trap \"exit 9\" TERM; echo ready; while :; do sleep 0.05; done'"
PLAIN = (frames.CHANNELS,)
TERMINAL: dict[str, Any] = {"tty": "1", "stdin": "1", "stdout": "1", "stderr": "0"}


@pytest.fixture(scope="session", params=["process", "docker"])
def platform(request: pytest.FixtureRequest, platform: LocalPlatform) -> LocalPlatform:
    if request.param == "process":
        return platform
    running: LocalPlatform = request.getfixturevalue("docker_platform")
    return running


@pytest.fixture
def run(session: Session) -> Iterator[Run]:
    started: list[JobDescription] = []

    def run_command(command: str, **options: Any) -> JobDescription:
        job = start(session, command, **options)
        started.append(job)
        return session.jobs.wait(job, until="running")

    yield run_command
    for job in started:
        session.jobs.kill(job)


def start(session: Session, command: str, **options: Any) -> JobDescription:
    return session.jobs.start(image=IMAGE, preset_name="cpu-small", command=command, **options)


def ready(session: Session, job: JobDescription) -> JobDescription:
    """Wait until a job has written its first line."""
    with session.jobs.logs(job) as lines:
        next(lines)
    return job


def ready_bytes(session: Session, job: JobDescription) -> JobDescription:
    """Wait until a job has written something, be it no whole line."""
    with session.jobs.monitor(job) as pieces:
        next(iter(pieces))
    return job


@pytest.mark.parametrize(
    ("command", "code", "status"),
    [
        ("true", 0, JobStatus.SUCCEEDED),
        ("sh -c 'exit 3'", 3, JobStatus.FAILED),
        ("no-such-program", 127, JobStatus.FAILED),
        ("/etc", 126, JobStatus.FAILED),
    ],
)
def test_a_job_ends_with_its_exit_code(
    session: Session, command: str, code: int, status: JobStatus
) -> None:
    ended = session.jobs.wait(start(session, command))
    assert (ended.history.exit_code, ended.status) == (code, status)


def test_a_program_that_is_not_there_is_named(session: Session) -> None:
    ended = session.jobs.wait(start(session, "no-such-program"))
    assert ended.reason == "ContainerCannotRun"
    assert ended.history.description == "there is no program 'no-such-program'"


def test_a_job_is_pending_then_running_then_over(session: Session) -> None:
    ended = session.jobs.wait(start(session, "true"))
    assert [item.status for item in ended.history.transitions] == [
        JobStatus.PENDING,
        JobStatus.RUNNING,
        JobStatus.SUCCEEDED,
    ]


def test_a_failed_job_is_described_by_the_end_of_its_output(session: Session) -> None:
    ended = session.jobs.wait(start(session, "sh -c 'echo wrong >&2; exit 1'"))
    assert (ended.reason, ended.history.description) == ("Error", "wrong")


def test_a_log_has_each_byte_of_both_streams(session: Session) -> None:
    job = start(session, r"""sh -c 'printf "a\377b\r\nc"; printf "\000d" >&2'""")
    written = b"".join(session.jobs.monitor(job))
    assert sorted(written) == sorted(b"a\xffb\r\nc\x00d")


def test_no_stream_breaks_into_a_line_of_the_other(session: Session) -> None:
    pairs = "printf err >&2; echo out; echo or >&2"
    job = start(session, f"sh -c 'for i in $(seq 2000); do {pairs}; done'")
    lines = [*session.jobs.logs(job)]
    # On a busy machine one of them may take longer than the other stream waits.
    assert lines.count("error") > 1980
    assert sorted("".join(lines)) == sorted("error" * 2000 + "out" * 2000)


def test_a_line_that_takes_long_does_not_hold_the_other_stream_up(
    session: Session, run: Run
) -> None:
    job = run("sh -c 'printf prompt; echo error >&2; exec sleep 600'")
    written = b""
    with session.jobs.monitor(job) as pieces:
        while len(written) < 12:
            written += next(pieces)
    assert written in (b"prompterror\n", b"error\nprompt")


def test_a_line_that_is_not_whole_is_in_the_log_at_once(session: Session, run: Run) -> None:
    job = run("sh -c 'printf prompt; sleep 600'")
    with session.jobs.monitor(job) as pieces:
        assert next(iter(pieces)) == b"prompt"


def test_long_output_is_whole_and_in_order(session: Session) -> None:
    job = start(session, "seq 200000")
    assert b"".join(session.jobs.monitor(job)) == b"".join(b"%d\n" % n for n in range(1, 200001))


def test_lines_bear_the_time_at_which_they_came(session: Session) -> None:
    before = time.time()
    job = start(session, "sh -c 'echo one; echo two'")
    session.jobs.wait(job)
    after = time.time()
    stamps = [line.partition(" ")[0] for line in session.jobs.logs(job, timestamps=True)]
    instants = [_seconds(stamp) for stamp in stamps]
    assert len(instants) == 2
    assert before <= instants[0] <= instants[1] <= after


def _seconds(stamp: str) -> float:
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction}")


def test_a_job_sees_its_environment_and_its_folder(session: Session) -> None:
    job = start(session, "sh -c 'echo $MINE; pwd'", env={"MINE": "a b=c"}, working_dir="/tmp")
    assert list(session.jobs.logs(job)) == ["a b=c", "/tmp"]


def test_an_entrypoint_comes_before_the_command(session: Session) -> None:
    job = start(session, "'%s|%s' a 'b c'", entrypoint="printf")
    assert b"".join(session.jobs.monitor(job)) == b"a|b c"


def test_a_terminal_is_one_output(session: Session) -> None:
    job = start(session, "sh -c 'test -t 0 && test -t 1 && echo $TERM; echo e >&2'", tty=True)
    assert b"".join(session.jobs.monitor(job)) == b"xterm-256color\r\ne\r\n"


def test_a_killed_job_is_cancelled_and_its_processes_end(session: Session, run: Run) -> None:
    job = ready(session, run(FOREVER))
    session.jobs.kill(job)
    ended = session.jobs.status(job)
    assert (ended.status, ended.reason) == (JobStatus.CANCELLED, "UserRequested")
    with session.jobs.logs(job) as lines:  # it ends as soon as all processes have
        assert next(lines) == "ready"
        list(lines)


def test_a_job_that_does_not_heed_is_made_to_end(session: Session, run: Run) -> None:
    job = ready(session, run("""sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'"""))
    session.jobs.kill(job)
    with session.jobs.logs(job) as lines:
        assert list(lines) == ["ready"]


def test_a_signal_reaches_the_jobs_first_process(session: Session, run: Run) -> None:
    job = ready(session, run(FOREVER))
    session.jobs.send_signal(job, "SIGTERM")
    assert session.jobs.wait(job).history.exit_code == 9


def test_a_job_that_is_sent_sigkill_fails_with_137(session: Session, run: Run) -> None:
    job = ready(session, run(FOREVER))
    session.jobs.send_signal(job)
    ended = session.jobs.wait(job)
    assert (ended.status, ended.history.exit_code) == (JobStatus.FAILED, 137)


# exec


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", {"exit_code": 0}),
        ("sh -c 'exit 3'", {"exit_code": 3}),
        ("no-such", {"exit_code": 127, "message": "there is no program 'no-such'"}),
        ("/etc", {"exit_code": 126, "message": "'/etc' cannot be run: Permission denied"}),
    ],
)
def test_a_command_in_a_job_ends_with_its_exit_code(
    dial: Dial, run: Run, command: str, status: dict[str, object]
) -> None:
    heard = dial(run(FOREVER), "exec", cmd=command).rest()
    assert heard.statuses == [status]
    assert heard.close_code == 1000


def test_a_command_has_two_outputs_and_an_input_that_ends(session: Session, run: Run) -> None:
    job = run(FOREVER, env={"MINE": "here"})
    data = bytes(range(256)) * 4000
    copied = session.jobs.run_command(job, "cat", input=data)
    assert (copied.stdout, copied.exit_code) == (data, 0)
    told = session.jobs.run_command(job, "sh -c 'echo $MINE; echo error >&2'")
    assert (told.stdout, told.stderr) == (b"here\n", b"error\n")


def test_a_command_has_a_terminal_of_the_size_that_it_is_told(dial: Dial, run: Run) -> None:
    channel = dial(run(FOREVER), "exec", cmd="env PS1='# ' sh", **TERMINAL)
    channel.send(b'\x04{"height": 33, "width": 121}')
    channel.until(b"# ")  # a shell that starts throws away what was typed before
    until_told(channel, b"33 121")
    channel.send(b"\x00exit 5\n")
    assert channel.rest().statuses == [{"exit_code": 5}]


def test_a_command_whose_client_leaves_is_ended(session: Session, dial: Dial, run: Run) -> None:
    job = run(FOREVER)
    channel = dial(job, "exec", cmd="sh -c 'echo $$; exec sleep 4242'")
    pid = channel.until(b"\n").decode().strip()

    def is_there() -> bool:
        return session.jobs.run_command(job, f"sh -c 'kill -0 {pid}'").exit_code == 0

    assert is_there()
    channel.leave()
    deadline = time.monotonic() + 10
    while is_there():
        assert time.monotonic() < deadline, "the command is ended"


def test_a_job_that_is_over_runs_no_command(session: Session) -> None:
    job = session.jobs.wait(start(session, "true"))
    with pytest.raises(ResourceNotFound, match="is not running"):
        session.jobs.exec(job, "true")


# attach


def test_who_attaches_takes_part_in_the_jobs_conversation(dial: Dial, run: Run) -> None:
    job = run("sh -c 'while read line; do echo got $line; done'")
    channel = dial(job, "attach", offer=PLAIN, stdin=1)
    assert channel.message() == b"\x01"
    channel.send(b"\x00hello\n")
    assert channel.until(b"\n") == b"got hello\n"
    channel.leave()
    again = dial(job, "attach", offer=PLAIN, stdin=1)
    assert again.message() == b"\x01"
    again.send(b"\x00again\n")
    assert again.until(b"\n") == b"got again\n"


def test_who_attaches_as_in_2020_is_told_what_was_said_before(
    session: Session, dial: Dial, run: Run
) -> None:
    job = ready(session, run("sh -c 'echo ready; read line; echo got $line'"))
    channel = dial(job, "attach", offer=(), stdin=1, logs=1)
    assert channel.message() == b"\x01ready\n"
    channel.send(b"hello\n")
    assert channel.rest().stdout == b"got hello\n"


def test_attach_ends_with_the_job(dial: Dial, run: Run) -> None:
    channel = dial(run("sh -c 'read line; exit 4'"), "attach", offer=PLAIN, stdin=1)
    channel.send(b"\x00go\n")
    heard = channel.rest()
    assert (heard.statuses, heard.close_code) == ([{"exit_code": 0}], 1000)


def test_a_killed_job_ends_attach_without_a_status(session: Session, dial: Dial, run: Run) -> None:
    job = ready(session, run(FOREVER))
    channel = dial(job, "attach", offer=PLAIN)
    session.jobs.kill(job)
    heard = channel.rest()
    assert (heard.statuses, heard.close_code) == ([], 1000)


def test_a_jobs_terminal_is_resized(session: Session, run: Run, dial: Dial) -> None:
    job = ready_bytes(session, run("sh", tty=True, env={"PS1": "# "}))
    channel = dial(job, "attach", offer=PLAIN, **TERMINAL)
    channel.send(b'\x04{"height": 33, "width": 121}')
    until_told(channel, b"33 121")


def until_told(channel: Channel, size: bytes) -> None:
    """Ask a shell for its terminal's size until it is as it should be."""
    channel.websocket.settimeout(2)
    seen = b""
    told = None
    while told != size:
        channel.send(b"\x00stty size\n")
        # A shell may throw away what is typed while it sets its terminal up for a command.
        with suppress(WebSocketTimeoutException):
            while (found := re.search(rb"(\d+ \d+)\r\n", seen)) is None:
                seen += channel.message()[1:]
            told, seen = found[1], seen[found.end() :]


# The rest


def test_bytes_go_to_a_port_of_the_job_and_come_back(
    session: Session, dial: Dial, platform: LocalPlatform, run: Run
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = ready(session, run(_server(platform, port)))
    channel = dial(job, f"port_forward/{port}", offer=())
    channel.send(b"hello")
    assert channel.message() == b"hello"
    status, body = dial.refused(job, f"port_forward/{port + 1 if port < 65535 else 1}", offer=())
    assert (status, body["error"]) == (400, "ConnectionRefusedError(111, 'Connection refused')")
    channel.leave()  # after which the server ends, and the job


def _server(platform: LocalPlatform, port: int) -> str:
    """Return what echoes at a port; it says so when it can be reached."""
    if platform.runtime == "docker":
        wait = f"until netstat -ltn | grep -q :{port}; do sleep 0.01; done"
        return f"sh -c 'nc -ll -p {port} -e cat & {wait}; echo ready; wait'"
    return (
        "python -c 'import socket; "
        f'listener = socket.create_server(("127.0.0.1", {port})); print("ready", flush=True); '
        "connection = listener.accept()[0]; connection.sendall(connection.recv(9)); "
        "connection.recv(9)'"
    )


def test_what_a_job_uses_is_told_while_it_runs(session: Session, run: Run) -> None:
    job = run("sh -c 'while :; do :; done'")
    with session.jobs.top(job) as samples:
        next(samples)
        busy = next(samples)
    assert busy.cpu > 0.1
    assert busy.memory_bytes > 0
    session.jobs.kill(job)
    assert list(session.jobs.top(job)) == []


# Volumes

NAMES = {"first", "h\u00e4 'x"}
LIST = 'cd /data/in; for file in *; do echo "$file"; done'
SEEN = f"sh -c '{LIST}; cat first; echo more > second'"
FOLLOW = f"sh -c 'echo ready; until grep -qs end /data/in/first; do sleep 0.02; done; {LIST}'"


@pytest.mark.usefixtures("bubblewrap")
def test_a_volume_has_exactly_the_files_of_the_storage(session: Session, folder: str) -> None:
    storage = session.storage
    for name in NAMES:
        storage.create(f"{folder}/in/{name}", b"written by the storage\n")
    volume = session.parse.volume(f"{folder}:/data")
    seen = set(session.jobs.logs(start(session, SEEN, volumes=[volume])))
    assert seen == {*NAMES, "written by the storage"}
    with storage.open(f"{folder}/in/second") as pieces:
        assert b"".join(pieces) == b"more\n"
    assert {file.name for file in storage.list(f"{folder}/in")} == {*NAMES, "second"}
    job = start(session, FOLLOW, volumes=[volume])
    with session.jobs.logs(job) as lines:
        assert next(lines) == "ready"
        storage.rm(f"{folder}/in/second")
        storage.create(f"{folder}/in/first", b"the end")
        assert set(lines) == NAMES
    storage.rm(folder, recursive=True)


@pytest.mark.usefixtures("bubblewrap")
def test_a_read_only_volume_is_read_and_not_written(session: Session, folder: str) -> None:
    session.storage.create(f"{folder}/file", b"kept\n")
    volume = session.parse.volume(f"{folder}:/data:ro")
    tries = "cat file; echo no > file; echo no > new; rm file; mkdir folder"
    # In one stream: of two, an engine may put the one's line into the middle of the other's.
    job = start(session, f"sh -c 'exec 2>&1; cd /data; {tries}'", volumes=[volume])
    lines = [*session.jobs.logs(job)]
    assert "kept" in lines
    assert sum("Read-only file system" in line for line in lines) == 4
    assert [file.name for file in session.storage.list(folder)] == ["file"]
    with session.storage.open(f"{folder}/file") as pieces:
        assert b"".join(pieces) == b"kept\n"
    session.storage.rm(folder, recursive=True)


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/self/x"])
@pytest.mark.usefixtures("bubblewrap")
def test_where_nothing_can_be_mounted_is_refused(session: Session, target: str) -> None:
    with pytest.raises(IllegalArgumentError, match=rf"{target!r}.*such as '/data'"):
        session.jobs.start(
            image=IMAGE,
            preset_name="cpu-small",
            command="true",
            volumes=[Volume(storage_uri="storage:any", container_path=target)],
        )


@pytest.fixture
def folder() -> str:
    """The address of a folder that no other test has."""
    return f"storage:contract-{uuid4().hex}"
