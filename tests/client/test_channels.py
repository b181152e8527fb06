"""Commands inside jobs, from the client's call to a process of the local platform and back."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import responses

from neuro_sync import (
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    IllegalArgumentError,
    InputNotEnded,
    JobDescription,
    JobStatus,
    NotSupported,
    ResourceNotFound,
    Session,
    StreamClosed,
    StreamInterrupted,
)
from neuro_sync.local.server import LocalPlatform
from tests.relays import DoorWithoutEndOfInput
from tests.scripted_platform import JOB_ID, Cut, answer, scripted_platform

Start = Callable[[str], JobDescription]


@pytest.fixture
def job(session: Session, start: Start) -> Iterator[JobDescription]:
    """A job that runs for as long as the test."""
    started = start("sh -c 'echo ready; exec sleep 60'")
    _await_line(session, started)
    yield started
    session.jobs.kill(started)


def _await_line(session: Session, job: JobDescription) -> None:
    with session.jobs.logs(job) as lines:
        next(lines)


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_the_exit_code_is_the_commands(session: Session, job: JobDescription, code: int) -> None:
    with session.jobs.exec(job, f"sh -c 'exit {code}'") as stream:
        assert stream.exit_code == code
    assert session.jobs.run_command(job, ["sh", "-c", f"exit {code}"]).exit_code == code


def test_no_exit_code_is_ever_missed(session: Session, job: JobDescription) -> None:
    def run(number: int) -> int:
        return session.jobs.run_command(job, f"sh -c 'exit {number % 200}'").exit_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(200))) == list(range(200))


def test_output_and_errors_are_apart(session: Session, job: JobDescription) -> None:
    result = session.jobs.run_command(job, "sh -c 'echo out; echo err >&2'", text=True)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\n", "err\n")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), {1: b"out\n", 2: b"err\n"}),
        (("stdin",), {1: b"out\n", 2: b"err\n"}),
        (("stdout",), {1: b"out\n"}),
        (("stderr",), {2: b"err\n"}),
        (("stdout", "stderr", "tty"), {1: b"out\r\nerr\r\n"}),
    ],
)
def test_what_was_asked_for_comes(
    session: Session, job: JobDescription, wanted: tuple[str, ...], expected: dict[int, bytes]
) -> None:
    seen: dict[int, bytes] = {}
    with session.jobs.exec(
        job,
        "sh -c 'echo out; echo err >&2'",
        tty="tty" in wanted,
        stdin="stdin" in wanted,
        stdout="stdout" in wanted,
        stderr="stderr" in wanted,
    ) as stream:
        for message in stream:
            seen[message.fileno] = seen.get(message.fileno, b"") + message.data
    assert seen == expected


def test_a_list_is_quoted_and_a_string_is_split(session: Session, job: JobDescription) -> None:
    for command in (["printf", "%s|", "a b", "$HOME", "'"], "printf %s\\| 'a b' $HOME \"'\""):
        assert session.jobs.run_command(job, command).stdout == b"a b|$HOME|'|"


def test_any_bytes_go_through_a_command_unchanged(session: Session, job: JobDescription) -> None:
    data = random.Random(1).randbytes(10_000_000)
    result = session.jobs.run_command(job, "cat", input=data)
    assert result.exit_code == 0
    assert result.stdout == data

    with session.jobs.exec(job, "cat", stdin=True) as stream:

        def write() -> None:
            stream.write_in(data)
            stream.close_stdin()

        writer = threading.Thread(target=write)
        writer.start()
        assert b"".join(message.data for message in stream) == data
        assert stream.exit_code == 0
        writer.join()


def test_ten_million_bytes_can_be_written_before_the_first_is_read(
    session: Session, job: JobDescription
) -> None:
    data = random.Random(2).randbytes(10_000_000)
    with session.jobs.exec(job, "cat", stdin=True) as stream:
        stream.write_in(data)
        stream.close_stdin()
        assert b"".join(message.data for message in stream) == data


def test_a_command_need_not_read_its_input(session: Session, job: JobDescription) -> None:
    result = session.jobs.run_command(job, "sh -c 'exit 4'", input=bytes(5_000_000))
    assert result.exit_code == 4


def test_input_may_be_text_and_output_too(session: Session, job: JobDescription) -> None:
    result = session.jobs.run_command(job, "tr a-z A-Z", input="grüße", text=True)
    assert result.stdout == "GRüßE"


def test_a_command_that_fails_can_raise(session: Session, job: JobDescription) -> None:
    with pytest.raises(CommandFailed, match="ended with 3: what went wrong") as failed:
        session.jobs.run_command(
            job, "sh -c 'echo some; echo what went wrong >&2; exit 3'", check=True, text=True
        )
    error = failed.value
    assert (error.exit_code, error.stdout, error.stderr) == (3, "some\n", "what went wrong\n")
    with pytest.raises(CommandFailed, match="no-such-program"):
        session.jobs.run_command(job, "no-such-program", check=True)


def test_a_command_that_takes_too_long_is_left(session: Session, job: JobDescription) -> None:
    with pytest.raises(CommandTimeout) as late:
        session.jobs.run_command(job, "sh -c 'echo early; sleep 60'", timeout=0.5)
    assert late.value.stdout == b"early\n"
    assert isinstance(late.value, TimeoutError)
    assert session.jobs.status(job).status is JobStatus.RUNNING


def test_a_terminal_has_the_size_it_was_told(session: Session, job: JobDescription) -> None:
    with session.jobs.exec(job, "sh", tty=True, stdin=True) as stream:
        stream.resize(33, 77)
        stream.write_in(b"stty size; tty >/dev/null && exit 5\n")
        output = b"".join(message.data for message in stream)
        assert b"33 77\r\n" in output
        assert stream.exit_code == 5


def test_ctrl_d_ends_the_input_of_a_terminal(session: Session, job: JobDescription) -> None:
    with session.jobs.exec(job, "cat", tty=True, stdin=True) as stream:
        stream.close_stdin()
        assert stream.exit_code == 0


def test_a_job_that_is_killed_takes_its_commands_with_it(session: Session, start: Start) -> None:
    job = start("sh -c 'echo ready; exec sleep 60'")
    _await_line(session, job)
    with session.jobs.exec(job, "sh -c 'echo running; exec sleep 60'") as stream:
        message = stream.read_out()
        assert message
        assert message.data == b"running\n"
        session.jobs.kill(job)
        assert stream.read_out() is None
        try:
            assert stream.wait(10) != 0
        except StreamInterrupted as error:
            assert "jobs.status" in str(error)  # noqa: PT017  # either may happen


def test_a_job_that_does_not_run_takes_no_command(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("true"))
    for call in (session.jobs.exec, session.jobs.run_command):
        with pytest.raises(ResourceNotFound, match="is not running"):
            call(job, "true")
    with pytest.raises(ResourceNotFound, match="is not running"):
        session.jobs.attach(job)
    with pytest.raises(ResourceNotFound):
        session.jobs.send_signal(job)
    with pytest.raises(IllegalArgumentError, match="no such job"):
        session.jobs.exec("job-00000000-0000-0000-0000-000000000000", "true")
    with pytest.raises(IllegalArgumentError, match="Command is required"):
        session.jobs.exec(job, "")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("echo 'it", "No closing quotation"),
        ('echo "it', "No closing quotation"),
        ("it's", "No closing quotation"),
        ("echo \\", "No escaped character"),
    ],
)
def test_a_command_that_is_no_line_of_words_is_refused_as_such(
    session: Session, job: JobDescription, command: str, why: str
) -> None:
    for call in (session.jobs.exec, session.jobs.run_command):
        with pytest.raises(IllegalArgumentError, match=re.escape(f"{command!r} cannot")) as refused:
            call(job, command)
        assert why in str(refused.value)
        assert "list" in str(refused.value)
        assert not isinstance(refused.value, ResourceNotFound)
    prepared = session.jobs.exec_create(job, command)
    with pytest.raises(IllegalArgumentError, match=why):
        session.jobs.exec_start(job, prepared)


def test_a_refusal_by_an_engine_is_told_from_a_job_that_does_not_run() -> None:
    """The hosted service answers both with 404, and fails at a blank command."""
    id = "job-4c8ccc8b-7d4c-4f4f-8d4c-4f4f8d4c4f4f"
    url = "http://10.0.0.1:9000/api/v1/containers/x/exec?cmd=..."
    said = (
        f"Exec container '{id}' client error: 400, message='Invalid response status', url={url!r}"
    )
    exec_of = f"GET /api/v1/monitoring/{id}/exec?cmd="

    def refusal(status: str, text: str) -> bytes:
        return answer({"error": text}, status, f"X-Error: {json.dumps({'error': text})}")

    with scripted_platform() as server, Session(server.url, server.token) as session:
        server.script[exec_of] = refusal("404 Not Found", said)
        for command in ("sh -c 'x", "x" * 10_000 + "'"):
            with pytest.raises(IllegalArgumentError, match="No closing quotation") as refused:
                session.jobs.run_command(id, command)
            assert len(str(refused.value)) < 600
        server.script[exec_of] = refusal("500 Internal Server Error", "Unexpected exception")
        with pytest.raises(IllegalArgumentError, match="' ' is blank"):
            session.jobs.exec(id, " ")
        server.script[exec_of] = refusal("404 Not Found", f"Job '{id}' is not running.")
        for readable in ("true", ["sh", "-c", "it's"]):
            with pytest.raises(ResourceNotFound, match="is not running"):
                session.jobs.exec(id, readable)


def test_attaching_meets_the_job_itself(session: Session, start: Start) -> None:
    job = start("sh -c 'echo ready; read line; echo got $line; echo bad >&2'")
    _await_line(session, job)
    with session.jobs.attach(job, stdin=True) as stream:
        stream.write_in(b"hello\n")
        seen = [(message.fileno, message.data) for message in stream]
        assert b"".join(data for number, data in seen if number == 1) == b"got hello\n"
        assert b"".join(data for number, data in seen if number == 2) == b"bad\n"
    assert session.jobs.wait(job).status is JobStatus.SUCCEEDED


def test_detaching_leaves_the_job_alone(session: Session, job: JobDescription) -> None:
    with session.jobs.attach(job):
        pass
    assert session.jobs.status(job).status is JobStatus.RUNNING


def test_a_job_with_a_terminal_is_attached_with_it(session: Session) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="sh -c 'echo ready; exec sh'", tty=True
    )
    _await_line(session, job)
    with session.jobs.attach(job, stdin=True, stdout=True, stderr=True) as stream:
        assert stream.tty
        stream.resize(41, 142)
        stream.write_in(b"stty size; exit\n")
        assert b"41 142" in b"".join(message.data for message in stream)
    session.jobs.wait(job)


def test_calls_of_the_older_reference_work(session: Session, job: JobDescription) -> None:
    exec_id = session.jobs.exec_create(job.id, ["sh", "-c", "read x; stty size; exit 9"], tty=True)
    before = session.jobs.exec_inspect(job.id, exec_id)
    assert (before.id, before.job_id, before.running, before.exit_code) == (
        exec_id,
        job.id,
        False,
        None,
    )
    with pytest.raises(StreamClosed):
        session.jobs.exec_resize(job.id, exec_id, w=1, h=1)
    with session.jobs.exec_start(job.id, exec_id) as stream:
        assert session.jobs.exec_inspect(job.id, exec_id).running
        session.jobs.exec_resize(job.id, exec_id, w=60, h=20)
        stream.write_in(b"\n")
        assert b"20 60" in b"".join(message.data for message in stream)
    after = session.jobs.exec_inspect(job.id, exec_id)
    assert (after.running, after.exit_code) == (False, 9)
    with pytest.raises(ResourceNotFound, match="no command exec-x"):
        session.jobs.exec_inspect(job.id, "exec-x")


def test_a_signal_is_sent_by_name_or_number(session: Session, start: Start) -> None:
    for signal, expected in (("SIGUSR1", "usr1"), (12, "usr2"), ("SIGTERM", "term")):
        job = start(
            'sh -c \'trap "echo usr1; exit" USR1; trap "echo usr2; exit" USR2; '
            'trap "echo term; exit" TERM; echo ready; while :; do sleep 0.02; done\''
        )
        with session.jobs.logs(job) as lines:
            assert next(lines) == "ready"
            session.jobs.send_signal(job, signal)
            assert next(lines) == expected
    job = start("sh -c 'echo ready; exec sleep 60'")
    _await_line(session, job)
    session.jobs.send_signal(job)
    assert session.jobs.wait(job).history.exit_code == 137


@responses.activate
def test_no_platform_is_made_to_kill_by_a_gentler_signal(platform: LocalPlatform) -> None:
    """Another platform answers here; what it says of itself is all that tells them apart."""
    api, job_id = "http://hosted.test/api/v1", "job-00000000-0000-0000-0000-000000000000"
    cluster = {
        "name": "default",
        **{f"{name}_url": api for name in ("monitoring", "storage", "registry", "secrets")},
    }
    responses.get(
        f"{api}/config",
        json={"authorized": True, "clusters": [cluster | {"resource_presets": []}]},
        headers={"X-Service-Version": "platform-api/26"},
    )
    responses.post(f"{api}/{job_id}/kill", status=204)
    responses.post(f"{api}/{job_id}/resize", status=404, body="404: Not Found")
    with Session(api, platform.token) as session:
        with pytest.raises(NotSupported, match='exec\\(id, "kill -TERM 1"\\)'):
            session.jobs.send_signal(job_id, "SIGTERM")
        assert [call.request.method for call in responses.calls] == ["GET"]
        for signal in ("SIGKILL", "KILL", 9):
            session.jobs.send_signal(job_id, signal)
            assert str(responses.calls[-1].request.url).endswith("/kill")
        with pytest.raises(NotSupported, match="resize"):
            session.jobs.resize(job_id, w=80, h=24)


def test_eight_threads_share_one_session(session: Session, job: JobDescription) -> None:
    def work(number: int) -> None:
        for turn in range(12):
            mark = f"{number}-{turn}"
            assert session.jobs.run_command(job, ["echo", mark]).stdout.decode() == f"{mark}\n"
            assert session.jobs.status(job).id == job.id
            with session.jobs.logs(job) as lines:
                assert next(lines) == "ready"
            assert session.jobs.run_command(job, "cat", input=mark).stdout.decode() == mark

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(work, number) for number in range(8)]:
            outcome.result(60)


def test_threads_and_descriptors_are_given_back(session: Session, job: JobDescription) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    session.jobs.run_command(job, "true")
    before = count()
    for _ in range(10):
        with session.jobs.exec(job, "cat", stdin=True) as stream:
            stream.write_in(b"x")
        session.jobs.run_command(job, "cat", input=b"y")
    assert not [thread.name for thread in threading.enumerate() if "neuro-sync:" in thread.name]
    session.jobs.status(job)
    # Twenty of them would have left as many; the platform, in this process, may still close a few.
    assert count() < before + 10


# A platform that cannot send where the input ends


@pytest.fixture
def hosted(platform: LocalPlatform) -> Iterator[Session]:
    with (
        DoorWithoutEndOfInput(platform.port) as door,
        Session(door.url, platform.token) as session,
    ):
        yield session


def test_a_command_that_ends_by_itself_gets_its_input_from_any_platform(
    hosted: Session, job: JobDescription
) -> None:
    lines = b"first\n" + b"more\n" * 100_000
    for words, expected in (
        ("head -n 1", (0, b"first\n")),
        ("head -c 500006", (0, lines)),
        ("sh -c 'read x; sleep 0.5; echo got $x; exit 4'", (4, b"got first\n")),
    ):
        result = hosted.jobs.run_command(job, words, input=lines)
        assert (result.exit_code, result.stdout) == expected
    assert hosted.jobs.run_command(job, "cat", input=b"").stdout == b""


def test_a_command_that_needs_the_end_of_its_input_is_given_up_after_a_silence(
    hosted: Session, job: JobDescription
) -> None:
    slow = "sh -c 'for i in 1 2 3 4 5; do read x; echo $x; sleep 0.3; done; echo oh >&2; cat'"
    begin = time.monotonic()
    with pytest.raises(InputNotEnded, match="nothing happened for 1 s") as raised:
        hosted.jobs.run_command(job, slow, input=b"a\nb\nc\nd\ne\n", eof_timeout=1)
    assert 2 < time.monotonic() - begin < 20  # the silence begins with the last sign of activity
    assert raised.value.stdout == b"a\nb\nc\nd\ne\n"
    assert raised.value.stderr == b"oh\n"
    assert isinstance(raised.value, NotSupported | TimeoutError)
    with pytest.raises(CommandTimeout) as late:
        hosted.jobs.run_command(job, "cat", input=b"a", eof_timeout=None, timeout=1)
    assert not isinstance(late.value, InputNotEnded)
    assert late.value.stdout == b"a"


def test_a_command_that_is_slow_to_read_its_input_is_not_given_up(
    hosted: Session, job: JobDescription
) -> None:
    words = "sh -c 'sleep 2; head -c 20000000 | wc -c'"
    result = hosted.jobs.run_command(job, words, input=bytes(20_000_000), eof_timeout=1)
    assert result.stdout.strip() == b"20000000"


@pytest.mark.parametrize("size", [8_000, 9_000, 60_000, 120_000])
def test_a_long_command_runs(session: Session, job: JobDescription, size: int) -> None:
    assert len(session.jobs.run_command(job, ["echo", "x" * size]).stdout) == size + 1


@pytest.mark.parametrize("size", [270_000, 3_000_000])
def test_a_command_that_is_too_long_says_so_and_what_to_do(
    session: Session, job: JobDescription, size: int
) -> None:
    with pytest.raises(IllegalArgumentError, match=r"too long for this platform .* write it to a"):
        session.jobs.run_command(job, ["echo", "x" * size], timeout=20)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(b"<html>414", "414 URI Too Long"), IllegalArgumentError),
        (answer(b"Got more than 8190 bytes", "400 Bad Request"), IllegalArgumentError),
        (answer(b"<html>431", "431 Request Header Fields Too Large"), IllegalArgumentError),
        (Cut(b""), ConnectionFailed),
    ],
)
def test_a_platform_that_takes_shorter_commands_only_is_understood(
    reply: bytes, kind: type[Exception]
) -> None:
    with scripted_platform() as platform, Session(platform.url, platform.token) as session:
        platform.script["GET /api/v1/monitoring/"] = reply
        with pytest.raises(kind, match=r"9005 characters .*too long for .* write it to a file"):
            session.jobs.exec(JOB_ID, "echo " + "x" * 9000)
