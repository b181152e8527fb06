"""Who there is: users, roles, projects, and what was granted to whom. All of it is stored here."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.models.jobs import TENANT_PATTERN
from neuro_sync.models.users import Action

from .permissions import Permission, Resource, role_resource
from .state import StateFolder, make_token
from .store import Store, create_tables, writing

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (
    digest TEXT PRIMARY KEY,
    user TEXT NOT NULL
);
-- By which other token one was made; it is good as long as that is.
CREATE TABLE IF NOT EXISTS token_parents (
    digest TEXT PRIMARY KEY,
    parent TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS projects (
    name TEXT PRIMARY KEY,
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS members (
    project TEXT NOT NULL,
    user TEXT NOT NULL,
    role TEXT NOT NULL,
    PRIMARY KEY (project, user)
);
CREATE TABLE IF NOT EXISTS grants (
    account TEXT NOT NULL,
    uri TEXT NOT NULL,
    action TEXT NOT NULL,
    PRIMARY KEY (account, uri)
);
"""

VALID_TOKENS = """
WITH RECURSIVE made AS (SELECT * FROM tokens LEFT JOIN token_parents USING (digest)),
valid (digest, user) AS (
    SELECT digest, user FROM made WHERE parent IS NULL OR parent = ?
    UNION ALL
    SELECT made.digest, made.user FROM made JOIN valid ON made.parent = valid.digest
)
SELECT * FROM valid
"""
NAME = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
ROLE_NAME = rf"({NAME})/roles/{NAME}"
PROJECT_ROLES = {
    "reader": Action.READ,
    "writer": Action.WRITE,
    "manager": Action.MANAGE,
    "admin": Action.MANAGE,
}
"""What each role of a project allows on everything in it."""


@dataclass(frozen=True)
class Member:
    """A user of a project, and the role there."""

    project: str
    user: str
    role: str


class Accounts:
    """The accounts of one platform, in its database; each call that writes is one transaction.

    An account is a user or a role. Several programs may have them open: the platform, and the
    command that adds a user while the platform runs.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        create_tables(database, SCHEMA)
        self._writes = 0
        # Asked with each request; without the names of columns that is faster.
        self._versions = database.cursor()
        self._versions.row_factory = None

    def version(self) -> tuple[int, int]:
        """Return what is another value after each change, whoever made it."""
        (others,) = self._versions.execute("PRAGMA data_version").fetchone()
        return self._writes, others

    # Users, roles and their tokens.

    def names(self) -> list[str]:
        """Return all users and roles."""
        return [row["name"] for row in self._read("SELECT name FROM accounts ORDER BY name")]

    def add_user(self, name: str) -> None:
        """Make a user, and a project of the same name whose admin it is.

        Raises:
            IllegalArgumentError: The name is taken, or is none that a user can have.
        """
        _check_name(name, "user")
        with self._writing() as database:
            self._add(name)
            used = database.execute("SELECT 1 FROM members WHERE project = ?", (name,)).fetchone()
            if used:
                raise IllegalArgumentError(
                    f"there is a project {name!r} already, and it would be this user's own; "
                    "take another name"
                )
            database.execute("INSERT OR IGNORE INTO projects VALUES (?, ?)", (name, time.time()))
            database.execute("INSERT INTO members VALUES (?, ?, 'admin')", (name, name))

    def add_role(self, name: str) -> None:
        """Make a role, such as ``alice/roles/editors``.

        Raises:
            IllegalArgumentError: The name is taken, or is none that a role can have.
            ResourceNotFound: There is no such user that it could belong to.
        """
        match = re.fullmatch(ROLE_NAME, name)
        if match is None:
            raise IllegalArgumentError(f"a role's name is like alice/roles/editors, not {name!r}")
        with self._writing():
            self._check_exists(match[1])
            self._add(name)

    def _add(self, name: str) -> None:
        try:
            self._database.execute("INSERT INTO accounts VALUES (?, ?)", (name, time.time()))
        except sqlite3.IntegrityError as error:
            raise IllegalArgumentError(f"{name!r} exists already") from error

    def remove(self, name: str) -> None:
        """Remove a user or a role with all that it was granted; a user's project is kept.

        Raises:
            ResourceNotFound: There is none.
        """
        with self._writing() as database:
            self._check_exists(name)
            gone = [name, *(other for other in self.names() if other.startswith(f"{name}/"))]
            for account in gone:
                database.execute("DELETE FROM accounts WHERE name = ?", (account,))
                database.execute("DELETE FROM grants WHERE account = ?", (account,))
                database.execute("DELETE FROM tokens WHERE user = ?", (account,))
                database.execute("DELETE FROM members WHERE user = ?", (account,))
                # One that is made anew is another one, also to those who might use the old.
                for resource in (role_resource(account), Resource("user", account)):
                    database.execute("DELETE FROM grants WHERE uri = ?", (str(resource),))

    def add_token(self, user: str, *, parent: str | None = None) -> str:
        """Return a new token of a user; only its digest is kept.

        `parent` is the digest of the token by which somebody asks for it. The new one is accepted
        for as long as that one is.
        """
        token = make_token(user)
        with self._writing() as database:
            self._check_exists(user)
            database.execute("INSERT INTO tokens VALUES (?, ?)", (digest(token), user))
            if parent is not None:
                values = (digest(token), parent)
                database.execute("INSERT INTO token_parents VALUES (?, ?)", values)
        return token

    def forget_tokens(self, user: str) -> None:
        """Revoke all tokens of a user, and with them what was made by them."""
        with self._writing() as database:
            self._check_exists(user)
            database.execute("DELETE FROM tokens WHERE user = ?", (user,))

    def tokens(self, root: str | None = None) -> dict[str, str]:
        """Return the user of each valid token's digest.

        A token that was made by another one is valid only if that one is; `root`, the digest of a
        token that is kept elsewhere, is.
        """
        return {row["digest"]: row["user"] for row in self._read(VALID_TOKENS, root)}

    def created_at(self) -> dict[str, float]:
        """Return when each user and role was added."""
        return {row["name"]: row["created_at"] for row in self._read("SELECT * FROM accounts")}

    # Projects and their members.

    def projects(self) -> list[str]:
        return [row["name"] for row in self._read("SELECT name FROM projects ORDER BY name")]

    def members(self) -> list[Member]:
        """Return the members of all projects."""
        return [Member(**row) for row in self._read("SELECT * FROM members ORDER BY project, user")]

    def add_project(self, name: str) -> None:
        """Make a project without members.

        Raises:
            IllegalArgumentError: The name is taken, or is none that a project can have.
        """
        _check_name(name, "project")
        with self._writing() as database:
            try:
                database.execute("INSERT INTO projects VALUES (?, ?)", (name, time.time()))
            except sqlite3.IntegrityError as error:
                raise IllegalArgumentError(f"there is a project {name!r} already") from error

    def set_member(self, project: str, user: str, role: str | None) -> None:
        """Give a user a role in a project; None takes it away.

        Raises:
            ResourceNotFound: There is no such project or user.
        """
        if role is not None and role not in PROJECT_ROLES:
            known = ", ".join(PROJECT_ROLES)
            raise IllegalArgumentError(f"there is no project role {role!r}; there are {known}")
        with self._writing() as database:
            self._check_exists(user)
            if project not in self.projects():
                raise ResourceNotFound(f'project "{project}" was not found')
            if role is None:
                database.execute(
                    "DELETE FROM members WHERE project = ? AND user = ?", (project, user)
                )
            else:
                database.execute(
                    "INSERT OR REPLACE INTO members VALUES (?, ?, ?)", (project, user, role)
                )

    # What was granted beyond that.

    def grants(self) -> dict[str, list[Permission]]:
        """Return what was granted to each account, without what its projects give it."""
        found: dict[str, list[Permission]] = {}
        for row in self._read("SELECT * FROM grants"):
            permission = (Resource.parse(row["uri"]), Action(row["action"]))
            found.setdefault(row["account"], []).append(permission)
        return found

    def grant(self, account: str, permissions: list[Permission]) -> None:
        """Add permissions; one that the account has already with more power stays.

        Raises:
            ResourceNotFound: There is no such user or role.
        """
        with self._writing():
            self._check_exists(account)
            self._grant(account, permissions)

    def _grant(self, account: str, permissions: list[Permission]) -> None:
        known = dict(self.grants().get(account, ()))
        for resource, action in permissions:
            if action.power > known.get(resource, Action.DENY).power:
                known[resource] = action
                self._database.execute(
                    "INSERT OR REPLACE INTO grants VALUES (?, ?, ?)",
                    (account, str(resource), action.value),
                )

    def replace(self, account: str, permissions: list[Permission]) -> None:
        """Have the account be granted these, and nothing else."""
        with self._writing() as database:
            self._check_exists(account)
            database.execute("DELETE FROM grants WHERE account = ?", (account,))
            self._grant(account, permissions)

    def revoke(self, account: str, resources: list[Resource]) -> None:
        """Take away what was granted on exactly these.

        Raises:
            ResourceNotFound: There is no such user or role.
            IllegalArgumentError: Nothing was granted on any of them.
        """
        with self._writing() as database:
            self._check_exists(account)
            taken = sum(
                database.execute(
                    "DELETE FROM grants WHERE account = ? AND uri = ?", (account, str(resource))
                ).rowcount
                for resource in resources
            )
            if not taken:
                raise IllegalArgumentError("Operation has no effect")

    def _check_exists(self, account: str) -> None:
        if not self._read("SELECT 1 FROM accounts WHERE name = ?", account):
            raise ResourceNotFound(f'user "{account}" was not found')

    def _read(self, query: str, *values: str | None) -> list[sqlite3.Row]:
        return self._database.execute(query, values).fetchall()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Have all that is read within the block be of one moment."""
        with self._database as database:
            database.execute("BEGIN")
            yield

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with writing(self._database) as database:
            self._writes += 1
            yield database


@contextmanager
def accounts_of(folder: str | Path | None) -> Iterator[Accounts]:
    """Open the accounts of a state folder, whether or not a platform runs on it."""
    state = StateFolder(folder)
    state.prepare()
    store = Store(state.database)
    try:
        yield Accounts(store.database)
    finally:
        store.close()


def digest(token: str) -> str:
    """Return what is kept of a token; the token itself cannot be had from it."""
    return hashlib.sha256(token.encode()).hexdigest()


def _check_name(name: str, kind: str) -> None:
    pattern, longest = (NAME, 21) if kind == "user" else (TENANT_PATTERN, 255)
    if not re.fullmatch(pattern, name) or not 3 <= len(name) <= longest:
        raise IllegalArgumentError(
            f"{name!r} cannot be the name of a {kind}: it takes 3 to {longest} lower-case letters "
            "and digits, with single dashes between them"
        )
