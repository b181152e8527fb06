"""The official asyncio client, unmodified, keeps secrets and disks on the local platform."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import apolo_sdk
import pytest
from apolo_sdk import Client, DiskVolume, Factory, JobStatus, RemoteImage, SecretFile, Volume
from yarl import URL

from neuro_sync.local.server import LocalPlatform
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds until a test gives up on what should take a moment; a busy machine needs some."""


class Drive(Protocol):
    def __call__(self, scenario: Callable[[Client], Awaitable[T]]) -> T:
        """Run a scenario with a client that is logged in."""


@pytest.fixture
def drive(platform: LocalPlatform, tmp_path: Path) -> Drive:
    def drive_client(scenario: Callable[[Client], Awaitable[T]]) -> T:
        async def with_client() -> T:
            factory = Factory(tmp_path / "apolo")
            await factory.login_with_token(platform.token, url=URL(platform.url))
            async with await factory.get() as client:
                return await asyncio.wait_for(scenario(client), DEADLINE)

        return asyncio.run(with_client())

    return drive_client


def test_a_secret_is_added_listed_read_and_removed(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        await client.secrets.add("peer-key", b"\0any bytes\xff")
        await client.secrets.add("peer-key", b"\0other bytes\xff")
        project = client.config.project_name_or_raise
        async with client.secrets.list(project_name=project) as found:
            (secret,) = [secret async for secret in found if secret.key == "peer-key"]
        assert secret.owner == project
        assert secret.uri == URL(
            f"secret://{client.config.cluster_name}/{client.config.org_name}/{secret.owner}/peer-key"
        )
        assert await client.secrets.get("peer-key") == b"\0other bytes\xff"
        await client.secrets.rm("peer-key")
        with pytest.raises(apolo_sdk.ResourceNotFound, match="Secret 'peer-key' not found"):
            await client.secrets.rm("peer-key")
        with pytest.raises(apolo_sdk.IllegalArgumentError, match="does not match pattern"):
            await client.secrets.add("no key", b"value")
        with pytest.raises(apolo_sdk.IllegalArgumentError, match=r"'project_name'.*is required"):
            async with client.secrets.list() as found:  # as on the hosted platform
                await anext(found)

    drive(scenario)


def test_a_disk_is_made_listed_found_and_removed(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        made = await client.disks.create(2**30, timedelta(hours=2), "peer-disk")
        assert made.status is apolo_sdk.Disk.Status.READY
        assert (made.storage, made.timeout_unused) == (2**30, timedelta(hours=2))
        project = client.config.project_name_or_raise
        async with client.disks.list(project_name=project) as found:
            assert made.id in [disk.id async for disk in found]
        assert (await client.disks.get("peer-disk")).id == made.id
        assert (await client.disks.get(made.id)).name == "peer-disk"
        with pytest.raises(apolo_sdk.IllegalArgumentError):
            await client.disks.create(2**30, None, "peer-disk")
        await client.disks.rm("peer-disk")
        with pytest.raises(apolo_sdk.ResourceNotFound, match="Disk peer-disk not found"):
            await client.disks.get("peer-disk")

    drive(scenario)


@pytest.mark.usefixtures("bubblewrap")
def test_a_job_uses_a_secret_a_disk_and_a_volume(drive: Drive, platform: LocalPlatform) -> None:
    async def scenario(client: Client) -> None:
        await client.secrets.add("peer-secret", b"peer value")
        disk = await client.disks.create(2**30)
        parse = client.parse
        job = await client.jobs.start(
            image=RemoteImage.new_external_image("ubuntu", tag="latest"),
            preset_name="cpu-small",
            command="sh -c 'echo $KEY; cat /key; cp /key /disk/copy; cp /key /data/copy'",
            secret_env={"KEY": parse.str_to_uri("secret:peer-secret")},
            secret_files=[SecretFile(parse.str_to_uri("secret:peer-secret"), "/key")],
            disk_volumes=[DiskVolume(parse.str_to_uri(f"disk:{disk.id}"), "/disk")],
            volumes=[Volume(parse.str_to_uri("storage:peer-volume"), "/data")],
        )
        while not (job := await client.jobs.status(job.id)).status.is_finished:
            await asyncio.sleep(0.01)
        assert job.status is JobStatus.SUCCEEDED, job.history
        async with client.jobs.monitor(job.id) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"peer value\npeer value"
        used = await client.disks.get(disk.id)
        assert used.used_bytes == len(b"peer value")
        assert used.last_usage is not None
        project = client.config.project_name_or_raise
        copy = platform.folder / "storage" / "local" / project / "peer-volume" / "copy"
        assert copy.read_bytes() == b"peer value"
        await client.disks.rm(disk.id)
        await client.secrets.rm("peer-secret")

    drive(scenario)
