"""The state folder: one platform each, and words for what is wrong with it."""

from __future__ import annotations

import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from neuro_sync import ConfigError, JobStatus, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import StateFolder, local_user, running_platform


def test_a_session_starts_a_platform_that_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Session.local() as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command="echo hello")
        assert list(session.jobs.logs(job)) == ["hello"]
        session.jobs.wait(job)
        with Session.local() as second:  # meets the one that runs
            assert second.jobs.status(job.id).id == job.id
            assert second.api_url == session.api_url
    assert (tmp_path / ".neuro-local").is_dir()
    with Session.local() as session:
        assert session.jobs.status(job.id).status is JobStatus.SUCCEEDED
        assert list(session.jobs.logs(job)) == ["hello"]


def test_the_variable_names_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURO_LOCAL_STATE", str(tmp_path / "there"))
    with Session.local():
        assert (tmp_path / "there" / "platform.db").exists()


def test_an_ephemeral_platform_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    platform = LocalPlatform(ephemeral=True)
    with platform:
        assert platform.folder.is_dir()
    assert not platform.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_may_read_the_folder(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path / "state") as platform:
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (platform.folder, *platform.folder.iterdir())
            if path.name in ("state", "token", "platform.db", "lock", "wake")
        }
    assert modes == {
        "state": 0o700,
        "token": 0o600,
        "platform.db": 0o600,
        "lock": 0o600,
        "wake": 0o600,
    }


def test_a_platform_keeps_its_token(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform:
        first = platform.token
    with LocalPlatform(tmp_path) as platform:
        assert platform.token == first
        assert first not in repr(platform)


def test_a_second_platform_on_a_folder_is_refused(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform, pytest.raises(ConfigError) as refused:
        LocalPlatform(tmp_path).start()
    assert str(tmp_path) in str(refused.value)
    assert platform.url in str(refused.value)


def test_processes_that_start_on_one_folder_at_once_use_one_platform(tmp_path: Path) -> None:
    code = (
        "import sys; from neuro_sync import Session; import neuro_sync.local.server\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "session = Session.local(state=sys.argv[1])\n"
        "print(session.api_url, len(session.presets) > 0, flush=True); sys.stdin.readline()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = []
    for expected in ("ready", ""):
        for process in processes:
            assert process.stdout
            line = process.stdout.readline().strip()
            assert line == expected or not expected
            told.append(line)
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
    for process in processes:
        with process:
            process.communicate(timeout=30)
    (only,) = set(told[len(processes) :])
    assert only.endswith(" True")


def test_looking_for_a_platform_never_keeps_one_from_starting(tmp_path: Path) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            assert running_platform(tmp_path) is None

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(300):
            state = StateFolder(tmp_path)
            state.open()
            state.close()
    finally:
        over.set()
        for looker in lookers:
            looker.join()


def test_a_taken_port_is_refused_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used.*--port"):
            LocalPlatform(tmp_path, port=port).start()
    with LocalPlatform(tmp_path):  # and the folder is free again
        pass


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="port 70000"):
        LocalPlatform(ephemeral=True, port=70000).start()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigError, match=r"state cannot be used .*--state"):
        Session.local(state=tmp_path / "state")


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("99\n")
    with pytest.raises(ConfigError, match=r"version '99'.*--state"):
        LocalPlatform(tmp_path).start()


@pytest.mark.parametrize("version", [None, b"", b"\0\0", b"2\n"])
@pytest.mark.parametrize("token", [None, b"", b"\0" * 141])
@pytest.mark.parametrize("database", [None, b"", "of a job"])
def test_a_first_start_that_a_power_loss_cut_short_is_completed(
    tmp_path: Path, version: bytes | None, token: bytes | None, database: bytes | str | None
) -> None:
    if database == "of a job":
        with (
            LocalPlatform(tmp_path) as platform,
            Session(platform.url, platform.token) as session,
        ):
            session.jobs.wait(
                session.jobs.start(image="any", preset_name="cpu-small", command="true")
            )
    for name, content in (("version", version), ("token", token), ("platform.db", database)):
        if not isinstance(content, str):
            (tmp_path / name).unlink(missing_ok=True)
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
    for _ in range(2):
        with (
            LocalPlatform(tmp_path) as platform,
            Session(platform.url, platform.token) as session,
        ):
            assert len(list(session.jobs.list())) == (database == "of a job")
    assert (tmp_path / "version").read_text() == "2\n"
    assert (tmp_path / "token").read_text() == platform.token
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_a_folder_without_a_version_whose_database_is_of_another_one_is_refused(
    tmp_path: Path,
) -> None:
    with closing(sqlite3.connect(tmp_path / "platform.db")) as database:
        database.execute("CREATE TABLE jobs (id TEXT, status TEXT)")
    (tmp_path / "version").touch()
    with pytest.raises(ConfigError, match=r"version unknown.*--state"):
        LocalPlatform(tmp_path).start()


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path):
        pass
    (tmp_path / "platform.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(ConfigError, match=r"platform\.db cannot be used .*--state"):
        LocalPlatform(tmp_path).start()


def test_a_local_user_fits_the_rules_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, expected in (
        ("alice", "alice"),
        ("Alice Smith", "alice-smith"),
        ("x", "user"),
        ("9lives", "user"),
        ("a" * 30, "a" * 21),
    ):
        monkeypatch.setattr("getpass.getuser", lambda name=name: name)
        assert local_user() == expected
