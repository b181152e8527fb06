"""Keeps what an engine is about to mount from being exchanged for something else.

An engine is given paths and follows every link in them, so a container that may write to a folder
above one that is being mounted could put a link to anywhere in its place. While a container starts,
those that could do that to its mounts are paused, and what is found is checked meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.private_files import FILE, FOLDER

from .base import Mount
from .engine import Engine, EngineRefused, EngineUnavailable

logger = logging.getLogger(__name__)

WRITABLE_LABEL = "org.neuro-sync.writable"
"""Paths below the state folder to which a container may write, as JSON."""


class MountGuard:
    """Of one platform's containers, which bear a label. All of it happens on one event loop."""

    def __init__(self, engine: Engine, folder: Path, label: str) -> None:
        self._engine = engine
        self._folder = folder
        self._label = label
        self._starting: list[tuple[Mount, ...]] = []
        self._change = asyncio.Condition()
        self._paused: Counter[str] = Counter()
        """How many starts want a container to be paused."""
        self._being_paused: set[str] = set()
        self._still: set[str] = set()
        """Those that change nothing now."""
        self._ours: set[str] = set()
        """Those of them that were paused here, and not by somebody else."""
        self._used: Counter[str] = Counter()
        """How many activities keep one from being paused."""

    async def open(self) -> None:
        """Resume what a platform that was killed has left paused."""
        for container in await self._containers("paused"):
            await self._unpause(container["Id"])

    @asynccontextmanager
    async def use(self, container: str) -> AsyncIterator[None]:
        """Keep a container running while the block asks something of it, such as a command."""
        async with self._change:
            await self._change.wait_for(lambda: container not in self._paused)
            self._used[container] += 1
        try:
            yield
        finally:
            await asyncio.shield(self._end_use(container))

    async def _end_use(self, container: str) -> None:
        async with self._change:
            self._used[container] -= 1
            self._change.notify_all()

    @asynccontextmanager
    async def hold(self, mounts: tuple[Mount, ...]) -> AsyncIterator[None]:
        """Keep every path of these mounts as it is while the block starts a container with them.

        Raises:
            IllegalArgumentError: There is a link in one of them, or a container that could make
                one cannot be paused.
        """
        if not mounts:
            yield
            return
        async with self._change:
            await self._change.wait_for(lambda: not self._is_disturbed(mounts))
            self._starting.append(mounts)
        held: list[str] = []
        try:
            await self._pause_others(mounts, held)
            for mount in mounts:
                await asyncio.to_thread(check_path, self._folder, mount)
            yield
        finally:
            await asyncio.shield(self._let_go(mounts, held))

    def _is_disturbed(self, mounts: tuple[Mount, ...]) -> bool:
        """Return whether a container that starts now could change these mounts, or they its."""
        return any(
            endangers(_writable(other), mounts) or endangers(_writable(mounts), other)
            for other in self._starting
        )

    async def _pause_others(self, mounts: tuple[Mount, ...], held: list[str]) -> None:
        for container in await self._containers("running", "paused"):
            if not endangers(self._writable_of(container), mounts):
                continue
            name = container["Id"]
            async with self._change:
                held.append(name)
                self._paused[name] += 1  # from now on nobody begins to use it
                await self._make_still(name, mounts)

    async def _make_still(self, name: str, mounts: tuple[Mount, ...]) -> None:
        """Pause a container once nobody uses it, or wait until another start has done so."""
        while name not in self._still:
            if name in self._being_paused:
                await self._change.wait()
                continue
            self._being_paused.add(name)
            try:
                await self._change.wait_for(partial(self._is_unused, name))
                await self._pause(name, mounts)
                self._still.add(name)
            finally:
                self._being_paused.discard(name)
                self._change.notify_all()

    def _is_unused(self, name: str) -> bool:
        return not self._used[name]

    async def _pause(self, name: str, mounts: tuple[Mount, ...]) -> None:
        try:
            await self._engine.call(self._engine.api.pause, name)
        except EngineRefused as error:
            if await self._can_change_files(name):
                raise IllegalArgumentError(
                    f"another job can change {mounts[0].target!r} while it is being mounted, "
                    f"and the engine cannot pause it: {error.text}"
                ) from error
        else:
            self._ours.add(name)

    async def _can_change_files(self, name: str) -> bool:
        """Return whether a container runs; one that somebody else has paused does not."""
        try:
            found = await self._engine.call(self._engine.api.inspect_container, name)
        except EngineRefused:
            return False  # it has gone
        return found["State"]["Running"] and not found["State"]["Paused"]

    async def _let_go(self, mounts: tuple[Mount, ...], held: Iterable[str]) -> None:
        async with self._change:
            for name in held:
                self._paused[name] -= 1
                if not self._paused[name]:
                    if name in self._ours and await self._unpause(name):
                        self._ours.discard(name)
                    self._still.discard(name)
                    del self._paused[name]
            self._starting.remove(mounts)
            self._change.notify_all()

    async def _unpause(self, name: str) -> bool:
        """Resume a container; False if the engine was away, so that it is still to be done."""
        try:
            await self._engine.call(self._engine.api.unpause, name)
        except EngineRefused as error:  # it has gone meanwhile, mostly
            logger.info("container %s: %s", name[:12], error)
        except EngineUnavailable as error:
            logger.warning("container %s is still paused: %s", name[:12], error)
            return False
        return True

    def _writable_of(self, container: Mapping[str, Any]) -> list[Path]:
        paths = json.loads(container["Labels"].get(WRITABLE_LABEL) or "[]")
        return [self._folder / path for path in paths]

    def labels(self, mounts: Iterable[Mount]) -> dict[str, str]:
        """Return the labels of a container by which it is known what it may write to."""
        paths = [str(path.relative_to(self._folder)) for path in _writable(mounts)]
        return {WRITABLE_LABEL: json.dumps(paths)}

    async def _containers(self, *states: str) -> list[Mapping[str, Any]]:
        filters = {"label": self._label, "status": [*states]}
        found: list[Mapping[str, Any]] = await self._engine.call(
            self._engine.api.containers, filters=filters
        )
        return found


def endangers(writable: Iterable[Path], mounts: Iterable[Mount]) -> bool:
    """Return whether who may write to some folders can exchange a part of a mount's path."""
    folders = {*writable}
    return any(parent in folders for mount in mounts for parent in mount.source.parents)


def check_path(folder: Path, mount: Mount) -> None:
    """Walk to what is mounted, from a folder on; there may be no link on the way, nor be it one.

    Raises:
        IllegalArgumentError: There is, or nothing is there.
    """
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *above, last = mount.source.relative_to(folder).parts
        for name, flags in (*((name, FOLDER) for name in above), (last, os.O_RDONLY | FILE)):
            below = os.open(name, flags, dir_fd=here)
            os.close(here)
            here = below
        if stat.S_IFMT(os.fstat(here).st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder")
    except OSError as error:
        is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        why = "a link has no place in the storage" if is_link else error.strerror
        raise IllegalArgumentError(f"{mount.target!r}: {why}") from error
    finally:
        os.close(here)


def _writable(mounts: Iterable[Mount]) -> list[Path]:
    return [mount.source for mount in mounts if not mount.read_only]
