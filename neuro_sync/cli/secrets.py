"""The commands about secrets: values that jobs get, and that nobody else is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import output
from .invocation import pass_session
from .output import Column
from .parameters import as_json, where

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.secrets import Secret


@click.group()
def secret() -> None:
    """Keep values that jobs get, and that nobody else is told.

    Example: neuro secret ls
    """


@secret.command()
@where
@click.argument("key")
@click.argument("value")
@pass_session
def add(session: Session, key: str, value: str) -> None:
    """Keep a value. One that begins with `@` names a file, and `-` is standard input.

    Standard input keeps a value out of your shell's history.

    \b
    Examples:
      neuro secret add wandb-key - < key.txt
      neuro secret add ssh-key @~/.ssh/id_ed25519
      neuro run -e KEY=secret:wandb-key -v secret:ssh-key:/root/.ssh/id_ed25519 ubuntu
    """
    session.secrets.add(key, _bytes_of(value))


def _bytes_of(value: str) -> bytes:
    if value == "-":
        return sys.stdin.buffer.read().removesuffix(b"\n")
    if value.startswith("@"):
        return Path(value[1:]).expanduser().read_bytes()
    return os.fsencode(value)  # the bytes that were typed, be they UTF-8 or not


@secret.command()
@click.option("-f", "--file", metavar="PATH", help="Write it there; only you may read it.")
@where
@click.argument("key")
@pass_session
def get(session: Session, key: str, file: str | None) -> None:
    """Print a value, where the platform tells it.

    Example: neuro secret get ssh-key --file key
    """
    value = session.secrets.get(key)
    if file is None:
        output.value(value)
    else:
        output.private_file(Path(file), value)


@secret.command()
@where
@click.argument("key")
@pass_session
def rm(session: Session, key: str) -> None:
    """Remove a secret.

    Example: neuro secret rm wandb-key
    """
    session.secrets.rm(key)


COLUMNS: tuple[Column[Secret], ...] = (
    Column("KEY", lambda secret: secret.key),
    Column("CLUSTER", lambda secret: secret.cluster_name),
    Column("ORG", lambda secret: secret.org_name),
    Column("PROJECT", lambda secret: secret.project_name or secret.owner),
)


@secret.command()
@where
@as_json
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List the names of secrets.

    Example: neuro secret ls
    """
    found = session.secrets.list()
    output.listing(found, COLUMNS, id=lambda secret: secret.key, as_json=as_json)
