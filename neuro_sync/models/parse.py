"""The texts in which volumes and variables are written on a command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import ConfigDict
from yarl import URL

from .base import DISCREET, Model
from .jobs import DiskVolume, SecretFile, Volume
from .uris import AsGiven


class VolumeParseResult(Model):
    """A list of volumes by their kinds, each kind in the order of the list."""

    volumes: tuple[Volume, ...] = ()
    secret_files: tuple[SecretFile, ...] = ()
    disk_volumes: tuple[DiskVolume, ...] = ()


class EnvParseResult(Model):
    """Variables for a job: those with values of their own, and those from secrets."""

    model_config: ClassVar[ConfigDict] = DISCREET

    env: Mapping[str, str]
    secret_env: Mapping[str, Annotated[URL, AsGiven()]]


def split_volume(text: str, scheme: str) -> tuple[str, str, bool]:
    """Split a volume or a disk into its address, its mount path and whether it is read-only.

    Raises:
        ValueError: There are too few parts or too many, or the mode is unknown.
    """
    parts = text.split(":")
    if len(parts) not in (3, 4):
        raise ValueError(
            f"Invalid volume specification {text!r}; write '{scheme}:NAME:/MOUNT/PATH', "
            "with ':ro' at the end for a read-only one, and %3A for a colon within a name"
        )
    mode = parts[3] if len(parts) == 4 else "rw"
    if mode not in ("ro", "rw"):
        raise ValueError(f"{text!r} ends with the mode {mode!r}; a mode is 'ro' or 'rw'")
    return f"{parts[0]}:{parts[1]}", parts[2], mode == "ro"


def split_secret_file(text: str) -> tuple[str, str]:
    """Split a secret file into its address and its mount path.

    Raises:
        ValueError: There are too few parts or too many.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(
            f"Invalid secret file specification {text!r}; write 'secret:KEY:/MOUNT/PATH', "
            "without a mode, and %3A for a colon within a name"
        )
    return f"{parts[0]}:{parts[1]}", parts[2]


def split_variables(
    lines: Iterable[str], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield names and values of ``NAME=VALUE``; a name alone has the environment's value, or none.

    Nothing is trimmed and nothing unquoted.
    """
    for line in lines:
        name, equals, value = line.partition("=")
        yield name, value if equals else environment.get(name, "")


def variable_lines(text: str) -> Iterator[str]:
    """Yield the variables of a file: its lines without indentation, empty lines and comments.

    The word ``export`` before a variable, with which a shell could read the file too, is dropped.
    """
    for line in text.split("\n"):
        variable = re.sub(r"^\s*(export\s+)?", "", line)
        if variable and not variable.startswith("#"):
            yield variable
