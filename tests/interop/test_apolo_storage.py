"""The official asyncio client, unmodified, copies files to and from the local platform."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

import apolo_sdk
import pytest
from apolo_sdk import Client, Factory, FileStatusType
from yarl import URL

from neuro_sync.local.server import LocalPlatform

T = TypeVar("T")

DEADLINE = 60.0
NAMES = [
    *("a b", "#1", "100%", "%41", "q?", "c:d", "new\nline", "tab\t", "é☃", "+plus", "-x", "~t"),
    *("a;b=c&d", "..hidden", "...", "[x]", "*", "back\\slash", "\x7f", "'\"", "x" * 255),
]


class Drive(Protocol):
    def __call__(self, scenario: Callable[[Client, URL], Awaitable[T]]) -> T:
        """Run a scenario with a client that is logged in, and a folder of its own."""


@pytest.fixture(scope="module")
def login(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apolo") / "config"
    asyncio.run(Factory(folder).login_with_token(platform.token, url=URL(platform.url)))
    return folder


@pytest.fixture
def drive(login: Path) -> Drive:
    def drive_client(scenario: Callable[[Client, URL], Awaitable[T]]) -> T:
        async def with_client() -> T:
            async with await Factory(login).get() as client:
                base = client.parse.str_to_uri(f"storage:{uuid4().hex}")
                await client.storage.mkdir(base)
                return await asyncio.wait_for(scenario(client, base), DEADLINE)

        return asyncio.run(with_client())

    return drive_client


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of files and folders whose names hurt."""
    root = tmp_path / "tree"
    root.mkdir()
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(name.encode() * number)
        folder = root / f"d{name}"[:255]
        folder.mkdir()
        (folder / name).write_bytes(b"inner")
    (root / "large").write_bytes(bytes(range(256)) * 10_000)
    (root / "empty folder").mkdir()
    return root


def contents(root: Path) -> dict[str, bytes | None]:
    """Return each file's bytes, and None for each folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def file_url(path: Path) -> URL:
    return URL(path.as_uri())


def test_a_tree_of_hostile_names_comes_back_as_it_was(
    drive: Drive, platform: LocalPlatform, tree: Path, tmp_path: Path
) -> None:
    async def scenario(client: Client, base: URL) -> None:
        await client.storage.upload_dir(file_url(tree), base / "copy")
        on_disk = platform.folder / "storage" / base.path.lstrip("/") / "copy"
        assert contents(on_disk) == contents(tree)
        await client.storage.download_dir(base / "copy", file_url(tmp_path / "back"))
        assert contents(tmp_path / "back") == contents(tree)

    drive(scenario)


def test_each_file_is_listed_described_and_found(drive: Drive, tree: Path) -> None:
    async def scenario(client: Client, base: URL) -> None:
        await client.storage.upload_dir(file_url(tree), base / "copy")
        async with client.storage.list(base / "copy") as listed:
            found = {status.path: status async for status in listed}
        assert set(found) == set(os.listdir(tree))
        for name, status in found.items():
            described = await client.storage.stat(base / "copy" / name)
            assert (described.size, described.type) == (status.size, status.type)
            if (tree / name).is_file():
                assert status.size == (tree / name).stat().st_size
                assert status.type is FileStatusType.FILE
            else:
                assert status.type is FileStatusType.DIRECTORY
        async with client.storage.glob(base / "copy" / "d*" / "c:d") as matches:
            assert [match async for match in matches] == [base / "copy" / "dc:d" / "c:d"]

    drive(scenario)


def test_a_tree_is_moved_and_removed(drive: Drive, tree: Path) -> None:
    async def scenario(client: Client, base: URL) -> None:
        await client.storage.upload_dir(file_url(tree), base / "copy")
        await client.storage.mv(base / "copy", base / "a + b % c")
        removed: list[tuple[str, bool]] = []

        class Progress(apolo_sdk.AbstractDeleteProgress):  # type: ignore[misc]  # it is untyped
            def delete(self, data: apolo_sdk.StorageProgressDelete) -> None:
                removed.append((data.uri.path, data.is_dir))

        await client.storage.rm(base / "a + b % c", recursive=True, progress=Progress())
        assert len(removed) == len(contents(tree)) + 1
        assert removed[-1] == ((base / "a + b % c").path, True)
        with pytest.raises(apolo_sdk.ResourceNotFound):
            await client.storage.stat(base / "a + b % c")

    drive(scenario)


def test_refusals_are_the_errors_that_clients_branch_on(drive: Drive, tmp_path: Path) -> None:
    async def scenario(client: Client, base: URL) -> None:
        storage = client.storage
        await storage.create(base / "file", b"content")
        with pytest.raises(IsADirectoryError):
            await storage.rm(base)
        with pytest.raises(NotADirectoryError):
            async with storage.list(base / "file") as listed:
                [status async for status in listed]
        with pytest.raises(FileExistsError):
            await storage.mkdir(base)
        with pytest.raises(FileExistsError):
            await storage.mkdir(base / "file", exist_ok=True)
        with pytest.raises(apolo_sdk.ResourceNotFound):
            await storage.mv(base / "missing", base / "there")
        with pytest.raises(OSError, match="Incorrect destination"):
            await storage.mv(base, base / "inside")
        with pytest.raises(apolo_sdk.ResourceNotFound):
            await storage.write(base / "missing", b"data", 0)

    drive(scenario)


def test_parts_are_read_and_written(drive: Drive) -> None:
    async def scenario(client: Client, base: URL) -> None:
        await client.storage.create(base / "file", b"0123456789")
        await client.storage.write(base / "file", b"xy", 12)
        async with client.storage.open(base / "file", 8, 100) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"89\0\0xy"
        async with client.storage.open(base / "file", 2, 3) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"234"

    drive(scenario)


def test_how_full_the_disk_is_is_told(drive: Drive) -> None:
    async def scenario(client: Client, base: URL) -> None:
        info = await client.storage.disk_usage(uri=base)
        assert 0 < info.used < info.total
        assert info.free <= info.total - info.used

    drive(scenario)


def test_an_upload_is_taken_up_where_it_ended(drive: Drive, tmp_path: Path) -> None:
    async def scenario(client: Client, base: URL) -> None:
        source = tmp_path / "source"
        content = bytes(range(256)) * 20_000
        source.write_bytes(content)
        os.utime(source, (1_000_000_000, 1_000_000_000))
        await client.storage.create(base / "copy", content[:500_000])
        for start in range(500_000, 3_000_000, 500_000):
            await client.storage.write(base / "copy", content[start : start + 500_000], start)
        await client.storage.upload_file(file_url(source), base / "copy", continue_=True)
        async with client.storage.open(base / "copy") as pieces:
            assert b"".join([piece async for piece in pieces]) == content

    drive(scenario)
