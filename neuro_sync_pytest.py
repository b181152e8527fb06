"""Fixtures for tests of code that uses neuro_sync: a real platform, a session, and its failures.

pytest loads this file in every run on a machine that has the package, so it imports nothing of it
until a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from neuro_sync import Session
    from neuro_sync.local.server import LocalPlatform
    from neuro_sync.testing import FaultProxy


@pytest.fixture(scope="session")
def neuro_local() -> Iterator[LocalPlatform]:
    """A local platform for the whole run, at any free port, in a temporary folder.

    With pytest-xdist each worker has its own.
    """
    from neuro_sync.local.server import LocalPlatform

    with LocalPlatform(ephemeral=True) as platform:
        yield platform


@pytest.fixture
def neuro_session(neuro_local: LocalPlatform) -> Iterator[Session]:
    """A session with `neuro_local`; jobs that the test leaves running are killed after it."""
    from neuro_sync import JobStatus, Session

    with Session(neuro_local.url, neuro_local.token) as session:
        yield session
        for job in session.jobs.list(statuses=JobStatus.active_items()):
            session.jobs.kill(job)


@pytest.fixture
def neuro_faults(neuro_local: LocalPlatform) -> Iterator[FaultProxy]:
    """A proxy before `neuro_local` whose connections fail as the test plans it."""
    from neuro_sync.testing import FaultProxy

    with FaultProxy(neuro_local.port) as proxy:
        yield proxy
