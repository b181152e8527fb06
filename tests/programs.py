"""What tests need from the machine beyond Python: programs, and what those are allowed to do.

A test that needs what is missing is skipped, and the reason says how to get it. With
``NEURO_REQUIRE_PROGRAMS`` in the environment, as in ``.ci/run``, the test fails instead.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRE = "NEURO_REQUIRE_PROGRAMS"
DEBIAN_PACKAGES = {
    "bwrap": "bubblewrap",
    "busybox": "busybox-static",
    "chromedriver": "chromium-driver",
    "dockerd": "docker.io",
    "ip": "iproute2",
}
"""The Debian packages of programs, where they have another name than the program."""


def require_programs(*names: str) -> list[str]:
    """Return the paths of programs; skip the test, or fail it, where one is not in PATH."""
    paths = {name: shutil.which(name) for name in names}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        packages = (DEBIAN_PACKAGES.get(name, name) for name in missing)
        skip_or_fail(f"no {', '.join(missing)} in PATH: apt-get install {' '.join(packages)}")
    return [path for path in paths.values() if path is not None]


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test for what is missing, or fail it where everything has to be there."""
    if os.environ.get(REQUIRE):
        pytest.fail(f"{reason} ({REQUIRE} is set)")
    pytest.skip(reason)
