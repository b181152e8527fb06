"""exec and attach, as any program sees them that can open a websocket."""

from __future__ import annotations

import os
import signal
import socket
import threading
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
import websocket

from neuro_sync import JobStatus, Session
from neuro_sync.local import http, server
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import running_platform
from neuro_sync.models import frames
from tests.processes import eventually, is_alive, outside, platform_process

if TYPE_CHECKING:
    from .conftest import Channel, Dial, Run

FOREVER = "sleep 600"
TERMINAL: dict[str, Any] = {"tty": "1", "stdin": "1", "stdout": "1", "stderr": "0"}
ECHO = "python -uc 'import sys; [print(line, end=str()) for line in sys.stdin]'"
MEBIBYTE = bytes(range(256)) * 4096


# exec


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", {"exit_code": 0}),
        ("sh -c 'exit 3'", {"exit_code": 3}),
        ("sh -c 'kill -TERM $$'", {"exit_code": 143}),
        ("sh -c 'kill -KILL $$'", {"exit_code": 137}),
        ("no-such", {"exit_code": 127, "message": "there is no program 'no-such'"}),
        ("/", {"exit_code": 126, "message": "'/' cannot be run: Permission denied"}),
    ],
)
def test_a_command_ends_with_its_exit_code(
    dial: Dial, run: Run, command: str, status: dict[str, object]
) -> None:
    heard = dial(run(FOREVER), "exec", cmd=command).rest()
    assert heard.messages[0] == b"\x01"  # the open marker
    assert heard.statuses == [status]
    assert heard.messages[-1][0] == frames.STATUS
    assert heard.close_code == 1000


def test_a_command_sees_what_the_job_sees(dial: Dial, run: Run, tmp_path: Path) -> None:
    job = run(FOREVER, env={"MINE": "a b"}, working_dir=str(tmp_path))
    heard = dial(job, "exec", cmd="""sh -c 'echo "$MINE $PWD"; env | sort'""").rest()
    first, *variables = heard.stdout.decode().splitlines()
    assert first == f"a b {tmp_path}"
    assert {line.partition("=")[0] for line in variables} >= {"HOME", "LANG", "MINE", "PATH"}
    assert "PYTEST_CURRENT_TEST" not in heard.stdout.decode()


def test_both_outputs_are_told_apart(dial: Dial, run: Run) -> None:
    heard = dial(run(FOREVER), "exec", cmd="sh -c 'echo out; echo err >&2'").rest()
    assert (heard.stdout, heard.stderr) == (b"out\n", b"err\n")


def test_an_output_that_was_not_asked_for_is_not_sent(dial: Dial, run: Run) -> None:
    job = run(FOREVER)
    heard = dial(job, "exec", cmd="sh -c 'echo out; echo err >&2'", stdout="0").rest()
    assert heard.messages[0] == b"\x02"
    assert (heard.stdout, heard.stderr) == (b"", b"err\n")


def test_a_command_without_input_finds_its_end(dial: Dial, run: Run) -> None:
    heard = dial(run(FOREVER), "exec", cmd="cat", stdin="0").rest()
    assert heard.statuses == [{"exit_code": 0}]


def test_a_command_with_input_alone_gets_no_marker_but_its_status(dial: Dial, run: Run) -> None:
    channel = dial(run(FOREVER), "exec", cmd="sh -c 'exit 5'", stdin="1", stdout="0", stderr="0")
    assert channel.rest().messages == [frames.exited(5)]


def test_ten_megabytes_come_back_as_they_went(dial: Dial, run: Run) -> None:
    channel = dial(run(FOREVER), "exec", cmd="cat", stdin="1")

    def feed() -> None:
        for _ in range(10):
            for begin in range(0, len(MEBIBYTE), 65535):
                channel.send(frames.stdin(MEBIBYTE[begin : begin + 65535]))
        channel.send(frames.end_of_input())

    feeder = threading.Thread(target=feed)
    feeder.start()
    heard = channel.rest()
    feeder.join()
    assert heard.stdout == MEBIBYTE * 10
    assert heard.statuses == [{"exit_code": 0}]
    assert max(map(len, heard.messages)) <= 65536


def test_a_terminal_has_the_size_it_is_given(dial: Dial, run: Run) -> None:
    command = "sh -c 'tty; echo $TERM; read go; stty size; read go; stty size; exit 7'"
    channel = dial(run(FOREVER), "exec", cmd=command, **TERMINAL)
    channel.send(frames.resize(height=24, width=80))
    channel.send(frames.stdin(b"\n"))
    seen = channel.until(b"24 80\r\n")
    assert b"/dev/pts/" in seen
    assert b"xterm-256color\r\n" in seen
    channel.send(b'\x04{"Height": 50, "Width": 132}')
    channel.send(frames.stdin(b"\n"))
    heard = channel.rest()
    assert b"50 132\r\n" in heard.stdout
    assert heard.statuses == [{"exit_code": 7}]


def test_the_end_of_input_of_a_terminal_is_control_d(dial: Dial, run: Run) -> None:
    channel = dial(run(FOREVER), "exec", cmd="cat", **TERMINAL)
    channel.send(frames.stdin(b"line\n"))
    channel.until(b"line\r\nline\r\n")
    channel.send(frames.end_of_input())
    assert channel.rest().statuses == [{"exit_code": 0}]


def test_control_c_reaches_what_runs_in_a_terminal(dial: Dial, run: Run) -> None:
    channel = dial(run(FOREVER), "exec", cmd="sh -c 'echo ready; exec sleep 600'", **TERMINAL)
    channel.until(b"ready")
    channel.send(frames.stdin(b"\x03"))
    assert channel.rest().statuses == [{"exit_code": 130}]


def test_a_command_is_not_held_up_by_what_it_leaves_behind(dial: Dial, run: Run) -> None:
    heard = dial(run(FOREVER), "exec", cmd="sh -c 'sleep 600 & echo done'").rest()
    assert heard.stdout == b"done\n"
    assert heard.statuses == [{"exit_code": 0}]


def test_all_of_a_large_output_comes_before_the_status(dial: Dial, run: Run) -> None:
    command = "sh -c 'sleep 600 & head -c 3000000 /dev/zero; head -c 65536 /dev/zero >&2'"
    heard = dial(run(FOREVER), "exec", cmd=command).rest()
    assert (len(heard.stdout), len(heard.stderr)) == (3_000_000, 65536)


def test_a_client_that_does_not_read_holds_the_command_up(
    dial: Dial, run: Run, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    # It adds a byte for each mebibyte, so that its count can be read at any moment.
    program = (
        "import os, sys\n"
        "with open(sys.argv[1], 'ab', buffering=0) as count:\n"
        "    for _ in range(64):\n"
        "        os.write(1, bytes(2**20))\n"
        "        count.write(b'.')\n"
    )
    script = tmp_path / "writer.py"
    script.write_text(program)
    channel = dial(run(FOREVER), "exec", cmd=f"python '{script}' '{count}'")
    channel.message()
    eventually(lambda: count.exists() and count.stat().st_size > 0, "it writes")
    # Whoever is not held up is through with it long before that.
    other = dial(run(FOREVER), "exec", cmd="sleep 0.3").rest()
    assert other.statuses == [{"exit_code": 0}]
    assert count.stat().st_size < 64
    heard = channel.rest()
    assert len(heard.stdout) == 64 * 2**20
    assert heard.statuses == [{"exit_code": 0}]


FLOOD = 40
"""Mebibytes; far more than all buffers hold between a client and a command."""


def flood(channel: Channel) -> None:
    for _ in range(FLOOD):
        channel.send(frames.stdin(MEBIBYTE))


def test_a_command_that_does_not_read_holds_nobody_else_up(
    dial: Dial, run: Run, session: Session
) -> None:
    job = run(FOREVER)
    channel = dial(job, "exec", cmd="sleep 600", stdin="1")
    channel.websocket.settimeout(0.2)
    with pytest.raises(websocket.WebSocketTimeoutException):
        flood(channel)
    assert session.jobs.status(job).status is JobStatus.RUNNING
    assert dial(job, "exec", cmd="true").rest().statuses == [{"exit_code": 0}]


def test_a_client_that_leaves_ends_its_command(
    platform: LocalPlatform, dial: Dial, run: Run
) -> None:
    job = run(FOREVER)
    channel = dial(job, "exec", cmd="sh -c 'trap \"\" HUP; echo $$; while :; do sleep 0.1; done'")
    pid = outside(platform.folder, job.id, int(channel.until(b"\n")))
    assert is_alive(pid)
    channel.leave()
    eventually(lambda: not is_alive(pid), "a command that ignores SIGHUP is ended by force")
    polite = dial(
        job,
        "exec",
        cmd="sh -c 'trap \"echo bye >bye; exit\" HUP; echo $PWD; sleep 600 & wait'",
    )
    folder = Path(polite.until(b"\n").decode().strip())
    polite.leave()
    eventually((folder / "bye").exists, "a command may tidy up")


def test_a_command_that_is_cut_off_is_ended_too(
    platform: LocalPlatform, dial: Dial, run: Run
) -> None:
    job = run(FOREVER)
    channel = dial(job, "exec", cmd="sh -c 'echo $$; exec sleep 600'", stdin="1")
    pid = outside(platform.folder, job.id, int(channel.until(b"\n")))
    channel.cut()
    eventually(lambda: not is_alive(pid), "the command ends")


DAEMON = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        signal.pause()
    os._exit(0)
os.wait()
"""


def test_what_a_command_leaves_behind_ends_with_the_job(
    platform: LocalPlatform, dial: Dial, run: Run, session: Session, tmp_path: Path
) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    job = run(FOREVER)
    heard = dial(job, "exec", cmd=f"python '{script}'").rest()
    pid = outside(platform.folder, job.id, int(heard.stdout))
    assert heard.statuses == [{"exit_code": 0}]
    assert is_alive(pid)
    session.jobs.kill(job)
    eventually(lambda: not is_alive(pid), "the daemon ends with the job")


def test_a_command_ends_with_its_job(dial: Dial, run: Run, session: Session) -> None:
    job = run(FOREVER)
    channel = dial(job, "exec", cmd="sh -c 'echo ready; exec sleep 600'")
    channel.until(b"ready")
    session.jobs.kill(job)
    heard = channel.rest()
    assert heard.statuses == [{"exit_code": 143}]
    assert heard.close_code == 1000


def test_many_commands_run_side_by_side(dial: Dial, run: Run) -> None:
    job = run(FOREVER)
    channels = [
        dial(job, "exec", cmd=f"sh -c 'read x; exit {code}'", stdin="1") for code in range(20)
    ]
    for channel in reversed(channels):
        channel.send(frames.stdin(b"\n"))
    codes = [channel.rest().statuses[0]["exit_code"] for channel in channels]
    assert codes == [*range(20)]


@pytest.mark.parametrize("message", [b"", b"\x09", b"\x04{", b"\xff"])
def test_what_is_no_message_of_the_protocol_ends_the_conversation(
    dial: Dial, run: Run, message: bytes
) -> None:
    channel = dial(run(FOREVER), "exec", cmd="sleep 600", stdin="1")
    channel.send(message)
    assert channel.rest().close_code == 1003


def test_a_text_ends_the_conversation(dial: Dial, run: Run) -> None:
    channel = dial(run(FOREVER), "exec", cmd="sleep 600", stdin="1")
    channel.websocket.send("text")
    assert channel.rest().close_code == 1000


def test_a_command_ends_when_the_platform_is_killed(dial: Dial, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with platform_process(state) as process, Session.local(state=state) as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command=ECHO)
        eventually(lambda: session.jobs.status(job).status.is_running, "the job runs")
        address = running_platform(state)
        assert address is not None
        here = dial.to(address)
        told = here(job, "exec", cmd="sh -c 'echo $$; exec sleep 600'").until(b"\n")
        pid = outside(state, job.id, int(told))
        attached = here(job, "attach")
        attached.send(frames.stdin(b"before\n"))
        attached.until(b"before\n")
        process.kill()
        process.wait()
        eventually(lambda: not is_alive(pid), "the command ends with whoever waited for it")
    with platform_process(state), Session.local(state=state) as session:
        address = running_platform(state)
        assert address is not None
        here = dial.to(address)
        # The job went on, and can be talked to as before.
        attached = here(job, "attach")
        attached.send(frames.stdin(b"after\n"))
        assert attached.until(b"after\n") == b"after\n"
        assert here(job, "exec", cmd="sh -c 'exit 3'").rest().statuses == [{"exit_code": 3}]
        attached.send(frames.end_of_input())
        assert attached.rest().statuses == [{"exit_code": 0}]


def test_a_state_folder_may_have_a_long_name(dial: Dial, tmp_path: Path) -> None:
    with (
        LocalPlatform(tmp_path / ("long" * 40), grace=0.5) as platform,
        Session(platform.url, platform.token) as session,
    ):
        job = session.jobs.start(image="any", preset_name="cpu-small", command=FOREVER)
        eventually(lambda: session.jobs.status(job).status.is_running, "the job runs")
        heard = dial.to(platform)(job, "exec", cmd="sh -c 'exit 3'").rest()
        assert heard.statuses == [{"exit_code": 3}]


# attach


def test_what_goes_into_a_job_comes_out_of_it(dial: Dial, run: Run) -> None:
    channel = dial(run(ECHO), "attach")
    assert channel.message() == b"\x01"
    channel.send(frames.stdin(b"one\n"))
    assert channel.until(b"\n") == b"one\n"


def test_an_attach_brings_only_what_comes_after_it(dial: Dial, run: Run, session: Session) -> None:
    job = run("sh -c 'echo before; read x; echo after'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "before"
    channel = dial(job, "attach")
    channel.send(frames.stdin(b"\n"))
    assert channel.rest().stdout == b"after\n"


def test_the_outputs_of_a_job_are_told_apart(dial: Dial, run: Run, session: Session) -> None:
    command = "sh -c 'read x; for i in 1 2 3; do echo out$i; echo err$i >&2; done; exit 9'"
    job = run(command)
    both, errors = dial(job, "attach"), dial(job, "attach", stdout="0")
    both.send(frames.stdin(b"\n"))
    heard = both.rest()
    assert heard.stdout == b"out1\nout2\nout3\n"
    assert heard.stderr == b"err1\nerr2\nerr3\n"
    # The job's own exit code is told by its status alone.
    assert heard.statuses == [{"exit_code": 0}]
    assert heard.close_code == 1000
    assert session.jobs.wait(job).history.exit_code == 9
    heard = errors.rest()
    assert heard.messages[0] == b"\x02"
    assert (heard.stdout, heard.stderr) == (b"", b"err1\nerr2\nerr3\n")


def test_several_attach_and_leave_and_come_back(dial: Dial, run: Run, session: Session) -> None:
    job = run(ECHO)
    first, second = dial(job, "attach"), dial(job, "attach")
    first.send(frames.stdin(b"one\n"))
    assert first.until(b"one\n") == second.until(b"one\n") == b"one\n"
    first.leave()
    second.send(frames.stdin(b"two\n"))
    assert second.until(b"two\n") == b"two\n"
    second.leave()
    third = dial(job, "attach")
    third.send(frames.stdin(b"three\n"))
    assert third.until(b"three\n") == b"three\n"
    with session.jobs.logs(job) as lines:
        assert [*islice(lines, 3)] == ["one", "two", "three"]


def test_the_end_of_input_is_for_good(dial: Dial, run: Run, session: Session) -> None:
    job = run("sh -c 'wc -c; cat >&2; read x || exec sleep 600'")
    first, second = dial(job, "attach"), dial(job, "attach")
    first.send(frames.stdin(MEBIBYTE))
    first.send(frames.end_of_input())
    assert second.until(b"\n").strip() == str(len(MEBIBYTE)).encode()
    third = dial(job, "attach")
    for channel in (first, second, third):
        channel.send(frames.stdin(b"too late"))
    assert session.jobs.status(job).status is JobStatus.RUNNING


def test_the_terminal_of_a_job_is_one(dial: Dial, run: Run, session: Session) -> None:
    job = run("sh -c 'read x; stty size; read x; stty size; cat; exit 3'", tty=True)
    channel = dial(job, "attach", **TERMINAL)
    channel.send(frames.resize(height=24, width=80))
    channel.send(frames.stdin(b"\n"))
    channel.until(b"24 80\r\n")
    url = f"{dial.platform.url}/monitoring/jobs/{job.id}/resize?w=100&h=30"
    authorization = {"Authorization": f"Bearer {dial.platform.token}"}
    answer = requests.post(url, headers=authorization, timeout=10)
    assert (answer.status_code, answer.json()) == (200, None)
    channel.send(frames.stdin(b"\n"))
    channel.until(b"30 100\r\n")
    channel.send(frames.end_of_input())
    assert channel.rest().statuses == [{"exit_code": 0}]
    assert session.jobs.wait(job).history.exit_code == 3


def test_an_attach_to_a_job_that_is_killed_ends_without_a_status(
    dial: Dial, run: Run, session: Session
) -> None:
    job = run("sh -c 'trap \"echo bye; exit\" TERM; sleep 600 & wait'")
    channel = dial(job, "attach")
    session.jobs.kill(job)
    heard = channel.rest()
    assert heard.stdout == b"bye\n"
    assert heard.statuses == []
    assert heard.close_code == 1000


def test_an_attach_to_a_job_that_vanishes_ends_without_a_status(
    dial: Dial, run: Run, platform: LocalPlatform
) -> None:
    job = run(FOREVER)
    channel = dial(job, "attach")
    supervisor = int((platform.folder / "jobs" / job.id / "lock").read_text())
    os.kill(supervisor, signal.SIGKILL)
    heard = channel.rest()
    assert heard.statuses == []
    assert heard.close_code == 1000


def test_a_job_whose_attach_is_not_read_goes_on(dial: Dial, run: Run, session: Session) -> None:
    job = run("sh -c 'read x; head -c 50000000 /dev/zero'")
    channel = dial(job, "attach")
    channel.send(frames.stdin(b"\n"))
    assert session.jobs.wait(job, timeout=20).status is JobStatus.SUCCEEDED
    assert len(channel.rest().stdout) == 50_000_000


def test_without_a_subprotocol_an_attach_speaks_as_in_2020(dial: Dial, run: Run) -> None:
    job = run("sh -c 'echo before; cat; echo err >&2'")
    channel = dial(job, "attach", offer=(), stdin="1")
    assert channel.message() == b"\x01before\n"
    channel.send(b"raw\n")
    assert channel.message() == b"\x01raw\n"
    live = dial(job, "attach", offer=(), stdin="1", logs="0")
    v2 = dial(job, "attach")
    v2.send(frames.end_of_input())
    assert channel.rest().messages == [b"\x02err\n"]
    heard = live.rest()
    assert heard.messages == [b"\x02err\n"]
    assert heard.close_code == 1000


# Handshakes


@pytest.mark.parametrize(
    ("path", "offer", "chosen"),
    [
        ("exec", (), None),
        ("exec", ("v2.channels.neu.ro",), "v2.channels.neu.ro"),
        ("exec", ("other", "v2-eof.channels.neuro-sync"), "v2-eof.channels.neuro-sync"),
        ("exec", ("v2.channels.neu.ro", "v2-eof.channels.neuro-sync"), "v2.channels.neu.ro"),
        ("attach", ("attach.apolo.us",), "attach.apolo.us"),
        ("attach", ("v2.channels.neu.ro", "attach.apolo.us"), "v2.channels.neu.ro"),
    ],
)
def test_the_first_known_subprotocol_is_chosen(
    dial: Dial, run: Run, path: str, offer: tuple[str, ...], chosen: str | None
) -> None:
    channel = dial(run(FOREVER), path, offer=offer, cmd="sleep 600")
    assert channel.websocket.getsubprotocol() == chosen
    assert channel.message() == b"\x01"


def test_a_handshake_may_be_a_post(dial: Dial, run: Run) -> None:
    address = urlsplit(dial.platform.url)
    request = (
        f"POST {address.path}/monitoring/jobs/{run(FOREVER).id}/exec?cmd=true HTTP/1.1\r\n"
        f"Host: {address.netloc}\r\nAuthorization: Bearer {dial.platform.token}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 101 ")


def test_input_that_is_not_read_for_long_is_not_taken_for_a_dead_client(
    dial: Dial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    waited: list[bool] = []
    timeout = http.WebSockets.keepalive_timeout

    def count(connection: http.WebSockets) -> None:
        waited.append(connection.read_paused)
        timeout(connection)

    monkeypatch.setattr(server, "PING_INTERVAL", 0.2)
    monkeypatch.setattr(server, "PONG_TIMEOUT", 1.0)
    monkeypatch.setattr(http.WebSockets, "keepalive_timeout", count)
    with (
        LocalPlatform(tmp_path / "state", grace=0.5, writable=[tmp_path]) as platform,
        Session(platform.url, platform.token) as session,
    ):
        job = session.jobs.start(image="any", preset_name="cpu-small", command=FOREVER)
        eventually(lambda: session.jobs.status(job).status.is_running, "the job runs")
        command = f"sh -c 'read go < {gate}; wc -c'"
        channel = dial.to(platform)(job, "exec", cmd=command, stdin="1")

        def feed() -> None:
            flood(channel)
            channel.send(frames.end_of_input())

        feeder = threading.Thread(target=feed)
        feeder.start()
        eventually(lambda: len(waited) > 1, "the answers to pings stay out")
        gate.write_text("go\n")
        heard = channel.rest()
        feeder.join()
    assert all(waited)
    assert heard.stdout.strip() == str(FLOOD * len(MEBIBYTE)).encode()
    assert heard.statuses == [{"exit_code": 0}]


NO_STREAM: dict[str, Any] = {"stdin": "0", "stdout": "0", "stderr": "0"}


@pytest.mark.parametrize(
    ("path", "query", "status", "text"),
    [
        ("exec", {}, 400, "Command is required"),
        ("exec", {"cmd": " "}, 400, "Command is required"),
        ("exec", {"cmd": "a\0b"}, 400, "NUL"),
        (
            "exec",
            {"cmd": "true", **NO_STREAM},
            400,
            "Required at least one of stdin, stdout or stderr",
        ),
        ("attach", NO_STREAM, 400, "Required at least one of stdin, stdout or stderr"),
        (
            "exec",
            {"cmd": "true", "tty": "1"},
            400,
            "Stdout and stderr cannot be multiplexed in tty mode",
        ),
        ("attach", {"tty": "1"}, 400, "Stdout and stderr cannot be multiplexed in tty mode"),
        ("exec", {"cmd": "true", "tty": "1", "stdout": "0"}, 404, "stderr=0"),
        ("exec", {"cmd": "sh -c 'open"}, 404, "client error: No closing quotation"),
        ("exec", {"cmd": "true", "tty": "x"}, 400, '"tty" request parameter can be "true"/"1"'),
        ("port_forward/abc", {}, 400, "Invalid port number 'abc'"),
        ("port_forward/65536", {}, 400, "Invalid port number '65536'"),
        ("port_forward/0", {}, 400, "Invalid port number '0'"),
    ],
)
def test_a_handshake_is_refused_with_words(
    dial: Dial, run: Run, path: str, query: dict[str, Any], status: int, text: str
) -> None:
    refused, body = dial.refused(run(FOREVER), path, **query)
    assert refused == status
    assert text in str(body.get("error") or body.get("msg"))


def test_a_terminal_has_no_stderr_to_attach_to(dial: Dial, run: Run) -> None:
    status, body = dial.refused(run(FOREVER, tty=True), "attach")
    assert status == 404
    assert "it has a terminal" in body["error"]


@pytest.mark.parametrize("path", ["exec", "attach", "port_forward/80"])
def test_a_job_that_does_not_run_has_no_channels(dial: Dial, session: Session, path: str) -> None:
    job = session.jobs.wait(
        session.jobs.start(image="any", preset_name="cpu-small", command="true")
    )
    refusal = (404, {"error": f"Job '{job.id}' is not running."})
    assert dial.refused(job, path, cmd="true") == refusal
    unknown = (400, {"error": "no such job job-x"})
    assert dial.refused("job-x", path, cmd="true") == unknown


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["exec", "attach", "port_forward/80", "any/exec_start"])
def test_a_request_that_is_no_handshake_does_nothing(
    dial: Dial, run: Run, tmp_path: Path, path: str, method: str
) -> None:
    job = run(FOREVER)
    answer = requests.request(
        method,
        f"{dial.platform.url}/monitoring/jobs/{job.id}/{path}",
        params={"cmd": f"touch {tmp_path}/made"},
        headers={"Authorization": f"Bearer {dial.platform.token}"},
        timeout=10,
    )
    assert answer.status_code == 400
    assert answer.text == 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".'
    # A command that comes later has ended, and the one above would have too.
    assert dial(job, "exec", cmd="true").rest().statuses == [{"exit_code": 0}]
    assert not (tmp_path / "made").exists()


# Signals


def kill(dial: Dial, job_id: str, query: str = "") -> requests.Response:
    return requests.post(
        f"{dial.platform.url}/monitoring/jobs/{job_id}/kill{query}",
        headers={"Authorization": f"Bearer {dial.platform.token}"},
        timeout=10,
    )


def test_a_kill_without_a_signal_is_sigkill(dial: Dial, run: Run, session: Session) -> None:
    job = run("sh -c 'trap \"\" TERM; sleep 600 & wait'")
    channel = dial(job, "attach")
    answer = kill(dial, job.id)
    assert (answer.status_code, answer.content) == (204, b"")
    ended = session.jobs.wait(job)
    assert (ended.status, ended.history.exit_code) == (JobStatus.FAILED, 137)
    assert channel.rest().statuses == []
    assert kill(dial, job.id).status_code == 404


@pytest.mark.parametrize("name", ["10", "USR1", "SIGUSR1", "sigusr1"])
def test_a_signal_may_be_named(dial: Dial, run: Run, session: Session, name: str) -> None:
    job = run("sh -c 'trap \"exit 4\" USR1; echo ready; sleep 600 & wait'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "ready"
    assert kill(dial, job.id, f"?signal={name}").status_code == 204
    assert session.jobs.wait(job).history.exit_code == 4


@pytest.mark.parametrize("name", ["NOPE", "0", "99", "-9", ""])
def test_a_signal_that_there_is_not_is_refused(dial: Dial, run: Run, name: str) -> None:
    answer = kill(dial, run(FOREVER).id, f"?signal={name}")
    assert (answer.status_code, answer.json()) == (400, {"error": f"there is no signal {name!r}"})


def test_a_terminal_whose_user_does_not_say_its_size_has_the_usual_one(
    platform: LocalPlatform, session: Session
) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="sh -c 'stty size; sleep 60'", tty=True
    )
    with session.jobs.logs(job) as lines:
        size = next(lines)
    assert session.jobs.run_command(job, "true").exit_code == 0
    with session.jobs.exec(job, "stty size", tty=True) as stream:
        output = stream.communicate(timeout=20).stdout
    session.jobs.kill(job)
    if platform.runtime == "process":
        assert size.strip() == "24 80"
    assert output.split() == [b"24", b"80"]


@pytest.mark.parametrize("size", [("x", "1"), ("70000", "1"), ("1", "-1"), ("", "")])
@pytest.mark.parametrize("path", ["exec", "attach"])
def test_a_size_that_is_none_is_refused(
    dial: Dial, run: Run, path: str, size: tuple[str, str]
) -> None:
    query = {"w": size[0], "h": size[1], "stderr": "0"}
    status, body = dial.refused(run(FOREVER), path, cmd="true", **query)
    assert status == 400
    assert "whole number from 0 to 65535" in str(body)
