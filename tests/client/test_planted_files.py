"""Downloads into folders where somebody else has put links, pipes and devices."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from neuro_sync import ConfigError, CopyIncomplete, Session
from neuro_sync.client import local_folder, saved_login
from neuro_sync.client.saved_login import LoginStore, SavedLogin
from neuro_sync.client.transfers import SMALL
from neuro_sync.local.server import LocalPlatform
from neuro_sync.secret_text import SecretText
from tests.conftest import OtherPlatform

LARGE = b"large" * SMALL
SMALL_CONTENT = b"small"
NOBODY = 65534


@pytest.fixture
def source(session: Session) -> Iterator[str]:
    """A folder of the storage with a large file, a small one, and both once more below it."""
    uri = f"storage:planted-{uuid4().hex}"
    for name, content in (("large", LARGE), ("small", SMALL_CONTENT)):
        for folder in (uri, f"{uri}/sub"):
            session.storage.mkdir(folder, parents=True, exist_ok=True)
            session.storage.create(f"{folder}/{name}", content)
    yield uri
    session.storage.rm(uri, recursive=True)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_bytes(b"precious")
    return file


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def symlink(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def dangling(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_name("made"))


def hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


def pipe(place: Path, victim: Path) -> None:  # planted like the others
    os.mkfifo(place)


def folder(place: Path, victim: Path) -> None:  # as above
    place.mkdir()


def not_ours(place: Path, victim: Path) -> None:  # as above
    place.write_bytes(b"theirs")
    place.chmod(0o666)


PLANTED = [symlink, dangling, hard_link, pipe, folder, not_ours]
Plant = Callable[[Path, Path], None]


def partial_name(session: Session, uri: str, target: Path) -> str:
    """Return under which name a download grows, as anybody can compute it who knows the file."""
    stat_of = session.storage.stat(uri)
    from neuro_sync.client.downloads import _partial_name

    return str(_partial_name(stat_of, target.name))


def someone_else_owns(
    monkeypatch: pytest.MonkeyPatch, is_theirs: Callable[[os.stat_result], bool]
) -> None:
    """Set which files belong to another user, as only root could make them."""
    for name in ("is_own", "is_trusted"):
        monkeypatch.setattr(local_folder, name, lambda status: not is_theirs(status))


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("continue_", [False, True])
def test_a_download_leaves_alone_what_was_planted_where_it_grows(
    session: Session,
    source: str,
    shared: Path,
    victim: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Plant,
    continue_: bool,
) -> None:
    target = shared / "large"
    planted = shared / partial_name(session, f"{source}/large", target)
    plant(planted, victim)
    before = os.lstat(planted)
    if plant is not_ours:
        someone_else_owns(monkeypatch, lambda status: os.path.samestat(status, before))
    session.storage.download_file(f"{source}/large", target, continue_=continue_)
    assert target.read_bytes() == LARGE
    assert not target.is_symlink()
    assert victim.read_bytes() == b"precious"
    assert not victim.with_name("made").exists()
    after = os.lstat(planted)
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert sorted(path.name for path in shared.iterdir()) == sorted([planted.name, "large"])


def test_an_own_partial_file_is_still_continued(
    session: Session, source: str, shared: Path
) -> None:
    target = shared / "large"
    partial = shared / partial_name(session, f"{source}/large", target)
    partial.write_bytes(b"LARGE")
    os.utime(partial, (time.time() + 60,) * 2)  # surely after the source was written
    session.storage.download_file(f"{source}/large", target, continue_=True)
    assert target.read_bytes() == b"LARGE" + LARGE[5:]
    assert list(shared.iterdir()) == [target]


@pytest.mark.parametrize("name", ["large", "small"])
@pytest.mark.parametrize("target", ["victim", "made", "large"])
def test_a_link_of_another_user_is_not_followed(
    session: Session,
    source: str,
    shared: Path,
    victim: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    target: str,
) -> None:
    (shared / name).symlink_to(victim.with_name(target))
    someone_else_owns(monkeypatch, lambda status: stat.S_ISLNK(status.st_mode))
    with pytest.raises(PermissionError, match="a link, pipe or device of another user") as refused:
        session.storage.download_file(f"{source}/{name}", shared / name)
    assert refused.value.filename == str(shared / name)
    with pytest.raises(CopyIncomplete) as incomplete:
        session.storage.download_dir(source, shared)
    assert [failure.dst.name for failure in incomplete.value.failures] == [name]
    assert victim.read_bytes() == b"precious"
    assert not victim.with_name("made").exists()
    assert (shared / name).is_symlink()


def test_a_folder_is_not_copied_through_a_link_of_another_user(
    session: Session, source: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (shared / "sub").symlink_to(home)
    someone_else_owns(monkeypatch, lambda status: stat.S_ISLNK(status.st_mode))
    with pytest.raises(CopyIncomplete, match="of another user") as incomplete:
        session.storage.download_dir(source, shared)
    assert [failure.dst.name for failure in incomplete.value.failures] == ["sub"]
    assert list(home.iterdir()) == []
    with pytest.raises(PermissionError):
        session.storage.download_dir(f"{source}/sub", shared / "sub")
    assert list(home.iterdir()) == []


def test_links_of_ones_own_are_followed(
    session: Session, source: str, shared: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (shared / "sub").symlink_to("../elsewhere")
    (shared / "large").symlink_to("chain")
    (shared / "chain").symlink_to(elsewhere / "file")
    session.storage.download_dir(source, shared)
    assert (elsewhere / "file").read_bytes() == LARGE
    assert (elsewhere / "small").read_bytes() == SMALL_CONTENT
    assert (shared / "sub").is_symlink()
    assert (shared / "large").is_symlink()
    loop = shared / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        session.storage.download_file(f"{source}/small", loop)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        session.storage.download_dir(source, loop)


@pytest.mark.parametrize("name", ["large", "small"])
def test_no_copy_of_a_folder_writes_to_a_pipe(
    session: Session, source: str, shared: Path, name: str
) -> None:
    os.mkfifo(shared / name)
    with pytest.raises(CopyIncomplete, match="a pipe, a socket or a device") as incomplete:
        session.storage.download_dir(source, shared)
    assert [failure.dst.name for failure in incomplete.value.failures] == [name]
    assert (shared / "sub" / name).is_file()


def test_a_pipe_of_another_user_is_not_written_to(
    session: Session, source: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(shared / "small")
    someone_else_owns(monkeypatch, lambda status: stat.S_ISFIFO(status.st_mode))
    with pytest.raises(PermissionError, match="a link, pipe or device of another user"):
        session.storage.download_file(f"{source}/small", shared / "small")


def test_a_file_of_another_user_is_replaced_and_gives_no_rights(
    session: Session, source: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("large", "small"):
        (shared / name).write_bytes(b"")
        (shared / name).chmod(0o666)
    theirs = {(shared / name).stat().st_ino for name in ("large", "small")}
    someone_else_owns(monkeypatch, lambda status: status.st_ino in theirs)
    session.storage.download_dir(source, shared)
    mask = os.umask(0o022)
    os.umask(mask)
    for name in ("large", "small"):
        assert stat.S_IMODE((shared / name).stat().st_mode) == 0o666 & ~mask


def test_a_folder_that_is_exchanged_for_a_link_meanwhile_gains_nothing(
    session: Session, source: str, shared: Path, tmp_path: Path
) -> None:
    """Somebody exchanges a folder and a link to the user's home, again and again."""
    home = tmp_path / "home"
    home.mkdir()
    ended = threading.Event()

    def exchange() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            try:
                os.rename(shared / "sub", shared / f"away-{number}")
                os.symlink(home, shared / "sub")
                os.unlink(shared / "sub")
                os.rename(shared / f"away-{number}", shared / "sub")
            except OSError:
                continue

    def owned_by_another(status: os.stat_result) -> bool:
        return stat.S_ISLNK(status.st_mode)

    with pytest.MonkeyPatch.context() as patch:
        someone_else_owns(patch, owned_by_another)
        attacker = threading.Thread(target=exchange)
        attacker.start()
        try:
            for _ in range(100):
                try:
                    session.storage.download_dir(source, shared)
                except (CopyIncomplete, OSError):
                    continue
        finally:
            ended.set()
            attacker.join()
    assert list(home.iterdir()) == []


def login_of(platform: LocalPlatform | OtherPlatform) -> SavedLogin:
    return SavedLogin(platform.url, SecretText(platform.token), 1e12, SecretText("refresh"), {})


@pytest.mark.parametrize("name", ["", "db"])
def test_no_login_is_saved_in_a_folder_of_another_user(
    platform: LocalPlatform | OtherPlatform,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    store = LoginStore(shared)
    store.write(login_of(platform), now=1.0)
    theirs = (shared / name).stat()
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setattr(
        saved_login, "is_trusted", lambda status: not os.path.samestat(status, theirs)
    )
    with pytest.raises(ConfigError, match="belongs to another user"):
        store.write(login_of(platform), now=2.0)
    with pytest.raises(ConfigError, match="belongs to another user"):
        store.update(platform.url, "tester", token=SecretText("new"))


def test_no_login_is_saved_through_a_link_of_another_user(
    platform: LocalPlatform | OtherPlatform,
    shared: Path,
    victim: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (shared / "db").symlink_to(victim)
    monkeypatch.setattr(saved_login, "is_trusted", lambda status: not stat.S_ISLNK(status.st_mode))
    mode = victim.stat().st_mode
    with pytest.raises(ConfigError, match="belongs to another user"):
        LoginStore(shared).write(login_of(platform), now=1.0)
    assert (victim.read_bytes(), victim.stat().st_mode) == (b"precious", mode)


def test_a_pipe_in_place_of_the_lock_does_not_block(
    platform: LocalPlatform | OtherPlatform, shared: Path
) -> None:
    shared.chmod(0o700)
    os.mkfifo(shared / ".neuro-sync.lock")
    store = LoginStore(shared)
    store.write(login_of(platform), now=1.0)
    assert store.read().url == platform.url
