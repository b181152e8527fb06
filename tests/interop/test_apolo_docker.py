"""The official client against a local platform whose jobs are containers."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from apolo_sdk import (
    AbstractDockerImageProgress,
    Factory,
    ImageProgressStep,
    JobStatus,
    StdStreamError,
    TagOption,
)
from yarl import URL

from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE
from tests.programs import require_programs


def test_the_official_client_starts_reads_enters_and_ends_a_container(
    docker_platform: LocalPlatform, tmp_path: Path
) -> None:
    async def scenario() -> None:
        factory = Factory(tmp_path / "config")
        await factory.login_with_token(docker_platform.token, url=URL(docker_platform.url))
        async with await factory.get() as client:
            image = client.parse.remote_image(IMAGE)
            job = await client.jobs.start(
                image=image, preset_name="cpu-small", command="sh -c 'echo hello; sleep 600'"
            )
            while not job.status.is_running:
                await asyncio.sleep(0.02)
                job = await client.jobs.status(job.id)
            async with client.jobs.monitor(job.id) as pieces:
                async for piece in pieces:
                    assert piece == b"hello\n"
                    break
            output = b""
            command = "sh -c 'echo inside; exit 7'"
            code = None
            async with client.jobs.exec(job.id, command, stdout=True, stderr=True) as stream:
                try:
                    while message := await stream.read_out():
                        output += message.data
                except StdStreamError as ended:
                    code = ended.exit_code
            assert (output, code) == (b"inside\n", 7)
            await client.jobs.kill(job.id)
            assert (await client.jobs.status(job.id)).status is JobStatus.CANCELLED

    asyncio.run(asyncio.wait_for(scenario(), 30))


class Heard(AbstractDockerImageProgress):  # type: ignore[misc]  # the peer's types are not read
    """Remembers the names of what the official client was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def push(self, data: object) -> None:
        self.told.append("push")

    def pull(self, data: object) -> None:
        self.told.append("pull")

    def step(self, data: ImageProgressStep) -> None:
        self.told.append(data.status)

    def save(self, data: object) -> None:
        self.told.append("save")

    def commit_started(self, data: object) -> None:
        self.told.append("commit started")

    def commit_finished(self, data: object) -> None:
        self.told.append("commit finished")


def test_the_official_client_pushes_pulls_and_saves_images(
    docker_platform: LocalPlatform, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_programs("docker-registry")
    monkeypatch.setenv("DOCKER_HOST", engine)
    name = f"peer-{uuid4().hex[:12]}"
    pushed, pulled, saved = Heard(), Heard(), Heard()

    async def scenario() -> None:
        factory = Factory(tmp_path / "config")
        await factory.login_with_token(docker_platform.token, url=URL(docker_platform.url))
        async with await factory.get() as client:
            remote = client.parse.remote_image(f"image:{name}:v1")
            await client.images.push(client.parse.local_image(IMAGE), remote, progress=pushed)
            job = await client.jobs.start(
                image=remote, preset_name="cpu-small", command="sh -c 'echo hello; sleep 600'"
            )
            while not job.status.is_running:
                await asyncio.sleep(0.02)
                job = await client.jobs.status(job.id)
            target = client.parse.remote_image(f"image:{name}:saved")
            await client.jobs.save(job.id, target, progress=saved)
            await client.jobs.kill(job.id)
            local = client.parse.local_image(f"{name}:mine")
            assert await client.images.pull(target, local, progress=pulled) == local
            assert {
                image.tag
                for image in await client.images.tags(
                    client.parse.remote_image(f"image:{name}", tag_option=TagOption.DENY)
                )
            } == {"v1", "saved"}

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert pushed.told[0] == "push"
    # Which of them depends on what other images the registry has by now.
    assert pushed.told[-1].startswith(("Pushed", "Layer already exists", "Mounted from"))
    assert saved.told[:4] == ["save", "commit started", "commit finished", "push"]
    assert pulled.told[0] == "pull"
    with closing(docker.APIClient(engine, version="auto")) as api:
        for image in api.images():
            for tag in image["RepoTags"] or ():
                if name in tag:
                    api.remove_image(tag, force=True)
