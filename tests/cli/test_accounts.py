"""``neuro local user`` and ``neuro local project``, beside a platform that runs or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neuro_sync import AuthenticationError, Session
from neuro_sync.cli.main import neuro
from neuro_sync.local.server import LocalPlatform


def run(*arguments: str, state: Path) -> Result:
    return CliRunner().invoke(neuro, ["local", *arguments, "--state", str(state)])


def says(*arguments: str, state: Path) -> str:
    done = run(*arguments, state=state)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def test_another_program_adds_a_user_to_a_platform_that_runs(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path / "state") as platform:
        command = [sys.executable, "-m", "neuro_sync", "local", "user", "add", "bob"]
        state = ["--state", str(platform.folder)]
        token = subprocess.run([*command, *state], capture_output=True, check=True, timeout=20)
        with Session(platform.url, token.stdout.decode().strip()) as bob:
            assert list(bob.jobs.list()) == []


def test_what_is_changed_while_the_platform_runs_holds_at_once(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path / "state") as platform:
        token = says("user", "add", "bob", state=platform.folder).strip()
        with Session(platform.url, token) as bob:
            assert (bob.username, bob.project_name) == ("bob", "bob")
            assert list(bob.jobs.list()) == []
            says("project", "add", "vision", state=platform.folder)
            says("project", "set-role", "vision", "bob", "writer", state=platform.folder)
            job = bob.jobs.start(
                image="any", preset_name="cpu-small", command="true", project_name="vision"
            )
            newer = says("user", "token", "bob", state=platform.folder).strip()
            with pytest.raises(AuthenticationError):
                bob.jobs.status(job)
        with Session(platform.url, newer) as bob:
            assert bob.jobs.status(job).owner == "bob"
            says("user", "rm", "bob", state=platform.folder)
            with pytest.raises(AuthenticationError):
                bob.jobs.status(job)


def test_users_are_kept_while_no_platform_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    token = says("user", "add", "bob", state=state).strip()
    says("project", "add", "vision", state=state)
    says("project", "set-role", "vision", "bob", "reader", state=state)
    assert says("project", "ls", state=state) == "bob\tbob:admin\nvision\tbob:reader\n"
    assert json.loads(says("project", "ls", "--json", state=state)) == [
        {"name": "bob", "users": {"bob": "admin"}},
        {"name": "vision", "users": {"bob": "reader"}},
    ]
    assert {"name": "bob", "projects": {"bob": "admin", "vision": "reader"}} in json.loads(
        says("user", "ls", "--json", state=state)
    )
    assert token not in (state / "platform.db").read_bytes().decode("latin-1")
    with LocalPlatform(state) as platform, Session(platform.url, token) as bob:
        assert bob.username == "bob"
        with Session(platform.url, platform.token) as owner:
            owner_line = f"{owner.username}\t{owner.username}:admin"
    lines = set(says("user", "ls", state=state).splitlines())
    assert lines == {owner_line, "bob\tbob:admin\tvision:reader"}
    says("project", "set-role", "vision", "bob", "none", state=state)
    assert "bob\tbob:admin" in says("user", "ls", state=state).splitlines()
    for command in ("rm", "token"):
        refused = run("user", command, owner.username, state=state)
        assert "runs this platform" in refused.stderr
    assert owner_line in says("user", "ls", state=state).splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("user", "add", "Bob!"), 65, "'Bob!' cannot be the name of a user"),
        (("user", "add", "bob-the-builder-of-everything"), 65, "3 to 21"),
        (("user", "add", "vision"), 65, "there is a project 'vision' already"),
        (("user", "add", "alice"), 65, "'alice' exists already"),
        (("user", "rm", "nobody"), 72, 'user "nobody" was not found'),
        (("user", "token", "nobody"), 72, 'user "nobody" was not found'),
        (("project", "add", "vision"), 65, "there is a project 'vision' already"),
        (("project", "add", "a/b"), 65, "'a/b' cannot be the name of a project"),
        (("project", "set-role", "none-such", "alice", "reader"), 72, "was not found"),
        (("project", "set-role", "vision", "nobody", "reader"), 72, "was not found"),
        (("project", "set-role", "vision", "alice", "king"), 64, "king"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    kept: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    refused = run(*arguments, state=kept)
    assert (refused.exit_code, refused.stdout) == (code, "")
    assert text in refused.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with a user and a project of theirs."""
    state = tmp_path_factory.mktemp("kept") / "state"
    says("user", "add", "alice", state=state)
    says("project", "add", "vision", state=state)
    says("project", "set-role", "vision", "alice", "admin", state=state)
    return state
