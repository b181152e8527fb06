"""The fixture of tests that need jobs in namespaces of their own."""

from __future__ import annotations

import os

import pytest

from neuro_sync.local.runtimes.sandbox import find_bubblewrap
from neuro_sync.local.server import LocalPlatform


@pytest.fixture
def bubblewrap(platform: LocalPlatform) -> None:
    """Skip a test where bubblewrap does not work; with NEURO_REQUIRE_ENGINE that is a failure."""
    if platform.runtime == "docker":  # its jobs are in a sandbox of the engine's
        return
    _, why = find_bubblewrap(platform.folder / "supervisor.pyc")
    if why and os.environ.get("NEURO_REQUIRE_ENGINE"):
        pytest.fail(f"no bubblewrap, and NEURO_REQUIRE_ENGINE is set: {why}")
    if why:
        pytest.skip(f"no bubblewrap: {why}")
