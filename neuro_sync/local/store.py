"""What is remembered: one SQLite file in the state folder."""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

from neuro_sync.errors import ConfigError, ServerError

from .disk_space import is_full, why_not_written, write_error
from .durable_files import create_file, sync_folder
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
-- An entry of an index also has the job's number, so each gives the jobs of a value in order.
CREATE INDEX IF NOT EXISTS jobs_by_name ON jobs (name) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE INDEX IF NOT EXISTS jobs_by_base_owner ON jobs (base_owner);
CREATE INDEX IF NOT EXISTS jobs_by_project ON jobs (project_name);
CREATE INDEX IF NOT EXISTS jobs_by_time ON jobs (created_at);
CREATE INDEX IF NOT EXISTS jobs_not_over ON jobs (number) WHERE phase != 'over';
CREATE INDEX IF NOT EXISTS names_in_use ON jobs (name)
    WHERE name IS NOT NULL AND status IN ('pending', 'suspended', 'running');
DROP INDEX IF EXISTS jobs_unfinished;
CREATE TABLE IF NOT EXISTS job_tags (
    tag TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tag, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_of_jobs ON job_tags (number);
"""

PAGE = 500
COUNTED = 1000
"""Up to how many jobs of a value are counted to find the rarest one."""
MOST_STREAMS = 50
"""Values that are looked up one by one, and merged; of more, all are sorted for each page."""
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
class FinishedJob:
    """A job that is over, as far as it takes to remove it."""

    number: int
    id: str
    finished_at: datetime


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
            conditions.append(
                "EXISTS (SELECT 1 FROM job_tags"
                " WHERE job_tags.tag = ? AND job_tags.number = jobs.number)"
            )
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

    def lookups(self) -> Iterator[Lookup]:
        """Yield each way to find the jobs, or more than them, by an index."""
        yield Lookup("jobs", "id", self.ids)
        yield Lookup("jobs INDEXED BY jobs_by_name", "name", (self.name,) if self.name else ())
        for tag in self.tags:
            tables = "job_tags CROSS JOIN jobs USING (number)"
            yield Lookup(tables, "tag", (tag,), number="job_tags.number")
        yield Lookup("jobs INDEXED BY jobs_by_status", "status", self.statuses)
        base_owners = self.base_owners or [owner.partition("/")[0] for owner in self.owners]
        yield Lookup("jobs INDEXED BY jobs_by_base_owner", "base_owner", base_owners)
        projects = self.project_names or _projects(self.readable)
        yield Lookup("jobs INDEXED BY jobs_by_project", "project_name", projects)


class Lookup:
    """A way to find jobs by an index: for each value it has them in the order of their numbers."""

    def __init__(
        self, tables: str, column: str, values: Iterable[str], *, number: str = "1"
    ) -> None:
        """`number` is what to sort by, so that the index gives the order."""
        self.tables = tables
        self.column = column
        self.number = number
        self.values = tuple(dict.fromkeys(values))

    @property
    def is_usable(self) -> bool:
        return 0 < len(self.values) <= MOST_STREAMS


def unusable(path: Path, error: Exception) -> ConfigError:
    """Return the error for a platform that cannot start with its database."""
    advice = "free some space" if is_full(path, error) else "move the state folder away"
    return ConfigError(
        f"{path} cannot be used as the local platform's database "
        f"({why_not_written(path, error)}); {advice}, or name another one with --state"
    )


def has_current_tables(path: Path) -> bool:
    """Return whether a database has this version's table of jobs, or none yet.

    The answer is also yes for a file that is no database: opening it raises the error.
    """
    columns = "PRAGMA table_info(jobs)"
    with closing(sqlite3.connect(path)) as found, closing(sqlite3.connect(":memory:")) as current:
        current.executescript(SCHEMA)
        try:
            return found.execute(columns).fetchall() in ([], current.execute(columns).fetchall())
        except sqlite3.Error:
            return True


def create_tables(database: sqlite3.Connection, script: str) -> None:
    """Create what is missing of tables and indexes: all of it or nothing.

    Raises:
        ConfigError: The database cannot be written, or is none.
    """
    try:
        database.executescript(f"BEGIN IMMEDIATE; {script} COMMIT;")
    except sqlite3.Error as error:
        path = _path_of(database)
        if database.in_transaction:
            database.rollback()
        raise unusable(path, error) from error


@contextmanager
def writing(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Make one transaction of a block.

    Raises:
        InsufficientStorage: The disk is full; nothing is written.
        ServerError: It cannot be written for another reason.
    """
    try:
        with database:
            database.execute("BEGIN IMMEDIATE")
            yield database
    except sqlite3.IntegrityError:  # what the statement wanted is wrong, not the disk
        raise
    except sqlite3.Error as error:
        raise write_error(_path_of(database), error) from error


def _path_of(database: sqlite3.Connection) -> Path:
    _, _, path = database.execute("PRAGMA database_list").fetchone()
    return Path(path)


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


def _projects(readable: tuple[str, ...] | None) -> Iterable[str]:
    """Return the projects in which all readable jobs are; nothing if they may be anywhere."""
    parts = [path.split("/") for path in readable or ()]
    depth = len(_LEVELS)
    return [path[depth - 1] for path in parts] if all(len(p) >= depth for p in parts) else ()


@dataclass
class Store:
    """Jobs on disk. One thread at a time uses it; each call is one transaction.

    What a call has written survives a crash of this process. If the store is `durable`, it also
    survives a power loss, unless the call says otherwise.
    """

    path: Path
    durable: bool = True
    _database: sqlite3.Connection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            # SQLite gives the journals the mode of the file, so it is right before they are made.
            with suppress(FileExistsError):
                os.close(create_file(self.path))
            # Made in one thread and used in another, but never by two at a time.
            self._database = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False
            )
            self._database.row_factory = sqlite3.Row
            if not self._database.execute("PRAGMA page_count").fetchone()[0]:
                # A new file is to be able to give space back.
                self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._sync(self.durable)
        except (OSError, sqlite3.Error) as error:
            raise unusable(self.path, error) from error
        create_tables(self._database, SCHEMA)
        self._check_readable()
        if self.durable:
            sync_folder(self.path.parent)

    def _check_readable(self) -> None:
        """Read one job: a table that is damaged at its root is noticed at once."""
        try:
            query = "SELECT answer FROM jobs NOT INDEXED ORDER BY number DESC LIMIT 1"
            self._database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error

    def _sync(self, each_transaction: bool) -> None:
        """Set whether each transaction is to be on the disk when it ends, or some time later."""
        later = "NORMAL" if self.durable else "OFF"
        self._database.execute(f"PRAGMA synchronous = {'FULL' if each_transaction else later}")

    @property
    def database(self) -> sqlite3.Connection:
        """The open file, for what else is kept in it; the same thread uses both."""
        return self._database

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _writing(self, *, sync: bool = True) -> Iterator[sqlite3.Connection]:
        """Make one transaction of a block; without `sync` a later one brings it to the disk."""
        if sync or not self.durable:
            with writing(self._database) as database:
                yield database
            return
        self._sync(each_transaction=False)
        try:
            with writing(self._database) as database:
                yield database
        finally:
            self._sync(each_transaction=True)

    def sync(self) -> None:
        """Bring to the disk what was written without."""
        with suppress(sqlite3.Error):  # before it does the rest, which may fail on a full disk
            self._database.execute("PRAGMA wal_checkpoint")

    def add(self, job: JobRow, tags: tuple[str, ...], *, sync: bool = True) -> None:
        with self._writing(sync=sync) as database:
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

    def change(self, changes: Iterable[JobChange], *, sync: bool = True) -> None:
        """Record what is new of some jobs: all of it or nothing."""
        with self._writing(sync=sync) as database:
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
            f"SELECT {COLUMNS} FROM jobs WHERE id = ?",  # noqa: S608  # none of it is input
            (id_or_name,),
        ).fetchone()
        if row is None:
            row = self._database.execute(
                f"SELECT {COLUMNS} FROM jobs INDEXED BY jobs_by_name"  # noqa: S608
                " WHERE name = ? AND owner = ? ORDER BY number DESC LIMIT 1",
                (id_or_name, owner),
            ).fetchone()
        return None if row is None else _job(row)

    def unfinished_with_name(self, name: str, project_name: str) -> str | None:
        """Return the id of the job that uses a name."""
        row = self._database.execute(
            "SELECT id FROM jobs INDEXED BY names_in_use WHERE name = ? AND project_name = ?"
            " AND status IN ('pending', 'suspended', 'running')",
            (name, project_name),
        ).fetchone()
        return None if row is None else str(row["id"])

    def tags(self, owner: str) -> list[str]:
        """Return an owner's tags, those of the newest job first, each once."""
        # From one tag to the next, and of each only the newest job.
        rows = self._database.execute(
            "WITH RECURSIVE tags (tag) AS ("
            " SELECT MIN(tag) FROM job_tags"
            " UNION ALL"
            " SELECT (SELECT MIN(tag) FROM job_tags WHERE job_tags.tag > tags.tag) FROM tags"
            " WHERE tags.tag IS NOT NULL)"
            " SELECT tag, (SELECT job_tags.number FROM job_tags CROSS JOIN jobs USING (number)"
            "  WHERE job_tags.tag = tags.tag AND owner = ?"
            "  ORDER BY job_tags.number DESC LIMIT 1) AS newest"
            " FROM tags WHERE newest IS NOT NULL ORDER BY newest DESC, tag",
            (owner,),
        )
        return [row["tag"] for row in rows]

    def list(self, wanted: JobFilter) -> Iterator[JobRow]:
        """Yield jobs in the order of their creation."""
        return _whole(self._rows(f"jobs.{COLUMNS}", wanted))

    def answers(self, wanted: JobFilter) -> Iterator[str | JobRow]:
        """Yield the same; of a job that is over only its answer, which is all there is to it.

        Most jobs of a long list are, and the rest of their columns is not even read.
        """
        columns = "jobs.number, iif(json_valid(answer), answer, NULL) AS answer"
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
        if wanted.readable is not None and not wanted.readable:
            return  # nothing may be read; SQLite refuses to look for nothing by a given index
        where, values = wanted.where()
        lookup, is_rare = self._best_lookup(wanted)
        first, last = (0, 2**62) if is_rare else self._numbers_between(wanted.since, wanted.until)
        order = "DESC" if wanted.reverse else "ASC"
        left = wanted.limit if wanted.limit is not None else 2**62
        # One query for each value, of which SQLite merges the sorted results.
        streams = [
            f"SELECT {columns} FROM {lookup.tables}"  # noqa: S608  # none of it is input
            f" WHERE {lookup.column} = ? AND {where} AND number BETWEEN ? AND ?"
            for _ in lookup.values
        ] or [f"SELECT {columns} FROM jobs WHERE {where} AND number BETWEEN ? AND ?"]  # noqa: S608
        query = f"{' UNION ALL '.join(streams)} ORDER BY {lookup.number} {order} LIMIT ?"
        while left > 0:
            bounds = (*values, first, last)
            filled = [(value, *bounds) for value in lookup.values] or [bounds]
            rows = self._database.execute(query, (*chain(*filled), min(PAGE, left))).fetchall()
            yield from rows
            if len(rows) < PAGE:
                return
            left -= len(rows)
            if wanted.reverse:
                last = rows[-1]["number"] - 1
            else:
                first = rows[-1]["number"] + 1

    def last_finished(self, *, but: int, created_until: datetime) -> int:
        """Return the number of the newest job that is over, `but` so many; 0 if there is none."""
        row = self._database.execute(
            "SELECT number FROM jobs WHERE phase = 'over' AND number <= ?"
            " ORDER BY number DESC LIMIT 1",
            (min(self._newest_over(but), self._numbers_between(None, created_until)[1]),),
        ).fetchone()
        return 0 if row is None else int(row["number"])

    def _newest_over(self, skipped: int) -> int:
        row = self._database.execute(
            "SELECT number FROM jobs WHERE phase = 'over' ORDER BY number DESC LIMIT 1 OFFSET ?",
            (min(skipped, 2**62),),
        ).fetchone()
        return 0 if row is None else int(row["number"])

    def finished_between(self, after: int, last: int, limit: int) -> Sequence[FinishedJob]:
        """Return the first jobs that are over, of those with a number up to the last."""
        rows = self._database.execute(
            "SELECT number, id, created_at, iif(json_valid(answer),"
            " json_extract(answer, '$.history.finished_at'), NULL) AS finished_at FROM jobs"
            " WHERE phase = 'over' AND number > ? AND number <= ? ORDER BY number LIMIT ?",
            (after, last, limit),
        )
        return [FinishedJob(row["number"], row["id"], _end_of(row)) for row in rows]

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove jobs that are over."""
        gone = [(number,) for number in numbers]
        with self._writing() as database:
            database.executemany("DELETE FROM job_tags WHERE number = ?", gone)
            database.executemany("DELETE FROM jobs WHERE number = ? AND phase = 'over'", gone)

    def shrink(self) -> None:
        """Give the space of what was removed back to the file system, bit by bit.

        Of a file that an earlier version made it is only used again.
        """
        with suppress(sqlite3.Error):  # the disk may be full
            free = math.inf
            while free > (free := self._database.execute("PRAGMA freelist_count").fetchone()[0]):
                self._database.execute(f"PRAGMA incremental_vacuum({PAGE})").fetchall()

    def _best_lookup(self, wanted: JobFilter) -> tuple[Lookup, bool]:
        """Return the way that finds the fewest jobs, and whether they are few."""
        usable = [lookup for lookup in wanted.lookups() if lookup.is_usable]
        if not usable:
            return Lookup("jobs", "", ()), False
        counts = [self._count(lookup) for lookup in usable]
        return usable[counts.index(min(counts))], min(counts) < COUNTED

    def _count(self, lookup: Lookup) -> int:
        """Return how many jobs there are of all values together; counting ends at `COUNTED`."""
        tables = lookup.tables.partition(" CROSS JOIN ")[0]
        query = f"SELECT count(*) FROM (SELECT 1 FROM {tables} WHERE {lookup.column} = ? LIMIT ?)"  # noqa: S608
        return sum(
            self._database.execute(query, (value, COUNTED)).fetchone()[0] for value in lookup.values
        )

    def _numbers_between(self, since: datetime | None, until: datetime | None) -> tuple[int, int]:
        """Return the first and the last number of the jobs that were created within a time.

        A clock may have been set back, so that others can be between them.
        """
        if since is None and until is None:
            return 0, 2**62
        begin = -math.inf if since is None else since.timestamp()
        end = math.inf if until is None else until.timestamp()
        first, last = self._database.execute(
            "SELECT min(number), max(number) FROM jobs INDEXED BY jobs_by_time"
            " WHERE created_at BETWEEN ? AND ?",
            (begin, end),
        ).fetchone()
        return (1, 0) if first is None else (first, last)


def _end_of(row: sqlite3.Row) -> datetime:
    """Return when a job ended; if that is damaged, when it was created."""
    with suppress(ValueError, TypeError, AttributeError):
        # Python 3.10 does not know the letter.
        return datetime.fromisoformat(row["finished_at"].replace("Z", "+00:00"))
    return datetime.fromtimestamp(row["created_at"], timezone.utc)


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
