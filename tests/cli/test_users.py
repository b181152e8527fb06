"""The commands about sharing: two users, and what one of them may do with the other's job."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import uuid4

import pytest

from neuro_sync import JobDescription, JobStatus, Session
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.server import LocalPlatform

from .conftest import Neuro

As = Callable[[], None]


@pytest.fixture
def colleague(platform: LocalPlatform) -> tuple[str, str]:
    """A user who owns nothing: the name and the token."""
    name = f"u{uuid4().hex[:10]}"
    with accounts_of(platform.folder) as accounts:
        accounts.add_user(name)
        return name, accounts.add_token(name)


@pytest.fixture
def as_colleague(colleague: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> As:
    """Go on as the other user."""

    def become() -> None:
        monkeypatch.setenv("NEURO_SYNC_TOKEN", colleague[1])

    return become


def test_a_job_is_shared_by_its_name(
    neuro: Neuro, session: Session, colleague: tuple[str, str], as_colleague: As
) -> None:
    name = colleague[0]
    neuro("run --name job363 --detach ubuntu sleep 60")
    job = session.jobs.status("job363")
    assert neuro(f"share job:job363 {name} manage").output == ""
    assert f"{job.uri}  manage  {name}" in neuro("acl ls --shared").output
    shares = json.loads(neuro("acl ls --shared --json").output)
    assert {"uri": str(job.uri), "action": "manage", "user": name} in shares

    as_colleague()
    shown = neuro("ps").output
    assert job.id in shown
    assert job.owner in shown
    assert "<you>" not in shown
    assert f"{job.uri}  manage" in neuro("acl ls").output
    assert neuro(f"kill {job.id}").output == f"{job.id}\n"
    assert session.jobs.status(job).status is JobStatus.CANCELLED


def test_what_is_not_shared_is_77_and_the_error_says_what_it_takes(
    neuro: Neuro, start: Callable[[str], JobDescription], session: Session, as_colleague: As
) -> None:
    job = start("sleep 60")
    as_colleague()
    for line in ("status", "logs", "kill"):
        ended = neuro(f"{line} {job.id}")
        assert ended.exit_code == 77, ended.output
        assert ended.stderr.startswith("Error: ")
    session.jobs.kill(job)


def test_a_share_is_taken_back(
    neuro: Neuro,
    start: Callable[[str], JobDescription],
    session: Session,
    colleague: tuple[str, str],
    as_colleague: As,
) -> None:
    job = start("sleep 60")
    neuro(f"acl grant job:{job.id} {colleague[0]} read")
    assert neuro(f"acl revoke job:{job.id} {colleague[0]}").exit_code == 0
    as_colleague()
    assert neuro(f"status {job.id}").exit_code == 77
    session.jobs.kill(job)


def test_a_job_may_be_shared_as_it_is_started(
    neuro: Neuro, session: Session, colleague: tuple[str, str], as_colleague: As
) -> None:
    neuro(f"run --name shared-at-once --share {colleague[0]} --detach any sleep 60")
    job = session.jobs.status("shared-at-once")
    as_colleague()
    assert neuro(f"-q kill {job.id}").output == f"{job.id}\n"


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("share job:no-such bob read", 72, "no such job no-such"),
        ("share data bob read", 65, "'data' is no address; write job:data"),
        ("share job:x bob everything", 64, "everything"),
        ("share storage:x nobody-here read", 72, "nobody-here"),
    ],
)
def test_what_cannot_be_shared(neuro: Neuro, line: str, code: int, told: str) -> None:
    ended = neuro(line)
    assert (ended.exit_code, told in ended.stderr) == (code, True), ended.output
