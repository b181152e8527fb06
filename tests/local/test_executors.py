"""Slow work of one kind holds up nothing of another kind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuro_sync import Session
from neuro_sync.local import disks
from neuro_sync.local.executors import Work
from neuro_sync.local.server import LocalPlatform

from .conftest import DEADLINE

CLIENTS = 24
LARGE = 2**20
"""Bytes; a smaller file is written without a thread."""


@pytest.fixture
def busy_platform() -> Iterator[LocalPlatform]:
    with LocalPlatform(ephemeral=True, grace=0.2) as platform:
        yield platform


@contextmanager
def occupied(platform: LocalPlatform, work: Work) -> Iterator[None]:
    """Keep all threads of one kind busy."""
    over = threading.Event()
    pool = platform._loop.executors[work]
    for _ in range(2 * work.threads):
        pool.submit(over.wait, DEADLINE)
    try:
        yield
    finally:
        over.set()


def use_files(session: Session) -> None:
    session.storage.create("storage:large", b"x" * LARGE)
    assert session.storage.stat("storage:large").size == LARGE
    assert b"".join(session.storage.open("storage:large")) == b"x" * LARGE


def list_folder(session: Session) -> None:
    session.storage.mkdir("storage:folder", parents=True, exist_ok=True)
    assert "folder" in [file.name for file in session.storage.list("storage:")]


def remove_folder(session: Session) -> None:
    session.storage.mkdir("storage:other/inner", parents=True, exist_ok=True)
    session.storage.rm("storage:other", recursive=True)


def measure_disk(session: Session) -> None:
    disk = session.disks.create(2**20)
    assert disk.used_bytes == 0
    session.disks.rm(disk.id)


def run_job(session: Session) -> None:
    job = session.jobs.start(image="any", preset_name="cpu-small", command="echo done")
    assert session.jobs.wait(job, timeout=DEADLINE).history.exit_code == 0


def watch_job(session: Session) -> None:
    job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
    assert next(session.jobs.top(job)).timestamp > 0
    session.jobs.kill(job)


NEEDS = {
    Work.UPLOADS: use_files,
    Work.FOLDERS: list_folder,
    Work.DELETIONS: remove_folder,
    Work.MEASURING: measure_disk,
    Work.TELEMETRY: watch_job,
    Work.CLEANING: run_job,
}


@pytest.mark.parametrize("work", Work)
def test_slow_work_holds_up_its_like_alone(busy_platform: LocalPlatform, work: Work) -> None:
    with (
        Session(busy_platform.url, busy_platform.token, timeout=DEADLINE) as session,
        occupied(busy_platform, work),
    ):
        for kind, use in NEEDS.items():
            if kind is not work or kind is Work.CLEANING:  # nobody waits for that
                use(session)


def test_all_who_ask_for_the_size_of_a_disk_share_one_measurement(
    busy_platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, measured = threading.Event(), list[Path]()

    def used_bytes(folder: Path) -> int:
        measured.append(folder)
        over.wait(DEADLINE)
        return 12345

    platform = busy_platform
    with (
        Session(platform.url, platform.token, timeout=DEADLINE) as session,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        disk = session.disks.create(2**20, name="large")
        monkeypatch.setattr(disks, "used_bytes", used_bytes)
        try:
            asked = [clients.submit(session.disks.get, disk.id) for _ in range(CLIENTS)]
            use_files(session)
            list_folder(session)
            assert not any(question.done() for question in asked)
        finally:
            over.set()
        assert {question.result().used_bytes for question in asked} == {12345}
        assert len(measured) < 3  # who asked after the end began another one
        measure_again = session.disks.get(disk.id)
        assert measure_again.used_bytes == 12345
