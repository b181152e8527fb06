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


@pytest.fixture
def neuro_local(pytestconfig: pytest.Config) -> Iterator[LocalPlatform]:
    """A local platform for this test alone, at any free port, in a temporary folder.

    Its jobs see the project that is tested, read-only. They end with the test, and nothing of it
    is kept.
    """
    from neuro_sync.local.server import LocalPlatform

    with LocalPlatform(ephemeral=True, visible=[pytestconfig.rootpath]) as platform:
        yield platform


@pytest.fixture
def neuro_session(neuro_local: LocalPlatform) -> Iterator[Session]:
    """A session with `neuro_local`, whatever the files of the user and the project settle."""
    from neuro_sync import Session
    from neuro_sync.client.settings import Settings

    with Session(neuro_local.url, neuro_local.token, settings=Settings()) as session:
        yield session


@pytest.fixture
def neuro_faults(neuro_local: LocalPlatform) -> Iterator[FaultProxy]:
    """A proxy before `neuro_local` whose connections fail as the test plans it."""
    from neuro_sync.testing import FaultProxy

    with FaultProxy(neuro_local.port) as proxy:
        yield proxy
