"""The commands about login and settings, each with a config folder of the test's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform

from .conftest import Neuro, Process


@pytest.fixture
def folder(login: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder, and nothing else that says where a platform is."""
    for name in ("NEURO_SYNC_URL", "NEURO_SYNC_TOKEN", "APOLO_CONFIG", "NEUROMATION_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "config"


def test_a_token_is_remembered_and_forgotten(
    neuro: Neuro, neuro_process: Process, folder: Path, platform: LocalPlatform
) -> None:
    options = f"--config-path {folder}"
    line = f"{options} config login-with-token - {platform.url}"
    entered = neuro_process(line, input=f"{platform.token}\n")
    assert entered.returncode == 0, entered.stderr
    assert entered.stderr == f"You are logged in to {platform.url}.\n"
    shown = neuro(f"{options} config show").output
    assert f"API URL: {platform.url}" in shown
    assert str(folder) in shown
    assert platform.token not in shown
    assert neuro(f"{options} config show-token").stdout == f"{platform.token}\n"
    assert neuro(f"{options} logout").exit_code == 0
    refused = neuro(f"{options} ps")
    assert refused.exit_code == 77
    assert str(folder) in refused.stderr


def test_a_token_that_is_not_accepted_is_not_remembered(
    neuro: Neuro, folder: Path, platform: LocalPlatform
) -> None:
    head, _, tail = platform.token.rpartition(".")
    wrong = f"{head}.{tail[::-1]}"
    ended = neuro(f"--config-path {folder} config login-with-token {wrong} {platform.url}")
    assert ended.exit_code == 77
    assert wrong not in ended.output
    assert not neuro(f"--config-path {folder} config show-token").stdout


def test_the_life_span_of_user_toml_is_obeyed(
    neuro: Neuro, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMATION_CONFIG", str(tmp_path))
    (tmp_path / "user.toml").write_text('[job]\nlife-span = "2d3h20min"\n')
    spans = []
    for option in ("", "--life-span 2h", "--life-span 0"):
        job_id = neuro(f"-q run --detach {option} any true").output.strip()
        spans.append(session.jobs.status(job_id).life_span)
    assert spans == [184800, 7200, None]


def test_a_settings_file_with_a_typo_is_named(
    neuro: Neuro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMATION_CONFIG", str(tmp_path))
    (tmp_path / "user.toml").write_text('[job]\nlive-span = "1d"\n')
    ended = neuro("ps")
    assert ended.exit_code == 77
    assert "live-span" in ended.stderr
    assert str(tmp_path / "user.toml") in ended.stderr


def test_clusters_and_projects_are_listed_and_switched(neuro: Neuro, session: Session) -> None:
    listed = json.loads(neuro("config get-clusters --json").output)
    assert [cluster["name"] for cluster in listed] == ["local"]
    assert neuro("-q config get-clusters").output == "local\n"
    assert neuro("config switch-cluster local").stderr == "The current cluster is local.\n"
    refused = neuro("config switch-cluster mars")
    assert (refused.exit_code, "there are: local" in refused.stderr) == (77, True)
    assert neuro(f"config switch-project {session.project_name}").exit_code == 0
    asked = neuro("config switch-project")  # nobody is there to be asked
    assert asked.exit_code == 65
    assert f"which project? there are: {session.project_name}" in asked.stderr
