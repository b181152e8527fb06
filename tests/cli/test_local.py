"""``neuro local up`` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from neuro_sync import ConfigError, Session
from neuro_sync.local.state import stop_platform
from tests.processes import eventually, is_alive, outside

ROOT = Path(__file__).parents[2]
NEURO = [sys.executable, "-m", "neuro_sync"]


def test_up_tells_where_jobs_are_not_kept_apart(tmp_path: Path) -> None:
    """Without bubblewrap they can read the token, and as root everything."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    with subprocess.Popen(
        [*NEURO, "local", "up", "--port", "0", "--state", str(tmp_path / "state")],
        env={**os.environ, "PATH": str(tmp_path / "bin")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        told = ""
        while "Warning" not in told:
            line = process.stdout.readline()
            assert line, told
            told += line
        process.terminate()
        told += process.stdout.read()
    words = " ".join(told.split())
    assert "Warning: jobs are not kept apart from this machine" in words
    assert "this platform's token and secrets too" in words
    assert "it is not installed; install it (apt-get install bubblewrap)" in words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_tells_how_to_use_it_and_ends_on_a_signal(tmp_path: Path, number: int) -> None:
    state = tmp_path / "state"
    with subprocess.Popen(
        [*NEURO, "local", "up", "--port", "0", "--state", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        banner = [process.stdout.readline() for _ in range(6)]
        with Session.local(state=state) as session:
            assert str(session.api_url) in banner[1]
            job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert str(state) in banner[3]
    assert "kept" in banner[3]
    assert rest == ""
    *warning, last = errors.splitlines()  # one where there is no sandbox
    assert last == "Stopping the platform and its jobs."
    assert all(line.startswith("Warning: jobs are not kept apart") for line in warning)
    with Session.local(state=state) as session:
        assert session.jobs.status(job.id).reason == "PlatformStopped"


def test_up_with_docker_runs_images_and_the_banner_tells_of_the_engine(
    tmp_path: Path, engine: str
) -> None:
    for runtime, expected in (
        ("docker", f"docker: a job is a container of its image, at {engine}"),
        ("process", f"found at {engine} (DOCKER_HOST); --runtime docker runs images"),
    ):
        with subprocess.Popen(
            [*NEURO, "local", "up", "--port=0", f"--state={tmp_path}", f"--runtime={runtime}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "DOCKER_HOST": engine},
        ) as process:
            assert process.stdout
            banner = "".join(process.stdout.readline() for _ in range(4))
            process.send_signal(signal.SIGINT)
        assert expected in banner


@pytest.mark.parametrize("options", [(), ("--state", "a b"), ("--ephemeral",)])
def test_what_the_banner_tells_to_type_works(tmp_path: Path, options: tuple[str, ...]) -> None:
    variables = {name: value for name, value in os.environ.items() if "NEURO" not in name}
    where: dict[str, Any] = {"cwd": tmp_path, "env": {**variables, "PYTHONPATH": str(ROOT)}}
    caught = {"stdout": subprocess.PIPE, "text": True, **where}
    with subprocess.Popen(
        [*NEURO, "local", "up", "--port=0", *options], stdout=subprocess.PIPE, text=True, **where
    ) as process:
        assert process.stdout
        banner = ""
        while "Ctrl-C" not in banner:
            banner += process.stdout.readline()
        url = re.findall(r"API +(.*)", banner)[0]
        if not options:
            assert "Session.local(), in the same folder" in banner
            session = "Session.local(start=False)"
        else:
            session = re.findall(r"Use it +(Session.*)", banner)[0][:-1] + ", start=False)"
        code = f"from neuro_sync import Session\nprint({session}.api_url)"
        told = subprocess.run([sys.executable, "-c", code], check=True, **caught)
        assert told.stdout.strip() == url
        line = re.findall(r"(eval .*\))\" for all", banner)[0] + '"; echo $NEURO_SYNC_URL'
        line = line.replace("neuro local", " ".join([*NEURO, "local"]))
        told = subprocess.run(["sh", "-c", line], check=True, **caught)
        assert told.stdout.strip() == url
        process.send_signal(signal.SIGINT)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NEURO, *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_taken_port_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("local", "up", "--port", port, "--state", str(tmp_path))
    assert ended.returncode == 77
    assert ended.stderr.startswith(f"Error: port {port} cannot be used")
    assert ended.stderr.count("\n") == 1


def test_a_state_folder_in_use_is_named(tmp_path: Path) -> None:
    with Session.local(state=tmp_path):
        ended = run("local", "up", "--port", "0", "--state", str(tmp_path))
    assert ended.returncode == 77
    assert f"is running on {tmp_path} already at http://127.0.0.1:" in ended.stderr


def test_options_that_exclude_each_other_are_refused() -> None:
    ended = run("local", "up", "--ephemeral", "--state", "x")
    assert ended.returncode == 64
    assert "exclude each other" in ended.stderr


@contextmanager
def up(state: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the block ends, and return when it answers.

    Its jobs may write what is beside the state folder.
    """
    options = ("--port", "0", "--state", str(state), "--writable", str(state.parent))
    with subprocess.Popen(
        [*NEURO, "local", "up", *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline()
        yield process
        process.terminate()


def test_down_ends_it_with_its_jobs_and_status_tells(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    told = run("local", "status", *state)
    assert (told.returncode, told.stdout) == (1, "")
    told = run("local", "status", "--json", *state)
    assert told.returncode == 1
    assert json.loads(told.stdout) == {"folder": str(tmp_path), "running": False}
    with up(tmp_path) as process:
        with Session.local(state=tmp_path) as session:
            job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
            told = run("local", "status", *state)
            assert told.returncode == 0
            assert str(session.api_url) in told.stdout
            parts = json.loads(run("local", "status", "--json", *state).stdout)
            assert (parts["running"], parts["url"]) == (True, str(session.api_url))
            assert parts["pid"] == process.pid
        ended = run("local", "down", *state)
        assert (ended.returncode, ended.stdout) == (0, "")
        assert process.wait(20) == 0
    again = run("local", "down", *state)
    assert again.returncode == 77
    assert again.stderr == (
        f"Error: no local platform runs on {tmp_path}; start one: neuro local up\n"
    )
    with Session.local(state=tmp_path) as session:
        assert session.jobs.status(job).reason == "PlatformStopped"


def test_down_leaves_alone_what_is_part_of_a_program(tmp_path: Path) -> None:
    with Session.local(state=tmp_path) as session:
        ended = run("local", "down", "--state", str(tmp_path))
        assert ended.returncode == 77
        assert f"part of the program with the process number {os.getpid()}" in ended.stderr
        session.jobs.tags()


def test_down_never_signals_a_process_that_got_the_number_later(tmp_path: Path) -> None:
    with up(tmp_path) as process:
        bystander = subprocess.Popen(["sleep", "60"])
        try:
            announced = tmp_path / "address.json"
            told = json.loads(announced.read_text())
            announced.write_text(json.dumps({**told, "pid": bystander.pid}))
            with pytest.raises(ConfigError, match="has not ended"):
                stop_platform(tmp_path, timeout=0.1)
            assert bystander.poll() is None
            assert process.poll() is None
        finally:
            bystander.kill()
            bystander.wait()


def test_env_is_for_a_shell(tmp_path: Path) -> None:
    script = 'eval "$("$@")"; exec "$0" -c "$CODE"'
    code = "import neuro_sync; print(neuro_sync.get().jobs.get_capacity()['cpu-small'] >= 0)"
    with up(tmp_path):
        answer = subprocess.run(
            ["sh", "-c", script, sys.executable, *NEURO, "local", "env", "--state", str(tmp_path)],
            env={**os.environ, "CODE": code},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert answer.stdout == "True\n"


@pytest.mark.parametrize("is_running", [False, True])
def test_exec_gives_a_program_the_platform_and_exits_as_it_does(
    tmp_path: Path, is_running: bool
) -> None:
    code = "import neuro_sync, sys; neuro_sync.get().jobs.tags(); sys.exit(7)"
    with up(tmp_path) if is_running else nullcontext():
        arguments = ("--state", str(tmp_path), "--", sys.executable, "-c", code)
        ended = run("local", "exec", *arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [(["there-is-no-such-program"], 127), (["/"], 126), (["sh", "-c", "kill -9 $$"], 137)],
)
def test_exec_ends_as_a_shell_would(command: list[str], exit_code: int) -> None:
    assert run("local", "exec", "--ephemeral", *command).returncode == exit_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_exec_forwards_signals_to_the_program_and_cleans_up(
    number: signal.Signals, tmp_path: Path
) -> None:
    code = (
        "import signal, sys, time; from neuro_sync import Session\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(7))\n"
        "job = Session().jobs.start(image='any', preset_name='cpu-small', command='sleep 60')\n"
        "Session().jobs.wait(job, until='running'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [*NEURO, "local", "exec", "--ephemeral", "--", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert [*tmp_path.glob("neuro-local-*")]
        process.send_signal(number)
        assert process.wait(30) == 7
    assert not [*tmp_path.glob("neuro-local-*")]


def test_exec_forwards_a_signal_that_came_while_it_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*NEURO, "local", "exec", "--state", str(tmp_path), "--", "sleep", "60"]
    ) as process:
        eventually((tmp_path / "lock").exists, "no platform is being started")
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


def test_reset_deletes_the_folder_and_ends_what_a_killed_platform_left(tmp_path: Path) -> None:
    state, mark = tmp_path / "state", tmp_path / "pid"
    with up(state) as process:
        with Session.local(state=state) as session:
            command = f"sh -c 'echo $$ > {mark}; exec sleep 60'"
            job = session.jobs.start(image="any", preset_name="cpu-small", command=command)
            session.jobs.wait(job, until="running")
            while not (mark.exists() and mark.read_text().strip()):
                session.jobs.status(job)
            pid = outside(state, job.id, int(mark.read_text()))
        refused = run("local", "reset", "--yes", "--state", str(state))
        assert refused.returncode == 77
        assert "is running on" in refused.stderr
        assert (state / "platform.db").exists()
        process.kill()
    assert run("local", "reset", "--yes", "--state", str(state)).returncode == 0
    assert not state.exists()
    assert not is_alive(pid)


def test_reset_runs_nothing_of_what_it_deletes(tmp_path: Path) -> None:
    state, mark = tmp_path / "state", tmp_path / "ran"
    with up(state) as process:
        with Session.local(state=state) as session:
            preset = max(session.jobs.get_capacity())
            room = session.jobs.get_capacity()[preset]
            jobs = [
                session.jobs.start(image="any", preset_name=preset, command=command)
                for command in [*["sleep 60"] * room, *[f"touch {mark}"] * 3]
            ]
            assert session.jobs.status(jobs[-1]).reason == "Scheduling"
        process.kill()
    assert run("local", "reset", "--yes", "--state", str(state)).returncode == 0
    assert not state.exists()
    assert not mark.exists()


def test_reset_touches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    ended = run("local", "reset", "--yes", "--state", str(tmp_path))
    assert ended.returncode == 77
    assert "is no state folder of a local platform; nothing was deleted" in ended.stderr
    with Session.local(state=tmp_path / "state"):
        pass
    asked = run("local", "reset", "--state", str(tmp_path / "state"))
    assert asked.returncode == 130
    assert (tmp_path / "state" / "version").exists()
    assert (tmp_path / "precious").exists()


def test_a_platform_of_another_version_is_named(tmp_path: Path) -> None:
    with up(tmp_path):
        announced = tmp_path / "address.json"
        announced.write_text(json.dumps({**json.loads(announced.read_text()), "version": "0.0.1"}))
        with pytest.raises(ConfigError, match=r"is of version 0\.0\.1.*neuro local down"):
            Session.local(state=tmp_path)


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("neuro, version ")
