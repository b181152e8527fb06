"""The commands about secrets and disks."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuro_sync import Session
from neuro_sync.cli.main import neuro as command
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.server import LocalPlatform

from .conftest import Neuro, Process


def test_a_value_comes_from_the_line_a_file_or_standard_input(
    neuro: Neuro, neuro_process: Process, session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"from a file\n")
    assert neuro("secret add from-line value").output == ""
    assert neuro(f"secret add from-file @{file}").output == ""
    assert neuro_process("secret add from-input -", input="typed\n").returncode == 0
    assert session.secrets.get("from-line") == b"value"
    assert session.secrets.get("from-file") == b"from a file\n"
    assert session.secrets.get("from-input") == b"typed"
    listed = json.loads(neuro("secret ls --json").output)
    assert {"from-line", "from-file", "from-input"} <= {secret["key"] for secret in listed}
    assert "from-line\n" in neuro("-q secret ls").output
    assert "value" not in neuro("secret ls").output

    assert neuro("secret get from-line").output == "value"
    assert neuro(f"secret get from-line --file {file}").output == ""
    assert file.read_bytes() == b"value"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert neuro("secret rm from-line").output == ""
    assert neuro("secret get from-line").exit_code == 72


def test_a_file_that_is_not_there_is_named(neuro: Neuro) -> None:
    ended = neuro("secret add key @/no/such")
    assert ended.exit_code == 74
    assert ended.stderr == "Error: /no/such: No such file or directory\n"


def test_a_job_gets_the_secret_and_nobody_reads_it_from_the_line(
    neuro: Neuro, session: Session
) -> None:
    session.secrets.add("for-a-job", b"hidden")
    ended = neuro("-q run -e KEY=secret:for-a-job any -- sh -c", "echo got-${#KEY}")
    assert ended.output == "got-6\n"


def test_a_disk_is_made_described_and_removed(neuro: Neuro) -> None:
    made = json.loads(neuro("disk create --name scratch --timeout-unused 7d 10M --json").output)
    assert (made["storage"], made["life_span"]) == (10 * 2**20, 7 * 86400)
    assert made["id"] in neuro("-q disk ls").output.splitlines()
    shown = neuro("disk get scratch").output
    assert "Storage: 10.0M\n" in shown
    assert "Timeout unused: 7d\n" in shown
    assert "scratch" in neuro("disk ls").output
    assert neuro("disk rm scratch").exit_code == 0
    assert neuro("disk get scratch").exit_code == 72


def test_a_disk_is_kept_for_ever_if_that_is_said(neuro: Neuro) -> None:
    made = json.loads(neuro("disk create --timeout-unused 0 1M --json").output)
    assert made["life_span"] is None
    neuro(f"disk rm {made['id']}")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1K", 1024), ("10G", 10 * 2**30), ("10Gb", 10**10), ("1.5M", 3 * 2**19), ("512", 512)],
)
def test_sizes(text: str, size: int, neuro: Neuro) -> None:
    from neuro_sync.cli.parameters import SizeType

    assert SizeType().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["much", "G", "-1G", "1X"])
def test_what_is_no_size_is_refused(text: str) -> None:
    ended = CliRunner().invoke(command, ["disk", "create", "--", text])
    assert ended.exit_code == 64
    assert "is no size" in ended.stderr


@pytest.fixture
def projects(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Session, Session]]:
    """A session of the project `zoo`, and one of the current project."""
    with (
        LocalPlatform(ephemeral=True) as platform,
        Session(platform.url, platform.token) as session,
        Session(platform.url, platform.token, project_name="zoo") as zoo,
    ):
        monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
        with accounts_of(platform.folder) as accounts:
            accounts.add_project("zoo")
            accounts.set_member("zoo", session.username, "writer")
        yield zoo, session


def test_the_address_of_a_disk_names_its_project(
    neuro: Neuro, projects: tuple[Session, Session]
) -> None:
    zoo, session = projects
    other, own = (project.disks.create(10 * 2**20, name="twin") for project in (zoo, session))
    full = f"disk://{zoo.cluster_name}/{zoo.org_name}/zoo/twin"
    for address in ("disk:/zoo/twin", full, str(other.uri)):
        assert neuro(f"-q disk get {address}").output == f"{other.id}\n"
        assert session.disks.get(address).id == other.id
    assert session.disks.get("disk:twin", project_name="zoo").id == other.id
    assert session.disks.get(other.uri).id == other.id
    for address in ("twin", "disk:twin", str(own.uri)):
        assert neuro(f"-q disk get {address}").output == f"{own.id}\n"
    assert neuro("disk rm disk:/zoo/twin").exit_code == 0
    assert neuro("disk get disk:/zoo/twin").exit_code == 72
    assert session.disks.get("twin").id == own.id
    session.disks.rm("twin")


def test_the_address_of_a_secret_names_its_project(
    neuro: Neuro, projects: tuple[Session, Session]
) -> None:
    zoo, session = projects
    assert neuro("secret add twin own").exit_code == 0
    assert neuro("secret add secret:/zoo/twin other").exit_code == 0
    assert zoo.secrets.get("twin") == b"other"
    full = f"secret://{zoo.cluster_name}/{zoo.org_name}/zoo/twin"
    for address in ("secret:/zoo/twin", full):
        assert neuro(f"secret get {address}").output == "other"
        assert session.secrets.get(address) == b"other"
    assert neuro("secret get secret:twin").output == "own"
    assert neuro(f"secret rm {full}").exit_code == 0
    assert session.secrets.get("twin") == b"own"
    assert neuro("secret get secret:/zoo/twin").exit_code == 72
    session.secrets.rm("secret:twin")


@pytest.mark.parametrize("call", ["disk get", "disk rm", "secret get", "secret rm"])
@pytest.mark.parametrize("rest", ["", "/", "/zoo", "/zoo/", "//local/a/b/c/d", "/../zoo/x"])
def test_an_address_of_no_disk_or_secret_is_refused(neuro: Neuro, call: str, rest: str) -> None:
    address = f"{call.split(maxsplit=1)[0]}:{rest}"
    ended = neuro(f"{call} {address}")
    assert ended.exit_code in (64, 65)
    assert "is no address of" in ended.stderr or "leads upwards" in ended.stderr


def test_a_cluster_that_there_is_not_is_named(neuro: Neuro) -> None:
    assert "no cluster 'elsewhere'" in neuro("disk get disk://elsewhere/org/zoo/x").stderr
    assert "no cluster 'elsewhere'" in neuro("secret get secret://elsewhere/org/zoo/x").stderr
