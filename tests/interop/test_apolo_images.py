"""The official client, unmodified, and the images of the local platform."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import apolo_sdk
import pytest
from apolo_sdk import Client, Factory
from yarl import URL

from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform
from tests.image_repository import CONFIG, IMAGE_TYPES, Repository
from tests.programs import require_programs

T = TypeVar("T")
DEADLINE = 60.0


@pytest.fixture(scope="module")
def login(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved login."""
    folder = tmp_path_factory.mktemp("apolo") / "config"
    asyncio.run(Factory(folder).login_with_token(platform.token, url=URL(platform.url)))
    return folder


def drive(login: Path, scenario: Callable[[Client], Awaitable[T]]) -> T:
    async def with_client() -> T:
        async with await Factory(login).get() as client:
            return await asyncio.wait_for(scenario(client), DEADLINE)

    return asyncio.run(with_client())


@pytest.fixture
def repository(platform: LocalPlatform) -> Repository:
    require_programs("docker-registry")
    return Repository(platform, f"peer/p{uuid4().hex[:12]}")


@pytest.mark.parametrize("kind", IMAGE_TYPES)
def test_the_official_client_sees_what_ours_sees(
    login: Path, repository: Repository, session: Session, kind: str
) -> None:
    digest = repository.put_image("v1", b"a" * 1000, b"b" * 500, kind=kind)
    repository.put_image("v2", b"c", kind=kind)
    address = f"image:/{repository.name.split('/', 2)[2]}"

    async def scenario(client: Client) -> None:
        image = client.parse.remote_image(address, tag_option=apolo_sdk.TagOption.DENY)
        assert image in await client.images.list()
        tagged = client.parse.remote_image(f"{address}:v1")
        assert await client.images.digest(tagged) == digest
        assert await client.images.size(tagged) == 1500
        assert (await client.images.tag_info(tagged)).size == 1500
        assert [found.tag for found in await client.images.tags(image)] == ["v1", "v2"]
        await client.images.rm(tagged, digest)
        assert [found.tag for found in await client.images.tags(image)] == ["v2"]

    drive(login, scenario)
    assert [image.tag for image in session.images.tags(address)] == ["v2"]


def test_the_official_client_follows_the_catalogs_pages(
    login: Path, repository: Repository
) -> None:
    names = [f"{repository.name}/n{number:02}" for number in range(35)]  # it asks for 30
    config = {"mediaType": CONFIG, **repository.put_blob(b"{}")}
    mount = f"mount={config['digest']}&from={repository.name.removeprefix('/')}"
    for name in names:
        another = Repository(repository.platform, name)
        assert another.ask("POST", f"blobs/uploads/?{mount}").status_code == 201
        another.put_manifest(
            "v1", IMAGE_TYPES[0], config={"mediaType": CONFIG, **config}, layers=[]
        )

    async def scenario(client: Client) -> None:
        listed = {image.as_docker_url() for image in await client.images.list()}
        registry = URL(repository.platform.url).authority
        assert {f"{registry}{name}" for name in names} <= listed

    drive(login, scenario)


def test_the_official_client_is_told_what_is_not_there(login: Path, repository: Repository) -> None:
    address = f"image:/{repository.name.split('/', 2)[2]}"

    async def scenario(client: Client) -> None:
        image = client.parse.remote_image(address, tag_option=apolo_sdk.TagOption.DENY)
        with pytest.raises(apolo_sdk.ResourceNotFound):
            await client.images.tags(image)
        with pytest.raises(apolo_sdk.ResourceNotFound):
            await client.images.digest(client.parse.remote_image(f"{address}:v1"))

    drive(login, scenario)


def test_the_official_client_may_not_have_anothers_image(
    repository: Repository, tmp_path: Path
) -> None:
    repository.put_image("v1", b"layer")
    platform = repository.platform
    token = platform.add_user(f"u{uuid4().hex[:12]}")
    asyncio.run(Factory(tmp_path / "config").login_with_token(token, url=URL(platform.url)))

    async def scenario(client: Client) -> None:
        image = client.parse.remote_image(f"image:/{repository.name.split('/', 2)[2]}:v1")
        with pytest.raises(apolo_sdk.AuthorizationError):
            await client.images.size(image)
        assert await client.images.list() == []

    drive(tmp_path / "config", scenario)


def test_a_job_shows_its_image_alike_in_both_clients(login: Path, session: Session) -> None:
    job = session.jobs.start(image="image:team/a:v1", preset_name="cpu-small", command="true")

    async def scenario(client: Client) -> None:
        seen = (await client.jobs.status(job.id)).container.image
        assert str(seen) == str(job.container.image)
        started = await client.jobs.start(
            image=client.parse.remote_image("image:team/a:v1"),
            preset_name="cpu-small",
            command="true",
        )
        assert session.jobs.status(started.id).container.image == job.container.image

    drive(login, scenario)
