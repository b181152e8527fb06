"""What is shown runs: the README, the pages of ``docs/`` and the examples."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


def run(arguments: list[str], folder: Path) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("block", BLOCKS)
def test_what_the_pages_show_runs(block: str, tmp_path: Path) -> None:
    run(["-c", block], tmp_path)


def test_the_quickstart_tells_how_each_job_ended(tmp_path: Path) -> None:
    shown = run([str(ROOT / "examples" / "quickstart.py")], tmp_path)
    for expected in ("hello\n", "step 3\n", "succeeded, exit code 0", "no such data set"):
        assert expected in shown


@pytest.mark.usefixtures("bubblewrap")
def test_a_job_that_is_preempted_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    shown = run([str(ROOT / "examples" / "checkpoints.py")], tmp_path)
    lines = shown.splitlines()
    starts = [int(line.split()[-1]) for line in lines if line.startswith("from step")]
    assert starts[0] == 0
    assert len(starts) == 2
    assert starts[1] >= 5
    steps = [int(line.split()[-1]) for line in lines if line.startswith("step")]
    assert set(steps) >= set(range(1, 21)) - {starts[1]}
    assert len(steps) <= 21
    assert lines[-2:] == ["succeeded after 1 restart", '{"step": 20, "sum": 190}']


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "commands.py"))["page"]()
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == page, "out of date; run: python docs/commands.py"
