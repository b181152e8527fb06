"""The clients' side, a process for each: ``bench.clients ours|peer URL TOKEN``.

Both do the same work in the way that is natural for each, and both are timed within their process.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

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
