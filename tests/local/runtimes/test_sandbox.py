"""Jobs in namespaces of their own: what they see of the machine, and what they cannot reach."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from neuro_sync import (
    DiskVolume,
    IllegalArgumentError,
    JobDescription,
    JobStatus,
    NotSupported,
    SecretFile,
    Session,
    Volume,
)
from neuro_sync.local.runtimes.base import Mount
from neuro_sync.local.runtimes.sandbox import view_arguments
from neuro_sync.local.server import LocalPlatform
from tests.processes import eventually, outside, platform_process, supervisor_of
from tests.programs import require_programs
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

pytestmark = pytest.mark.usefixtures("bubblewrap")

Run = Callable[..., list[str]]


@pytest.fixture
def folder(platform: LocalPlatform, session: Session) -> Path:
    """A new folder of the storage."""
    return platform.folder / "storage" / "local" / session.project_name / uuid4().hex


@pytest.fixture
def run(session: Session, folder: Path) -> Run:
    """Run a shell script with the folder mounted, and return its lines; it has to succeed."""

    def run_script(
        script: str, *targets: str, read_only: bool = False, **options: Any
    ) -> list[str]:
        volumes = [
            Volume(storage_uri=f"storage:{folder.name}", container_path=target, read_only=read_only)
            for target in targets
        ]
        volumes += options.pop("volumes", ())
        job = session.jobs.start(
            image="any",
            preset_name="cpu-small",
            command=f"sh -ec '{script}'",
            volumes=volumes,
            **options,
        )
        lines = list(session.jobs.logs(job))
        ended = session.jobs.wait(job)
        assert ended.status is JobStatus.SUCCEEDED, (ended.history, lines)
        return lines

    return run_script


@pytest.mark.parametrize(
    "target",
    [
        "/data",
        "/no/such/folder/at/all",
        "/usr/local/data of neuro",
        "/usr",  # a folder that every program needs is not looked into once it is covered
        "/etc/passwd",
        "/etc/passwd/below",
        "/dev/shm/neuro",
        "/var/run/neuro",  # through a link
        '/tmp/ü "$(id)" *;/deep',
        "/" + "x" * 200 + "/" + "y" * 200,
    ],
)
def test_a_volume_is_wherever_it_is_wanted_and_the_machine_stays_as_it_was(
    session: Session, folder: Path, target: str
) -> None:
    def told(path: str) -> object:
        return os.lstat(path).st_ino if os.path.lexists(path) else None

    above = [str(path) for path in (Path(target), *Path(target).parents)]
    before = [told(path) for path in above]
    names = set(os.listdir("/"))
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command='python -c \'import sys; open(sys.argv[1] + "/made", "w").write("by the job")\' '
        "'" + target + "'",
        volumes=[Volume(storage_uri=f"storage:{folder.name}", container_path=target)],
    )
    ended = session.jobs.wait(job)
    if target == "/usr":
        assert ended.reason == "ContainerCannotRun"
    else:
        assert ended.status is JobStatus.SUCCEEDED, ended.history
        assert (folder / "made").read_text() == "by the job"
    assert [told(path) for path in above] == before
    assert set(os.listdir("/")) == names


def test_mounts_lie_within_one_another_in_any_order(
    session: Session, platform: LocalPlatform, run: Run, folder: Path
) -> None:
    disk = session.disks.create(2**20)
    session.secrets.add("nested", b"nested value")
    run(
        "cat /data/inner/disk/key > /data/inner/disk/copy; echo outer > /data/outer",
        "/data",
        disk_volumes=[DiskVolume(disk_uri=f"disk:{disk.id}", container_path="/data/inner/disk")],
        secret_files=[
            SecretFile(secret_uri="secret:nested", container_path="/data/inner/disk/key")
        ],
    )
    assert (folder / "outer").read_text() == "outer\n"
    assert (platform.folder / "disks" / disk.id / "copy").read_bytes() == b"nested value"
    assert (folder / "inner" / "disk").is_dir()  # the mount point, as Docker makes it
    assert not (folder / "inner" / "disk" / "copy").exists()


def test_the_kernel_refuses_to_write_to_what_is_read_only(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "kept").write_text("as it was")
    lines = run(
        "cat /data/kept; echo; for f in /data/kept /data/new; do ! echo x > $f; done 2>&1;"
        " ! rm /data/kept 2>&1; ! mount -o remount,rw,bind /data 2>/dev/null;"
        " ! umount /data 2>/dev/null; ! echo x > /data/new",
        "/data",
        read_only=True,
    )
    assert lines[0] == "as it was"
    assert sum("Read-only file system" in line for line in lines) >= 3
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept": "as it was"}


def test_a_volume_within_one_that_is_read_only_leaves_it_as_it_is(
    run: Run, folder: Path, platform: LocalPlatform
) -> None:
    folder.mkdir(parents=True)
    (folder / "kept").write_text("as it was")
    inner = f"{folder.name}-inner"
    lines = run(
        "cat /data/kept; echo; echo inner > /data/a/b/made; ! echo x > /data/new 2>&1",
        "/data",
        read_only=True,
        volumes=[Volume(storage_uri=f"storage:{inner}", container_path="/data/a/b")],
    )
    assert lines[0] == "as it was"
    assert "Read-only file system" in lines[1]
    assert os.listdir(folder) == ["kept"]
    assert (folder.with_name(inner) / "made").read_text() == "inner\n"


def test_a_link_within_a_volume_leads_where_the_job_would_follow_it(
    session: Session, run: Run, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "link").symlink_to("/etc")
    session.secrets.add("linked", b"linked value")
    names = set(os.listdir("/etc"))
    lines = run(
        "cat /etc/neuro-linked; echo; ls /etc/hostname",
        "/data",
        secret_files=[
            SecretFile(secret_uri="secret:linked", container_path="/data/link/neuro-linked")
        ],
    )
    assert lines == ["linked value", "/etc/hostname"]
    assert set(os.listdir("/etc")) == names
    assert os.listdir(folder) == ["link"]


def test_a_volume_over_the_platforms_own_folder_holds_only_what_the_job_writes(
    platform: LocalPlatform, folder: Path, run: Run
) -> None:
    place = "/" + platform.folder.parts[1]  # /tmp, usually
    lines = run(f"pwd; touch mine; echo x > {place}/made; ls ~", place)
    assert lines == ["/scratch", "mine"]
    assert os.listdir(folder) == ["made"]
    assert not Path("/scratch").exists()


def test_a_circle_of_links_fails_the_job_with_words(session: Session, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    volume = Volume(storage_uri=f"storage:{folder.name}", container_path="/data")
    inner = Volume(storage_uri="storage:any", container_path="/data/loop/x")
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="true", volumes=[volume, inner]
    )
    ended = session.jobs.wait(job)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, "ContainerCannotRun")
    assert "'/data/loop/x' leads through a circle of links" in ended.history.description
    assert list(session.jobs.logs(job)) == []


def test_a_job_sees_nothing_of_the_platform(
    platform: LocalPlatform, run: Run, session: Session
) -> None:
    other = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 600")
    state = platform.folder
    lines = run(
        f"for f in token platform.db jobs/{other.id}/log wake supervisor.pyc secrets storage; do"
        f' test ! -e "{state}/$f" || echo $f; done;'
        f" cd {state}; find . -mindepth 1 | sort; echo; cat /proc/[0-9]*/comm | sort -u"
    )
    seen = lines[: lines.index("")]
    mine = next(line for line in seen if line.count("/") == 2)
    assert set(seen) == {"./jobs", mine, f"{mine}/scratch"}
    assert set(lines[len(seen) + 1 :]) <= {"bwrap", "cat", "sh", "sort"}
    session.jobs.kill(other)


def test_a_job_gains_no_privileges(run: Run) -> None:
    lines = run('grep -E "^(Cap|NoNew)" /proc/self/status; ! unshare --mount true 2>/dev/null')
    values = dict(line.split() for line in lines)
    assert values.pop("NoNewPrivs:") == "1"
    assert {int(value, 16) for value in values.values()} == {0}


def test_commands_see_the_jobs_mounts_and_processes(
    session: Session, folder: Path, platform: LocalPlatform
) -> None:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command="sh -c 'echo written > /data/file; echo $$; exec sleep 600'",
        volumes=[Volume(storage_uri=f"storage:{folder.name}", container_path="/data")],
    )
    with session.jobs.logs(job) as lines:
        pid = int(next(lines))
    script = f"cat /data/file; readlink /proc/self/ns/mnt /proc/{pid}/ns/mnt; kill -TERM {pid}"
    done = session.jobs.run_command(job, ["sh", "-c", script], text=True)
    content, own, of_job = done.stdout.split()
    assert content == "written"
    assert own == of_job != os.readlink("/proc/self/ns/mnt")
    assert session.jobs.wait(job).history.exit_code == 143


def test_a_kill_ends_whatever_is_in_the_box(session: Session, platform: LocalPlatform) -> None:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command='sh -c \'(trap "" TERM; setsid sh -c "sleep 600 & wait") & echo $$; wait\'',
    )
    with session.jobs.logs(job) as lines:
        outside(platform.folder, job.id, int(next(lines)))
        supervisor = supervisor_of(platform.folder, job.id)
        session.jobs.kill(job)
        list(lines)
    eventually(lambda: not os.path.exists(f"/proc/{supervisor}"), "the supervisor ends too")
    assert "sleep 600" not in _commands_below(job)


def _commands_below(job: JobDescription) -> str:
    """Return the command lines of all processes that know the job's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if job.id.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def test_a_job_that_kills_all_it_can_ends_itself_alone(session: Session) -> None:
    other = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 600")
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="sh -c 'kill -9 -1; sleep 600'"
    )
    assert session.jobs.wait(job, timeout=10).history.exit_code == 137
    assert session.jobs.wait(other, until="running").status is JobStatus.RUNNING
    session.jobs.kill(other)


def test_a_job_keeps_its_mounts_when_the_platform_is_killed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with platform_process(state) as process:
        with Session.local(state=state) as session:
            session.secrets.add("kept", b"kept value")
            disk = session.disks.create(2**20, name="kept-disk")
            job = session.jobs.start(
                image="any",
                preset_name="cpu-small",
                command="sh -c 'echo ready; read line; cat /secret; echo $line > /disk/line'",
                secret_files=[SecretFile(secret_uri="secret:kept", container_path="/secret")],
                disk_volumes=[DiskVolume(disk_uri="disk:kept-disk", container_path="/disk")],
            )
            with session.jobs.logs(job) as lines:
                assert next(lines) == "ready"
            session.secrets.rm("kept")  # what a job was started with it keeps
        process.kill()
        process.wait()
    with platform_process(state), Session.local(state=state) as session:
        done = session.jobs.run_command(job, ["sh", "-c", "cat /secret; ls -d /disk"])
        assert done.stdout == b"kept value/disk\n"
        with session.jobs.attach(job, stdin=True) as stream:
            stream.write_in(b"after\n")
            stream.close_stdin()
        assert session.jobs.wait(job, check=True).status is JobStatus.SUCCEEDED
        assert list(session.jobs.logs(job)) == ["ready", "kept value"]
        assert (state / "disks" / disk.id / "line").read_text() == "after\n"


def programs(folder: Path, **scripts: str) -> str:
    """Return a PATH with the shell's tools and what is given, and without bubblewrap."""
    folder.mkdir()
    for name in ("sh", "cat", "echo"):
        found = next(
            Path(place, name) for place in ("/bin", "/usr/bin") if Path(place, name).exists()
        )
        (folder / name).symlink_to(found)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("scripts", "why"),
    [
        ({}, "it is not installed; install it (apt-get install bubblewrap) and restart"),
        (
            {"bwrap": "echo No permissions to create new namespace >&2; exit 1"},
            "(No permissions to create new namespace); let users make user namespaces and restart",
        ),
    ],
)
def test_without_bubblewrap_mounts_are_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str], why: str
) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", **scripts))
    with (
        LocalPlatform(ephemeral=True, grace=0.2) as platform,
        Session(platform.url, platform.token) as session,
    ):
        session.secrets.add("plain", b"value")
        disk = session.disks.create(2**20)
        needs: tuple[dict[str, Any], ...] = (
            {"volumes": [Volume(storage_uri="storage:any", container_path="/data")]},
            {"disk_volumes": [DiskVolume(disk_uri=f"disk:{disk.id}", container_path="/data")]},
            {"secret_files": [SecretFile(secret_uri="secret:plain", container_path="/data")]},
        )
        for need in needs:
            with pytest.raises(NotSupported) as refused:
                session.jobs.start(image="any", preset_name="cpu-small", command="true", **need)
            assert why in str(refused.value)
            assert "start the job without them" in str(refused.value)
        job = session.jobs.start(
            image="any",
            preset_name="cpu-small",
            command="sh -c 'echo $PLAIN'",
            secret_env={"PLAIN": URL("secret:plain")},
        )
        assert list(session.jobs.logs(job)) == ["value"]


def test_a_mount_of_the_machine_that_goes_away_meanwhile_harms_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bubblewrap fails then."""
    (bwrap,) = require_programs("bwrap")
    script = (
        f"for trouble in {tmp_path}/trouble*; do [ -e $trouble ] && rm $trouble && exit 1; done\n"
        f'exec {bwrap} "$@"'
    )
    path = programs(tmp_path / "bin", bwrap=script)
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    with (
        LocalPlatform(ephemeral=True, grace=0.2) as platform,
        Session(platform.url, platform.token) as session,
    ):
        for number in range(2):
            (tmp_path / f"trouble{number}").touch()
        job = session.jobs.start(image="any", preset_name="cpu-small", command="echo ran")
        assert list(session.jobs.logs(job)) == ["ran"]
        assert session.jobs.wait(job).status is JobStatus.SUCCEEDED
    assert not list(tmp_path.glob("trouble*"))


NAMES = st.sampled_from(["a", "b", "opt", "etc", "tmp", "link", "passwd", "x y"])
TARGETS = st.lists(
    st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names)),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(TARGETS, st.data())
@settings(max_examples=25)
def test_any_mounts_within_any_others_show_what_they_should(
    tmp_path_factory: pytest.TempPathFactory, targets: list[str], data: st.DataObject
) -> None:
    home = tmp_path_factory.mktemp("view")
    scratch = home / "state" / "jobs" / "job" / "scratch"
    scratch.mkdir(parents=True)
    mounts = []
    for number, target in enumerate(targets):
        source = home / f"source {number}"
        (source / "a").mkdir(parents=True)
        (source / "link").symlink_to("a")
        (source / "mark").write_text(f"{number}\n")
        mounts.append(Mount(source, target, data.draw(st.booleans())))
    try:
        arguments, _ = view_arguments(mounts, hidden=home / "state", shown=scratch)
    except IllegalArgumentError as error:
        # Two ways to one place, of which one leads through a link.
        if "link" in str(targets) and "something else is there" in str(error):
            return
        raise
    marks = [f"{target}/mark" for target in targets]
    told = subprocess.run(
        ["bwrap", *arguments, "cat", *marks], capture_output=True, text=True, check=False
    )
    assert told.stderr == ""
    assert told.stdout.split() == [str(number) for number in range(len(targets))]
    for mount in mounts:
        if mount.read_only:
            assert sorted(os.listdir(mount.source)) == ["a", "link", "mark"]
            assert os.listdir(mount.source / "a") == []


def test_a_folder_that_has_become_a_link_is_not_mounted(tmp_path: Path) -> None:
    state = tmp_path / "state"
    scratch = state / "jobs" / "job" / "scratch"
    folder = state / "storage" / "folder"
    for made in (scratch, folder, state / "secrets"):
        made.mkdir(parents=True)
    (tmp_path / "link to state").symlink_to(state)  # how the platform calls it does not matter
    for name in ("state", "link to state"):
        source = tmp_path / name / "storage" / "folder"
        view_arguments([Mount(source, "/data")], hidden=tmp_path / name, shown=scratch)
    folder.rmdir()
    folder.symlink_to(state / "secrets")
    with pytest.raises(IllegalArgumentError, match="'/data': a link"):
        view_arguments([Mount(folder, "/data")], hidden=state, shown=scratch)


def test_a_secret_is_mounted_as_a_file_for_its_owner(session: Session, run: Run) -> None:
    session.secrets.add("owned", b"value")
    (line,) = run(
        "stat -L -c %a /etc/neuro/key",
        secret_files=[SecretFile(secret_uri="secret:owned", container_path="/etc/neuro/key")],
    )
    assert stat.S_IMODE(int(line, 8)) == 0o600
