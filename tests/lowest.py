"""Prints the lowest version of each dependency that ``setup.cfg`` allows, as constraints of pip."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"
EXTRAS = ("cli", "local", "docker")


def main() -> None:
    """Print a line for each, such as ``requests==2.32.2``."""
    setup = ConfigParser(interpolation=None)
    setup.read(SETUP)
    options = setup["options.extras_require"]
    lines = setup["options"]["install_requires"].splitlines()
    lines += [line for extra in EXTRAS for line in options[extra].splitlines()]
    for line in lines:
        found = re.match(r"([a-z0-9-]+) *>=([0-9.]+)", line.partition("#")[0])
        if found:
            print("==".join(found.groups()))


if __name__ == "__main__":
    main()
