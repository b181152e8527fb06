"""The fixture of tests that need jobs in namespaces of their own."""

from __future__ import annotations

import pytest

from neuro_sync.local.server import LocalPlatform
from tests.programs import skip_or_fail


@pytest.fixture
def bubblewrap(platform: LocalPlatform) -> None:
    """Skip a test, or fail it, where bubblewrap does not work."""
    if platform.runtime == "docker":  # its jobs are in a sandbox of the engine's
        return
    if platform.warning:
        skip_or_fail(platform.warning)
