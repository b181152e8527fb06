"""What is seen of a running container: conversations with its processes, and what it uses."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Protocol

from neuro_sync.models.frames import Exited
from neuro_sync.models.jobs import JobTelemetry, Message

from .engine import Answer, Engine, EngineRefused, EngineUnavailable, Frames, why_not_run

PIECE = 2**16 - 1
"""Bytes; with the number of its channel a piece makes a message of 64 KiB."""
END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes for the end of input: Ctrl-D."""


class Resize(Protocol):
    """Sets the size of a terminal, sooner or later."""

    def __call__(self, *, height: int, width: int) -> object: ...


class EngineChannel:
    """A conversation with a process in a container, over a connection to the engine."""

    def __init__(
        self,
        streams: Answer,
        *,
        tty: bool,
        can_end_input: bool,
        outcome: Callable[[], Awaitable[Exited | None]],
        resize: Resize,
        abandon: Callable[[], object] = lambda: None,
    ) -> None:
        """Take over the streams.

        `outcome` tells how it ended once they have, and `abandon` is called when somebody leaves
        before.
        """
        self.can_end_input = can_end_input
        self._streams = streams
        self._tty = tty
        self._outcome = outcome
        self._resize = resize
        self._abandon = abandon
        self._is_over = False

    async def output(self) -> AsyncGenerator[Message | Exited, None]:
        demultiplexer = Frames()
        refusal = b""
        is_first = True
        with suppress(ConnectionError):
            while data := await self._streams.reader.read(PIECE):
                found = [(1, data)] if self._tty else demultiplexer.feed(data)
                for stream, part in found:
                    if is_first and part.startswith(b"OCI runtime exec failed: "):
                        refusal = part  # the engine's own words, where the output would be
                    else:
                        yield Message(fileno=2 if stream == 2 else 1, data=part)
                    is_first = False
        ended = await self._outcome()
        self._is_over = True
        if ended is not None and refusal:
            code, why = why_not_run(refusal.decode(errors="replace"))
            ended = Exited(code or ended.exit_code, why)
        if ended is not None:
            yield ended

    async def write(self, data: bytes) -> None:
        writer = self._streams.writer
        if data and not writer.is_closing():
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()

    async def end_input(self) -> None:
        if self._tty:
            await self.write(END_OF_TRANSMISSION)
        elif self.can_end_input and not self._streams.writer.is_closing():
            with suppress(OSError):
                self._streams.writer.write_eof()

    def resize(self, *, height: int, width: int) -> None:
        if self._tty:
            self._resize(height=height, width=width)

    def close(self) -> None:
        if not self._streams.writer.is_closing():
            self._streams.close()
            if not self._is_over:
                self._abandon()


class ContainerMeter:
    """Measures a container; each sample covers the time since the one before."""

    def __init__(self, engine: Engine, container: str, started_at: datetime) -> None:
        self._engine = engine
        self._container = container
        self._busy = 0
        self._at = started_at.timestamp()

    def sample(self) -> JobTelemetry | None:
        """Return what it uses now, or None when it is gone."""
        try:
            stats = self._engine.call_now(
                self._engine.api.stats, self._container, stream=False, one_shot=True
            )
        except (EngineRefused, EngineUnavailable):
            return None
        memory, busy = stats["memory_stats"], stats["cpu_stats"]["cpu_usage"]["total_usage"]
        if "usage" not in memory:  # it has ended
            return None
        now = time.time()
        cpu = max(busy - self._busy, 0) / 10**9 / max(now - self._at, 0.01)
        self._busy, self._at = busy, now
        # Pages of files that could be dropped at any time are not counted, by either kernel's name.
        details = memory.get("stats", {})
        cache = details.get("total_inactive_file", details.get("inactive_file", 0))
        return JobTelemetry(timestamp=now, cpu=cpu, memory_bytes=max(memory["usage"] - cache, 0))


async def connection_through(
    channel: EngineChannel,
    output: AsyncGenerator[Message | Exited, None],
    first: Awaitable[Message | Exited | None],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection whose other side is a command that carries bytes inside a container.

    `first` is the first of its output, which somebody has begun to wait for.
    """
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)

    async def bring() -> None:
        with suppress(OSError):
            async with aclosing(output):
                item = await first
                while item is not None:
                    if isinstance(item, Message) and item.fileno == 1:
                        writer.write(item.data)
                        await writer.drain()
                    item = await anext(output, None)

    async def take() -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE):
                await channel.write(data)

    async def carry() -> None:
        # The end of either side is the end of both, as everywhere in the protocol.
        tasks = [asyncio.ensure_future(activity) for activity in (bring(), take())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            channel.close()
            writer.close()

    _carriers.add(carrier := asyncio.ensure_future(carry()))
    carrier.add_done_callback(_carriers.discard)
    return await asyncio.open_connection(sock=ours)


_carriers: set[asyncio.Future[None]] = set()
"""Held here, since an event loop forgets tasks that nobody holds."""
