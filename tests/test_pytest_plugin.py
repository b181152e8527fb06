"""The fixtures that the package brings, in a pytest of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_page_about_testing_works_and_leaves_nothing_behind(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "testing.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "test_shown.py").write_text("\n\n".join(code))
    (tmp_path / "home").mkdir()
    ended = run(tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout
    assert not list((tmp_path / "home").iterdir())


def test_nothing_of_a_test_is_left_for_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "test_left.py").write_text(
        """
import time
import psutil

SECONDS = str(600 + time.time() % 1)

def sleeps():
    return [
        process for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[:2] == ["sleep", SECONDS]
    ]

def test_leaves_something(neuro_local, neuro_session):
    global folder
    folder = neuro_local.folder
    job = neuro_session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command=["sh", "-c", f"echo ready; exec sleep {SECONDS}"],
    )
    assert next(iter(neuro_session.jobs.logs(job))) == "ready"
    while not sleeps():
        time.sleep(0.01)
    neuro_session.storage.create("storage:file", b"content")
    neuro_session.secrets.add("secret", b"value")
    neuro_session.disks.create(2**20)

def test_finds_nothing(neuro_session):
    assert not list(neuro_session.jobs.list())
    assert not list(neuro_session.storage.list("storage:"))
    assert not list(neuro_session.secrets.list())
    assert not list(neuro_session.disks.list())
    assert not folder.exists()
    assert not sleeps()
"""
    )
    ended = run(tmp_path)
    assert "2 passed" in ended.stdout, ended.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_what_a_user_has_settled_for_other_platforms_does_not_matter(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    config = tmp_path / "home" / ".neuro"
    config.mkdir(parents=True)
    (config / "user.toml").write_text("[job]\nlife-span = 'never'")
    (tmp_path / ".neuro.toml").write_text(
        "[job]\ncluster-name = 'far'\norg-name = 'far'\nproject-name = 'far'"
    )
    (tmp_path / "test_it.py").write_text(
        """
def test_it(neuro_session):
    assert neuro_session.cluster_name == "local"
    job = neuro_session.jobs.start(image="any", preset_name="cpu-small", command="true")
    assert neuro_session.jobs.wait(job).project_name == neuro_session.project_name
"""
    )
    ended = run(tmp_path, *options)
    assert "1 passed" in ended.stdout, ended.stdout


def test_nothing_is_imported_for_tests_that_use_none(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        """
import sys

def test_other():
    assert "neuro_sync_pytest" in sys.modules
    assert "neuro_sync" not in sys.modules
"""
    )
    ended = run(tmp_path)
    assert "1 passed" in ended.stdout, ended.stdout
