"""The clients' side, a process for each: ``bench.clients ours|peer URL TOKEN``.

Both do the same work in the way that is natural for each, and both are timed within their process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from yarl import URL

from .children import tell

T = TypeVar("T")


class Client(Protocol):
    """What both sides are asked to do."""

    def status(self, job_id: str, calls: int) -> dict[str, Any]:
        """Ask for a job's status again and again; tell the seconds of each call."""

    def log(self, job_id: str) -> dict[str, Any]:
        """Read a log to its end; tell its size and the seconds."""

    def list(self, limit: int | None) -> dict[str, Any]:
        """List jobs; tell how many they were and what they took."""

    def line_latency(self, job_id: str, pipe: str, lines: int) -> dict[str, Any]:
        """Have a job write lines that it reads from a pipe; tell how long each took to arrive."""

    def commands(self, job_id: str, count: int) -> dict[str, Any]:
        """Run ``true`` in a job again and again; tell the seconds of each, to its exit code."""

    def echo(self, job_id: str, count: int) -> dict[str, Any]:
        """Send a byte to ``cat`` in a job again and again; tell how long each took to come back."""

    def forward(self, job_id: str, port: int, size: int) -> dict[str, Any]:
        """Send bytes to a job's port through a tunnel, and receive as many; tell the seconds."""

    def upload(self, path: str, name: str, is_folder: bool) -> dict[str, Any]:
        """Copy a file or a folder to the storage; tell the seconds."""

    def download(self, name: str, path: str, is_folder: bool) -> dict[str, Any]:
        """Copy it back; tell the seconds."""

    def close(self) -> None: ...


class Usage:
    """What this process uses from now on."""

    def __init__(self) -> None:
        self._memory = _peak_memory()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    def summary(self) -> dict[str, float]:
        """Return seconds, CPU seconds, and the bytes by which the peak of the memory rose."""
        seconds = self.seconds
        cpu = time.process_time() - self._cpu
        return {"seconds": seconds, "cpu": cpu, "memory": _peak_memory() - self._memory}


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pass_bytes(port: int, size: int) -> dict[str, Any]:
    """Talk to `SINK` through a port of this machine; tell the seconds up and down."""
    seconds = []
    for order in (b"u", b"d"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            usage = Usage()
            connection.sendall(order + size.to_bytes(8, "big"))
            if order == b"u":
                piece = bytes(2**18)
                for _ in range(size // len(piece)):
                    connection.sendall(piece)
                connection.recv(1)  # it has all
            else:
                left = size
                while left:
                    left -= len(connection.recv(2**16))
            seconds.append(usage.seconds)
    return {"up": seconds[0], "down": seconds[1]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Ours:
    def __init__(self, url: str, token: str) -> None:
        import neuro_sync

        self._session = neuro_sync.get(url, token)

    def status(self, job_id: str, calls: int) -> dict[str, Any]:
        seconds = []
        for _ in range(calls):
            usage = Usage()
            self._session.jobs.status(job_id)
            seconds.append(usage.seconds)
        return {"seconds": seconds}

    def log(self, job_id: str) -> dict[str, Any]:
        usage = Usage()
        size = 0
        with self._session.jobs.monitor(job_id) as pieces:
            for piece in pieces:
                size += len(piece)
        return {"bytes": size, **usage.summary()}

    def list(self, limit: int | None) -> dict[str, Any]:
        usage = Usage()
        first = 0.0
        jobs = 0
        for _ in self._session.jobs.list(limit=limit):
            if not jobs:
                first = usage.seconds
            jobs += 1
        return {"jobs": jobs, "first": first, **usage.summary()}

    def start(self, command: str) -> dict[str, Any]:
        """Start a job, and wait for its first line."""
        job = self._session.jobs.start(image="any", preset_name="cpu-small", command=command)
        with self._session.jobs.logs(job) as lines:
            return {"job_id": job.id, "line": next(lines)}

    def line_latency(self, job_id: str, pipe: str, lines: int) -> dict[str, Any]:
        seconds = []
        with self._session.jobs.monitor(job_id) as pieces, open(pipe, "wb", buffering=0) as written:
            next(pieces)
            for _ in range(lines):
                usage = Usage()
                written.write(b"line\n")
                next(pieces)
                seconds.append(usage.seconds)
        return {"seconds": seconds}

    def commands(self, job_id: str, count: int) -> dict[str, Any]:
        seconds = []
        for _ in range(count):
            usage = Usage()
            with self._session.jobs.exec(job_id, "true", stdout=True, stderr=True) as stream:
                assert stream.exit_code == 0
            seconds.append(usage.seconds)
        return {"seconds": seconds}

    def echo(self, job_id: str, count: int) -> dict[str, Any]:
        seconds = []
        with self._session.jobs.exec(job_id, "cat", stdin=True, stdout=True) as stream:
            for _ in range(count):
                usage = Usage()
                stream.write_in(b"x")
                assert stream.read_out() is not None
                seconds.append(usage.seconds)
        return {"seconds": seconds}

    def forward(self, job_id: str, port: int, size: int) -> dict[str, Any]:
        with self._session.jobs.port_forward(job_id, 0, port) as tunnel:
            return pass_bytes(tunnel.local_port, size)

    def upload(self, path: str, name: str, is_folder: bool) -> dict[str, Any]:
        storage = self._session.storage
        copy = storage.upload_dir if is_folder else storage.upload_file
        usage = Usage()
        copy(path, f"storage:{name}")
        return usage.summary()

    def download(self, name: str, path: str, is_folder: bool) -> dict[str, Any]:
        storage = self._session.storage
        copy = storage.download_dir if is_folder else storage.download_file
        usage = Usage()
        copy(f"storage:{name}", path)
        return usage.summary()

    def one_by_one(self, path: str, name: str, back: str) -> dict[str, Any]:
        """Copy the files of a folder, each with a call of its own; tell the seconds up and down."""
        storage = self._session.storage
        storage.mkdir(f"storage:{name}")
        files = sorted(Path(path).iterdir())
        usage = Usage()
        for file in files:
            storage.upload_file(file, f"storage:{name}/{file.name}")
        up = usage.seconds
        usage = Usage()
        for file in files:
            storage.download_file(f"storage:{name}/{file.name}", Path(back, file.name))
        return {"up": up, "down": usage.seconds}

    def close(self) -> None:
        self._session.close()


class Peer:
    """The official client; its login is saved in the folder that ``APOLO_CONFIG`` names."""

    def __init__(self, url: str, token: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._run(self._open(url, token))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _open(self, url: str, token: str) -> None:
        import apolo_sdk
        from yarl import URL

        factory = apolo_sdk.Factory()
        if not factory.is_config_present:
            await factory.login_with_token(token, url=URL(url))
        self._client = await factory.get()

    def status(self, job_id: str, calls: int) -> dict[str, Any]:
        return self._run(self._status(job_id, calls))

    async def _status(self, job_id: str, calls: int) -> dict[str, Any]:
        seconds = []
        for _ in range(calls):
            usage = Usage()
            await self._client.jobs.status(job_id)
            seconds.append(usage.seconds)
        return {"seconds": seconds}

    def log(self, job_id: str) -> dict[str, Any]:
        return self._run(self._log(job_id))

    async def _log(self, job_id: str) -> dict[str, Any]:
        usage = Usage()
        size = 0
        async with self._client.jobs.monitor(job_id) as pieces:
            async for piece in pieces:
                size += len(piece)
        return {"bytes": size, **usage.summary()}

    def list(self, limit: int | None) -> dict[str, Any]:
        return self._run(self._list(limit))

    async def _list(self, limit: int | None) -> dict[str, Any]:
        usage = Usage()
        first = 0.0
        jobs = 0
        async with self._client.jobs.list(limit=limit) as found:
            async for _ in found:
                if not jobs:
                    first = usage.seconds
                jobs += 1
        return {"jobs": jobs, "first": first, **usage.summary()}

    def line_latency(self, job_id: str, pipe: str, lines: int) -> dict[str, Any]:
        return self._run(self._line_latency(job_id, pipe, lines))

    async def _line_latency(self, job_id: str, pipe: str, lines: int) -> dict[str, Any]:
        seconds = []
        written = os.open(pipe, os.O_WRONLY)
        async with self._client.jobs.monitor(job_id) as pieces:
            iterator = aiter(pieces)
            await anext(iterator)
            for _ in range(lines):
                usage = Usage()
                os.write(written, b"line\n")
                await anext(iterator)
                seconds.append(usage.seconds)
        os.close(written)
        return {"seconds": seconds}

    def commands(self, job_id: str, count: int) -> dict[str, Any]:
        return self._run(self._commands(job_id, count))

    async def _commands(self, job_id: str, count: int) -> dict[str, Any]:
        from apolo_sdk import StdStreamError

        seconds = []
        for _ in range(count):
            usage = Usage()
            async with self._client.jobs.exec(job_id, "true", stdout=True, stderr=True) as stream:
                try:
                    while await stream.read_out() is not None:
                        pass
                except StdStreamError as end:
                    if end.exit_code:
                        raise
            seconds.append(usage.seconds)
        return {"seconds": seconds}

    def echo(self, job_id: str, count: int) -> dict[str, Any]:
        return self._run(self._echo(job_id, count))

    async def _echo(self, job_id: str, count: int) -> dict[str, Any]:
        seconds = []
        async with self._client.jobs.exec(job_id, "cat", stdin=True, stdout=True) as stream:
            await stream.write_in(b"x")
            message = await stream.read_out()
            while message is not None and not message.data:  # the empty one of the beginning
                message = await stream.read_out()
            for _ in range(count):
                usage = Usage()
                await stream.write_in(b"x")
                assert await stream.read_out() is not None
                seconds.append(usage.seconds)
        return {"seconds": seconds}

    def forward(self, job_id: str, port: int, size: int) -> dict[str, Any]:
        return self._run(self._forward(job_id, port, size))

    async def _forward(self, job_id: str, port: int, size: int) -> dict[str, Any]:
        local_port = free_port()
        async with self._client.jobs.port_forward(job_id, local_port, port):
            return await asyncio.to_thread(pass_bytes, local_port, size)

    def upload(self, path: str, name: str, is_folder: bool) -> dict[str, Any]:
        storage = self._client.storage
        copy = storage.upload_dir if is_folder else storage.upload_file
        source = URL(Path(path).as_uri())
        usage = Usage()
        self._run(copy(source, self._client.parse.str_to_uri(f"storage:{name}")))
        return usage.summary()

    def download(self, name: str, path: str, is_folder: bool) -> dict[str, Any]:
        storage = self._client.storage
        copy = storage.download_dir if is_folder else storage.download_file
        target = URL(Path(path).as_uri())
        usage = Usage()
        self._run(copy(self._client.parse.str_to_uri(f"storage:{name}"), target))
        return usage.summary()

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()


def main() -> None:
    side, url, token = sys.argv[1:]
    client: Client = Ours(url, token) if side == "ours" else Peer(url, token)
    tell({"side": side})
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        tell(getattr(client, order)(*arguments))
    client.close()


if __name__ == "__main__":
    main()
