"""The official client against a local platform whose jobs are containers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from apolo_sdk import Factory, JobStatus, StdStreamError
from yarl import URL

from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE


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
