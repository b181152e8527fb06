"""Images on their way between a container engine and the platform's registry."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import docker
import pytest

from neuro_sync import (
    AbstractDockerImageProgress,
    AuthorizationError,
    ConfigError,
    ImageProgressPull,
    ImageProgressPush,
    ImageProgressStep,
    ResourceNotFound,
    Session,
)
from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE, shared_engine
from tests.programs import require_programs


class Heard(AbstractDockerImageProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.begun: list[ImageProgressPush | ImageProgressPull] = []
        self.steps: list[ImageProgressStep] = []

    def push(self, data: ImageProgressPush) -> None:
        self.begun.append(data)

    def pull(self, data: ImageProgressPull) -> None:
        self.begun.append(data)

    def step(self, data: ImageProgressStep) -> None:
        assert self.begun
        self.steps.append(data)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """The address of a container engine of this test run's own."""
    base = tmp_path_factory.getbasetemp()
    with shared_engine((base if worker_id == "master" else base.parent) / "engine") as url:
        yield url


@pytest.fixture
def api(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker.APIClient]:
    """The engine that the session uses, as its own SDK sees it."""
    require_programs("docker-registry")
    monkeypatch.setenv("DOCKER_HOST", engine)
    client = docker.APIClient(engine, version="auto")
    yield client
    client.close()


@pytest.fixture
def name() -> str:
    return f"transfer/t{uuid4().hex[:12]}"


@pytest.fixture
def image(api: docker.APIClient, name: str) -> str:
    """An image of the engine that nobody else has."""
    api.import_image_from_data(archive("data", 2**20), repository=name, tag="v1")
    return f"{name}:v1"


def archive(name: str, size: int) -> bytes:
    """Return a file of random bytes as a layer has it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as layer:
        file = tarfile.TarInfo(name)
        file.size = size
        layer.addfile(file, io.BytesIO(os.urandom(size)))
    return data.getvalue()


def tags(api: docker.APIClient, name: str) -> set[str]:
    """Return the references of a test's own images; others share the engine."""
    found = {tag for image in api.images() for tag in image["RepoTags"] or ()}
    return {tag for tag in found if name in tag}


def test_an_image_goes_to_the_platform_and_comes_back(
    session: Session, api: docker.APIClient, image: str, name: str
) -> None:
    pushed, pulled = Heard(), Heard()
    remote = session.images.push(image, f"image:{name}:other", progress=pushed)
    assert remote == session.parse.remote_image(f"image:{name}:other")
    assert session.images.size(remote) >= 2**20
    assert pushed.begun == [ImageProgressPush(src=session.parse.local_image(image), dst=remote)]
    [layer] = {step.layer_id for step in pushed.steps}
    assert pushed.steps[-1].status == "Pushed"
    assert all(step.message.startswith(f"{layer}: {step.status}") for step in pushed.steps)
    assert any(step.current and step.total for step in pushed.steps)
    assert tags(api, name) == {image}  # the platform's name was only borrowed
    api.remove_image(image)

    local = session.images.pull(remote, f"{name}:mine", progress=pulled)
    assert pulled.begun == [ImageProgressPull(src=remote, dst=local)]
    assert pulled.steps[-1].status == "Pull complete"
    assert tags(api, name) == {f"{name}:mine"}
    api.remove_image(f"{name}:mine")


def test_each_layer_of_an_image_is_told_of_until_it_is_there(
    session: Session, api: docker.APIClient, image: str, name: str
) -> None:
    sizes = [2**20, 3 * 2**20, 512 * 1024]
    for size in sizes[1:]:
        built = api.create_container(image, ["true"])["Id"]
        api.put_archive(built, "/", archive(f"data-{size}", size))
        api.commit(built, name, "v1")
        api.remove_container(built)
    pushed, again, pulled = Heard(), Heard(), Heard()
    remote = session.images.push(image, progress=pushed)
    ways = layers(pushed)
    assert len(ways) == 3
    for steps in ways.values():
        told = [step for step in steps if step.status == "Pushing" and step.total]
        assert [step.current for step in told] == sorted(step.current or 0 for step in told)
        assert steps[-1].status == "Pushed"
    assert session.images.size(remote) >= sum(sizes)
    session.images.push(image, f"image:{name}:v2", progress=again)
    assert {steps[-1].status for steps in layers(again).values()} == {"Layer already exists"}
    api.remove_image(image)

    session.images.pull(remote, f"{name}:mine", progress=pulled)
    ways = layers(pulled)
    assert len(ways) == 3
    for steps in ways.values():
        assert steps[-1].status == "Pull complete"
        told = [step for step in steps if step.status == "Downloading" and step.total]
        assert [step.current for step in told] == sorted(step.current or 0 for step in told)
    api.remove_image(f"{name}:mine")


def layers(heard: Heard) -> dict[str, list[ImageProgressStep]]:
    """Return what was told of each layer, in order."""
    ways: dict[str, list[ImageProgressStep]] = {}
    for step in heard.steps:
        ways.setdefault(step.layer_id, []).append(step)
    return ways


def test_names_stay_as_they_are_unless_others_are_given(
    session: Session, api: docker.APIClient, image: str, name: str
) -> None:
    remote = session.images.push(image)
    assert remote == session.parse.remote_image(f"image:{image}")
    api.remove_image(image)
    assert str(session.images.pull(remote)) == image
    assert tags(api, name) == {image}
    api.remove_image(image)


def test_a_name_that_an_image_has_already_stays(
    session: Session, api: docker.APIClient, image: str, name: str
) -> None:
    remote = session.parse.remote_image(f"image:{image}").as_docker_url()
    api.tag(image, remote.rpartition(":")[0], "v1")
    session.images.push(image)
    assert tags(api, name) == {image, remote}
    api.remove_image(remote)
    api.remove_image(image)


def test_what_is_not_there_is_told_by_both_sides(
    session: Session, api: docker.APIClient, name: str
) -> None:
    with pytest.raises(ResourceNotFound, match=rf"the container engine here .*'{name}:v1'"):
        session.images.push(f"{name}:v1")
    with pytest.raises(ResourceNotFound, match=rf"the registry has no image .*{name}:v1"):
        session.images.pull(f"image:{name}:v1")
    assert not tags(api, name)


def test_a_port_is_not_taken_for_a_status(api: docker.APIClient, name: str) -> None:
    port = next(port for port in range(40300, 40400) if is_free(port))
    own = LocalPlatform(ephemeral=True, port=port)
    missing = pytest.raises(ResourceNotFound, match=f"has no image .*:{port}/")
    with own, Session(own.url, own.token) as session, missing:
        session.images.pull(f"image:{name}:v1")


def is_free(port: int) -> bool:
    with socket.socket() as listener, suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return True
    return False


def test_anothers_project_is_no_place_to_push_to_or_pull_from(
    platform: LocalPlatform, session: Session, api: docker.APIClient, name: str
) -> None:
    image = session.images.push(IMAGE, f"image:{name}:v1")
    user = f"u{uuid4().hex[:12]}"
    with Session(platform.url, platform.add_user(user)) as stranger:
        with pytest.raises(AuthorizationError):
            stranger.images.push(IMAGE, image)
        with pytest.raises(AuthorizationError):
            stranger.images.pull(image)
    assert not tags(api, name)


def test_without_an_engine_it_is_said_where_it_was_looked_for(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-such-socket")
    with pytest.raises(ConfigError, match=r"no-such-socket \(DOCKER_HOST\) is not running"):
        session.images.push("ubuntu")
