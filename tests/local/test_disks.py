"""Disks of the local platform: whose they are, for how long, and what jobs make of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests
from yarl import URL

from neuro_sync import (
    AuthorizationError,
    Conflict,
    DiskVolume,
    IllegalArgumentError,
    JobDescription,
    JobRestartPolicy,
    JobStatus,
    ResourceNotFound,
    Session,
)
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.clock import ManualClock
from neuro_sync.local.server import LocalPlatform
from tests.processes import eventually
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

GIB = 2**30


@pytest.fixture(autouse=True)
def _projects(platform: LocalPlatform, session: Session) -> None:
    """Projects that nobody else uses, and that come after the one that is meant by default."""
    with accounts_of(platform.folder) as accounts:
        for name in ("zz-another", "zz-wired", "zz-limited"):
            if name not in accounts.projects():
                accounts.add_project(name)
                accounts.set_member(name, session.username, "admin")


def start_with(session: Session, disk: str, command: str, **options: Any) -> JobDescription:
    return session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command=command,
        disk_volumes=[DiskVolume(disk_uri=f"disk:{disk}", container_path="/disk", **options)],
    )


def test_a_disk_is_found_by_id_and_name_until_it_is_removed(session: Session) -> None:
    disk = session.disks.create(GIB, timedelta(hours=1), "found-by-name")
    assert disk.id.startswith("disk-")
    assert (disk.storage, disk.used_bytes, disk.status) == (GIB, 0, disk.Status.READY)
    assert (disk.owner, disk.timeout_unused) == (session.project_name, timedelta(hours=1))
    assert str(disk.uri) == f"disk://local/local/{session.project_name}/{disk.id}"
    assert session.disks.get(disk.id) == session.disks.get("found-by-name") == disk
    assert disk in list(session.disks.list())
    session.disks.rm("found-by-name")
    with pytest.raises(ResourceNotFound, match=f"Disk {disk.id} not found"):
        session.disks.get(disk.id)
    with pytest.raises(ResourceNotFound, match="Disk found-by-name not found"):
        session.disks.rm("found-by-name")
    assert disk not in list(session.disks.list())


def test_a_name_is_used_once_in_a_project(session: Session) -> None:
    first = session.disks.create(GIB, name="used-once")
    with pytest.raises(Conflict, match="'used-once' already exists"):
        session.disks.create(GIB, name="used-once")
    other = session.disks.create(GIB, name="used-once", project_name="zz-another")
    assert session.disks.get("used-once", project_name="zz-another").id == other.id != first.id
    session.disks.rm(first.id)
    session.disks.rm(other.id, project_name="zz-another")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"storage": 0}, "storage"),
        ({"storage": 1, "name": "No"}, "name"),
        ({"storage": 1, "name": "job_1"}, "name"),
        ({"storage": 1, "timeout_unused": -1}, "life_span"),
    ],
)
def test_what_is_no_disk_is_refused(
    session: Session, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(IllegalArgumentError, match=words):
        session.disks.create(**arguments)


def test_the_disks_of_a_project_have_a_limit(session: Session) -> None:
    first = session.disks.create(400 * GIB, project_name="zz-limited")
    with pytest.raises(AuthorizationError, match=r"exceeded storage size limit 500\.0 GB"):
        session.disks.create(101 * GIB, project_name="zz-limited")
    session.disks.rm(first.id, project_name="zz-limited")


@pytest.mark.usefixtures("bubblewrap")
def test_what_a_job_wrote_the_next_one_reads(session: Session) -> None:
    disk = session.disks.create(GIB, name="shared-disk")
    first = start_with(session, "shared-disk", "sh -c 'echo kept > /disk/file'")
    session.jobs.wait(first, check=True)
    used = session.disks.get(disk.id)
    assert used.used_bytes == 5
    assert used.last_usage is not None
    assert used.last_usage >= disk.created_at
    second = start_with(session, disk.id, "sh -c 'cat /disk/file; ! touch /disk/x'", read_only=True)
    assert next(iter(session.jobs.logs(second))) == "kept"
    session.jobs.wait(second, check=True)
    session.disks.rm(disk.id)


@pytest.mark.usefixtures("bubblewrap")
def test_each_run_of_a_job_has_its_mounts_and_its_secrets(session: Session) -> None:
    disk = session.disks.create(GIB)
    session.secrets.add("each-run", b"value")
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command="sh -c 'echo $KEY >> /disk/runs; cat /disk/runs; test $(wc -l < /disk/runs) = 2'",
        secret_env={"KEY": URL("secret:each-run")},
        disk_volumes=[DiskVolume(disk_uri=f"disk:{disk.id}", container_path="/disk")],
        restart_policy=JobRestartPolicy.ON_FAILURE,
    )
    ended = session.jobs.wait(job, check=True)
    assert ended.history.restarts == 1
    assert list(session.jobs.logs(job)) == ["value"] * 3
    session.disks.rm(disk.id)


@pytest.mark.usefixtures("bubblewrap")
def test_a_disk_that_is_removed_in_use_goes_with_its_last_job(
    session: Session, platform: LocalPlatform
) -> None:
    disk = session.disks.create(GIB, name="in-use")
    job = start_with(session, "in-use", "sh -c 'echo here > /disk/file; cat /disk/file; sleep 60'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "here"
        session.disks.rm("in-use")
        session.disks.rm(session.disks.create(GIB, name="in-use").id)  # the name is free at once
        assert session.jobs.run_command(job, "cat /disk/file").stdout == b"here\n"
        late = session.jobs.wait(start_with(session, disk.id, "true"))
        assert late.reason == f"Missing disks: '{disk.id}'"
        session.jobs.kill(job)
        list(lines)
    with pytest.raises(ResourceNotFound):
        session.disks.get(disk.id)
    folder = platform.folder / "disks" / disk.id
    eventually(lambda: not folder.exists(), "the disk's folder goes")


@pytest.mark.usefixtures("bubblewrap")
def test_a_job_whose_disks_are_missing_fails_as_on_the_wire(session: Session) -> None:
    ended = session.jobs.wait(start_with(session, "disk-gone", "true"))
    assert (ended.status, ended.reason) == (JobStatus.FAILED, "Missing disks: 'disk-gone'")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timed(clock: ManualClock) -> Iterator[tuple[LocalPlatform, Session]]:
    with (
        LocalPlatform(ephemeral=True, grace=0.2, clock=clock) as platform,
        Session(platform.url, platform.token) as session,
    ):
        yield platform, session


def test_a_disk_that_nobody_uses_is_deleted_in_time(
    timed: tuple[LocalPlatform, Session], clock: ManualClock
) -> None:
    platform, session = timed
    short = session.disks.create(GIB, 3600)
    long = session.disks.create(GIB, timedelta(days=1))
    kept = session.disks.create(GIB)
    clock.advance(3599)
    assert len(list(session.disks.list())) == 3
    folder = platform.folder / "disks"
    clock.advance(2)
    # By itself: nobody has asked since.
    eventually(lambda: not (folder / short.id).exists(), "the disk's folder goes")
    assert [disk.id for disk in session.disks.list()] == [long.id, kept.id]
    clock.advance(86400)
    assert [disk.id for disk in session.disks.list()] == [kept.id]


@pytest.mark.usefixtures("bubblewrap")
def test_the_time_counts_from_the_last_use(
    timed: tuple[LocalPlatform, Session], clock: ManualClock
) -> None:
    _, session = timed
    disk = session.disks.create(GIB, 3600)
    job = start_with(session, disk.id, "sh -c 'echo ready; sleep 60'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "ready"
        clock.advance(7200)
        assert session.disks.get(disk.id).id == disk.id  # it is in use
        session.jobs.kill(job)
        list(lines)
    clock.advance(3500)
    assert session.disks.get(disk.id).id == disk.id
    clock.advance(200)
    with pytest.raises(ResourceNotFound):
        session.disks.get(disk.id)


def test_disks_outlive_the_platform_and_what_is_no_disk_does_not(tmp_path: Any) -> None:
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        disk = session.disks.create(GIB, name="kept-disk")
    (tmp_path / "disks" / "disk-of-a-crash").mkdir()
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        assert session.disks.get("kept-disk") == disk
        eventually(
            lambda: [path.name for path in (tmp_path / "disks").iterdir()] == [disk.id],
            "the rest of a crash is cleared away",
        )


# on the wire


@pytest.fixture
def send(platform: LocalPlatform) -> Any:
    def send_request(method: str, path: str = "", **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {platform.token}"}
        url = f"{platform.url}/disk{path}"
        return requests.request(method, url, headers=headers, timeout=10, **options)

    return send_request


NEW = {
    "storage": GIB,
    "life_span": None,
    "name": None,
    "org_name": "local",
    "project_name": "zz-wired",
}
QUERY = {"org_name": "local", "project_name": "zz-wired"}


def test_the_life_of_a_disk_on_the_wire(send: Any) -> None:
    made = send("POST", json={**NEW, "name": "wire", "life_span": 90})
    assert made.status_code == 201
    disk = made.json()
    expected = {
        "storage": GIB,
        "used_bytes": 0,
        "owner": "zz-wired",
        "name": "wire",
        "org_name": "local",
        "project_name": "zz-wired",
        "status": "Ready",
        "last_usage": None,
        "life_span": 90.0,
    }
    assert {name: disk[name] for name in disk if name not in ("id", "created_at")} == expected
    assert disk["created_at"].endswith("+00:00")
    assert send("GET", "/wire", params=QUERY).json() == disk
    assert send("GET", params=QUERY).json() == [disk]
    taken = send("POST", json={**NEW, "name": "wire"})
    assert (taken.status_code, taken.json()["code"]) == (409, "DiskNameUsed")
    large = send("POST", json={**NEW, "storage": 600 * GIB})
    assert large.status_code == 403
    assert large.json() == {
        "code": "over_limit",
        "description": "Project exceeded storage size limit 500.0 GB",
    }
    assert send("DELETE", f"/{disk['id']}", params=QUERY).status_code == 204
    gone = send("GET", "/wire", params=QUERY)
    assert (gone.status_code, gone.text) == (404, "Disk wire not found")
    assert gone.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["", "/wire"])
def test_a_query_without_a_project_is_refused(send: Any, path: str) -> None:
    answer = send("GET", path, params={"org_name": "local"})
    assert answer.status_code == 400
    assert "is required" in answer.json()["error"]
