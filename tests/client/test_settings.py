"""What a user and a project have settled in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import ConfigError, Session
from neuro_sync.client.settings import Settings, read_settings
from neuro_sync.models.durations import parse_duration


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    return tmp_path / "user.toml"


def read(tmp_path: Path, start: Path | None = None) -> Settings:
    return read_settings(tmp_path, start or tmp_path)


def test_without_files_nothing_is_settled(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings == Settings()
    assert settings.project_file is None


def test_all_that_can_be_settled(tmp_path: Path, user_file: Path) -> None:
    user_file.write_text(
        """
        [job]
        life-span = "2d3h20min"
        ps-format = "{id;max=30}, {name}"
        top-format = "{id}"
        [storage]
        cp-exclude = ["*.pyc", "!keep.pyc"]
        cp-exclude-from-files = [".gitignore"]
        [disk]
        life-span = "0"
        [alias.lsl]
        cmd = "ls -l"
        help = "long listing"
        """
    )
    settings = read(tmp_path)
    assert settings.job.life_span == ((2 * 24 + 3) * 60 + 20) * 60
    assert settings.job.ps_format == "{id;max=30}, {name}"
    assert settings.job.top_format == "{id}"
    assert settings.storage.cp_exclude == ("*.pyc", "!keep.pyc")
    assert settings.storage.cp_exclude_from_files == (".gitignore",)
    assert settings.disk.life_span == 0
    assert settings.alias == {"lsl": {"cmd": "ls -l", "help": "long listing"}}


@pytest.mark.parametrize("name", [".neuro.toml", ".apolo.toml"])
def test_the_file_of_a_project_holds_in_its_folders(tmp_path: Path, name: str) -> None:
    deep = tmp_path / "src" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / name).write_text("job = {cluster-name='c', org-name='o', project-name='p'}")
    settings = read(tmp_path, deep)
    assert settings.project_file == tmp_path / name
    job = settings.job
    assert (job.cluster_name, job.org_name, job.project_name) == ("c", "o", "p")


def test_the_nearest_file_counts_and_our_name_of_two(tmp_path: Path) -> None:
    near = tmp_path / "near"
    near.mkdir()
    (tmp_path / ".neuro.toml").write_text("job = {life-span = '1d'}")
    (near / ".apolo.toml").write_text("job = {life-span = '2d'}")
    assert read(tmp_path, near).job.life_span == 2 * 86400
    (near / ".neuro.toml").write_text("job = {life-span = '3d'}")
    assert read(tmp_path, near).job.life_span == 3 * 86400


def test_the_project_comes_before_the_user_key_by_key(tmp_path: Path, user_file: Path) -> None:
    user_file.write_text("[job]\nlife-span='1d'\nps-format='u'\n[alias.a]\ncmd='u'\nhelp='u'")
    (tmp_path / ".neuro.toml").write_text("[job]\nps-format='p'\n[alias.a]\ncmd='p'\n[alias.b]")
    settings = read(tmp_path)
    assert (settings.job.life_span, settings.job.ps_format) == (86400, "p")
    assert settings.alias == {"a": {"cmd": "p", "help": "u"}, "b": {}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[job]\nlifespan='1d'",
            (
                "there is no key 'job.lifespan'; there are: life-span, ps-format, top-format, "
                "cluster-name, org-name, project-name"
            ),
        ),
        ("[jobs]", "there is no section 'jobs'; there are: job, storage, disk, alias"),
        (
            "[job]\nlife_span='1d'",
            (
                "there is no key 'job.life_span'; there are: life-span, ps-format, top-format, "
                "cluster-name, org-name, project-name"
            ),
        ),
        (
            "[job]\nlife-span='1 fortnight'",
            "job.life-span = '1 fortnight': should look like 1d2h3m4s, or 0 for no limit",
        ),
        ("[job]\nlife-span=3", "job.life-span = 3: should look like 1d2h3m4s, or 0 for no limit"),
        ("[job]\nps-format=3", "job.ps-format = 3: should be a text"),
        ("[storage]\ncp-exclude='a'", "storage.cp-exclude = 'a': should be a list"),
        ("[storage]\ncp-exclude=[1]", "storage.cp-exclude.0 = 1: should be a text"),
        ("job=3", "job = 3: should be a section"),
        ("[alias]\na=3", "alias.a = 3: should be a section"),
        (
            "[alias.1a]",
            "alias = {'1a': {}}: '1a' is no name of a command: letters, digits and dashes",
        ),
        ("a=", "cannot be read: Invalid value (at end of document)"),
    ],
)
def test_what_does_not_belong_there_is_named_with_its_file(
    tmp_path: Path, user_file: Path, text: str, said: str
) -> None:
    for file in (user_file, tmp_path / ".neuro.toml"):
        file.write_text(text)
        with pytest.raises(ConfigError) as refused:
            read(tmp_path)
        between = " " if said.startswith("cannot") else ": "
        assert str(refused.value) == f"{file}{between}{said}"
        file.unlink()


@pytest.mark.parametrize("name", ["cluster-name", "org-name", "project-name"])
def test_a_user_cannot_settle_what_is_a_projects_matter(
    tmp_path: Path, user_file: Path, name: str
) -> None:
    user_file.write_text(f"[job]\n{name} = 'x'")
    with pytest.raises(ConfigError) as refused:
        read(tmp_path)
    assert str(refused.value) == (
        f"{user_file}: job.{name} is settled by each project, in its .neuro.toml"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_is_utf_8_with_or_without_a_byte_order_mark_in_any_locale(
    tmp_path: Path, user_file: Path, encoding: str
) -> None:
    user_file.write_bytes("# caf\N{LATIN SMALL LETTER E WITH ACUTE}\n[job]\n".encode(encoding))
    program = (
        "import pathlib, sys; from neuro_sync.client.settings import read_settings; "
        "read_settings(*[pathlib.Path(sys.argv[1])] * 2)"
    )
    ascii_locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, **ascii_locale},
        timeout=60,
        check=True,
    )


def test_a_file_that_is_no_text_is_named(tmp_path: Path, user_file: Path) -> None:
    user_file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"user\.toml cannot be read: "):
        read(tmp_path)


def test_a_current_folder_that_is_gone_has_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert read_settings(tmp_path).project_file is None


@given(st.tuples(*[st.none() | st.integers(0, 10**6)] * 4), st.sampled_from(["m", "min"]))
def test_a_life_span_is_the_sum_of_its_parts(parts: tuple[int | None, ...], minute: str) -> None:
    units = (("d", 86400), ("h", 3600), (minute, 60), ("s", 1))
    told = [(part, *unit) for part, unit in zip(parts, units, strict=True) if part is not None]
    text = "".join(f"{part}{name}" for part, name, _ in told)
    if not text:
        with pytest.raises(ValueError, match="should look like 1d2h3m4s"):
            parse_duration(text)
    else:
        assert parse_duration(text) == sum(part * seconds for part, _, seconds in told)


@pytest.mark.parametrize("text", ["", "1", "-1d", "1h and 1d", "1.5h", "00", "d"])
def test_a_life_span_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="should look like 1d2h3m4s"):
        parse_duration(text)


def test_a_session_reads_both_files(home: Path) -> None:
    (home / ".neuro").mkdir()
    (home / ".neuro" / "user.toml").write_text("[job]\nlife-span='1d'")
    (home / ".neuro.toml").write_text("[job]\nps-format='p'")
    with Session("https://h/api/v1", "token") as session:
        job = session.config.settings.job
        assert (job.life_span, job.ps_format) == (86400, "p")
    (home / ".neuro.toml").write_text("[job]\nps_format='p'")
    with pytest.raises(ConfigError, match=r"\.neuro\.toml: there is no key 'job\.ps_format'"):
        Session("https://h/api/v1", "token")
    with Session("https://h/api/v1", "token", settings=Settings()) as session:
        assert session.config.settings == Settings()
