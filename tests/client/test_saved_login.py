"""The saved login: the official clients' format, valid whatever happens at the same time."""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import neuro_sync
from neuro_sync import ConfigError, Session
from neuro_sync.client.saved_login import LoginStore, SavedLogin
from neuro_sync.local.server import LocalPlatform
from neuro_sync.secret_text import SecretText
from tests.client.racing import race
from tests.client.test_lookup import token_of

LOGIN = SavedLogin(
    url="https://here.example/api/v1",
    token=SecretText(token_of("alice")),
    expiration_time=1e12,
    refresh_token=SecretText("canary-refresh"),
    auth_config={"token_url": "https://here.example/token"},
    cluster_name="default",
    org_name=None,
    project_name="vision",
    clusters=[{"name": "default"}],
)


SCHEMA = (
    "CREATE TABLE main (auth_config TEXT, token TEXT, expiration_time REAL, refresh_token TEXT, "
    "url TEXT, admin_url TEXT, vcluster_url TEXT, version TEXT, project_name TEXT, "
    "cluster_name TEXT, org_name TEXT, clusters TEXT, projects TEXT, timestamp REAL)"
)


@pytest.fixture
def store(tmp_path: Path) -> LoginStore:
    return LoginStore(tmp_path / "config")


def rows(store: LoginStore) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(store.file)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM main")]


def test_what_is_written_is_read(store: LoginStore) -> None:
    store.write(LOGIN, now=5.0)
    assert store.read() == LOGIN
    store.write(replace(LOGIN, org_name="acme"), now=6.0)
    assert store.read().org_name == "acme"
    assert len(rows(store)) == 1
    assert "canary" not in repr(LOGIN) + repr(store)


def test_a_system_without_locks_of_files_has_logins_too(
    store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    store.write(LOGIN, now=5.0)
    store.update(LOGIN.url, "alice", org_name="acme")
    assert store.read().url == LOGIN.url
    store.delete()
    with pytest.raises(ConfigError):
        store.read()


def test_the_table_is_that_of_the_official_clients_to_the_letter(store: LoginStore) -> None:
    store.write(LOGIN, now=5.0)
    with closing(sqlite3.connect(store.file)) as database:
        found = database.execute("SELECT sql FROM sqlite_master").fetchall()
        assert found == [(SCHEMA,)]
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    row = rows(store)[0]
    assert (row["timestamp"], row["org_name"]) == (5.0, None)
    assert json.loads(row["clusters"]) == [{"name": "default"}]


def make_database(store: LoginStore, *columns: str) -> sqlite3.Connection:
    store.folder.mkdir(mode=0o700)
    database = sqlite3.connect(store.file)
    database.execute(f"CREATE TABLE main ({', '.join(columns)})")
    return database


def test_the_login_of_a_client_of_2020_is_read(store: LoginStore) -> None:
    columns = ("auth_config", "token", "expiration_time", "refresh_token", "url", "version")
    more = ("cluster_name", "clusters", "timestamp")
    with closing(make_database(store, *columns, *more)) as database, database:
        row = ("{}", token_of("alice"), 1.0, "r", "https://h/api/v1", "20.7", "c", "[]", 1.0)
        database.execute("INSERT INTO main VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    found = store.read()
    assert (found.url, found.cluster_name, found.org_name) == ("https://h/api/v1", "c", None)
    store.update(found.url, "alice", token=token_of("alice") + "x")
    assert store.read().token == token_of("alice") + "x"


def test_the_newest_of_several_rows_counts(store: LoginStore) -> None:
    store.write(LOGIN, now=5.0)
    with closing(sqlite3.connect(store.file)) as database, database:
        database.execute("INSERT INTO main SELECT * FROM main")
        database.execute("UPDATE main SET timestamp = 9, org_name = 'new' WHERE rowid = 2")
    assert store.read().org_name == "new"


@pytest.mark.parametrize("content", [b"", b"canary is no database", b"SQLite format 3\0canary"])
def test_what_cannot_be_read_says_to_log_in_again_and_is_then_replaced(
    store: LoginStore, content: bytes
) -> None:
    store.folder.mkdir(mode=0o700)
    store.file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read \(\w+Error\); log in again") as refused:
        store.read()
    assert "canary" not in str(refused.value)
    store.write(LOGIN, now=5.0)
    assert store.read() == LOGIN


def test_an_empty_or_half_filled_table_says_to_log_in_again(store: LoginStore) -> None:
    with closing(make_database(store, "token", "timestamp")) as database, database:
        with pytest.raises(ConfigError, match="it is empty"):
            store.read()
        database.execute("INSERT INTO main VALUES ('canary', 1)")
    with pytest.raises(ConfigError, match=r"\(KeyError\); log in again") as refused:
        store.read()
    assert "canary" not in str(refused.value)


def test_rights_are_tightened_and_other_tables_kept(store: LoginStore) -> None:
    with closing(make_database(store, "token")) as database, database:
        database.execute("CREATE TABLE cookie_session (name TEXT)")
        database.execute("INSERT INTO cookie_session VALUES ('kept')")
    store.file.chmod(0o644)
    with closing(sqlite3.connect(store.file)) as another_program:
        another_program.execute("PRAGMA journal_mode=WAL")
        another_program.execute("INSERT INTO cookie_session VALUES ('not kept')")
        another_program.rollback()
        store.write(LOGIN, now=5.0)
        for name in ("db", "db-wal", "db-shm"):
            assert stat.S_IMODE((store.folder / name).stat().st_mode) == 0o600
    assert store.read() == LOGIN
    with closing(sqlite3.connect(store.file)) as database:
        assert database.execute("SELECT * FROM cookie_session").fetchall() == [("kept",)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = LoginStore(tmp_path / "file" / "config")
    with pytest.raises(ConfigError, match=r"the login cannot be saved in .*/file/config"):
        store.write(LOGIN, now=5.0)


def test_only_the_same_login_is_changed(store: LoginStore) -> None:
    store.write(LOGIN, now=5.0)
    store.update(LOGIN.url, "alice", cluster_name="other")
    assert store.read().cluster_name == "other"
    for url, user in ((LOGIN.url, "bob"), ("https://other/api/v1", "alice")):
        with pytest.raises(ConfigError, match="is somebody else's by now"):
            store.update(url, user, cluster_name="stolen")
    assert store.read().cluster_name == "other"


def test_a_database_that_is_busy_is_told(
    store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(LOGIN, now=5.0)
    monkeypatch.setattr("neuro_sync.client.saved_login.BUSY_TIMEOUT", 0.01)
    with closing(sqlite3.connect(store.file, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match="cannot be changed: database is locked"):
            store.update(LOGIN.url, "alice", cluster_name="other")
        with pytest.raises(ConfigError, match=r"cannot be saved in .* \(database is locked\)"):
            store.write(LOGIN, now=6.0)
    assert store.read() == LOGIN


LOGIN_RACER = """
import neuro_sync
neuro_sync.login_with_token({token!r}, url={url!r})
"""

SWITCH_RACER = """
import neuro_sync
with neuro_sync.Session() as session:
    session.config.switch_project(session.project_name)
    session.config.fetch()
"""


@pytest.mark.parametrize("is_new", [False, True])
def test_twenty_processes_that_write_at_once_leave_it_valid(
    home: Path, platform: LocalPlatform, is_new: bool
) -> None:
    log_in = LOGIN_RACER.format(token=platform.token, url=platform.url)
    if is_new:
        programs = [log_in] * 20
    else:
        neuro_sync.login_with_token(platform.token, url=platform.url)
        programs = [log_in, SWITCH_RACER] * 10
    race(programs)
    store = LoginStore(home / ".neuro")
    assert len(rows(store)) == 1
    with closing(sqlite3.connect(store.file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with Session() as session:
        assert session.project_name == session.username
    assert {path.name for path in store.folder.iterdir()} <= {
        "db",
        "db-wal",
        "db-shm",
        ".neuro-sync.lock",
    }
