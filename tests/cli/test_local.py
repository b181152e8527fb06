"""``neuro local up`` as a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from neuro_sync import Session

NEURO = [sys.executable, "-m", "neuro_sync"]


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
    assert errors == "Stopping the platform and its jobs.\n"
    with Session.local(state=state) as session:
        assert session.jobs.status(job.id).reason == "PlatformStopped"


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


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("neuro, version ")
