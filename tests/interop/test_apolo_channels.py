"""The official asyncio client, unmodified, talks to what runs on the local platform."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apolo_sdk
import pytest
from apolo_sdk import Client, Factory, JobStatus, RemoteImage, StdStreamError
from yarl import URL

from neuro_sync.local.server import LocalPlatform

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds until a test gives up on what should take a moment; a busy machine needs some."""
IMAGE = RemoteImage.new_external_image("ubuntu", tag="latest")
FOREVER = "sleep 600"
OUTPUT = {"stdout": True, "stderr": True}
ALL = {"stdin": True, **OUTPUT}
TERMINAL = {"tty": True, "stdin": True, "stdout": True}
ECHO = "python -uc 'import sys; [print(line, end=str()) for line in sys.stdin]'"


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


async def running(client: Client, command: str, **options: Any) -> str:
    job = await client.jobs.start(image=IMAGE, preset_name="cpu-small", command=command, **options)
    while not (await client.jobs.status(job.id)).status.is_running:
        await asyncio.sleep(0.01)
    return str(job.id)


async def ended(client: Client, job_id: str) -> Any:
    while not (job := await client.jobs.status(job_id)).status.is_finished:
        await asyncio.sleep(0.01)
    return job


async def hear(stream: apolo_sdk.StdStream) -> tuple[bytes, bytes, int | None]:
    """Read to the end: standard output, standard error, exit code."""
    heard = {1: b"", 2: b""}
    try:
        while (message := await stream.read_out()) is not None:
            heard[message.fileno] += message.data
    except StdStreamError as error:
        return heard[1], heard[2], error.exit_code
    return heard[1], heard[2], None


async def hear_until(stream: apolo_sdk.StdStream, wanted: bytes) -> bytes:
    heard = b""
    while wanted not in heard:
        message = await stream.read_out()
        assert message is not None, heard
        heard += message.data
    return heard


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("true", (b"", b"", 0)),
        ("sh -c 'echo out; echo err >&2; exit 3'", (b"out\n", b"err\n", 3)),
        ("sh -c 'kill -9 $$'", (b"", b"", 137)),
        ("no-such-program", (b"", b"", 127)),
    ],
)
def test_a_command_is_run_in_a_job(
    drive: Drive, command: str, expected: tuple[bytes, bytes, int]
) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, FOREVER)
        async with client.jobs.exec(job, command, **OUTPUT) as stream:
            assert await hear(stream) == expected
        await client.jobs.kill(job)

    drive(scenario)


def test_input_goes_to_a_command(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        data = bytes(range(256)) * 4096
        job = await running(client, FOREVER)
        async with client.jobs.exec(job, f"head -c {len(data)}", **ALL) as stream:

            async def feed() -> None:
                for begin in range(0, len(data), 65536):
                    await stream.write_in(data[begin : begin + 65536])

            _, heard = await asyncio.gather(feed(), hear(stream))
            assert heard == (data, b"", 0)
        await client.jobs.kill(job)

    drive(scenario)


def test_a_terminal_is_resized(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, FOREVER)
        async with client.jobs.exec(job, "sh -c 'read x; stty size'", **TERMINAL) as stream:
            await stream.resize(w=132, h=50)
            await stream.write_in(b"\n")
            stdout, _, exit_code = await hear(stream)
            assert b"50 132\r\n" in stdout
            assert exit_code == 0
        await client.jobs.kill(job)

    drive(scenario)


def test_a_job_is_attached_to_left_and_attached_to_again(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, ECHO)
        for word in (b"one\n", b"two\n"):
            async with client.jobs.attach(job, **ALL) as stream:
                await stream.write_in(word)
                assert await hear_until(stream, b"\n") == word
                await stream.close()
        assert (await client.jobs.status(job)).status is JobStatus.RUNNING
        await client.jobs.kill(job)

    drive(scenario)


def test_an_attach_ends_with_the_job(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, "sh -c 'read x; echo out; echo err >&2; exit 3'")
        async with client.jobs.attach(job, **ALL) as stream:
            await stream.write_in(b"\n")
            assert await hear(stream) == (b"out\n", b"err\n", 0)
        assert (await ended(client, job)).history.exit_code == 3
        with pytest.raises(apolo_sdk.ResourceNotFound, match=f"Job '{job}' is not running"):
            async with client.jobs.attach(job, **ALL):
                pass

    drive(scenario)


def test_the_terminal_of_a_job_is_attached_to(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, "sh -c 'read x; stty size; exit 0'", tty=True)
        async with client.jobs.attach(job, **TERMINAL) as stream:
            await stream.resize(w=100, h=30)
            await stream.write_in(b"\n")
            assert b"30 100\r\n" in (await hear(stream))[0]

    drive(scenario)


def test_a_refused_handshake_tells_why(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, FOREVER)
        with pytest.raises(apolo_sdk.IllegalArgumentError, match="multiplexed in tty mode"):
            async with client.jobs.exec(job, "true", tty=True, **OUTPUT):
                pass
        with pytest.raises(apolo_sdk.IllegalArgumentError, match="no such job job-x"):
            async with client.jobs.exec("job-x", "true", **OUTPUT):
                pass
        await client.jobs.kill(job)

    drive(scenario)


def test_a_signal_ends_a_job(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, FOREVER)
        await client.jobs.send_signal(job)
        history = (await ended(client, job)).history
        assert (history.status, history.exit_code) == (JobStatus.FAILED, 137)
        with pytest.raises(apolo_sdk.ResourceNotFound, match="is not running"):
            await client.jobs.send_signal(job)

    drive(scenario)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_a_web_server_in_a_job_is_reached(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hello from the job")

    async def scenario(client: Client) -> None:
        there, here = free_port(), free_port()
        command = f"python -u -m http.server --bind 127.0.0.1 {there}"
        job = await running(client, command, working_dir=str(tmp_path))
        async with client.jobs.monitor(job) as pieces:
            async for piece in pieces:
                if b"Serving" in piece:
                    break
        async with client.jobs.port_forward(job, here, there):
            reader, writer = await asyncio.open_connection("localhost", here)
            writer.write(b"GET /page HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.0 200 OK")
        assert answer.endswith(b"hello from the job")
        await client.jobs.kill(job)

    drive(scenario)


def test_a_port_where_the_job_does_not_listen_is_closed(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        here = free_port()
        job = await running(client, FOREVER)
        foreign = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with (
            foreign,
            client.jobs.port_forward(job, here, foreign.sockets[0].getsockname()[1]),
        ):
            reader, writer = await asyncio.open_connection("localhost", here)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await client.jobs.kill(job)

    drive(scenario)


def test_it_sees_what_a_job_uses_until_the_job_is_over(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job_id = await running(client, "sh -c 'while :; do :; done'")
        async with client.jobs.top(job_id) as samples:
            seen = [await anext(samples) for _ in range(2)]
            assert seen[1].timestamp > seen[0].timestamp
            assert seen[1].memory_bytes > 0
            assert seen[1].cpu > 0
            await client.jobs.kill(job_id)
            async for _ in samples:
                pass

    drive(scenario)


def test_it_learns_how_much_is_free_and_lengthens_a_life(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        assert set(await client.jobs.get_capacity()) >= {"cpu-small", "cpu-large"}
        job_id = await running(client, FOREVER, life_span=120)
        await client.jobs.bump_life_span(job_id, 60)
        assert (await client.jobs.status(job_id)).life_span == 180
        await client.jobs.kill(job_id)

    drive(scenario)
