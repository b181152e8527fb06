"""The commands about disks: fast folders that outlive jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import exit_codes, output
from .invocation import pass_session
from .output import Column, Field
from .parameters import BYTES, DURATION, as_json, where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuro_sync.client.session import Session
    from neuro_sync.models.disks import Disk


@click.group()
def disk() -> None:
    """Make, list and remove disks, which jobs mount.

    Example: neuro disk ls
    """


@disk.command()
@click.option("--name", metavar="NAME", help="To call it by, instead of its id.")
@click.option(
    "--timeout-unused",
    type=DURATION,
    metavar="1d2h3m4s",
    help="When it is removed if no job uses it; 0 is never.  [default: 1d]",
)
@where
@click.argument("size", type=BYTES)
@as_json
@pass_session
def create(
    session: Session,
    size: int,
    name: str | None,
    timeout_unused: float | None,
    as_json: bool,
) -> None:
    """Make a disk of a size such as 10G.

    Example: neuro disk create --name scratch --timeout-unused 7d 100G
    """
    settled = session.config.settings.disk.life_span
    wanted = next(span for span in (timeout_unused, settled, 86400.0) if span is not None)
    made = session.disks.create(size, wanted or None, name)
    output.details(made, _fields(made), id=made.id, as_json=as_json)


@disk.command()
@where
@click.argument("disk")
@as_json
@pass_session
def get(session: Session, disk: str, as_json: bool) -> None:
    """Describe a disk, by its id, name or address.

    Example: neuro disk get scratch
    """
    found = session.disks.get(disk)
    output.details(found, _fields(found), id=found.id, as_json=as_json)


@disk.command()
@where
@click.argument("disks", nargs=-1, required=True)
@pass_session
def rm(session: Session, disks: tuple[str, ...]) -> None:
    """Remove disks, by ids, names or addresses, and all their files.

    Example: neuro disk rm scratch
    """
    exit_codes.for_each(disks, session.disks.rm)


COLUMNS: tuple[Column[Disk], ...] = (
    Column("ID", lambda disk: disk.id),
    Column("NAME", lambda disk: disk.name),
    Column("STATUS", lambda disk: disk.status),
    Column("STORAGE", lambda disk: output.size(disk.storage)),
    Column("USED", lambda disk: "" if disk.used_bytes is None else output.size(disk.used_bytes)),
    Column("LAST USED", lambda disk: output.ago(disk.last_usage)),
    Column("PROJECT", lambda disk: disk.project_name or disk.owner),
)


@disk.command()
@where
@as_json
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List disks.

    Example: neuro disk ls
    """
    found = session.disks.list()
    output.listing(found, COLUMNS, id=lambda disk: disk.id, as_json=as_json)


def _fields(disk: Disk) -> Iterator[Field]:
    yield "Id", disk.id
    yield "Name", disk.name
    yield "Status", disk.status
    yield "Storage", output.size(disk.storage)
    yield "Used", None if disk.used_bytes is None else output.size(disk.used_bytes)
    yield "URI", disk.uri
    yield "Created", output.moment(disk.created_at)
    yield "Last used", output.moment(disk.last_usage)
    yield "Timeout unused", output.duration(disk.life_span) if disk.life_span else None
