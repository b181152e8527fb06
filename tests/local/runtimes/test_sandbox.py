"""Jobs in namespaces of their own: what they see of the machine, and what they cannot reach."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from neuro_sync import (
    ConfigError,
    DiskVolume,
    JobDescription,
    JobStatus,
    NotSupported,
    SecretFile,
    Session,
    Volume,
)
from neuro_sync.local.runtimes import boxes, supervisor
from neuro_sync.local.runtimes.base import Mount
from neuro_sync.local.runtimes.sandbox import Sandbox, spec_items
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
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mounts_within_any_others_show_what_they_should(
    session: Session, platform: LocalPlatform, targets: list[str], data: st.DataObject
) -> None:
    name = uuid4().hex
    root = platform.folder / "storage" / "local" / session.project_name / name
    volumes, sources = [], []
    for number, target in enumerate(targets):
        source = root / f"source {number}"
        (source / "a").mkdir(parents=True)
        (source / "link").symlink_to("a")
        (source / "mark").write_text(f"{number}\n")
        uri = f"storage:{name}/source {number}"
        volumes.append(
            Volume(storage_uri=uri, container_path=target, read_only=data.draw(st.booleans()))
        )
        sources.append(source)
    marks = " ".join(f"'{target}/mark'" for target in targets)
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command=f"cat {marks}", volumes=volumes
    )
    lines = list(session.jobs.logs(job))
    ended = session.jobs.wait(job)
    if ended.reason == "ContainerCannotRun":
        # Two ways to one place, of which one leads through a link.
        assert "link" in str(targets)
        assert "something else is there" in ended.history.description
        return
    assert lines == [str(number) for number in range(len(targets))]
    for volume, source in zip(volumes, sources, strict=True):
        if volume.read_only:
            assert sorted(os.listdir(source)) == ["a", "link", "mark"]
            assert os.listdir(source / "a") == []


@pytest.mark.parametrize("name", ["", "below/"])
def test_a_folder_that_has_become_a_link_is_not_mounted(
    session: Session, platform: LocalPlatform, folder: Path, name: str
) -> None:
    """The platform itself never gets as far: it refuses a link before a job is started."""
    state = platform.folder
    session.secrets.add("of-others", b"value")
    folder.mkdir(parents=True)
    (folder / "below").symlink_to(state / "secrets")
    job_folder = state / "jobs" / f"job-{uuid4()}"
    for own in ("scratch", "tmp"):
        (job_folder / own).mkdir(parents=True)
    (job_folder / "control").write_text("")
    box = Sandbox(state).box([Mount(folder / f"below/{name}", "/data")], job_folder)
    spec = spec_items(["/", "0", "", "0"], ["true"], box)
    subprocess.run(
        [sys.executable, "-I", "-S", str(state / "supervisor.pyc"), str(job_folder), "1"],
        input="\0".join([*spec, "PATH=/bin"]),
        text=True,
        check=True,
    )
    events = (job_folder / "events.1").read_text()
    assert "failed" in events
    assert "'/data': a link has no place in the storage" in events


SWAP = r"""
import ctypes, os
os.chdir("/race")
os.symlink(os.environ["GOAL"], "link")
exchange = ctypes.CDLL(None, use_errno=True).renameat2
print("ready", flush=True)
while True:
    assert exchange(-100, b"x", -100, b"link", 2) == 0, os.strerror(ctypes.get_errno())
"""
TRIES = 50
AT_ONCE = 10


@pytest.mark.parametrize("goal", [".", "secrets", "/", "/etc"])
def test_a_job_that_swaps_a_folder_for_a_link_never_wins(
    session: Session, platform: LocalPlatform, folder: Path, goal: str
) -> None:
    """Four goals of 50 tries each, against a folder that is mounted and one above a mount."""
    (folder / "x" / "y").mkdir(parents=True)
    (folder / "x" / "mine").touch()
    (folder / "swap.py").write_text(SWAP)
    before = {place: set(os.listdir(place)) for place in ("/", "/etc")}
    volumes = [
        Volume(storage_uri=f"storage:{folder.name}/x", container_path="/goal"),
        Volume(storage_uri=f"storage:{folder.name}", container_path="/outer"),
        Volume(storage_uri=f"storage:{folder.name}-other", container_path="/outer/x/y/z"),
    ]
    swapper = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command="python /race/swap.py",
        env={"GOAL": os.path.join(platform.folder, goal)},
        volumes=[Volume(storage_uri=f"storage:{folder.name}", container_path="/race")],
    )
    with session.jobs.logs(swapper) as lines:
        assert next(lines) == "ready"
    seen: set[str] = set()
    ran = 0
    for _ in range(TRIES // AT_ONCE):
        jobs = [
            session.jobs.start(
                image="any", preset_name="cpu-small", command="ls -a /goal", volumes=volumes
            )
            for _ in range(AT_ONCE)
        ]
        for ended in session.jobs.wait(jobs):
            if ended.status is JobStatus.SUCCEEDED:
                ran += 1
                seen |= {*session.jobs.logs(ended)}
            else:
                assert ended.reason == "ContainerCannotRun", ended.history
    session.jobs.kill(swapper)
    assert ran
    assert seen <= {".", "..", "mine", "y"}
    assert {place: set(os.listdir(place)) for place in before} == before


LOOK = r"""
import json, os, stat
found = {"sockets": [], "writable": [], "devices": [], "private": []}
for path, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if (path, name) not in (("/", "proc"), ("/", "sys"))]
    for name in (".", *files):
        item = os.path.normpath(os.path.join(path, name))
        mode = os.lstat(item).st_mode
        if stat.S_ISSOCK(mode):
            found["sockets"].append(item)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            found["devices"].append(item)
        elif not stat.S_ISLNK(mode) and os.access(item, os.W_OK):
            found["writable"].append(item)
        if item.startswith("/etc") and not mode & stat.S_IROTH and os.access(item, os.R_OK):
            found["private"].append(item)
for path in (
    *("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"),
    *("/proc/irq/default_smp_affinity", "/sys/kernel/mm/ksm/run", "/sys/power/state"),
):
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        continue
    found["writable"].append(path)
for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/kernel/debug/tracing"):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        continue
    found["private"].append(path)
print(json.dumps(found))
"""
DEVICES = {
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "pts/ptmx")
}
WRITABLE = ("/tmp", "/var/tmp", "/dev/shm")  # a job's own


def check_what_is_seen(found: dict[str, list[str]], home: str) -> None:
    assert found["sockets"] == []
    assert set(found["devices"]) == DEVICES
    own = [*WRITABLE, "/dev/pts", home]
    assert [path for path in found["writable"] if not path.startswith(tuple(own))] == []
    assert set(own) <= {*found["writable"]}
    assert found["private"] == []


def test_a_job_sees_what_is_on_the_list_and_nothing_else() -> None:
    """Sockets, places where it may write, devices, settings that not everybody may read."""
    command = shlex.join(["python", "-c", f"import os; print(os.environ['HOME']){LOOK}"])
    with (
        LocalPlatform(ephemeral=True) as platform,
        Session(platform.url, platform.token) as session,
    ):
        job = session.jobs.start(image="any", preset_name="cpu-small", command=command)
        home, text = session.jobs.logs(job)
    check_what_is_seen(json.loads(text), home)


def test_a_job_of_a_user_without_power_sees_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its supervisor is started as the platform of that user would."""
    if os.geteuid() != 0:
        pytest.skip("the test above was run as such a user")
    python, user = "/usr/bin/python3", 65534
    require_programs(python)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    # Where that user has a Python, and not this one's.
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    # The folder of pytest is closed to others.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        job = Path(folder, "state", "jobs", "job")
        for own in ("scratch", "tmp"):
            (job / own).mkdir(parents=True)
        os.mkfifo(job / "control")
        for program in (boxes, supervisor):
            shutil.copy(str(program.__file__), folder)
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, user, user)
        box = Sandbox(job.parents[1]).box([], job)
        spec = spec_items([box.home, "0", "", "0"], [python, "-c", LOOK], box)
        done = subprocess.run(
            [python, "-I", "-S", f"{folder}/supervisor.py", str(job), "1"],
            input="\0".join(spec),
            text=True,
            check=True,
            user=user,
            group=user,
            extra_groups=[],
        )
        text = (job / "log").read_text()
        assert text.startswith("{"), (text, (job / "events.1").read_text(), done)
        check_what_is_seen(json.loads(text), box.home)


def test_the_registrys_socket_is_out_of_reach(session: Session, run: Run) -> None:
    require_programs("docker-registry")
    list(session.images.list())  # starts it
    sockets = [*Path(tempfile.gettempdir()).glob("neuro-registry-*/socket")]
    assert sockets
    assert run(f"ls {' '.join(map(str, sockets))} 2>/dev/null || find / -xdev -type s") == []


def test_what_is_visible_can_be_read_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "data" / "below").mkdir(parents=True)
    (tmp_path / "data" / "below" / "file").write_text("content\n")
    (tmp_path / "hidden").write_text("hidden")
    (tmp_path / "out").mkdir()
    with (
        LocalPlatform(
            ephemeral=True, visible=[tmp_path / "data"], writable=[tmp_path / "out"]
        ) as platform,
        Session(platform.url, platform.token) as session,
    ):
        script = f"cd {tmp_path}; cat data/below/file; ls; ! touch data/new 2>&1; touch out/new"
        job = session.jobs.start(image="any", preset_name="cpu-small", command=f"sh -ec '{script}'")
        lines = [*session.jobs.logs(job)]
        assert lines[:3] == ["content", "data", "out"]
        assert "Read-only file system" in lines[3]
        assert os.listdir(tmp_path / "out") == ["new"]
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        LocalPlatform(ephemeral=True, visible=[tmp_path / "none"])


def test_a_terminal_has_its_name_inside(session: Session) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="sh -c 'tty; read line'", tty=True
    )
    with session.jobs.logs(job) as lines:
        assert next(lines).strip() == "/dev/pts/0"
    with session.jobs.exec(job, ["tty"], tty=True) as stream:
        assert b"".join(message.data for message in stream).strip() == b"/dev/pts/1"
    session.jobs.kill(job)


def test_a_secret_is_mounted_as_a_file_for_its_owner(session: Session, run: Run) -> None:
    session.secrets.add("owned", b"value")
    (line,) = run(
        "stat -L -c %a /etc/neuro/key",
        secret_files=[SecretFile(secret_uri="secret:owned", container_path="/etc/neuro/key")],
    )
    assert stat.S_IMODE(int(line, 8)) == 0o600
