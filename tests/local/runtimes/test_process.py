"""Jobs as processes: what they see, what they leave behind, what survives the platform."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuro_sync import AuthorizationError, JobDescription, JobStatus, NotSupported, Session
from neuro_sync.local.server import LocalPlatform
from tests.processes import eventually, is_alive, outside, platform_process, supervisor_of

Start = Callable[[str], JobDescription]


def test_a_job_sees_nothing_of_the_platforms_environment(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PLATFORM", "canary")
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="env", env={"MINE": "a b=c"}
    )
    seen = dict(line.partition("=")[::2] for line in session.jobs.logs(job))
    assert seen.pop("MINE") == "a b=c"
    assert set(seen) == {"PATH", "HOME", "LANG"}
    assert os.path.basename(seen["HOME"]) == "scratch"


def test_a_job_holds_none_of_the_platforms_files_open(session: Session, start: Start) -> None:
    lines = list(session.jobs.logs(start("ls -l /proc/self/fd")))
    targets = [line.partition(" -> ")[2] for line in lines if " -> " in line]
    assert all(target.startswith(("pipe:", "/proc/")) for target in targets), targets


def test_python_in_a_job_is_the_one_of_the_platform(session: Session, start: Start) -> None:
    job = start("python -c 'import sys; print(sys.prefix)'")
    assert list(session.jobs.logs(job)) == [sys.prefix]


def test_a_job_has_a_folder_of_its_own_that_goes_with_it(session: Session, start: Start) -> None:
    job = start("sh -c 'pwd; touch kept; ls'")
    folder, *names = session.jobs.logs(job)
    assert names == ["kept"]
    session.jobs.wait(job)
    eventually(lambda: not Path(folder).exists(), "the scratch folder is removed")


def test_a_job_starts_in_the_folder_that_was_asked_for(session: Session, tmp_path: Path) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="pwd", working_dir=str(tmp_path)
    )
    assert list(session.jobs.logs(job)) == [str(tmp_path)]


def test_a_working_folder_that_is_not_there_fails_the_job_with_words(session: Session) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="pwd", working_dir="/no/such/folder"
    )
    ended = session.jobs.wait(job)
    assert ended.reason == "ContainerCannotRun"
    assert ended.history.description == (
        "the working folder '/no/such/folder': No such file or directory"
    )


def test_a_program_that_may_not_be_run_fails_the_job_with_words(
    session: Session, start: Start, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.touch(mode=0o600)
    ended = session.jobs.wait(start(str(program)))
    assert ended.history.exit_code == 126
    assert ended.history.description == f"'{program}' cannot be run: Permission denied"


def test_the_entrypoint_comes_before_the_command(session: Session) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", entrypoint="echo 'a b'", command="c 'd e'"
    )
    assert list(session.jobs.logs(job)) == ["a b c d e"]


def test_a_terminal_is_one(session: Session) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="sh -c 'tty; echo $TERM'", tty=True
    )
    device, terminal = session.jobs.logs(job)
    assert device.startswith("/dev/pts/")
    assert terminal == "xterm-256color\r"


FAMILY = r"""
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
signal.pause()
'''], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), end="", flush=True)
signal.pause()
"""


def test_two_streams_without_lines_do_not_slow_each_other_down(session: Session) -> None:
    program = "import os\nfor _ in range(5000): os.write(1, b'x' * 8000); os.write(2, b'y' * 8000)"
    begun = time.monotonic()
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command=["python", "-c", program]
    )
    written = b"".join(session.jobs.monitor(job))
    assert (written.count(b"x"), written.count(b"y")) == (40_000_000, 40_000_000)
    # It took 20 seconds while each piece waited for the end of a line.
    assert time.monotonic() - begun < 8


PROGRAM = """
import psutil
from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform

with LocalPlatform(ephemeral=True, cores=100) as platform:
    with Session(platform.url, platform.token) as session:
        for _ in range(8):
            session.jobs.start(image="any", preset_name="cpu-small", command="sleep 600")
        ended = session.jobs.start(image="any", preset_name="cpu-small", command="true")
        session.jobs.wait(ended)
print([child.status() for child in psutil.Process().children(recursive=True)])
"""


def test_a_platform_that_is_closed_leaves_no_process_behind() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert told.stdout == b"[]\n"


def test_a_grandchild_that_ignores_term_is_gone_after_a_kill(
    platform: LocalPlatform, session: Session, tmp_path: Path
) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    job = session.jobs.start(image="any", preset_name="cpu-small", command=f"python '{script}'")
    with session.jobs.logs(job) as lines:
        grandchild = outside(platform.folder, job.id, int(next(lines)))
        assert is_alive(grandchild)
        session.jobs.kill(job)
        assert list(lines) == []  # its log ends when all are gone
    assert not is_alive(grandchild)


def test_what_a_job_leaves_behind_ends_with_it(
    platform: LocalPlatform, session: Session, tmp_path: Path
) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY.rpartition("signal.pause()")[0] + "sys.stdin.readline()")
    job = session.jobs.start(image="any", preset_name="cpu-small", command=f"python '{script}'")
    with session.jobs.logs(job) as lines:
        grandchild = outside(platform.folder, job.id, int(next(lines)))
        with session.jobs.attach(job, stdin=True) as stream:
            stream.write_in(b"\n")
        assert list(lines) == []
    ended = session.jobs.wait(job)
    assert ended.history.exit_code == 0
    assert not is_alive(grandchild)


SIGNALS = """
import signal, sys, time
from neuro_sync import Session

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    if sys.argv[1] == "ignored":
        signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() if sys.argv[1] == "blocked" else ())
with Session.local(ephemeral=True) as session:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command="sh -c 'grep ^Sig[BI] /proc/self/status; exec sleep 60'",
    )
    lines = session.jobs.logs(job)
    print(next(lines), next(lines))
    status = ["grep", "^Sig[BI]", "/proc/self/status"]
    print(*session.jobs.run_command(job, status, text=True, timeout=20).stdout.splitlines())
    session.jobs.send_signal(job, signal.SIGINT)
    print(session.jobs.wait(job, timeout=20).history.exit_code)
"""


@pytest.mark.parametrize("kind", ["blocked", "ignored"])
def test_a_job_handles_signals_as_usual_whatever_its_platforms_program_does(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, kind],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    usual = "SigBlk:\t0000000000000000 SigIgn:\t0000000000000000\n"
    assert done.stdout == 2 * usual + f"{128 + signal.SIGINT}\n", done.stderr


def test_a_job_may_use_its_grace_to_end_by_itself(session: Session, start: Start) -> None:
    job = start("sh -c 'trap \"echo bye; exit 0\" TERM; echo ready; sleep 60 & wait'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "ready"
        session.jobs.kill(job)
        assert "bye" in list(lines)


def test_a_job_ends_when_its_supervisor_is_killed(
    platform: LocalPlatform, session: Session, start: Start
) -> None:
    job = start("sh -c 'echo $$; exec sleep 60'")
    with session.jobs.logs(job) as lines:
        pid = outside(platform.folder, job.id, int(next(lines)))
        supervisor = supervisor_of(platform.folder, job.id)
        os.kill(supervisor, signal.SIGKILL)
        assert list(lines) == []
    ended = session.jobs.wait(job)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, "NotFound")
    eventually(lambda: not is_alive(pid), "the job ends with its supervisor")


WRITER = """
import itertools, os, sys, time
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.01)
    if os.path.exists(sys.argv[1]):
        raise SystemExit(7)
"""


def start_writer(session: Session, folder: Path) -> JobDescription:
    """Start a job that counts until there is a file ``stop``, and then fails with 7."""
    script = folder / "writer.py"
    script.write_text(WRITER)
    return session.jobs.start(
        image="any", preset_name="cpu-small", command=f"python '{script}' '{folder / 'stop'}'"
    )


def read_until(lines: Iterator[str], wanted: str) -> list[str]:
    seen = []
    for line in lines:
        seen.append(line)
        if line == wanted:
            break
    return seen


def test_jobs_survive_a_platform_that_is_killed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with platform_process(state) as process:
        with Session.local(state=state) as session:
            job = start_writer(session, tmp_path)
            with session.jobs.logs(job) as lines:
                read_until(lines, "20")
            quick = session.jobs.start(
                image="any", preset_name="cpu-small", command="sh -c 'sleep 0.1; exit 5'"
            )
            session.jobs.monitor(quick).close()  # it was launched
        process.kill()
        process.wait()
    events = state / "jobs" / quick.id / "events.1"
    eventually(
        lambda: events.exists() and b"exited" in events.read_bytes(),
        "a job ends while there is no platform",
    )
    with platform_process(state), Session.local(state=state) as session:
        assert session.jobs.status(job).status is JobStatus.RUNNING
        with session.jobs.logs(job) as lines:
            seen = read_until(lines, "60")
            (tmp_path / "stop").touch()
            seen += lines
        assert seen == [str(number) for number in range(len(seen))]
        ended = session.jobs.wait(job)
        assert (ended.status, ended.history.exit_code) == (JobStatus.FAILED, 7)
        assert len(ended.history.transitions) == 3
        assert session.jobs.wait(quick).history.exit_code == 5


def test_a_log_that_is_being_followed_survives_a_platform_that_is_killed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with platform_process(state) as process, Session.local(state=state) as session:
        job = start_writer(session, tmp_path)
        with session.jobs.logs(job) as lines:
            seen = read_until(lines, "20")
            process.kill()
            process.wait()
            with platform_process(state, port=session.api_url.port or 0):
                seen += read_until(lines, "60")
                (tmp_path / "stop").touch()
                seen += lines
                assert session.jobs.wait(job).history.exit_code == 7
    assert seen == [str(number) for number in range(len(seen))]


def test_the_end_of_a_platform_ends_its_jobs_and_leaves_nothing_running(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path, grace=0.2) as platform:
        with Session(platform.url, platform.token) as session:
            job = session.jobs.start(
                image="any",
                preset_name="cpu-small",
                command="""sh -c 'trap "" TERM; echo $$; while :; do sleep 0.05; done'""",
            )
            with session.jobs.logs(job) as lines:
                pid = outside(tmp_path, job.id, int(next(lines)))
        supervisor = supervisor_of(tmp_path, job.id)
    assert not is_alive(pid)
    eventually(lambda: not is_alive(supervisor), "the supervisor ends with its job")
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        ended = session.jobs.status(job.id)
        assert (ended.status, ended.reason) == (JobStatus.CANCELLED, "PlatformStopped")


def test_a_process_cannot_be_saved_as_an_image(session: Session, start: Start) -> None:
    job = start("sleep 60")
    image = f"{session.api_url.host}:{session.api_url.port}/local/{session.project_name}/saved:v1"
    with pytest.raises(NotSupported, match="start the platform with the docker runtime"):
        session.jobs.save(job, image)
    session.jobs.kill(job)


def test_a_log_that_would_fill_the_disk_ends_its_job_with_words(tmp_path: Path) -> None:
    with (
        LocalPlatform(tmp_path, grace=0.2, log_limit=100_000) as platform,
        Session(platform.url, platform.token) as session,
    ):
        noisy = session.jobs.start(image="any", preset_name="cpu-small", command="yes")
        log = b"".join(session.jobs.monitor(noisy))
        ended = session.jobs.wait(noisy)
        assert log == b"y\n" * 50_000
        assert (ended.status, ended.reason) == (JobStatus.FAILED, "OutputLimit")
        assert ended.history.description == (
            "The platform ended the job: it wrote more than 100000 bytes of output."
        )
        command = "python -c 'print(\"y\" * 99_999)'"  # with its newline it just fits
        exact = session.jobs.start(image="any", preset_name="cpu-small", command=command)
        ended = session.jobs.wait(exact)
        assert ended.status is JobStatus.SUCCEEDED, ended.history


def test_scratch_folders_are_removed_after_a_crash_too(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with platform_process(state) as process:
        with Session.local(state=state) as session:
            job = session.jobs.start(
                image="any",
                preset_name="cpu-small",
                command="""sh -c 'trap "" TERM; mkdir kept; touch kept/x; chmod 500 kept;
                    echo ready; sleep 600'""",
            )
            with session.jobs.logs(job) as lines:
                assert next(lines) == "ready"
            session.jobs.kill(job)
        process.kill()  # before the job is gone, and after it is over
        process.wait()
    supervisor = supervisor_of(state, job.id)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(supervisor), "the supervisor ends")
    scratch = state / "jobs" / job.id / "scratch"
    assert (scratch / "kept" / "x").exists()
    with platform_process(state):
        assert not scratch.exists()
        left = ["control", "events.1", "lock", "log", "log.times"]
        eventually(lambda: sorted(os.listdir(scratch.parent)) == left, "nothing else is left")


def test_a_job_is_saved_only_where_its_user_may_write(session: Session, start: Start) -> None:
    job = start("sleep 60")
    image = f"{session.api_url.host}:{session.api_url.port}/local/another-project/saved:v1"
    with pytest.raises(AuthorizationError, match="write on image://local/local/another-project"):
        session.jobs.save(job, image)
    session.jobs.kill(job)
