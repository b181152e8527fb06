"""The command as a user runs it: in this process, as one of its own, or on a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest
from click.testing import CliRunner, Result

from neuro_sync.cli.main import neuro as command
from neuro_sync.local.server import LocalPlatform
from tests import without_posix
from tests.conftest import OtherPlatform
from tests.terminals import Terminal

NEURO = [sys.executable, "-W", "error", "-m", "neuro_sync"]
if OtherPlatform.VARIABLE in os.environ:
    NEURO[-2:] = [without_posix.__file__]
Neuro = Callable[..., Result]
Open = Callable[[str], Terminal]
Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def login(platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Make the test's platform the one that the environment names."""
    variables = {"NEURO_SYNC_URL": platform.url, "NEURO_SYNC_TOKEN": platform.token}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def neuro(login: Mapping[str, str]) -> Neuro:
    """Run a line such as ``ps --all`` in this process, which takes no time to start."""

    def run(line: str, *more: str) -> Result:
        ended = CliRunner().invoke(command, [*shlex.split(line), *more], prog_name="neuro")
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended

    return run


@pytest.fixture
def neuro_process(login: Mapping[str, str]) -> Process:
    """Run a line as a process of its own."""

    def run(line: str, *more: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*NEURO, *shlex.split(line), *more],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def neuro_terminal(login: Mapping[str, str]) -> Iterator[Open]:
    """Run a line on a terminal of its own."""
    opened: list[Terminal] = []

    def run(line: str) -> Terminal:
        opened.append(Terminal([*NEURO, *shlex.split(line)]))
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.close()
