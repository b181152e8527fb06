"""One operation with a saved login, in a new process.

``bench.operations ours|peer NAME JOB FOLDER``, where the folder is what is copied. Its requests are
counted, not its time. Both sides do it in the way that is natural for each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from yarl import URL

from neuro_sync import Session

if TYPE_CHECKING:
    import apolo_sdk

SMALL_FILES = 200
PRESET = "cpu-small"
UNTIL_KILLED = "sh -c 'echo hello; exec sleep 60'"


def our_status(session: Session, job_id: str, folder: Path) -> None:
    session.jobs.status(job_id)


def our_first_line(session: Session, job_id: str, folder: Path) -> None:
    job = session.jobs.start(image="ubuntu", preset_name=PRESET, command=UNTIL_KILLED)
    with session.jobs.logs(job) as lines:
        assert next(lines) == "hello"
    session.jobs.kill(job)


def our_wait(session: Session, job_id: str, folder: Path) -> None:
    job = session.jobs.start(image="ubuntu", preset_name=PRESET, command="true")
    session.jobs.wait(job)


def our_exec(session: Session, job_id: str, folder: Path) -> None:
    assert session.jobs.run_command(job_id, "true").exit_code == 0


def our_two_execs(session: Session, job_id: str, folder: Path) -> None:
    our_exec(session, job_id, folder)
    our_exec(session, job_id, folder)


def our_upload(session: Session, job_id: str, folder: Path) -> None:
    session.storage.upload_dir(folder, f"storage:copy-{uuid4()}")


def our_download(session: Session, job_id: str, folder: Path) -> None:
    session.storage.download_dir("storage:small", folder.with_name(f"ours-{uuid4()}"))


async def their_status(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    await client.jobs.status(job_id)


async def _start(client: apolo_sdk.Client, command: str) -> str:
    from apolo_sdk import RemoteImage

    image = RemoteImage.new_external_image("ubuntu", tag="latest")
    job = await client.jobs.start(image=image, preset_name=PRESET, command=command)
    id: str = job.id
    return id


async def their_first_line(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    job_id = await _start(client, UNTIL_KILLED)
    async with client.jobs.monitor(job_id) as pieces:
        async for piece in pieces:
            assert piece == b"hello\n"
            break
    await client.jobs.kill(job_id)


async def their_wait(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    job_id = await _start(client, "true")
    while not (await client.jobs.status(job_id)).status.is_finished:
        await asyncio.sleep(0.1)


async def their_exec(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    from apolo_sdk import StdStreamError

    async with client.jobs.exec(job_id, "true", stdout=True, stderr=True) as stream:
        try:
            while await stream.read_out() is not None:
                pass
        except StdStreamError as end:
            if end.exit_code:
                raise


async def their_two_execs(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    await their_exec(client, job_id, folder)
    await their_exec(client, job_id, folder)


async def their_upload(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    target = client.parse.str_to_uri(f"storage:copy-{uuid4()}")
    await client.storage.upload_dir(URL(folder.as_uri()), target)


async def their_download(client: apolo_sdk.Client, job_id: str, folder: Path) -> None:
    target = URL(folder.with_name(f"peer-{uuid4()}").as_uri())
    await client.storage.download_dir(client.parse.str_to_uri("storage:small"), target)


Ours = Callable[[Session, str, Path], None]
Theirs = Callable[["apolo_sdk.Client", str, Path], Coroutine[Any, Any, None]]

OPERATIONS: Mapping[str, tuple[Ours, Theirs]] = {
    "first status": (our_status, their_status),
    "start to first line": (our_first_line, their_first_line),
    "start and wait": (our_wait, their_wait),
    "first exec": (our_exec, their_exec),
    "two execs": (our_two_execs, their_two_execs),
    f"{SMALL_FILES} files up": (our_upload, their_upload),
    f"{SMALL_FILES} files down": (our_download, their_download),
}


def main() -> None:
    side, name, job_id, folder = sys.argv[1:]
    ours, theirs = OPERATIONS[name]
    if side == "ours":
        with Session() as session:
            ours(session, job_id, Path(folder))
        return

    import apolo_sdk

    async def run() -> None:
        async with apolo_sdk.get() as client:
            await theirs(client, job_id, Path(folder))

    asyncio.run(run())


if __name__ == "__main__":
    main()
