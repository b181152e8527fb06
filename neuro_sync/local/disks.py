"""The platform's disks: a folder each, and a row that tells whose it is and until when.

A disk's size is counted against what a project may have, and is no limit to what fits in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from neuro_sync.errors import AuthorizationError, Conflict, ResourceNotFound, ServerError
from neuro_sync.models.disks import Disk, DiskStatus, NewDisk

from .clock import Clock, Timer
from .durable_files import make_folder
from .executors import Work, submit
from .store import create_tables, writing
from .trees import remove_tree, used_bytes

logger = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS disks (
    id TEXT PRIMARY KEY,
    name TEXT,
    org_name TEXT NOT NULL,
    project_name TEXT NOT NULL,
    storage INTEGER NOT NULL,
    life_span REAL,
    created_at REAL NOT NULL,
    last_usage REAL,
    is_removed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS disks_by_name ON disks (org_name, project_name, name)
    WHERE name IS NOT NULL;
CREATE TABLE IF NOT EXISTS disk_uses (
    disk_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    PRIMARY KEY (job_id, disk_id)
) WITHOUT ROWID;
"""
PROJECT_LIMIT = 500 * 2**30
"""Bytes that all disks of a project may have together."""
RETRY = 1.0
"""Seconds until what could not be written is tried again."""
LONGEST_WAIT = 86400.0
"""Seconds until disks are looked at again, though none should be due."""
IN_USE = "id IN (SELECT disk_id FROM disk_uses)"


class OverLimit(AuthorizationError):
    """The disks of a project would be too large together."""

    def body(self) -> dict[str, object]:
        return {"code": "over_limit", "description": self.text}


class DiskNameUsed(Conflict):
    """The project has a disk of this name."""

    def body(self) -> dict[str, object]:
        return {"code": "DiskNameUsed", "description": self.text}


class DiskStore:
    """Disks and who uses them, all on one event loop."""

    def __init__(self, database: sqlite3.Connection, root: Path, clock: Clock) -> None:
        self._database = database
        self._root = root
        self._clock = clock
        self._used: dict[str, datetime] = {}
        """When each disk was used last, by the clock, which nobody sets as the wall clock."""
        self._timer: Timer | None = None
        self._due: datetime | None = None
        """When to look at the disks next."""
        self._measuring: dict[str, asyncio.Future[int]] = {}
        """What the disks hold that are being measured."""
        create_tables(database, SCHEMA)

    def open(self) -> None:
        """Begin to delete disks that nobody uses in time, and what a crash left of others."""
        make_folder(self._root)
        known = {row["id"] for row in self._database.execute("SELECT id FROM disks")}
        for folder in self._root.iterdir():
            if folder.name not in known:
                submit(Work.CLEANING, remove_tree, folder)
        self._sweep()

    def create(self, wanted: NewDisk) -> Disk:
        """Make an empty disk.

        Raises:
            Conflict: There is one of this name.
            AuthorizationError: It would be too much for the project.
        """
        self._sweep()
        place = (wanted.org_name, wanted.project_name)
        (taken,) = self._database.execute(
            "SELECT COALESCE(SUM(storage), 0) FROM disks WHERE org_name = ? AND project_name = ?",
            place,
        ).fetchone()
        if taken + wanted.storage > PROJECT_LIMIT:
            limit = f"{PROJECT_LIMIT / 2**30:.1f}"
            raise OverLimit(f"Project exceeded storage size limit {limit} GB")
        disk_id = f"disk-{uuid.uuid4()}"
        try:
            with writing(self._database) as database:
                database.execute(
                    "INSERT INTO disks"
                    " (id, name, org_name, project_name, storage, life_span, created_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        disk_id,
                        wanted.name,
                        *place,
                        wanted.storage,
                        wanted.life_span,
                        self._wall_time(),
                    ),
                )
                # A row of which the folder cannot be made is not kept.
                make_folder(self.path(disk_id))
        except sqlite3.IntegrityError:
            raise DiskNameUsed(f"Disk with name {wanted.name!r} already exists.") from None
        self._sweep()
        return self.find(disk_id, *place)

    def find(self, id_or_name: str, org: str, project: str, *, is_to_be_used: bool = False) -> Disk:
        """Return a disk by its id, else by its name.

        One that was removed is still there while jobs use it, but no other job gets it.

        Raises:
            ResourceNotFound: There is none.
        """
        self._sweep_if_due()
        row = self._database.execute(
            "SELECT * FROM disks WHERE org_name = ?2 AND project_name = ?3"
            " AND (id = ?1 OR name = ?1) AND NOT (is_removed AND ?4)"
            " ORDER BY id = ?1 DESC LIMIT 1",
            (id_or_name, org, project, is_to_be_used),
        ).fetchone()
        if row is None:
            raise ResourceNotFound(f"Disk {id_or_name} not found")
        return self._disk(row)

    def list(self, org: str, project: str) -> Iterator[Disk]:
        """Yield the disks of a project, the oldest first."""
        self._sweep_if_due()
        rows = self._database.execute(
            "SELECT * FROM disks WHERE org_name = ? AND project_name = ? ORDER BY created_at",
            (org, project),
        ).fetchall()
        return map(self._disk, rows)

    def remove(self, disk_id: str) -> None:
        """Delete a disk; one in use goes when nobody uses it any more, its name at once."""
        with writing(self._database) as database:
            database.execute(
                "UPDATE disks SET is_removed = 1, name = NULL WHERE id = ?", (disk_id,)
            )
        self._sweep()

    def path(self, disk_id: str) -> Path:
        """Return the folder of a disk."""
        return self._root / disk_id

    async def used_bytes(self, disk_id: str) -> int:
        """Return the size of all files on a disk; all who ask at the same time share the answer."""
        measuring = self._measuring.get(disk_id)
        if measuring is None:
            measuring = submit(Work.MEASURING, used_bytes, self.path(disk_id))
            self._measuring[disk_id] = measuring
            measuring.add_done_callback(lambda _: self._measuring.pop(disk_id))
        return await asyncio.shield(measuring)  # others may wait for it

    def take(self, job_id: str, disk_ids: Iterable[str]) -> None:
        """Note that a job uses disks from now on."""
        now = self._wall_time()
        uses = [(disk_id, job_id) for disk_id in disk_ids]
        if not uses:
            return
        for disk_id, _ in uses:
            self._used[disk_id] = self._clock.now()
        with writing(self._database) as database:
            database.executemany(
                "INSERT OR IGNORE INTO disk_uses (disk_id, job_id) VALUES (?, ?)", uses
            )
            database.executemany(
                "UPDATE disks SET last_usage = ? WHERE id = ?",
                [(now, disk_id) for disk_id, _ in uses],
            )

    def release(self, job_id: str) -> None:
        """Note that a job uses no disk any more."""
        uses = "SELECT disk_id FROM disk_uses WHERE job_id = ?"
        used = self._database.execute(uses, (job_id,)).fetchall()
        if not used:
            return
        for row in used:
            self._used[row["disk_id"]] = self._clock.now()
        with writing(self._database) as database:
            database.execute(
                f"UPDATE disks SET last_usage = ? WHERE id IN ({uses})",  # noqa: S608  # no input
                (self._wall_time(), job_id),
            )
            database.execute("DELETE FROM disk_uses WHERE job_id = ?", (job_id,))
        self._sweep()

    def release_others(self, job_ids: Iterable[str]) -> None:
        """Note that no jobs but these use any disk; a crash may have kept others from saying so."""
        others = "job_id NOT IN (SELECT value FROM json_each(?))"
        query = f"SELECT DISTINCT job_id FROM disk_uses WHERE {others}"  # noqa: S608  # no input
        for row in self._database.execute(query, (json.dumps([*job_ids]),)).fetchall():
            self.release(row["job_id"])

    def _sweep_if_due(self) -> None:
        """Delete what is due by now; a look at all disks for each request would take too long."""
        if self._due is not None and self._clock.now() >= self._due:
            self._sweep()

    def _sweep(self) -> None:
        """Delete what was removed or not used for too long, unless a job has it."""
        unused = self._database.execute(
            "SELECT id, is_removed, life_span, COALESCE(last_usage, created_at) AS used"  # noqa: S608
            " FROM disks"  # none of it is input
            f" WHERE NOT {IN_USE} AND (is_removed OR life_span IS NOT NULL)"
        ).fetchall()
        lefts = [
            0.0 if row["is_removed"] else row["life_span"] - self._unused_for(row) for row in unused
        ]
        due = [row["id"] for row, left in zip(unused, lefts, strict=True) if left <= 0]
        lefts = [left for left in lefts if left > 0]
        if due:
            try:
                with writing(self._database) as database:
                    database.executemany("DELETE FROM disks WHERE id = ?", [(id,) for id in due])
            except ServerError as error:
                logger.error("%d disks are not deleted yet: %s", len(due), error)
                due, lefts = [], [*lefts, RETRY]
        for disk_id in due:
            logger.info("disk %s is deleted", disk_id)
            self._used.pop(disk_id, None)
            submit(Work.CLEANING, remove_tree, self.path(disk_id))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = None
        if lefts:
            wait = min(*lefts, LONGEST_WAIT)
            self._due = self._clock.now() + timedelta(seconds=wait)
            self._timer = self._clock.call_later(wait, self._sweep)

    def _unused_for(self, row: sqlite3.Row) -> float:
        """Return the seconds since a disk was used last, or made."""
        now = self._clock.now()
        if row["id"] not in self._used:  # in the time of an earlier platform, or just made
            idle = timedelta(seconds=max(self._wall_time() - row["used"], 0.0))
            self._used[row["id"]] = now - idle
        return (now - self._used[row["id"]]).total_seconds()

    def _wall_time(self) -> float:
        return self._clock.shown(self._clock.now()).timestamp()

    def _disk(self, row: sqlite3.Row) -> Disk:
        is_there = self.path(row["id"]).is_dir()
        return Disk(
            id=row["id"],
            name=row["name"],
            owner=row["project_name"],
            org_name=row["org_name"],
            project_name=row["project_name"],
            storage=row["storage"],
            life_span=row["life_span"],
            status=DiskStatus.READY if is_there else DiskStatus.BROKEN,
            created_at=_instant(row["created_at"]),
            last_usage=None if row["last_usage"] is None else _instant(row["last_usage"]),
        )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=seconds)
