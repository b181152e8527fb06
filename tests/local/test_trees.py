"""Trees of folders are removed and measured whatever a job has made of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.trees import remove_tree, used_bytes

from .test_storage import dig

NOBODY = 65534
LOCKED = (
    f"NOBODY = {NOBODY}"
    """
import os, sys
from pathlib import Path
from neuro_sync.local.trees import remove_tree, used_bytes

if os.getuid() == 0:  # to whom nothing is forbidden
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
top = Path(sys.argv[1], "tree")
for place in ("unreadable", "read-only", "unsearchable", "a/b/c", "a/b/empty"):
    (top / place / "inner").mkdir(parents=True)
    (top / place / "inner" / "file").write_bytes(bytes(10))
    (top / place / "file").write_bytes(bytes(10))
for place, mode in (
    ("unreadable/inner", 0), ("unreadable", 0), ("read-only/inner", 0o500), ("read-only", 0o500),
    ("unsearchable/inner", 0o600), ("unsearchable", 0o600), ("a/b/c", 0), ("a/b", 0o400),
    ("a", 0o300), (".", 0o500),
):
    (top / place).chmod(mode)
print(used_bytes(top))
remove_tree(top)
print(os.listdir(sys.argv[1]))
"""
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that a user without rights can reach too."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_a_tree_that_took_away_all_rights_is_removed(shared: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, str(shared)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    measured, left = done.stdout.splitlines()
    assert int(measured) == 20  # what is in the one that may be read
    assert left == "[]"
    assert done.stderr == ""


def test_a_deep_tree_is_measured_and_removed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    dig(tmp_path / "tree", 5000)
    (tmp_path / "tree/d/d/file").write_bytes(bytes(1000))
    descriptors = len(os.listdir("/proc/self/fd"))
    assert used_bytes(tmp_path / "tree") == 1000
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_tree_that_is_not_there_has_no_bytes_and_is_removed(tmp_path: Path) -> None:
    assert used_bytes(tmp_path / "missing") == used_bytes(tmp_path / "missing/tree") == 0
    remove_tree(tmp_path / "missing")
    remove_tree(tmp_path / "missing/tree")


TREES: st.SearchStrategy[dict[str, object]] = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner | st.integers(0, 9)),
)


@settings(max_examples=50, deadline=None)
@given(TREES)
def test_any_tree_is_measured_and_removed(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    place = tmp_path_factory.mktemp("tree")
    outside = place / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")

    def make(folder: Path, content: dict[str, object]) -> int:
        folder.mkdir()
        (folder / "link").symlink_to(outside)
        total = (folder / "link").lstat().st_size
        for name, item in content.items():
            if isinstance(item, dict):
                total += make(folder / name, item)
            else:
                (folder / name).write_bytes(b"x" * int(str(item)))
                total += int(str(item))
        return total

    assert used_bytes(place / "tree") == 0
    size = make(place / "tree", tree)
    assert used_bytes(place / "tree") == size
    remove_tree(place / "tree")
    assert [path.name for path in place.iterdir()] == ["outside"]
    assert (outside / "kept").read_text() == "kept"


def test_a_folder_that_is_moved_away_takes_nobody_with_it(tmp_path: Path) -> None:
    """As a job could do it: then the folder above is not the one that removal came from."""
    beside = tmp_path / "beside"
    (beside / "kept").mkdir(parents=True)
    (beside / "kept" / "file").write_text("kept")
    done = threading.Event()

    def shake() -> None:
        while not done.is_set():
            for source, target in (("tree/a/b", "beside/b"), ("tree/a", "beside/a")):
                with suppress(OSError):
                    (tmp_path / source).rename(tmp_path / target)
            for name in ("a", "b"):
                shutil.rmtree(beside / name, ignore_errors=True)

    shaking = threading.Thread(target=shake)
    shaking.start()
    try:
        for _ in range(200):
            folder = tmp_path / "tree/a/b/c/d/e"
            with suppress(OSError):
                folder.mkdir(parents=True)
                for number in range(20):
                    (folder / str(number)).touch()
            used_bytes(tmp_path / "tree")
            remove_tree(tmp_path / "tree")
    finally:
        done.set()
        shaking.join()
    remove_tree(tmp_path / "tree")
    assert (beside / "kept" / "file").read_text() == "kept"


def test_a_platform_ends_and_leaves_nothing_of_a_deep_tree() -> None:
    with LocalPlatform(ephemeral=True) as platform:
        with Session(platform.url, platform.token) as session:
            disk = session.disks.create(2**20, name="deep")
        dig(platform.folder / "disks" / disk.id, 3000)
        dig(platform.folder / "storage", 3000)
    assert not platform.folder.exists()
