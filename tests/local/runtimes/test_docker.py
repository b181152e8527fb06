"""Jobs as containers: what an engine adds, what survives the platform and the engine."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import docker
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from neuro_sync import (
    AbstractDockerImageProgress,
    Action,
    AuthorizationError,
    Container,
    IllegalArgumentError,
    ImageCommitFinished,
    ImageCommitStarted,
    ImageProgressPush,
    ImageProgressSave,
    ImageProgressStep,
    JobDescription,
    JobStatus,
    NDJSONError,
    Permission,
    Resources,
    ServerNotAvailable,
    Session,
    Volume,
)
from neuro_sync.engine import find_endpoint
from neuro_sync.errors import ConfigError
from neuro_sync.local.runtimes.base import Mount
from neuro_sync.local.runtimes.engine import (
    EngineUnavailable,
    WholeLines,
    why_not_pulled,
    why_not_run,
)
from neuro_sync.local.runtimes.mount_guard import WRITABLE_LABEL, MountGuard
from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE, IMAGE_USER
from tests.programs import require_programs
from tests.relays import EngineRelay

MIB = 2**20


@pytest.fixture(scope="module")
def platform(docker_platform: LocalPlatform) -> LocalPlatform:
    return docker_platform


@pytest.fixture(scope="module")
def client(engine: str) -> Iterator[docker.APIClient]:
    opened = docker.APIClient(engine, version="auto")
    yield opened
    opened.close()


def start(session: Session, command: str, **options: object) -> JobDescription:
    return session.jobs.start(image=IMAGE, preset_name="cpu-small", command=command, **options)  # type: ignore[arg-type]  # a test's options are its own business


def eventually(condition: Callable[[], object], what: str) -> None:
    """Look until something holds, for at most twenty seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def containers(client: docker.APIClient, job: JobDescription) -> list[str]:
    filters = {"label": f"org.neuro-sync.job={job.id}"}
    return [found["Id"] for found in client.containers(all=True, filters=filters)]


def _is_gone(client: docker.APIClient, job: JobDescription) -> bool:
    return not containers(client, job)


# What a container is given


def test_a_job_gets_no_more_than_it_asked_for(session: Session, client: docker.APIClient) -> None:
    resources = Resources(cpu=0.5, memory=64 * MIB, shm=True)
    job = session.jobs.run(
        Container(
            image=IMAGE, command="sh -c 'df -k /dev/shm | tail -1; sleep 600'", resources=resources
        )
    )
    with session.jobs.logs(job) as lines:
        assert next(lines).split()[1] == str(64 * 1024)
    (container,) = containers(client, job)
    limits = client.inspect_container(container)["HostConfig"]
    assert (limits["NanoCpus"], limits["Memory"]) == (500_000_000, 64 * MIB)
    session.jobs.kill(job)


SWAP = """
cd /race; echo ready
while :; do
  mv -T x kept; ln -s "$GOAL" x; usleep 2000; rm -rf x; mv -T kept x; usleep 3000
done 2>/dev/null
"""
TRIES = int(os.environ.get("NEURO_RACE_TRIES", "20"))
"""Each takes half a second; set it to 200 for a longer run."""


@pytest.mark.parametrize("goal", ["secrets", "/"])
def test_a_container_that_swaps_a_folder_for_a_link_never_wins(
    session: Session, platform: LocalPlatform, goal: str
) -> None:
    name = f"race-{goal.strip('/') or 'root'}"
    folder = platform.folder / "storage" / "local" / session.project_name / name
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "mine").touch()
    session.secrets.add("of-others", b"value")
    swapper = start(
        session,
        f"sh -c '{SWAP}'",
        env={"GOAL": os.path.join(platform.folder, goal)},
        volumes=[Volume(storage_uri=f"storage:{name}", container_path="/race")],
    )
    with session.jobs.logs(swapper) as lines:
        assert next(lines) == "ready"
    goal_volume = Volume(storage_uri=f"storage:{name}/x", container_path="/goal")
    seen: set[str] = set()
    ran = 0
    for _ in range(TRIES // 2):
        jobs = [start(session, "ls /goal", volumes=[goal_volume]) for _ in range(2)]
        # What is paused for a moment can be looked into all the same.
        assert session.jobs.run_command(swapper, ["echo", "here"], text=True).stdout == "here\n"
        for ended in session.jobs.wait(jobs):
            ran += ended.status is JobStatus.SUCCEEDED
            seen |= {*session.jobs.logs(ended)}
    assert session.jobs.status(swapper).status is JobStatus.RUNNING
    session.jobs.kill(swapper)
    session.jobs.wait(swapper)
    assert seen <= {"mine", "kept"}, seen
    assert ran


class GoneEngine:
    """An engine with one container that may write to all, which goes away before it is resumed."""

    def __init__(self) -> None:
        self.api = self
        self.resumed = 0

    async def call(self, method: Callable[..., object], *args: object, **options: object) -> object:
        return method(*args, **options)

    def containers(self, **_: object) -> list[dict[str, object]]:
        return [{"Id": "writer", "Labels": {WRITABLE_LABEL: '["storage"]'}}]

    def pause(self, _: str) -> None:
        """Do nothing."""

    def unpause(self, _: str) -> None:
        self.resumed += 1
        if self.resumed == 1:
            raise EngineUnavailable("it is away")


def test_an_engine_that_goes_away_keeps_no_later_start_waiting(tmp_path: Path) -> None:
    source = tmp_path / "storage" / "x"
    source.mkdir(parents=True)
    outer, inner = Mount(tmp_path / "storage", "/all"), Mount(source, "/x")

    async def start_three() -> int:
        engine = GoneEngine()
        guard = MountGuard(engine, tmp_path, "label")  # type: ignore[arg-type]  # all it needs
        for mount in (inner, outer, inner):
            async with guard.hold((mount,)):
                pass
        return engine.resumed

    assert asyncio.run(asyncio.wait_for(start_three(), 10)) == 2


def test_a_job_that_takes_more_memory_is_told_so(session: Session) -> None:
    job = session.jobs.run(
        Container(
            image=IMAGE,
            command="tail /dev/zero",
            resources=Resources(cpu=0.5, memory=32 * MIB, shm=False),
        )
    )
    ended = session.jobs.wait(job)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, "OOMKilled")
    assert ended.history.exit_code == 137
    assert "32 MiB" in ended.history.description


def test_a_job_runs_as_the_user_who_runs_the_platform(session: Session) -> None:
    assert os.getuid() != IMAGE_USER
    assert list(session.jobs.logs(start(session, "id -u"))) == [str(os.getuid())]


def test_what_a_job_writes_into_a_volume_belongs_to_who_runs_the_platform(
    session: Session, platform: LocalPlatform
) -> None:
    folder = Volume(storage_uri=URL("storage:written"), container_path="/data")
    fixed = Volume(storage_uri=URL("storage:written"), container_path="/fixed", read_only=True)
    job = start(
        session,
        "sh -c 'exec 2> /data/refused; echo hello > /data/file; cat /fixed/file; "
        "echo no > /fixed/more'",
        volumes=[folder, fixed],
    )
    assert list(session.jobs.logs(job)) == ["hello"]
    assert session.jobs.wait(job).history.exit_code == 1
    files = {file.name: file for file in platform.folder.rglob("written/*")}
    assert files.keys() == {"file", "refused"}
    assert "Read-only file system" in files["refused"].read_text()
    assert {file.stat().st_uid for file in files.values()} == {os.getuid()}


def test_a_job_that_ran_is_not_run_again_when_its_container_has_gone(
    tmp_path: Path, engine: str, client: docker.APIClient
) -> None:
    state = tmp_path / "state"
    with platform_process(state, engine) as process, Session.local(state=state) as session:
        job = session.jobs.wait(start(session, "sleep 600"), until="running")
        process.kill()
        process.wait()
    client.remove_container(containers(client, job)[0], force=True)
    with platform_process(state, engine), Session.local(state=state) as session:
        ended = session.jobs.wait(job)
        assert (ended.status, ended.reason) == (JobStatus.FAILED, "NotFound")


@pytest.mark.parametrize("name", ["SIGINT", "USR1", "10", ""])
def test_a_container_is_asked_to_end_by_the_signal_that_its_image_names(
    name: str, session: Session, client: docker.APIClient
) -> None:
    image = f"stop-signal:{name or 'none'}"
    recipe = f"FROM {IMAGE}\n" + (f"STOPSIGNAL {name}\n" if name else "LABEL signal=none\n")
    steps = list(client.build(fileobj=io.BytesIO(recipe.encode()), tag=image, rm=True, decode=True))
    assert "Successfully" in steps[-1].get("stream", ""), steps
    traps = "trap 'echo INT; exit' INT; trap 'echo USR1; exit' USR1; trap 'echo TERM; exit' TERM"
    job = session.jobs.start(
        image=image,
        preset_name="cpu-small",
        command=["sh", "-c", f"{traps}; echo ready; while :; do sleep 0.05; done"],
    )
    lines = session.jobs.logs(job)
    assert next(lines) == "ready"
    session.jobs.kill(job)
    expected = {"SIGINT": "INT", "USR1": "USR1", "10": "USR1", "": "TERM"}[name]
    assert [*lines] == [expected]
    client.remove_image(image, force=True)


def test_a_privileged_job_may_do_everything(session: Session) -> None:
    show = "grep CapBnd /proc/self/status"
    (plain,) = session.jobs.logs(start(session, show))
    (privileged,) = session.jobs.logs(start(session, show, privileged=True))
    assert plain != privileged
    assert int(privileged.split()[1], 16) & 1 << 21  # CAP_SYS_ADMIN


def test_nothing_of_a_job_is_left_in_the_engine(session: Session, client: docker.APIClient) -> None:
    job = session.jobs.wait(start(session, "true"))
    killed = session.jobs.wait(start(session, "sleep 600"), until="running")
    session.jobs.kill(killed)
    eventually(lambda: not containers(client, job), "the container goes")
    eventually(lambda: not containers(client, killed), "the killed container goes")


def test_a_container_that_somebody_removes_is_a_failed_job(
    session: Session, client: docker.APIClient
) -> None:
    job = session.jobs.wait(start(session, "sleep 600"), until="running")
    client.remove_container(containers(client, job)[0], force=True)
    ended = session.jobs.wait(job)
    assert ended.status is JobStatus.FAILED


def test_a_container_without_a_network_is_reached_through_the_engine(
    session: Session, client: docker.APIClient
) -> None:
    job = start(
        session,
        "sh -c 'nc -ll -p 4242 -e cat & until netstat -ltn | grep -q :4242; do sleep 0.01; done;"
        " echo ready; wait'",
    )
    with session.jobs.logs(job) as lines:
        next(lines)
    client.disconnect_container_from_network(containers(client, job)[0], "bridge")
    with (
        session.jobs.port_forward(job, 0, 4242) as forward,
        socket.create_connection(("127.0.0.1", forward.local_port), 10) as connection,
    ):
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
    with (
        session.jobs.port_forward(job, 0, 4243) as forward,
        socket.create_connection(("127.0.0.1", forward.local_port), 10) as connection,
    ):
        assert connection.recv(1) == b""
    session.jobs.kill(job)


# Saving


class Told(AbstractDockerImageProgress):
    """Remembers what it was told of a job that is saved."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def save(self, data: ImageProgressSave) -> None:
        self.heard.append(data)

    def commit_started(self, data: ImageCommitStarted) -> None:
        self.heard.append(data)

    def commit_finished(self, data: ImageCommitFinished) -> None:
        self.heard.append(data)

    def push(self, data: ImageProgressPush) -> None:
        self.heard.append(data)

    def step(self, data: ImageProgressStep) -> None:
        self.heard.append(data)


def test_a_running_job_is_saved_as_an_image_that_other_jobs_can_run(
    session: Session, platform: LocalPlatform, client: docker.APIClient
) -> None:
    require_programs("docker-registry")
    job = start(session, "sh -c 'echo kept > /tmp/kept; echo ready; sleep 600'")
    with session.jobs.logs(job) as lines:
        next(lines)
    told = Told()
    session.jobs.save(job, "image:saved:v1", progress=told)
    image = session.parse.remote_image("image:saved:v1")
    assert told.heard[:4] == [
        ImageProgressSave(job=job.id, dst=image),
        ImageCommitStarted(job_id=job.id, target_image=image),
        ImageCommitFinished(job_id=job.id),
        ImageProgressPush(
            src=session.parse.local_image(f"{session.project_name}/saved:v1"), dst=image
        ),
    ]
    steps = [heard for heard in told.heard[4:] if isinstance(heard, ImageProgressStep)]
    assert len(steps) == len(told.heard) - 4
    assert {step.status for step in steps} >= {"Preparing", "Pushed"}
    assert all(step.message.startswith(f"{step.layer_id}: {step.status}") for step in steps)
    session.jobs.kill(job)
    client.remove_image(image.as_docker_url(), force=True)  # so that it has to come from there
    reader = session.jobs.start(
        image="image:saved:v1", preset_name="cpu-small", command="cat /tmp/kept"
    )
    assert list(session.jobs.logs(reader)) == ["kept"]
    with pytest.raises(NDJSONError, match="is not running"):
        session.jobs.save(session.jobs.wait(reader), image)
    client.remove_image(image.as_docker_url(), force=True)


def test_an_image_of_another_registry_is_refused(session: Session, platform: LocalPlatform) -> None:
    job = start(session, "true")
    with pytest.raises(IllegalArgumentError, match="'elsewhere/x:1' is no image of the platform"):
        session.jobs.save(job, "elsewhere/x:1")
    answer = requests.post(
        f"{platform.url}/monitoring/jobs/{job.id}/save",
        json={"container": {"image": "elsewhere/x:1"}},
        headers={"Authorization": f"Bearer {platform.token}"},
        timeout=10,
    )
    assert answer.status_code == 400
    assert "Unknown registry host in 'elsewhere/x:1'" in answer.json()["error"]


# The platform's own images


def test_an_image_of_the_platform_is_run_as_the_registry_has_it_now(
    session: Session, client: docker.APIClient, push: Callable[[str, str], None]
) -> None:
    require_programs("docker-registry")
    for content in ("first", "second"):
        push(content, "image:changing:v1")
        job = session.jobs.start(
            image="image:changing:v1", preset_name="cpu-small", command="cat /content"
        )
        assert list(session.jobs.logs(job)) == [content]
    reference = session.parse.remote_image("image:changing:v1").as_docker_url()
    assert any(reference in (image["RepoTags"] or ()) for image in client.images())
    session.images.rm("image:changing:v1")
    job = session.jobs.start(image="image:changing:v1", preset_name="cpu-small", command="true")
    ended = session.jobs.wait(job)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, "Collected")
    assert "there is no such image" in ended.history.description
    client.remove_image(reference, force=True)


@pytest.fixture
def push(
    session: Session, client: docker.APIClient, engine: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], None]]:
    """Push an image with a file `content`, and forget it here."""
    monkeypatch.setenv("DOCKER_HOST", engine)
    name = f"pushed-{os.urandom(6).hex()}"

    def build_and_push(content: str, remote: str) -> None:
        built = client.create_container(IMAGE, ["true"])["Id"]
        client.put_archive(built, "/", archive(content=content.encode()))
        client.commit(built, name, "v1")
        client.remove_container(built)
        session.images.push(f"{name}:v1", remote)

    yield build_and_push
    client.remove_image(f"{name}:v1", force=True)


def archive(**files: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as packed:
        for name, content in files.items():
            file = tarfile.TarInfo(name)
            file.size = len(content)
            packed.addfile(file, io.BytesIO(content))
    return data.getvalue()


def test_an_image_is_pulled_with_the_permissions_of_the_jobs_owner(
    engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    require_programs("docker-registry")
    monkeypatch.setenv("DOCKER_HOST", engine)
    name = f"own-{os.urandom(6).hex()}"
    caplog.set_level("DEBUG")
    with (
        LocalPlatform(ephemeral=True, runtime="docker", grace=0.2, cores=1) as platform,
        Session(platform.url, platform.token) as owner,
        Session(platform.url, platform.add_user("stranger")) as stranger,
    ):
        image = owner.images.push(IMAGE, f"image:{name}:v1")

        def start_reader() -> JobDescription:
            return stranger.jobs.start(image=image, preset_name="cpu-small", command="echo read")

        with pytest.raises(AuthorizationError, match=f"read on image://local/local/.*/{name}"):
            start_reader()
        address = URL(str(image.model_copy(update={"tag": None})))
        owner.users.share("stranger", Permission(uri=address, action=Action.READ))
        reader = start_reader()
        assert list(stranger.jobs.logs(reader)) == ["read"]
        blocker = owner.jobs.wait(start(owner, "sleep 600"), until="running")
        refused = start_reader()
        owner.users.revoke("stranger", address)
        owner.jobs.kill(blocker)
        ended = stranger.jobs.wait(refused)
        assert (ended.status, ended.reason) == (JobStatus.FAILED, "Collected")
        assert ended.history.description.endswith("does not let the job's owner read it")
        assert not list(stranger.jobs.logs(refused))
    assert "Pulling" in caplog.text
    assert "eyJ" not in caplog.text  # as tokens begin, and what they are packed into


# Troubles in words


def test_an_image_that_cannot_be_had_fails_the_job_with_a_sentence(session: Session) -> None:
    job = session.jobs.start(
        image="127.0.0.1:1/no/such:image", preset_name="cpu-small", command="true"
    )
    ended = session.jobs.wait(job)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, "Collected")
    assert ended.history.description.startswith(
        "Image '127.0.0.1:1/no/such:image' can not be pulled: its registry cannot be reached"
    )
    assert [item.reason for item in ended.history.transitions] == [
        "Creating",
        "Pulling",
        "Collected",
    ]


UNKNOWN_TAG = "manifest for busybox:nope not found: manifest unknown: manifest unknown"
UNKNOWN_OR_PRIVATE = (
    "pull access denied for nope, repository does not exist or may require 'docker login': denied: "
    "requested access to the resource is denied"
)
NO_PROGRAM = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
    'container process: exec: "a b": executable file not found in $PATH: unknown'
)
NOT_EXECUTABLE = (
    "OCI runtime exec failed: exec failed: container_linux.go:380: starting container process "
    'caused: exec: "/etc": permission denied: unknown'
)
PORT_TAKEN = "Bind for 127.0.0.1:80 failed: port is already allocated"


@pytest.mark.parametrize(
    ("engine_says", "why"),
    [
        (UNKNOWN_TAG, "there is no such image"),
        (
            UNKNOWN_OR_PRIVATE,
            "there is no such image, or it is private; log in with `docker login`",
        ),
    ],
)
def test_a_refused_image_is_told_in_words(engine_says: str, why: str) -> None:
    assert why_not_pulled("nope", engine_says) == f"Image 'nope' can not be pulled: {why}"


@pytest.mark.parametrize(
    ("engine_says", "code", "why"),
    [
        (NO_PROGRAM, 127, "there is no program 'a b'"),
        (NOT_EXECUTABLE, 126, "'/etc' cannot be run: Permission denied"),
        (PORT_TAKEN, None, PORT_TAKEN),
    ],
)
def test_a_refused_start_is_told_in_words(engine_says: str, code: int | None, why: str) -> None:
    assert why_not_run(engine_says) == (code, why)


STREAMS = st.tuples(
    st.lists(st.binary(max_size=4).filter(lambda line: b"\n" not in line), max_size=6),
    st.lists(st.binary(max_size=4).filter(lambda line: b"\n" not in line), max_size=6),
)


@given(lines=STREAMS, data=st.data())
def test_no_byte_is_lost_and_no_line_broken_however_two_streams_are_cut(
    lines: tuple[list[bytes], list[bytes]], data: st.DataObject
) -> None:
    left = {stream: b"".join(line + b"\n" for line in lines[stream - 1]) for stream in (1, 2)}
    order = WholeLines()
    passed: list[tuple[int, bytes]] = []
    while streams := [stream for stream in (1, 2) if left[stream]]:
        stream = data.draw(st.sampled_from(streams))
        size = data.draw(st.integers(1, len(left[stream])))
        passed += order.feed([(stream, left[stream][:size])])
        left[stream] = left[stream][size:]
    assert order.patience is None
    for stream in (1, 2):
        whole = b"".join(line + b"\n" for line in lines[stream - 1])
        assert b"".join(piece for source, piece in passed if source == stream) == whole
    told = b"".join(piece for _, piece in passed).split(b"\n")
    assert sorted(told[:-1]) == sorted([*lines[0], *lines[1]])


def test_a_file_over_a_folder_of_the_image_is_told_in_words(session: Session) -> None:
    session.storage.create("storage:file-for-etc", b"content")
    volume = session.parse.volume("storage:file-for-etc:/etc:ro")
    ended = session.jobs.wait(start(session, "true", volumes=[volume]))
    assert ended.reason == (
        "nothing can be mounted at '/etc' of this image: one of the two is a file and the other a "
        "folder; choose a path of its own, such as '/data'"
    )


def test_an_engine_that_is_not_there_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(ConfigError, match=r"none \(DOCKER_HOST\) is not running; start it"):
        LocalPlatform(tmp_path / "state", runtime="docker").start()


def test_a_socket_that_we_may_not_use_is_told_with_the_remedy(engine: str) -> None:
    program = (
        "import os\n"
        "from neuro_sync.engine import connect, find_endpoint\n"
        "from neuro_sync.errors import ConfigError\n"
        f"os.setgid({IMAGE_USER}); os.setgroups([]); os.setuid({IMAGE_USER})\n"
        "try: connect(find_endpoint(), 10)\n"
        "except ConfigError as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DOCKER_HOST": engine, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "does not let this user in; add the user to the group" in told.stdout, told.stderr


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no runtime 'podman'"):
        LocalPlatform(tmp_path, runtime="podman").start()  # type: ignore[arg-type]  # that is the point


# Which engine


def context(home: Path, name: str, host: str) -> None:
    folder = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_engine_is_the_one_that_the_docker_command_would_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(home, "colima", "unix:///colima")
    context(home, "other", "tcp://127.0.0.1:9")
    (home / ".docker/config.json").write_text(json.dumps({"currentContext": "colima"}))
    assert find_endpoint().url == "unix:///colima"
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert find_endpoint().url == "tcp://127.0.0.1:9"
    monkeypatch.setenv("DOCKER_HOST", "unix:///host")
    assert find_endpoint().url == "unix:///host"


def test_an_engine_behind_ssh_is_refused_with_a_way_to_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    with pytest.raises(ConfigError, match="forward its socket"):
        find_endpoint()


def test_a_context_that_is_not_there_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    with pytest.raises(ConfigError, match="no Docker context 'nowhere'"):
        find_endpoint()


# What survives

UP = """
import sys
from neuro_sync.local.server import LocalPlatform
with LocalPlatform(sys.argv[1], grace=0.5, runtime="docker", cores=64, memory=2**40) as platform:
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def platform_process(state: Path, engine: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a platform as a process of its own; it is stopped at the end, if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-c", UP, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "DOCKER_HOST": engine},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        yield process


COUNTING = (
    "sh -c 'i=0; while [ $i -lt 300 ]; do echo o$i; echo e$i >&2; i=$((i+1)); "
    "[ $((i % 10)) = 0 ] && sleep 0.05; done; printf end; exit {code}'"
)
LINES = [str(number) for number in range(300)]


def assert_whole(session: Session, job: JobDescription) -> None:
    """Each stream is there, every line once and in order."""
    lines = b"".join(session.jobs.monitor(job)).decode().replace("end", "end\n").split("\n")
    assert [line[1:] for line in lines if line.startswith("o")] == LINES
    assert [line[1:] for line in lines if line.startswith("e") and line != "end"] == LINES
    assert lines.count("end") == 1


def test_no_byte_is_lost_or_doubled_when_the_platform_is_killed_under_load(
    tmp_path: Path, engine: str, client: docker.APIClient
) -> None:
    state = tmp_path / "state"
    with platform_process(state, engine) as process, Session.local(state=state) as session:
        jobs = [start(session, COUNTING.format(code=code)) for code in range(12)]
        terminal = start(session, "sh -c 'seq 2000; sleep 1; seq 2000; exit 9'", tty=True)
        for job in jobs[:6]:
            with session.jobs.logs(job) as lines:
                assert next(lines) in ("o0", "e0")
        process.kill()
        process.wait()
    with platform_process(state, engine), Session.local(state=state) as session:
        for code, job in enumerate(jobs):
            assert_whole(session, job)
            assert session.jobs.wait(job).history.exit_code == code
        written = b"".join(session.jobs.monitor(terminal))
        assert written == b"".join(b"%d\r\n" % number for number in range(1, 2001)) * 2
        assert session.jobs.wait(terminal).history.exit_code == 9
        for job in jobs:
            eventually(partial(_is_gone, client, job), "the container goes")


def test_a_job_that_is_restarted_has_a_container_for_each_run_and_one_log(
    session: Session, tmp_path: Path
) -> None:
    job = start(session, "sh -c 'echo $HOSTNAME; exit 3'", restart_policy="on-failure")
    with session.jobs.logs(job) as lines:
        first, second = next(lines), next(lines)
    assert first != second
    session.jobs.kill(job)
    assert session.jobs.status(job).history.restarts >= 1


def test_output_of_the_time_without_a_platform_keeps_its_time(
    tmp_path: Path, engine: str, client: docker.APIClient
) -> None:
    state = tmp_path / "state"
    with platform_process(state, engine) as process, Session.local(state=state) as session:
        job = start(session, "sh -c 'echo one; sleep 0.5; echo two; sleep 600'")
        with session.jobs.logs(job) as lines:
            next(lines)
        process.kill()
        process.wait()
    (container,) = containers(client, job)
    eventually(lambda: b"two" in client.logs(container), "it is said without a platform")
    between = time.time()
    with platform_process(state, engine), Session.local(state=state) as session:
        with session.jobs.logs(job, timestamps=True) as lines:
            _, two = next(lines), next(lines)
        assert datetime.fromisoformat(two[:26] + "+00:00").timestamp() <= between
        session.jobs.kill(job)


def test_only_containers_of_its_own_state_folder_are_touched(
    tmp_path: Path, engine: str, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    with LocalPlatform(tmp_path, runtime="docker"):
        mine = (tmp_path / "containers").read_text()
    labels = {
        "mine": {"org.neuro-sync.job": "job-x", "org.neuro-sync.run": "1"},
        "foreign": {"org.neuro-sync.job": "job-x", "org.neuro-sync.run": "1"},
        "unlabelled": {},
    }
    labels["mine"]["org.neuro-sync.state"] = mine
    labels["foreign"]["org.neuro-sync.state"] = "another"
    ids = {
        name: client.create_container(IMAGE, "true", labels=given)["Id"]
        for name, given in labels.items()
    }

    def left() -> set[str]:
        there = {container["Id"] for container in client.containers(all=True)}
        return {name for name, id in ids.items() if id in there}

    try:
        with LocalPlatform(tmp_path, runtime="docker"):
            eventually(lambda: "mine" not in left(), "what an earlier platform left is removed")
            assert left() == {"foreign", "unlabelled"}
    finally:
        for name in left():
            client.remove_container(ids[name], force=True)


def test_an_engine_that_goes_away_is_told_in_words_and_taken_up_when_it_is_back(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EngineRelay(engine, tmp_path) as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.url)
        with (
            LocalPlatform(tmp_path / "state", runtime="docker", grace=0.5) as platform,
            Session(platform.url, platform.token) as session,
        ):
            job = start(session, COUNTING.format(code=3))
            with session.jobs.logs(job) as lines:
                next(lines)
            relay.vanish()
            waiting = start(session, "sh -c 'echo here'")
            eventually(
                lambda: "is not running; start it" in session.jobs.status(waiting).reason,
                "the reason is told",
            )
            assert session.jobs.status(waiting).status is JobStatus.PENDING
            assert session.jobs.status(job).status is JobStatus.RUNNING
            with pytest.raises(ServerNotAvailable, match="is not running; start it"):
                session.jobs.exec(job, "true")
            relay.appear()
            assert list(session.jobs.logs(waiting)) == ["here"]
            assert_whole(session, job)
            assert session.jobs.wait(job).history.exit_code == 3
            assert session.jobs.wait(waiting).status is JobStatus.SUCCEEDED
