"""What is remembered: one SQLite file in the state folder."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from neuro_sync.errors import ConfigError, ServerError

from .permissions import Resource

logger = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT,
    owner TEXT NOT NULL,
    base_owner TEXT NOT NULL,
    cluster_name TEXT NOT NULL,
    org_name TEXT NOT NULL,
    project_name TEXT NOT NULL,
    status TEXT NOT NULL,
    phase TEXT NOT NULL,
    run INTEGER NOT NULL,
    waits_for_seat INTEGER NOT NULL,
    created_at REAL NOT NULL,
    description TEXT NOT NULL,
    transitions TEXT NOT NULL,
    answer TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_name ON jobs (name) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_unfinished ON jobs (status)
    WHERE status IN ('pending', 'suspended', 'running');
CREATE INDEX IF NOT EXISTS jobs_not_over ON jobs (number) WHERE phase != 'over';
CREATE TABLE IF NOT EXISTS job_tags (
    tag TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tag, number)
) WITHOUT ROWID;
"""

PAGE = 500
COLUMNS = "*, json_valid(coalesce(answer, transitions)) AS is_whole"


@dataclass(frozen=True)
class JobRow:
    """A job as it is remembered."""

    id: str
    name: str | None
    owner: str
    cluster_name: str
    org_name: str
    project_name: str
    status: str
    created_at: datetime
    description: Mapping[str, Any]
    """The part of its answer that never changes."""
    transitions: str
    """Its life, as JSON."""
    answer: str | None = None
    """The whole answer as JSON, once it never changes again."""
    phase: str = "over"
    """What it has of the machine."""
    run: int = 0
    """How often it was launched, or is just about to be."""
    waits_for_seat: bool = False
    """Whether it waits while its owner has as many jobs as the quota allows."""

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What a permission on the job is granted on: its id, or its name if it has one."""
        tenant = (self.cluster_name, self.org_name, self.project_name)
        return tuple(Resource("job", *tenant, name) for name in (self.id, self.name) if name)


@dataclass(frozen=True)
class JobChange:
    """What is new of a job."""

    id: str
    status: str
    transitions: str
    answer: str | None
    phase: str
    run: int


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; several values of one kind are alternatives, but for tags."""

    statuses: tuple[str, ...] = ()
    name: str | None = None
    tags: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    base_owners: tuple[str, ...] = ()
    cluster_names: tuple[str, ...] = ()
    org_names: tuple[str, ...] = ()
    project_names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    reverse: bool = False
    limit: int | None = None
    readable: tuple[str, ...] | None = None
    """Paths of jobs, by id or name, and of what they lie in; no others are listed. None is all."""

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL and its values."""
        conditions = ["1"]
        values: list[Any] = []
        for column, wanted in (
            ("status", self.statuses),
            ("name", (self.name,) if self.name else ()),
            ("owner", self.owners),
            ("base_owner", self.base_owners),
            ("cluster_name", self.cluster_names),
            ("org_name", self.org_names),
            ("project_name", self.project_names),
            ("id", self.ids),
        ):
            if wanted:
                conditions.append(f"{column} IN ({','.join('?' * len(wanted))})")
                values += wanted
        for tag in self.tags:
            conditions.append("number IN (SELECT number FROM job_tags WHERE tag = ?)")
            values.append(tag)
        for comparison, moment in ((">=", self.since), ("<=", self.until)):
            if moment is not None:
                conditions.append(f"created_at {comparison} ?")
                values.append(moment.timestamp())
        if self.readable is not None:
            within, paths = _within(self.readable)
            conditions.append(within)
            values += paths
        return " AND ".join(conditions), values


def unusable(path: Path, error: Exception) -> ConfigError:
    """Return what a platform says that cannot begin with its database."""
    return ConfigError(
        f"{path} cannot be used as the local platform's database ({error}); "
        "move the state folder away, or name another one with --state"
    )


_LEVELS = ("cluster_name", "org_name", "project_name")
_PATHS = (_LEVELS[:1], _LEVELS[:2], _LEVELS, (*_LEVELS, "id"), (*_LEVELS, "name"))


def _within(paths: Iterable[str]) -> tuple[str, list[str]]:
    """Return the condition in SQL, and its values, for what lies at or below one of the paths."""
    conditions, values = ["0"], []
    for columns in _PATHS:
        same_depth = [path for path in paths if path.count("/") == len(columns) - 1]
        if same_depth:
            path = " || '/' || ".join(columns)
            # One value for all: there may be more of them than a query has places for.
            conditions.append(f"{path} IN (SELECT value FROM json_each(?))")  # noqa: S608
            values.append(json.dumps(same_depth))
    return f"({' OR '.join(conditions)})", values


@dataclass
class Store:
    """Jobs on disk. One thread at a time uses it; each call is one transaction."""

    path: Path
    _database: sqlite3.Connection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            # Made in one thread and used in another, but never by two at a time.
            self._database = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False
            )
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error
        self.path.chmod(0o600)

    @property
    def database(self) -> sqlite3.Connection:
        """The open file, for what else is kept in it; the same thread uses both."""
        return self._database

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Make one transaction of a block.

        Raises:
            ServerError: It cannot be written; nothing of it is.
        """
        try:
            with self._database as database:
                database.execute("BEGIN")
                yield database
        except sqlite3.Error as error:
            raise ServerError(
                f"{self.path} cannot be written ({error}); look after its disk, then try again"
            ) from error

    def add(self, job: JobRow, tags: tuple[str, ...]) -> None:
        with self._writing() as database:
            cursor = database.execute(
                "INSERT INTO jobs (id, name, owner, base_owner, cluster_name, org_name,"
                " project_name, status, phase, run, waits_for_seat, created_at, description,"
                " transitions, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.name,
                    job.owner,
                    job.owner.partition("/")[0],
                    job.cluster_name,
                    job.org_name,
                    job.project_name,
                    job.status,
                    job.phase,
                    job.run,
                    job.waits_for_seat,
                    job.created_at.timestamp(),
                    json.dumps(job.description),
                    job.transitions,
                    job.answer,
                ),
            )
            database.executemany(
                "INSERT INTO job_tags (tag, number) VALUES (?, ?)",
                [(tag, cursor.lastrowid) for tag in tags],
            )

    def change(self, changes: Iterable[JobChange]) -> None:
        """Record what is new of some jobs: all of it or nothing."""
        with self._writing() as database:
            database.executemany(
                "UPDATE jobs SET status = ?, transitions = ?, answer = ?, phase = ?, run = ?"
                " WHERE id = ?",
                [
                    (new.status, new.transitions, new.answer, new.phase, new.run, new.id)
                    for new in changes
                ],
            )

    def not_over(self) -> Iterator[JobRow]:
        """Yield the jobs that are unfinished, and those whose processes may not have ended yet."""
        rows = self._database.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE phase != 'over' ORDER BY number"  # noqa: S608
        )
        return _whole(rows.fetchall())

    def describe(self, job_id: str, description: Mapping[str, Any]) -> None:
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET description = ? WHERE id = ?", (json.dumps(description), job_id)
            )

    def get(self, id_or_name: str, owner: str) -> JobRow | None:
        """Find a job by id, or the newest one of an owner by name."""
        row = self._database.execute(
            f"SELECT {COLUMNS} FROM jobs"  # noqa: S608  # none of it is input
            " WHERE id = ?1 OR (name = ?1 AND owner = ?2)"
            " ORDER BY id = ?1 DESC, number DESC LIMIT 1",
            (id_or_name, owner),
        ).fetchone()
        return None if row is None else _job(row)

    def unfinished_with_name(self, name: str, project_name: str) -> str | None:
        """Return the id of the job that uses a name."""
        row = self._database.execute(
            "SELECT id FROM jobs WHERE name = ? AND project_name = ?"
            " AND status IN ('pending', 'suspended', 'running')",
            (name, project_name),
        ).fetchone()
        return None if row is None else str(row["id"])

    def tags(self, owner: str) -> list[str]:
        """Return an owner's tags, those of the newest job first, each once."""
        rows = self._database.execute(
            "SELECT tag, MAX(number) AS newest FROM job_tags JOIN jobs USING (number)"
            " WHERE owner = ? GROUP BY tag ORDER BY newest DESC, tag",
            (owner,),
        )
        return [row["tag"] for row in rows]

    def list(self, wanted: JobFilter) -> Iterator[JobRow]:
        """Yield jobs in the order of their creation."""
        return _whole(self._rows(COLUMNS, wanted))

    def answers(self, wanted: JobFilter) -> Iterator[str | JobRow]:
        """Yield the same; of a job that is over only its answer, which is all there is to it.

        Most jobs of a long list are, and the rest of their columns is not even read.
        """
        columns = "number, iif(json_valid(answer), answer, NULL) AS answer"
        for row in self._rows(columns, wanted):
            answer = row["answer"]
            if answer is not None:
                yield answer
            else:
                yield from _whole(self._numbered(row["number"]))

    def _numbered(self, number: int) -> Iterable[sqlite3.Row]:
        query = f"SELECT {COLUMNS} FROM jobs WHERE number = ?"  # noqa: S608
        return self._database.execute(query, (number,)).fetchall()

    def _rows(self, columns: str, wanted: JobFilter) -> Iterator[sqlite3.Row]:
        """Read page by page, each a query of its own, so that a slow reader holds nothing up."""
        where, values = wanted.where()
        compare, order = ("<", "DESC") if wanted.reverse else (">", "ASC")
        last = 2**62 if wanted.reverse else 0
        left = wanted.limit if wanted.limit is not None else 2**62
        while left > 0:
            rows = self._database.execute(
                f"SELECT {columns} FROM jobs"  # noqa: S608  # none of it is input
                f" WHERE {where} AND number {compare} ?"
                f" ORDER BY number {order} LIMIT ?",
                (*values, last, min(PAGE, left)),
            ).fetchall()
            yield from rows
            if len(rows) < PAGE:
                return
            left -= len(rows)
            last = rows[-1]["number"]


def _whole(rows: Iterable[sqlite3.Row]) -> Iterator[JobRow]:
    """Yield jobs, but for those of which the file says what cannot be understood."""
    for row in rows:
        try:
            yield _job(row)
        except ServerError as error:
            logger.error("left out: %s", error)  # where is no news


def _job(row: sqlite3.Row) -> JobRow:
    try:
        return _read(row)
    except (ValueError, TypeError) as error:
        raise ServerError(
            f"what platform.db says of {row['id']} is damaged ({error}); its log is still in "
            f"jobs/{row['id']} of the state folder"
        ) from error


def _read(row: sqlite3.Row) -> JobRow:
    if not row["is_whole"]:
        raise ValueError("it is no JSON")
    return JobRow(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        cluster_name=row["cluster_name"],
        org_name=row["org_name"],
        project_name=row["project_name"],
        status=row["status"],
        created_at=datetime.fromtimestamp(row["created_at"], timezone.utc),
        description=json.loads(row["description"]) if row["phase"] != "over" else {},
        transitions=row["transitions"],
        answer=row["answer"],
        phase=row["phase"],
        run=row["run"],
        waits_for_seat=bool(row["waits_for_seat"]),
    )
