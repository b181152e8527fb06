"""The saved login: read and written as the official clients do, so that one serves both."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuro_sync.errors import ConfigError
from neuro_sync.secret_text import SecretText
from neuro_sync.transport.tokens import user_of
from neuro_sync.version import __version__

from . import file_lock
from .local_folder import is_trusted

if TYPE_CHECKING:
    import sqlite3

logger: logging.Logger = logging.getLogger("neuro_sync")

FAMILIES = (("NEUROMATION_CONFIG", "~/.neuro"), ("APOLO_CONFIG", "~/.apolo"))
"""The variable that names a config folder, and where it is otherwise."""

DATABASE = "db"
COMPANIONS = ("db-wal", "db-shm")
LOCK = ".neuro-sync.lock"
BUSY_TIMEOUT = 10.0
"""Seconds to wait for another program that writes."""

COLUMNS = {
    "auth_config": "TEXT",
    "token": "TEXT",
    "expiration_time": "REAL",
    "refresh_token": "TEXT",
    "url": "TEXT",
    "admin_url": "TEXT",
    "vcluster_url": "TEXT",
    "version": "TEXT",
    "project_name": "TEXT",
    "cluster_name": "TEXT",
    "org_name": "TEXT",
    "clusters": "TEXT",
    "projects": "TEXT",
    "timestamp": "REAL",
}
# The official client compares this text with its own, to the letter.
SCHEMA = "CREATE TABLE main (" + ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items()) + ")"

ANSWER_TABLE = (
    "CREATE TABLE IF NOT EXISTS neuro_sync_config "
    "(url TEXT, username TEXT, answer BLOB, service TEXT, fetched REAL)"
)
"""Our own table beside the official clients' one: the answer to ``GET /config``, unchanged.

Their table lacks a part of the answer, and the time at which it was fetched.
"""


@dataclass(frozen=True)
class SavedAnswer:
    """An answer to ``GET /config``, as it was fetched."""

    answer: bytes = field(repr=False)
    service: str
    """The value of its header ``X-Service-Version``."""
    fetched: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class SavedLogin:
    """Who is logged in where, and what was current; one row of the official clients' table."""

    url: str
    token: SecretText
    expiration_time: float
    """Seconds since 1970 after which the token is renewed before it is used."""
    refresh_token: SecretText
    """Buys the next token; empty if there is none to be had."""
    auth_config: dict[str, Any] = field(repr=False)
    """Where to log in, out, and to renew the token."""
    cluster_name: str | None = None
    org_name: str | None = None
    project_name: str | None = None
    admin_url: str | None = None
    vcluster_url: str | None = None
    clusters: list[Any] = field(default_factory=list, repr=False)
    """What the official client saves of the platform's answer (`official_columns`)."""
    projects: list[Any] = field(default_factory=list, repr=False)
    config: SavedAnswer | None = field(default=None, repr=False)
    """What the platform last answered to this user; None if this package never saved it."""


class LoginStore:
    """The database in a config folder. It is opened for each use, and never kept open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: Path = folder / DATABASE

    def exists(self) -> bool:
        # Not by Path, which raises for a folder that we may not look into.
        return os.path.isfile(self.file)

    def read(self) -> SavedLogin:
        """Return what is saved.

        Raises:
            ConfigError: There is nothing, or nothing that can be read.
        """
        found = self._read()
        if isinstance(found, str):
            # When nothing is handled any more: the original may tell of what is in the row.
            raise ConfigError(self._unreadable(found))
        return found

    def _read(self) -> SavedLogin | str:
        """Return what is saved, or why it cannot be read."""
        import sqlite3

        try:
            with closing(self._open_to_read()) as database:
                database.row_factory = sqlite3.Row
                query = "SELECT * FROM main ORDER BY timestamp DESC LIMIT 1"
                row = database.execute(query).fetchone()
                if row is None:
                    return "it is empty"
                login = _login_of(dict(row))
                return replace(login, config=_read_answer(database, login))
        except (sqlite3.Error, KeyError, ValueError, TypeError) as error:
            return type(error).__name__

    def _unreadable(self, why: str) -> str:
        return f"the saved login {self.file} cannot be read ({why}); log in again"

    def _open_to_read(self) -> sqlite3.Connection:
        import sqlite3

        address = self.file.absolute().as_uri() + "?mode=ro"
        database = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT)
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            database.close()
            if not isinstance(error, sqlite3.OperationalError) or os.access(self.folder, os.W_OK):
                raise
            # Where nothing can be written, its shared memory cannot be made, nor is it needed.
            return sqlite3.connect(address + "&immutable=1", uri=True)
        return database

    def warn_if_open_to_others(self) -> None:
        """Tell how to keep the token to oneself; refused is nothing, as a mount may be so."""
        if os.name == "nt":  # its permissions are no bits
            return
        for path, right in ((self.folder, "700"), (self.file, "600")):
            with suppress(OSError):
                loose = stat.S_IMODE(path.stat().st_mode) & 0o077
                if loose:
                    logger.warning(
                        "other users of this machine may use the saved login %s: chmod %s %s",
                        self.file,
                        right,
                        path,
                    )

    def write(self, login: SavedLogin, *, now: float) -> None:
        """Save a login in place of any other, at once or not at all.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        import sqlite3

        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owners()
            with self.lock():
                if not self._replaced_row(login, now):
                    self._replace_file(login, now)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the login cannot be saved in {self.folder} ({error}); name another folder "
                f"with path=..., or in the variable {FAMILIES[0][0]}"
            ) from error

    def _check_owners(self) -> None:
        """Raise if another user could read or exchange what is about to be written.

        Raises:
            ConfigError: The folder or a file of the database is another user's, or a link of one.
        """
        for path in (self.folder, self.file, *(self.folder / name for name in COMPANIONS)):
            with suppress(FileNotFoundError):
                is_foreign_link = path.is_symlink() and not is_trusted(path.lstat())
                if is_foreign_link or not _may_be_used(path.stat()):
                    raise ConfigError(
                        f"no login is saved in {self.folder}: {path} belongs to another user; "
                        f"name a folder of your own in the variable {FAMILIES[0][0]}"
                    )

    def _replaced_row(self, login: SavedLogin, now: float) -> bool:
        import sqlite3

        if not self.exists():
            return False
        for name in (DATABASE, *COMPANIONS):  # the journal has the token, too
            with suppress(FileNotFoundError):
                (self.folder / name).chmod(0o600)
        try:
            self._replace_row(self.file, login, now)
        except sqlite3.OperationalError:  # it is busy, or the disk is full
            raise
        except sqlite3.DatabaseError:  # it is no database
            return False
        return True

    def _replace_file(self, login: SavedLogin, now: float) -> None:
        # Whole before it bears its name: no other process ever sees half of it.
        fresh = self.folder / f"{DATABASE}.new"
        for left_over in self.folder.glob(f"{fresh.name}*"):
            left_over.unlink()
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._replace_row(fresh, login, now)
        for name in COMPANIONS:
            (self.folder / name).unlink(missing_ok=True)
        fresh.replace(self.file)

    def _replace_row(self, file: Path, login: SavedLogin, now: float) -> None:
        row = _row_of(login, now)
        with _transaction(file) as database:
            found = database.execute("SELECT sql FROM sqlite_master WHERE name='main'").fetchone()
            if found != (SCHEMA,):
                database.execute("DROP TABLE IF EXISTS main")
                database.execute(SCHEMA)
            database.execute("DELETE FROM main")
            marks = ", ".join("?" * len(row))
            database.execute(f"INSERT INTO main VALUES ({marks})", tuple(row.values()))  # noqa: S608
            _write_answer(database, login.url, user_of(login.token), login.config)

    def update(self, url: str, username: str, **changes: Any) -> None:
        """Change some columns of the row, if the same user is still logged in at the same place.

        Raises:
            ConfigError: It cannot be written to, or somebody else has logged in.
        """
        columns = ", ".join(f"{name} = ?" for name in changes)
        values = [_as_text(value) for value in changes.values()]
        with self._changing(url, username) as database:
            database.execute(f"UPDATE main SET {columns}", values)  # noqa: S608  # our names

    def save_config(self, url: str, username: str, config: SavedAnswer | None) -> None:
        """Save what the platform answered to the user; None removes what is saved.

        Raises:
            ConfigError: As for `update`.
        """
        with self._changing(url, username) as database:
            _write_answer(database, url, username, config)

    @contextmanager
    def _changing(self, url: str, username: str) -> Iterator[sqlite3.Connection]:
        import sqlite3

        self._check_owners()
        try:
            with _transaction(self.file) as database:
                if _owner(database) != (url, username):
                    raise ConfigError(f"the saved login {self.file} is somebody else's by now")
                yield database
        except sqlite3.Error as error:
            raise ConfigError(f"the saved login {self.file} cannot be changed: {error}") from error

    def delete(self) -> None:
        """Forget the login. The user's settings stay, and the folder with them.

        Raises:
            ConfigError: It cannot be removed.
        """
        try:
            with self.lock():
                for name in (DATABASE, *COMPANIONS):
                    (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.file} cannot be removed: {error}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from the same; where nothing can be written, nobody needs it."""
        descriptor = None
        with suppress(OSError):
            # A link may lead to a file that another user has locked; Windows has no such flags.
            flags = os.O_RDWR | os.O_CREAT
            flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(self.folder / LOCK, flags, 0o600)
        try:
            # One of another user may be locked for ever.
            if descriptor is not None and _may_be_used(os.fstat(descriptor)):
                file_lock.lock(descriptor)
            yield
        finally:
            if descriptor is not None:
                file_lock.unlock(descriptor)
                os.close(descriptor)

    def __repr__(self) -> str:
        return f"<LoginStore {self.file}>"


def _may_be_used(status: os.stat_result) -> bool:
    """Return whether a file or folder is ours or root's; root works with those of all users."""
    is_root = os.geteuid() == 0 if hasattr(os, "geteuid") else False
    return is_root or is_trusted(status)


@contextmanager
def _transaction(file: Path) -> Iterator[sqlite3.Connection]:
    import sqlite3

    # Not made here if it is gone: then somebody has just logged out.
    address = file.absolute().as_uri() + "?mode=rw"
    database = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    with closing(database):
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


def _owner(database: sqlite3.Connection) -> tuple[str, str] | None:
    """Return where and as whom somebody is logged in."""
    row = database.execute("SELECT url, token FROM main").fetchone()
    if row is None:
        return None
    url, token = str(row[0]).rstrip("/"), SecretText(str(row[1]))
    del row  # no traceback shall show the token
    return url, user_of(token)


def _read_answer(database: sqlite3.Connection, login: SavedLogin) -> SavedAnswer | None:
    import sqlite3

    try:
        query = "SELECT answer, service, fetched FROM neuro_sync_config WHERE url=? AND username=?"
        row = database.execute(query, (login.url, user_of(login.token))).fetchone()
        return SavedAnswer(bytes(row[0]), str(row[1]), float(row[2])) if row else None
    except (sqlite3.Error, TypeError, ValueError, ConfigError):  # no such table, for one
        return None


def _write_answer(
    database: sqlite3.Connection, url: str, username: str, config: SavedAnswer | None
) -> None:
    import sqlite3

    if config is None:
        with suppress(sqlite3.OperationalError):  # no such table
            database.execute("DELETE FROM neuro_sync_config")
    else:
        database.execute(ANSWER_TABLE)
        database.execute("DELETE FROM neuro_sync_config")
        row = (url, username, config.answer, config.service, config.fetched)
        database.execute("INSERT INTO neuro_sync_config VALUES (?, ?, ?, ?, ?)", row)


def _as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _row_of(login: SavedLogin, now: float) -> dict[str, Any]:
    row = {name: _as_text(getattr(login, name, None)) for name in COLUMNS}
    return row | {"version": __version__, "timestamp": now}


def _login_of(row: dict[str, Any]) -> SavedLogin:
    """Read a row of any generation; older ones have fewer columns."""
    return SavedLogin(
        url=str(row["url"]).rstrip("/"),
        token=SecretText(str(row["token"])),
        expiration_time=float(row["expiration_time"]),
        refresh_token=SecretText(str(row["refresh_token"] or "")),
        auth_config=json.loads(row["auth_config"]),
        cluster_name=row.get("cluster_name"),
        org_name=row.get("org_name"),
        project_name=row.get("project_name"),
        admin_url=row.get("admin_url"),
        vcluster_url=row.get("vcluster_url"),
        clusters=json.loads(row.get("clusters") or "[]"),
        projects=json.loads(row.get("projects") or "[]"),
    )


def login_stores(path: str | os.PathLike[str] | None = None) -> list[tuple[LoginStore, str]]:
    """Return where a login may be, each with who says so; the first that has one counts.

    A folder that is given is the only one. What a variable names comes before what is usual.
    """
    if path is not None:
        return [(LoginStore(_expanded(path)), "")]
    named, usual = [], []
    for variable, folder in FAMILIES:
        if os.environ.get(variable):
            store = LoginStore(_expanded(os.environ[variable]))
            named.append((store, f" (from the variable {variable})"))
        elif (path := _expanded(folder)).is_absolute():  # else there is no home folder
            usual.append((LoginStore(path), ""))
    return named + usual


def _expanded(path: str | os.PathLike[str]) -> Path:
    # Not by Path, which raises when there is no home folder.
    return Path(os.path.expanduser(path))


def current_store(path: str | os.PathLike[str] | None = None) -> LoginStore | None:
    """Return the config folder in use: the first that has a login, else the first."""
    stores = [store for store, _ in login_stores(path)]
    return next((store for store in stores if store.exists()), stores[0] if stores else None)
