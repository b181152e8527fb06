"""State folders that somebody else has made, changed or copied: nothing in them is obeyed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import ConfigError, Session
from neuro_sync.cli.main import neuro
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.cleanup import MARK, PREFIX, clean_up_later
from neuro_sync.local.retention import Retention, prune
from neuro_sync.local.server import LocalPlatform, end_leftovers
from neuro_sync.local.state import (
    FILES,
    FOLDERS,
    PIPES,
    Address,
    StateFolder,
    last_runtime,
    local_user,
    running_platform,
    stop_platform,
)
from neuro_sync.local.store import Store
from tests.processes import eventually

STRANGER = 65534
"""A user who is not this one."""
with_strangers = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")

Use = Callable[[Path], object]


def use_accounts(folder: Path) -> None:
    with accounts_of(folder) as accounts:
        accounts.names()


def command(*words: str) -> Use:
    """Return how a command of ``neuro local`` uses a folder; its error is raised."""

    def run(folder: Path) -> None:
        options = ["--state", str(folder)]
        line = [*words, *options] if words[-1] != "true" else [words[0], *options, words[-1]]
        ended = CliRunner().invoke(neuro, ["local", *line])
        assert ended.exit_code == 77, ended.output
        raise ConfigError(ended.stderr)

    return run


STARTS: dict[str, Use] = {
    "Session.local": lambda folder: Session.local(state=folder),
    "LocalPlatform": lambda folder: LocalPlatform(folder).start(),
    "up": command("up", "--port", "0"),
    "accounts_of": use_accounts,
    "prune": lambda folder: prune(folder, Retention(keep=0)),
    "user add": command("user", "add", "bob"),
    "user ls": command("user", "ls"),
    "project ls": command("project", "ls"),
}
"""What opens a state folder as a platform does."""
USES: dict[str, Use] = {
    **STARTS,
    "Session.local that starts nothing": lambda folder: Session.local(state=folder, start=False),
    "running_platform": running_platform,
    "last_runtime": last_runtime,
    "stop_platform": stop_platform,
    "end_leftovers": end_leftovers,
    "adopt": command("adopt"),
    "status": command("status"),
    "env": command("env"),
    "exec": command("exec", "true"),
    "down": command("down"),
    "reset": command("reset", "--yes"),
    "prune by command": command("prune", "--keep", "0"),
}


@contextmanager
def trap(folder: Path, url: str = "") -> Iterator[socket.socket]:
    """Make a folder that looks as if a platform ran on it, and yield where its address leads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        StateFolder(folder).prepare()
        StateFolder(folder).path.joinpath("token").write_text("a-token")
        address = {
            "url": url or f"http://127.0.0.1:{port}/api/v1",
            "pid": os.getpid(),
            "runtime": "docker",
        }
        (folder / "address.json").write_text(json.dumps(address))
        for name in ("token", "address.json"):
            (folder / name).chmod(0o600)
        with open(folder / "running", "w") as running:
            (folder / "running").chmod(0o600)
            fcntl.flock(running, fcntl.LOCK_EX)
            yield listener


def was_contacted(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def give_away(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, STRANGER, STRANGER)


@with_strangers
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_folder_of_another_user_is_never_used(tmp_path: Path, use: Use) -> None:
    folder = tmp_path / "state"
    with trap(folder) as listener:
        give_away(folder)
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(ConfigError, match=r"state belongs to the user .*--state .*LOCAL_STATE"):
            use(folder)
        assert not was_contacted(listener)
    assert sorted(path.name for path in folder.iterdir()) == before


@with_strangers
@pytest.mark.parametrize("name", sorted(FILES | PIPES | FOLDERS | {"supervisor.pyc"}))
def test_a_file_of_another_user_is_never_used(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "state"
    with LocalPlatform(folder):
        pass
    path = folder / name
    if not path.exists():
        path.mkdir() if name in FOLDERS else path.touch()
    os.chown(path, STRANGER, STRANGER)
    for use in STARTS.values():
        with pytest.raises(ConfigError, match=rf"{re.escape(str(path))} belongs to the user"):
            use(folder)


@with_strangers
@pytest.mark.parametrize("name", ["running", "address.json", "token"])
def test_an_address_that_another_user_wrote_is_never_used(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "state"
    with trap(folder) as listener:
        os.chown(folder / name, STRANGER, STRANGER)
        for use in ("Session.local", "running_platform", "env", "exec", "status", "down", "up"):
            with pytest.raises(ConfigError, match=f"{name} belongs to the user"):
                USES[use](folder)
        assert not was_contacted(listener)


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/api/v1",
        "http://127.0.0.1.evil.example:7787/api/v1",
        "http://127.0.0.1:7787@evil.example/api/v1",
        "http://evil.example/?http://127.0.0.1:7787/api/v1",
        "https://127.0.0.1:7787/api/v1",
        "http://localhost:7787/api/v1",
        "http://127.0.0.1:7787/api/v1\n.evil.example",
        "http://127.0.0.1:77871234/api/v1",
        "http://127.0.0.1/api/v1",
        "http://0x7f.1:7787/api/v1",
        7787,
        None,
    ],
)
def test_an_address_that_is_not_of_this_machine_is_refused(tmp_path: Path, url: str) -> None:
    with trap(tmp_path):
        announced = json.loads((tmp_path / "address.json").read_text())
        (tmp_path / "address.json").write_text(json.dumps({**announced, "url": url}))
        with pytest.raises(ConfigError, match=r"address\.json"):
            Session.local(state=tmp_path, start=False)


@given(st.text())
def test_only_loopback_addresses_are_addresses(text: str) -> None:
    for url in (text, f"http://127.0.0.1:1{text}/api/v1"):
        try:
            Address(url, "token")
        except ValueError:
            assert not re.fullmatch(r"http://127\.0\.0\.1:1[0-9]{0,4}/api/v1", url)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_link_in_place_of_a_file_is_refused_and_its_target_untouched(
    tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    target.chmod(0o644)
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / name).symlink_to(target)
    for use in STARTS.values():
        with pytest.raises(ConfigError, match=f"{name} is a link"):
            use(folder)
    assert target.read_bytes() == b"precious"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_folder_that_came_with_a_project_and_links_elsewhere_deletes_nothing(
    tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").touch()
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "version").write_text("2\n")
    (folder / name).symlink_to(target)
    for use in STARTS.values():
        with pytest.raises(ConfigError, match="neuro local adopt"):
            use(folder)
    with pytest.raises(ConfigError, match=f"{name} is no folder"):
        StateFolder(folder).adopt()
    assert (target / "precious").exists()
    end_leftovers(folder)
    assert (target / "precious").exists()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["running", "token", "lock"])
def test_a_pipe_in_place_of_a_file_makes_nobody_wait(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name} is no regular file"):
        Session.local(state=tmp_path)


def test_a_folder_that_others_may_write_is_used_only_if_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    with LocalPlatform(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    for use in (*STARTS.values(), running_platform, last_runtime):
        with pytest.raises(ConfigError, match="state may be changed by other users"):
            use(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777


def test_a_folder_with_files_of_other_programs_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "project.py").touch()
    tmp_path.chmod(0o755)
    for _ in range(2):
        with LocalPlatform(tmp_path):
            assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
            assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700


@pytest.mark.parametrize(("mode", "is_safe"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_nobody_can_exchange_a_folder_that_is_used(
    tmp_path: Path, mode: int, is_safe: bool
) -> None:
    shared = tmp_path / "shared"
    folder = shared / "project" / "state"
    folder.mkdir(parents=True)
    shared.chmod(mode)
    if is_safe:
        StateFolder(folder).prepare()
        return
    for use in USES.values():
        with pytest.raises(ConfigError, match=r"shared may be changed by other users"):
            use(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="there are no such lists")
def test_a_folder_above_that_a_list_opens_to_others_is_not_used(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "state").mkdir(parents=True)
    project.chmod(0o770)
    everybody = 2**32 - 1
    entries = ((1, 7, everybody), (2, 7, STRANGER), (4, 0, everybody), (16, 7, everybody))
    listed = struct.pack("<I", 2)
    for tag, rights, who in (*entries, (32, 0, everybody)):
        listed += struct.pack("<HHI", tag, rights, who)
    try:
        os.setxattr(project, "system.posix_acl_access", listed)
    except OSError as error:
        pytest.skip(f"no such lists: {error}")
    with pytest.raises(ConfigError, match="project may be changed by other users"):
        StateFolder(project / "state").prepare()


@with_strangers
def test_a_folder_that_a_group_may_change_is_not_used(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "state").mkdir(parents=True)
    os.chown(project, 0, STRANGER)
    project.chmod(0o2775)
    with pytest.raises(ConfigError, match="project may be changed by other users"):
        StateFolder(project / "state").prepare()


@with_strangers
def test_a_folder_below_one_of_another_user_is_not_used(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "state").mkdir(parents=True)
    os.chown(project, STRANGER, STRANGER)
    for use in USES.values():
        with pytest.raises(ConfigError, match=r"project belongs to the user"):
            use(project / "state")
    with pytest.raises(ConfigError, match=r"project belongs to the user"):
        StateFolder(project / "new").prepare()
    assert not (project / "new").exists()


def test_a_link_of_this_user_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("there")
    with LocalPlatform(tmp_path / "link") as platform:
        found = running_platform(tmp_path / "there")
        assert found is not None
        assert found.url == platform.url
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="loop cannot be used"):
        StateFolder(tmp_path / "loop").prepare()


@with_strangers
def test_a_link_of_another_user_to_a_folder_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "mine").mkdir(mode=0o700)
    (shared / "link").symlink_to(tmp_path / "mine")
    os.lchown(shared / "link", STRANGER, STRANGER)
    for use in USES.values():
        with pytest.raises(ConfigError, match="link belongs to the user"):
            use(shared / "link")
    assert not [*(tmp_path / "mine").iterdir()]


# Copies


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a state folder, as it comes with a project, in which a job waits for its turn."""
    original = tmp_path / "original"
    with (
        LocalPlatform(original, cores=1, grace=0.1) as platform,
        Session(platform.url, platform.token) as session,
    ):
        for text in ("sleep 60", f"touch {tmp_path / 'ran'}"):
            session.jobs.start(image="any", preset_name="cpu-large", command=text)
        packed = subprocess.run(
            ["tar", "-c", "--exclude=wake", "--exclude=control", "-f", tmp_path / "state.tar", "."],
            cwd=original,
            check=False,
        )
        assert packed.returncode in (0, 1)  # 1: something has changed meanwhile
    folder = tmp_path / "copy"
    folder.mkdir()
    subprocess.run(["tar", "-x", "-f", tmp_path / "state.tar"], cwd=folder, check=True)
    return folder


def test_a_copied_folder_starts_no_job_until_it_is_adopted(tmp_path: Path, copied: Path) -> None:
    for use in STARTS.values():
        with pytest.raises(
            ConfigError, match=rf"neuro local adopt --state {re.escape(str(copied))}"
        ):
            use(copied)
    assert not (tmp_path / "ran").exists()
    ended = CliRunner().invoke(neuro, ["local", "adopt", "--state", str(copied)])
    assert ended.exit_code == 0, ended.output
    with (
        LocalPlatform(copied, cores=1000, memory=2**42, grace=0.1, writable=[tmp_path]) as platform,
        Session(platform.url, platform.token) as session,
    ):
        eventually((tmp_path / "ran").exists, "the job did not run")
        assert len(list(session.jobs.list())) == 2


def test_a_copied_folder_is_deleted_by_reset_without_ending_jobs(
    tmp_path: Path, copied: Path
) -> None:
    ended = CliRunner().invoke(neuro, ["local", "reset", "--yes", "--state", str(copied)])
    assert ended.exit_code == 0, ended.output
    assert not copied.exists()
    assert (tmp_path / "original").exists()


def test_a_token_that_came_with_a_project_is_not_this_users(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("known to whoever wrote it")
    with pytest.raises(ConfigError, match="neuro local adopt"):
        LocalPlatform(tmp_path).start()


def test_files_may_be_in_the_storage_before_the_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "storage" / "local" / local_user()
    folder.mkdir(parents=True)
    (folder / "data").write_text("put here")
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        assert b"".join(session.storage.open("storage:data")) == b"put here"
    assert stat.S_IMODE((tmp_path / "storage").stat().st_mode) == 0o700


def test_a_folder_that_was_renamed_is_used_as_before(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path / "before") as platform:
        token = platform.token
    (tmp_path / "project").mkdir()
    (tmp_path / "before").rename(tmp_path / "project" / "after")
    with LocalPlatform(tmp_path / "project" / "after") as platform:
        assert platform.token == token


def test_two_machines_that_share_a_folder_are_asked_once_each(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path):
        pass
    mine = (tmp_path / "belongs").read_bytes()
    (tmp_path / "belongs").write_bytes(b"0" * 64 + b"\n")  # as on the other machine
    with pytest.raises(ConfigError, match="neuro local adopt"):
        StateFolder(tmp_path).prepare()
    StateFolder(tmp_path).adopt()
    assert (tmp_path / "belongs").read_bytes() == mine + b"0" * 64 + b"\n"
    StateFolder(tmp_path).prepare()


def test_a_mark_that_lists_all_folders_there_may_be_is_none(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path):
        pass
    mine = (tmp_path / "belongs").read_bytes()
    (tmp_path / "belongs").write_bytes(b"".join(b"%064d\n" % n for n in range(1000)) + mine)
    with pytest.raises(ConfigError, match="neuro local adopt"):
        StateFolder(tmp_path).prepare()


def test_a_job_id_of_a_copied_database_leads_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    folder = tmp_path / "state"
    with LocalPlatform(folder) as platform, Session(platform.url, platform.token) as session:
        session.jobs.wait(session.jobs.start(image="any", preset_name="cpu-small", command="true"))
    store = Store(folder / "platform.db")
    store.database.execute("UPDATE jobs SET id = '../../precious'")
    store.close()
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("wake", "control"))
    with pytest.raises(ConfigError, match="neuro local adopt"):
        prune(tmp_path / "copy", Retention(keep=0))
    assert (tmp_path / "precious").exists()


# Temporary folders


@with_strangers
def test_a_left_over_of_another_user_is_neither_run_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started: list[Path] = []
    monkeypatch.setattr(
        "neuro_sync.local.cleanup._run_shell", lambda _, folder, **__: started.append(folder)
    )
    mine = tmp_path / "mine"
    mine.touch()
    for name in ("all", "mark", "linked", "open", "copy"):
        folder = tmp_path / f"{PREFIX}{name}"
        StateFolder(folder).prepare()
        (folder / "lock").touch(mode=0o600)
        (folder / MARK).touch(mode=0o600)
    give_away(tmp_path / f"{PREFIX}all")
    os.chown(tmp_path / f"{PREFIX}mark" / MARK, STRANGER, STRANGER)
    (tmp_path / f"{PREFIX}linked" / MARK).unlink()
    (tmp_path / f"{PREFIX}linked" / MARK).symlink_to(mine)
    (tmp_path / f"{PREFIX}open").chmod(0o777)
    (tmp_path / f"{PREFIX}copy" / "belongs").write_bytes(b"0" * 64)
    clean_up_later()
    assert started == []


def test_temporary_folders_that_others_can_exchange_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match="TMPDIR"):
        LocalPlatform(ephemeral=True)
    tmp_path.chmod(0o1777)
    with LocalPlatform(ephemeral=True):
        pass


# Modes


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0, 0o777], indirect=True, ids=oct)
@pytest.mark.parametrize("durable", [False, True])
def test_nothing_is_readable_by_others_whatever_the_umask(
    tmp_path: Path, umask: int, durable: bool
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)
    with (
        LocalPlatform(folder, durable=durable, grace=0.1) as platform,
        Session(platform.url, platform.token) as session,
    ):
        session.secrets.add("key", b"value")
        session.disks.create(2**20)
        session.storage.create("storage:folder/file", b"content")
        job = session.jobs.start(
            image="any",
            preset_name="cpu-small",
            command="sh -c 'umask; mkfifo fifo; echo out; echo err >&2; cat'",
            env={"SECRET": "of nobody else"},
        )
        with session.jobs.logs(job) as lines:
            assert next(iter(lines)) == f"{umask:04o}"  # that of a job is the platform's
        with session.jobs.attach(job, stdin=True):
            check_private(folder, job.id)
            assert (folder / "platform.db-wal").exists()
        platform.add_user("bob")
        session.jobs.kill(job)
        session.jobs.wait(job)
        check_private(folder, job.id)
    check_private(folder, job.id)
    with LocalPlatform(folder):
        check_private(folder, job.id)


def check_private(folder: Path, job_id: str) -> None:
    """Check the mode of all that is in a state folder but of what a job has made."""
    own = {folder / "jobs" / job_id / name for name in ("scratch", "tmp")}
    seen = set()
    found = [folder]
    for item in folder.iterdir():  # what is in the trash may go at any moment
        found += [item, *(item.rglob("*") if item.name != "trash" else ())]
    for path in found:
        if own.isdisjoint(path.parents):
            mode = path.lstat().st_mode
            seen.add(path.name)
            kind = 0o700 if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode) else 0o600
            assert stat.S_IMODE(mode) == kind, (path, oct(mode))
    assert {"token", "platform.db", "log", "log.times", "events.1", "key", "file"} <= seen


def test_folders_above_a_new_one_are_not_open_to_all(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        StateFolder(tmp_path / "a" / "b" / "state").prepare()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/state")]
    assert modes == [0o755, 0o755, 0o700]
