"""The fixture of tests that need jobs in namespaces of their own."""

from __future__ import annotations

import pytest

from neuro_sync.local.runtimes.sandbox import find_bubblewrap
from neuro_sync.local.server import LocalPlatform
from tests.programs import skip_or_fail


@pytest.fixture
def bubblewrap(platform: LocalPlatform) -> None:
    """Skip a test, or fail it, where bubblewrap does not work."""
    if platform.runtime == "docker":  # its jobs are in a sandbox of the engine's
        return
    _, why = find_bubblewrap(platform.folder / "supervisor.pyc")
    if why:
        skip_or_fail(f"no bubblewrap: {why}")
