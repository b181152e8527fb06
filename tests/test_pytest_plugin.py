"""The fixtures that the package brings, in a pytest of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "test_shown.py").write_text(code)
    (tmp_path / "home").mkdir()
    ended = run(tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "2 passed" in ended.stdout
    assert not list((tmp_path / "home").iterdir())


def test_a_job_that_a_test_leaves_is_killed_after_it(tmp_path: Path) -> None:
    (tmp_path / "test_left.py").write_text(
        """
def test_leaves_one(neuro_session):
    global job
    job = neuro_session.jobs.start(image="any", preset_name="cpu-small", command="sleep 600")

def test_finds_it_killed(neuro_session):
    assert neuro_session.jobs.status(job).status.is_finished
"""
    )
    assert "2 passed" in run(tmp_path).stdout


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
